//! The fuzz harness with a bounded number of cases; `node-plugin/fuzz` runs it for hours.

#[path = "../../fuzz/harness.rs"]
mod harness;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, proptest};
use proptest::strategy::Strategy;
use std::sync::atomic::{AtomicU32, Ordering};

/// A change of a field among the first ones of a block, mostly to a value at some edge.
fn change() -> impl Strategy<Value = Vec<u8>> {
    let value = proptest::prop_oneof![
        proptest::strategy::Just(0),
        proptest::strategy::Just(u64::MAX),
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u32..64).prop_map(|bit| (1 << bit) - 1),
        any::<u64>(),
    ];
    (any::<u8>(), any::<u8>(), 0u16..512, value).prop_map(|(block, width, offset, value)| {
        let mut bytes = vec![block, width];
        bytes.extend(offset.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes
    })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

#[test]
fn forged_volumes_are_refused_or_read_and_never_panic() {
    let read = AtomicU32::new(0);
    proptest!(config(1000), |(which in any::<u8>(), changes in vec(change(), 0..4))| {
        let data: Vec<u8> = [which].into_iter().chain(changes.into_iter().flatten()).collect();
        read.fetch_add(u32::from(harness::recover_forged(&data)), Ordering::Relaxed);
    });
    let read = read.into_inner();
    assert!((500..1000).contains(&read), "{read} of 1000 read: too wild, or too tame");
}

#[test]
fn forged_blocks_are_refused_or_read_and_never_panic() {
    proptest!(config(4000), |(data in vec(any::<u8>(), 1..600))| {
        harness::decode_forged(&data);
    });
}
