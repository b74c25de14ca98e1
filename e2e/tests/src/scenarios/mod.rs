//! The scenarios of the kernel tier. Each boots what it needs and tells what it saw.

mod flaky;
mod group;
mod kill;
mod power_cut;
mod refusals;
mod restore;
mod supervised;

use anyhow::Result;

/// A scenario and its name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Name, for filters.
    pub name: &'static str,
    /// Runs it to its end.
    pub run: fn() -> Result<()>,
}

/// All scenarios, in the order they run.
pub const ALL: &[Scenario] = &[
    Scenario { name: "refusals_name_the_object_and_change_nothing", run: refusals::bad_input },
    Scenario { name: "a_host_without_ublk_is_refused_clearly", run: refusals::no_ublk },
    Scenario { name: "fio_verifies_through_three_kills", run: kill::three_kills },
    Scenario { name: "a_supervisor_replaces_what_dies_or_hangs", run: supervised::killed_and_hung },
    Scenario { name: "a_master_outlives_shadow_and_bitmap_volume", run: flaky::volumes_fail },
    Scenario { name: "postgres_recovers_from_two_power_cuts_on_both_sides", run: power_cut::two_power_cuts },
    Scenario { name: "a_restore_is_instant_and_survives_a_kill", run: restore::in_place },
    Scenario { name: "a_cut_over_two_masters_is_one_instant", run: group::two_masters },
    Scenario { name: "the_story_runs_on_a_host_with_ublk", run: crate::story::inside_a_machine },
];
