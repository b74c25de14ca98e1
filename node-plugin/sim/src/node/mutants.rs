//! With a protection switched off something must be seen: that shows that the simulator can see.

use super::run::Campaign;
use super::sweep::sweep;
use crate::run::Failure;
use umbra_lifecycle::mutation::Rule;

/// What became of a mutant.
#[derive(Clone, Debug)]
pub struct Hunted {
    /// The protection that was switched off.
    pub rule: Rule,
    /// What was seen; none: nothing.
    pub caught: Option<String>,
}

/// Runs seeds, then the sweep, without each of these protections.
pub fn hunt(rules: impl Iterator<Item = Rule>, seeds: u64, jobs: usize) -> impl Iterator<Item = Hunted> {
    rules.map(move |rule| {
        let campaign = Campaign { start: 0, seeds, jobs, off: Some(rule) };
        let swept = || {
            let violation = sweep(1, jobs, Some(rule)).violations.into_iter().next()?;
            Some(format!("in the sweep: {violation}"))
        };
        let seen = campaign.run().failure.map(|Failure { seed, message }| format!("seed {seed}: {message}"));
        Hunted { rule, caught: seen.or_else(swept) }
    })
}
