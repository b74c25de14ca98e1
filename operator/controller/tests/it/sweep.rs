//! The operator is killed at every call of the story, before and after it, and the next one brings it to the same end.

use crate::bench::{Bench, Kill};
use crate::life::{expect_end, story};

#[tokio::test]
async fn a_kill_at_any_call_changes_nothing_of_the_end() {
    let whole = Bench::new();
    story(&whole).await;
    expect_end(&whole).await.unwrap();
    let calls = whole.calls();
    assert!(calls > 500, "the story has {calls} calls only");
    for call in 0..calls {
        for kill in [Kill::Before(call), Kill::After(call)] {
            let bench = Bench::new();
            bench.kill(kill);
            story(&bench).await;
            expect_end(&bench).await.unwrap_or_else(|picture| panic!("{kill:?} of {calls}: {picture}"));
        }
    }
}
