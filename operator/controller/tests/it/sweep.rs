//! The operator is killed at every call of a story, before and after it, and the next one brings it to the same end.

use std::num::NonZero;
use std::thread;

use tokio::runtime::Builder;

use crate::bench::{Bench, Kill};
use crate::life::{expect_end, story};

/// Tells the story once for each way to be killed, on every processor. `told` says what is wrong with its end.
pub(crate) fn at_any(
    calls: impl Iterator<Item = u64>,
    told: impl AsyncFn(Kill) -> Result<(), String> + Sync,
) {
    let kills: Vec<Kill> = calls.flat_map(|call| [Kill::Before(call), Kill::After(call)]).collect();
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let tell = |kills: &[Kill]| {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        for kill in kills {
            runtime.block_on(told(*kill)).unwrap_or_else(|picture| panic!("{kill:?}: {picture}"));
        }
    };
    thread::scope(|scope| {
        for part in kills.chunks(kills.len().div_ceil(processors)) {
            scope.spawn(move || tell(part));
        }
    });
}

#[tokio::test]
async fn a_kill_at_any_call_changes_nothing_of_the_end() {
    let whole = Bench::new();
    story(&whole).await;
    expect_end(&whole).await.unwrap();
    let calls = whole.calls();
    assert!(calls > 500, "the story has {calls} calls only");
    at_any(0..calls, async |kill| {
        let bench = Bench::new();
        bench.kill(kill);
        story(&bench).await;
        expect_end(&bench).await
    });
}
