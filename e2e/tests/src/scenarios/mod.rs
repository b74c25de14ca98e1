//! The scenarios of the kernel tier. Each boots what it needs and tells what it saw.

mod changes;
mod driver;
mod flaky;
mod fua;
mod group;
mod identity;
mod kill;
mod many_sets;
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
    Scenario { name: "fifty_kills_under_writes_with_fua", run: fua::fifty_kills },
    Scenario { name: "a_master_serves_five_sets", run: many_sets::five_sets },
    Scenario { name: "a_ublk_device_tells_whose_it_is", run: driver::a_device_tells_whose_it_is },
    Scenario { name: "a_partition_table_is_read_again", run: driver::a_partition_table_is_read_again },
    Scenario {
        name: "a_kill_while_a_device_starts_costs_one_number",
        run: driver::a_kill_while_a_device_starts,
    },
    Scenario { name: "volumes_exchanged_over_a_reboot", run: identity::volumes_exchanged },
    Scenario { name: "a_foreign_ublk_device_has_our_number", run: identity::foreign_device_with_our_number },
    Scenario { name: "a_file_system_offered_as_shadow", run: identity::file_system_offered_as_shadow },
    Scenario { name: "a_device_is_two_seconds_late", run: identity::two_seconds_late },
    Scenario { name: "a_restore_under_loop_partition_and_mapping", run: changes::restore_under_holders },
    Scenario {
        name: "the_raw_device_is_written_while_umbra_io_is_down",
        run: changes::raw_device_written_while_down,
    },
    Scenario { name: "raw_xfs_is_written_while_umbra_io_is_down", run: changes::raw_xfs_written_while_down },
    Scenario { name: "a_panic_in_one_of_two_masters", run: changes::panic_in_one_of_two },
    Scenario { name: "the_log_disk_is_full", run: changes::log_disk_full },
    Scenario { name: "an_enable_is_killed_at_every_step", run: changes::enable_killed },
    Scenario { name: "a_supervisor_replaces_what_dies_or_hangs", run: supervised::killed_and_hung },
    Scenario { name: "a_master_outlives_shadow_and_bitmap_volume", run: flaky::volumes_fail },
    Scenario { name: "postgres_recovers_from_two_power_cuts_on_both_sides", run: power_cut::two_power_cuts },
    Scenario { name: "a_restore_is_instant_and_survives_a_kill", run: restore::in_place },
    Scenario { name: "a_cut_over_two_masters_is_one_instant", run: group::two_masters },
    Scenario { name: "the_story_runs_on_a_host_with_ublk", run: crate::story::inside_a_machine },
];
