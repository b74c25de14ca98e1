//! Counts what passed and failed, from the closing lines of test runners.

use std::fmt;
use std::ops::AddAssign;

/// How many checks passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// One check.
    pub(crate) fn one(passed: bool) -> Self {
        Self { passed: u64::from(passed), failed: u64::from(!passed) }
    }

    /// What a runner counted, and a failure more where its exit code knows of one that it did not count, or where it
    /// ran nothing at all.
    pub(crate) fn closed(self, name: &str, success: bool) -> Self {
        if self.passed + self.failed == 0 {
            eprintln!("xtask: {name} ran no test");
            return Self::one(false);
        }
        if !success && self.failed == 0 {
            eprintln!("xtask: {name} failed outside its tests");
            return Self { failed: 1, ..self };
        }
        self
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Reads `test result: ok. 3 passed; 0 failed; …`, with which `cargo test` closes each of its programs.
pub(crate) fn cargo_test(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = counts.split("; ");
    Some(Tally { passed: count(counts.next()?, "passed")?, failed: count(counts.next()?, "failed")? })
}

/// Reads `N passed, N failed`, alone on its line.
pub(crate) fn closing(line: &str) -> Option<Tally> {
    let (passed, failed) = line.trim().split_once(", ")?;
    Some(Tally { passed: count(passed, "passed")?, failed: count(failed, "failed")? })
}

fn count(text: &str, what: &str) -> Option<u64> {
    text.strip_suffix(what)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_read() {
        let line =
            "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!(cargo_test(line), Some(Tally { passed: 12, failed: 2 }));
        assert_eq!(cargo_test("test protocol::tests::frames ... ok"), None);
        assert_eq!(closing("7 passed, 0 failed"), Some(Tally { passed: 7, failed: 0 }));
        assert_eq!(closing("about 7 passed, 0 failed"), None);
        assert_eq!(closing("7 passed"), None);
    }

    #[test]
    fn a_runner_that_ran_nothing_or_crashed_counts_as_failed() {
        assert_eq!(Tally::default().closed("t", true), Tally { passed: 0, failed: 1 });
        let good = Tally { passed: 3, failed: 0 };
        assert_eq!(good.closed("t", true), good);
        assert_eq!(good.closed("t", false), Tally { passed: 3, failed: 1 });
        let bad = Tally { passed: 3, failed: 2 };
        assert_eq!(bad.closed("t", false), bad);
    }

    #[test]
    fn the_last_line_has_the_form_that_tools_expect() {
        assert_eq!(Tally { passed: 3, failed: 1 }.to_string(), "3 passed, 1 failed");
    }
}
