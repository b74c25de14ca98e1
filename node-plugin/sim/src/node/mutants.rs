//! With a protection switched off something must be seen: that shows that the simulator can see.

use super::plan::Plan;
use super::run::attempt;
use super::sweep::lives;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use umbra_lifecycle::mutation::Rule;

/// What became of a mutant.
#[derive(Clone, Debug)]
pub struct Hunted {
    /// The protection that was switched off.
    pub rule: Rule,
    /// Where it was seen, and what; none: nothing.
    pub caught: Option<String>,
}

/// Runs the scripted lives, then seeds, without each of these protections, until something is seen that is not there
/// with it.
pub fn hunt(rules: impl Iterator<Item = Rule>, seeds: u64, jobs: usize) -> impl Iterator<Item = Hunted> {
    rules.map(move |rule| Hunted { rule, caught: hunt_one(rule, seeds, jobs) })
}

fn hunt_one(rule: Rule, seeds: u64, jobs: usize) -> Option<String> {
    let lives = lives();
    let one = |number: u64| {
        let life = usize::try_from(number).ok().and_then(|number| lives.get(number)).cloned();
        let seed = number.saturating_sub(lives.len() as u64);
        match life {
            Some(plan) => Some((format!("life {}", plan.seed), plan)),
            None => (seed < seeds).then(|| (format!("seed {seed}"), Plan::of(seed))),
        }
    };
    let (next, caught) = (AtomicU64::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while caught.lock().expect("no thread panics").is_none()
                    && let Some((name, plan)) = one(next.fetch_add(1, Ordering::Relaxed))
                {
                    let Err(text) = attempt(&plan, Some(rule), false, |_| {}).verdict else { continue };
                    // What is wrong with the protection, too, says nothing about it.
                    if attempt(&plan, None, false, |_| {}).verdict.is_ok() {
                        *caught.lock().expect("no thread panics") = Some(format!("{name}: {text}"));
                    }
                }
            });
        }
    });
    caught.into_inner().expect("no thread panics")
}
