//! Tests of what calls come to, on a machine in memory.

mod decisions;
mod kills;
mod sequences;

use crate::ledger::Ledger;
use crate::refusal::Refusal;
use crate::testing::Memory;
use crate::volumes::Volumes;
use std::sync::Arc;

/// A process on a machine: one that begins, as after a kill or a start of the machine.
fn process(memory: &Arc<Memory>) -> (Volumes<Memory>, Ledger<Memory>) {
    let ledger = Ledger::open(Arc::clone(memory)).expect("it can be read");
    (Volumes::new(ledger.clone()), ledger)
}

/// The reason of a refusal, or `OK`.
fn reason(done: &Result<(), Refusal>) -> &'static str {
    done.as_ref().map_or_else(Refusal::reason, |()| "OK")
}
