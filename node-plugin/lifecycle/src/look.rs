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
