//! Random operations against a byte array.

use super::{Random, complete, op, read, store_with, write};
use std::ops::Range;
use umbra_engine::ByteRange;
use umbra_store::{BlockStore, DeviceSlot, StoreOp, StoreOpKind};
use umbra_uring::{Device, StoreLimits};

const BLOCK: u64 = 4096;

fn usize_range(range: ByteRange) -> Range<usize> {
    let at = |value: u64| usize::try_from(value).expect("the file is small");
    at(range.start)..at(range.end())
}

/// A random operation on `range`, its effect on the oracle, and what a read has to return.
fn random_op(
    random: &mut Random,
    slot: DeviceSlot,
    range: ByteRange,
    oracle: &mut [u8],
) -> (StoreOp, Vec<u8>) {
    let token = range.start;
    let place = &mut oracle[usize_range(range)];
    let fua = random.below(4) == 0;
    match random.below(10) {
        0..4 => {
            let bytes = random.bytes(place.len());
            place.copy_from_slice(&bytes);
            (write(token, slot, range.start, &bytes, fua), bytes)
        }
        4..7 => (read(token, slot, range.start, place.len()), place.to_vec()),
        7 => {
            place.fill(0);
            (op(token, slot, StoreOpKind::WriteZeroes { range, fua }), Vec::new())
        }
        // Of a file, and of a loop device on one, discarded blocks read as zeros.
        8 => {
            place.fill(0);
            (op(token, slot, StoreOpKind::Discard(range)), Vec::new())
        }
        _ => (op(token, slot, StoreOpKind::Flush), Vec::new()),
    }
}

/// Runs random operations on all of `device`, many in flight, and checks what is read. Returns what the
/// device holds at the end.
pub(crate) fn run_against_oracle(device: Device, seed: u64, limits: StoreLimits) -> Vec<u8> {
    let size = device.capabilities().size;
    let (mut store, slot) = store_with(device, limits);
    let mut random = Random(seed);
    let mut oracle = vec![0u8; usize::try_from(size).expect("small")];
    for round in 0..30 {
        // Operations in flight together may take effect in any order, so those of a round do not overlap.
        let mut expected = Vec::new();
        let mut at = random.below(16) * BLOCK;
        while at < size {
            let len = ((1 + random.below(24)) * BLOCK).min(size - at);
            let (op, bytes) = random_op(&mut random, slot, ByteRange::new(at, len), &mut oracle);
            store.submit(op);
            expected.push((at, bytes));
            at += len + random.below(8) * BLOCK;
        }
        let done = complete(&mut store, expected.len());
        for (completion, (token, bytes)) in done.iter().zip(&expected) {
            assert_eq!(completion.token.0, *token, "seed {seed} round {round}");
            assert_eq!(completion.result, Ok(()), "seed {seed} round {round} at {token:#x}");
            let got = completion.buf.as_ref().map_or(&[][..], |buf| buf.bytes());
            assert!(got == bytes, "seed {seed} round {round} at {token:#x}: the buffer holds something else");
        }
    }
    assert_eq!(store.in_flight(slot), 0);
    assert_eq!(store.stats().stray, 0);
    oracle
}
