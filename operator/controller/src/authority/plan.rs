//! What is to be done about the authority: a function of what is stored and of the time.

use std::time::{Duration, SystemTime};

use umbra_facade::Life;
use umbra_facade::request::LIFE_MAX;

/// For how long a new authority is published before it signs. Nodes look each minute; the rest is for clocks that differ, and
/// for a node that cannot look for a while.
pub const ANNOUNCED_FOR: Duration = Duration::from_secs(600);
/// For how long one is trusted that signs no more: until the last that it has signed is over, and an hour for clocks that differ.
pub const RETIRED_FOR: Duration = Duration::from_secs(LIFE_MAX.as_secs() + 3600);

/// Where an exchange stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is one authority.
    Alone,
    /// There is another, which the previous one still signs for.
    Announced,
    /// It signs, and the previous one is trusted.
    Retiring {
        /// Since when; none where nobody can tell.
        since: Option<SystemTime>,
    },
}

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// That of the newest authority.
    pub life: Life,
    /// Where an exchange stands.
    pub phase: Phase,
    /// Somebody asks for an exchange.
    pub is_asked: bool,
    /// Since when exactly what must be trusted is published; none where it is not, or nobody can tell.
    pub published: Option<SystemTime>,
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// The bundle is written.
    Publish,
    /// An authority is made.
    Begin,
    /// The newest one signs from now on.
    Switch,
    /// The previous one is trusted no more.
    Forget,
}

/// Decides.
pub fn plan(view: &View, now: SystemTime) -> Step {
    // A time that is still to come tells nothing: somebody's clock is, or was, wrong.
    let passed = |since: Option<SystemTime>| now.duration_since(since?).ok();
    // First of all, since everything else relies on what nodes can know.
    let Some(published) = passed(view.published) else { return Step::Publish };
    match view.phase {
        Phase::Alone if view.is_asked || now >= view.life.renew_at() => Step::Begin,
        Phase::Alone => Step::Rest,
        Phase::Announced if published >= ANNOUNCED_FOR => Step::Switch,
        Phase::Announced => Step::Rest,
        Phase::Retiring { since } => match passed(since) {
            // Counted from now: longer than needed, and never shorter.
            None => Step::Switch,
            Some(passed) if passed >= RETIRED_FOR => Step::Forget,
            Some(_) => Step::Rest,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000 + seconds)
    }

    fn view(phase: Phase) -> View {
        let life = Life { begins: at(0), ends: at(0) + DAY * 3650 };
        View { life, phase, is_asked: false, published: Some(at(0)) }
    }

    #[test]
    fn an_authority_rests_for_two_thirds_of_its_life_unless_somebody_asks() {
        let alone = view(Phase::Alone);
        assert_eq!(plan(&alone, at(1)), Step::Rest);
        assert_eq!(plan(&alone, alone.life.renew_at() - DAY), Step::Rest);
        assert_eq!(plan(&alone, alone.life.renew_at()), Step::Begin);
        assert_eq!(plan(&View { is_asked: true, ..alone }, at(1)), Step::Begin);
    }

    #[test]
    fn a_new_one_signs_when_nodes_had_the_time_to_hear_of_it() {
        let announced = view(Phase::Announced);
        assert_eq!(plan(&announced, at(599)), Step::Rest);
        assert_eq!(plan(&announced, at(600)), Step::Switch);
        // Another is asked for: one after the other.
        let asked = View { is_asked: true, ..announced };
        assert_eq!(plan(&asked, at(1)), Step::Rest);
        // The bundle was changed by somebody, or cannot have been written then: the time begins anew.
        for published in [None, Some(at(700))] {
            assert_eq!(plan(&View { published, ..announced }, at(600)), Step::Publish);
        }
    }

    #[test]
    fn the_previous_one_is_trusted_until_nothing_of_it_is_valid() {
        let retiring = view(Phase::Retiring { since: Some(at(0)) });
        assert_eq!(plan(&retiring, at(0) + DAY * 30), Step::Rest);
        assert_eq!(plan(&retiring, at(0) + RETIRED_FOR), Step::Forget);
        for since in [None, Some(at(0) + DAY * 40)] {
            assert_eq!(plan(&view(Phase::Retiring { since }), at(0) + DAY * 31), Step::Switch);
        }
    }

    proptest! {
        /// Whatever happens when: nobody signs before nodes know, and nobody is forgotten whose certificates are valid.
        #[test]
        fn an_exchange_never_leaves_anybody_behind(pauses in prop::collection::vec(0..2_000_000_u64, 1..60)) {
            let mut now = at(0);
            let mut view = View { is_asked: true, ..view(Phase::Alone) };
            let (mut announced, mut switched) = (None, None);
            for pause in pauses {
                now += Duration::from_secs(pause);
                match plan(&view, now) {
                    Step::Rest => {}
                    Step::Publish => view.published = Some(now),
                    Step::Begin => {
                        prop_assert_eq!(view.phase, Phase::Alone);
                        (view.phase, view.published, view.is_asked) = (Phase::Announced, None, false);
                        announced = Some(now);
                    }
                    Step::Switch => {
                        prop_assert!(announced.is_some_and(|begun| now >= begun + ANNOUNCED_FOR));
                        view.phase = Phase::Retiring { since: Some(now) };
                        switched = Some(now);
                    }
                    Step::Forget => {
                        prop_assert!(switched.is_some_and(|begun| now >= begun + LIFE_MAX));
                        (view.phase, view.published) = (Phase::Alone, None);
                    }
                }
            }
        }
    }
}
