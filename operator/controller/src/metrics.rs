//! What the operator has done so far, counted for scrapes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// How often each of several things was done, and how it ended. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<(String, bool), u64>>>);

impl Tally {
    /// Counts one.
    pub fn count(&self, what: &str, succeeded: bool) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((what.to_owned(), succeeded)).or_default() += 1;
    }

    /// The series of a metric, with what was done under this label.
    pub fn series(&self, metric: &str, help: &str, label: &str) -> String {
        let mut text = format!("# HELP {metric} {help}\n# TYPE {metric} counter\n");
        for ((what, succeeded), count) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let result = if *succeeded { "success" } else { "failure" };
            // Writing into a text cannot fail.
            let _ = writeln!(text, "{metric}{{{label}=\"{what}\",result=\"{result}\"}} {count}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_told_by_what_was_done_and_how_it_ended() {
        let tally = Tally::default();
        for succeeded in [true, true, false] {
            tally.clone().count("GET", succeeded);
        }
        let text = tally.series("calls_total", "Calls.", "verb");
        let lines: Vec<&str> = text.lines().skip(2).collect();
        let failed = "calls_total{verb=\"GET\",result=\"failure\"} 1";
        assert_eq!(lines, [failed, "calls_total{verb=\"GET\",result=\"success\"} 2"]);
    }
}
