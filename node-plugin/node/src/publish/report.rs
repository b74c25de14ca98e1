//! How publishing goes, for probes and metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    /// The object says what is so.
    AtRest,
    /// Something new was written.
    Written,
    /// This node may not write: the object is another machine's, or nobody knows which machine this is.
    Refused,
    /// The cluster did not answer, or the node could not be looked at.
    Failed,
}

impl Ended {
    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::AtRest => "at-rest",
            Self::Written => "written",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    counts: BTreeMap<Ended, u64>,
    refusal: Option<String>,
}

/// How publishing goes. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report(Arc<Mutex<Kept>>);

impl Report {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look ended; a refusal stands until a look ends better. One that failed says nothing of it.
    pub(super) fn ended(&self, ended: Ended, refusal: Option<String>) {
        let mut kept = self.kept();
        *kept.counts.entry(ended).or_default() += 1;
        if ended != Ended::Failed {
            kept.refusal = refusal;
        }
    }

    /// Why this node may not say in the cluster what it is.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.kept().refusal.clone()
    }

    /// How often looks ended in which way.
    pub(crate) fn counts(&self) -> Vec<(Ended, u64)> {
        self.kept().counts.iter().map(|(ended, count)| (*ended, *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_stands_until_a_look_ends_better() {
        let report = Report::default();
        report.ended(Ended::Refused, Some("another machine".into()));
        report.ended(Ended::Failed, None);
        assert_eq!(report.refusal().as_deref(), Some("another machine"), "nobody was asked");
        report.ended(Ended::AtRest, None);
        assert_eq!(report.refusal(), None);
        assert_eq!(report.counts(), [(Ended::AtRest, 1), (Ended::Refused, 1), (Ended::Failed, 1)]);
    }
}
