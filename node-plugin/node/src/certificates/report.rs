//! How the node stands with its certificate, for probes and for whoever waits for the first.

use std::sync::Arc;
use tokio::sync::watch;
use umbra_facade::Life;

/// Whether there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It serves.
    Held(Life),
    /// There is none that serves, and this is what it waits for.
    Waits(String),
}

/// How it stands. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Report(Arc<watch::Sender<Standing>>);

impl Report {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Standing::Waits("nobody has looked yet".into()))))
    }

    pub(super) fn stands(&self, standing: Standing) {
        self.0.send_if_modified(|before| {
            let is_new = *before != standing;
            *before = standing;
            is_new
        });
    }

    /// What is waited for, while no certificate serves.
    pub(crate) fn waits(&self) -> Option<String> {
        match &*self.0.borrow() {
            Standing::Held(_) => None,
            Standing::Waits(what) => Some(format!("this node has no certificate: {what}")),
        }
    }

    /// Done when there is one that serves.
    pub(crate) async fn held(&self) {
        let mut standings = self.0.subscribe();
        // The sender is this very object: it does not end before.
        let _standing = standings.wait_for(|standing| matches!(standing, Standing::Held(_))).await;
    }
}
