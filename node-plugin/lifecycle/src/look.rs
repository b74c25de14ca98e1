//! Looks at masters: what is on record, and what their threads say, asked side by side.
//!
//! A thread that does not answer holds up nobody: its master is looked at as one that waits, and says for what.

use crate::deadline::{LOOK_DEADLINE, within};
use crate::host::Host;
use crate::registry::{Entry, Phase, Seen};
use crate::world::{Reactor, Snapshot, World};
use std::sync::Arc;
use umbra_platform::status::{WaitReason, WaitingFor};

/// What a look has found.
#[derive(Debug)]
pub(crate) struct Look<W: World> {
    pub(crate) entry: Arc<Entry<W>>,
    /// In the phase of one that waits, if it is served and its thread has not answered.
    pub(crate) seen: Seen<W>,
    /// What its thread says, if it is served.
    pub(crate) snapshot: Option<Snapshot>,
}

impl<W: World> Host<W> {
    /// Looks at these, in their order.
    pub(crate) async fn look_at(&self, entries: Vec<Arc<Entry<W>>>) -> Vec<Look<W>> {
        let looks: Vec<_> = entries.into_iter().map(|entry| tokio::spawn(look(entry))).collect();
        let mut found = Vec::new();
        for look in looks {
            // None only when the process ends.
            found.extend(look.await);
        }
        found
    }
}

async fn look<W: World>(entry: Arc<Entry<W>>) -> Look<W> {
    let mut seen = entry.seen();
    let Phase::Serving(serving) = &seen.phase else { return Look { entry, seen, snapshot: None } };
    let answer = within(LOOK_DEADLINE, serving.reactor.snapshot()).await;
    if let Some(Ok(snapshot)) = answer {
        entry.answered();
        return Look { entry, seen, snapshot: Some(snapshot) };
    }
    let since = entry.silent();
    let waits = |reason, what: &str| WaitingFor { reason, what: what.into(), since };
    seen.phase = match answer {
        // Nothing is decided about its sets: it is started again once what its thread has in flight has ended.
        Some(_) => Phase::Recovering(waits(
            WaitReason::Recovering,
            "its thread ends; what it has in flight has not ended yet",
        )),
        None => Phase::Blocked(waits(WaitReason::Hung, "its thread does not answer")),
    };
    Look { entry, seen, snapshot: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;
    use crate::silent::{Manner, Puppet, host};
    use crate::world::ReactorEnd;
    use std::path::Path;
    use umbra_platform::status::{MasterState, SetState};

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_hangs_is_said_to_and_holds_up_no_other() {
        let threads = [Manner::Hangs, Manner::Hangs, Manner::Answers].map(Puppet::new);
        let host = host(&[("a", &threads[0]), ("b", &threads[1]), ("c", &threads[2])]);
        let before = tokio::time::Instant::now();
        let looks = host.look_at(host.registry.entries()).await;
        assert_eq!(before.elapsed(), LOOK_DEADLINE, "all were asked at once");
        assert_eq!(
            looks.iter().map(|look| look.snapshot.is_some()).collect::<Vec<_>>(),
            [false, false, true]
        );
        let (hung, sets) = report::statuses(Path::new("/"), &looks[0].seen, None);
        let MasterState::Blocked(wait) = hung.state else { panic!("{:?}", hung.state) };
        assert_eq!(wait.reason, WaitReason::Hung);
        assert_eq!(sets[0].state, SetState::Blocked(wait));
    }

    #[tokio::test(start_paused = true)]
    async fn two_looks_at_one_silence_see_the_same_and_at_another_another_reason() {
        let thread = Puppet::new(Manner::Hangs);
        let host = host(&[("a", &thread)]);
        let look = async || {
            let looks = host.look_at(host.registry.entries()).await;
            report::statuses(Path::new("/"), &looks[0].seen, looks[0].snapshot.as_ref()).0
        };
        assert_eq!(look().await, look().await);
        thread.becomes(Manner::Ended(ReactorEnd::Died));
        let ended = look().await;
        assert!(matches!(ended.state, MasterState::Recovering(_)), "{:?}", ended.state);
        assert_eq!(ended, look().await);
        thread.becomes(Manner::Answers);
        assert_eq!(look().await.state, MasterState::Serving);
    }

    /// What waits for nothing in particular waits since it came to that.
    #[test]
    fn a_master_that_is_not_served_is_so_since_a_time() {
        let host = host(&[("a", &Puppet::new(Manner::Answers))]);
        let entry = host.registry.entries().remove(0);
        entry.put_phase(Phase::Failed("its thread died".to_owned()));
        let (_, sets) = report::statuses(Path::new("/"), &entry.seen(), None);
        let SetState::Blocked(wait) = &sets[0].state else { panic!("{:?}", sets[0].state) };
        assert_eq!(wait.since, entry.seen().since);
    }
}
