//! How a status is put together: the conditions of one object for one generation of its spec at one time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use umbra_crds::conditions::{self, ConditionType, Reason, Truth};

/// Longest message of a condition, in bytes: what the API server takes.
const MESSAGE_BYTES_MAX: usize = 32 << 10;

/// What somebody who waits for an object must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// It is as it should be.
    Settled,
    /// It becomes so by itself.
    Progressing,
    /// It does not, until somebody acts.
    Stalled,
}

/// Whether what these conditions are about is complete or has failed.
pub fn has_ended(conditions: &[Condition]) -> bool {
    let is_true = |about| conditions::find(conditions, about).is_some_and(|found| found.status == "True");
    is_true(ConditionType::Complete) || is_true(ConditionType::Failed)
}

/// The conditions of an object, as they are written.
#[derive(Debug)]
pub struct Report<'a> {
    conditions: &'a mut Vec<Condition>,
    generation: i64,
    now: &'a Time,
}

/// The reason of another condition, as tools that know no kinds read it.
struct ForTools<'a, R> {
    condition: ConditionType,
    status: Truth,
    of: &'a R,
}

impl<R: Reason> Reason for ForTools<'_, R> {
    fn condition(&self) -> ConditionType {
        self.condition
    }

    fn status(&self) -> Truth {
        self.status
    }

    fn as_str(&self) -> &'static str {
        self.of.as_str()
    }

    fn meaning(&self) -> &'static str {
        self.of.meaning()
    }
}

impl<'a> Report<'a> {
    /// Writes into these conditions.
    pub fn new(conditions: &'a mut Vec<Condition>, generation: i64, now: &'a Time) -> Self {
        Self { conditions, generation, now }
    }

    /// Says something.
    pub fn say(&mut self, reason: &impl Reason, message: &str) {
        let message = cut(message, MESSAGE_BYTES_MAX);
        conditions::set(self.conditions, reason, message, self.generation, self.now.clone());
    }

    /// Takes back what is said only while it is true.
    pub fn withdraw(&mut self, condition: ConditionType) {
        conditions::remove(self.conditions, condition);
    }

    /// Says whether the object is ready, and what tools must know about waiting for it.
    pub fn ready(&mut self, reason: &impl Reason, message: &str, outlook: Outlook) {
        self.say(reason, message);
        for (condition, when) in
            [(ConditionType::Reconciling, Outlook::Progressing), (ConditionType::Stalled, Outlook::Stalled)]
        {
            if outlook == when {
                self.say(&ForTools { condition, status: Truth::True, of: reason }, message);
            } else {
                self.withdraw(condition);
            }
        }
    }

    /// Says what something that ends is at.
    pub fn under_way(&mut self, progress: &impl Reason, message: &str) {
        self.say(progress, message);
        self.say(&ForTools { condition: ConditionType::Ready, status: Truth::False, of: progress }, message);
    }

    /// Says how something has ended.
    pub fn ended(&mut self, how: &impl Reason, well: bool, message: &str) {
        self.say(how, message);
        let status = if well { Truth::True } else { Truth::False };
        self.say(&ForTools { condition: ConditionType::Ready, status, of: how }, message);
        self.withdraw(ConditionType::Reconciling);
        if !well {
            self.say(&ForTools { condition: ConditionType::Stalled, status: Truth::True, of: how }, message);
        }
    }
}

/// The beginning of a text, no longer than this, and whole characters of it.
fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use umbra_crds::conditions::{MasterReady, find};

    use super::*;

    #[test]
    fn tools_see_whether_to_wait() {
        let now = Time(Timestamp::from_second(1).unwrap());
        let mut found = Vec::new();
        let is = |conditions: &[Condition], about| find(conditions, about).map(|one| one.reason.clone());
        Report::new(&mut found, 1, &now).ready(&MasterReady::Starting, "", Outlook::Progressing);
        assert_eq!(is(&found, ConditionType::Reconciling).as_deref(), Some("Starting"));
        Report::new(&mut found, 1, &now).ready(&MasterReady::GrantMissing, "no grant", Outlook::Stalled);
        assert_eq!(is(&found, ConditionType::Reconciling), None);
        assert_eq!(is(&found, ConditionType::Stalled).as_deref(), Some("GrantMissing"));
        Report::new(&mut found, 1, &now).ready(&MasterReady::Live, "", Outlook::Settled);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "ä");
        assert_eq!(cut("abc", 10), "abc");
    }
}
