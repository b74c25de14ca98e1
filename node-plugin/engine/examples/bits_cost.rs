//! Says what the bit planes cost, and a write with them, in nanoseconds per operation: for whoever changes them, nothing passes or fails.
//!
//! `cargo run --release -p umbra-engine --example bits_cost`

use std::hint::black_box;
use std::time::Instant;
use umbra_engine::{
    Action, AtomicBits, ByteRange, CHUNK_BYTES_DEFAULT, Durability, Epoch, Event, Geometry, Id128, Limits,
    Master, Mode, Now, Plane, Request, RequestId, RequestKind, SetHeader, SetImage, SetIndex, SetParameters,
    SetState, Side, SuperblockGeneration, Unrecordable,
};

/// 1 TiB in chunks of 64 KiB.
const BITS: u64 = 16 << 20;
/// The best of so many rounds counts: the others were disturbed by something else.
const ROUNDS: u32 = 7;

/// Bits that are read or changed in one round.
const COUNT: u64 = 4_000_000;

/// Bits in an order that neither the prefetcher nor the compiler foresees, each about once.
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40)
}

/// A master with one dependent set that holds nothing yet.
fn master() -> Master {
    let geometry =
        Geometry::new(BITS * CHUNK_BYTES_DEFAULT, CHUNK_BYTES_DEFAULT).expect("a possible geometry");
    let header = SetHeader {
        epoch: Epoch(1),
        cut: Id128([1; 16]),
        state: SetState::Dependent,
        head_moved: false,
        ..SetHeader::prepared()
    };
    let parameters = SetParameters {
        mode: Mode::Dependent,
        shadow_durability: Durability::Flush,
        bitmap_durability: Durability::Flush,
        ring_blocks: 2048,
        head_bytes: 0,
        head_offset: 0,
        shadow_deadline_ms: 1000,
        bitmap_deadline_ms: 1000,
        unrecordable: Unrecordable::Block,
    };
    let limits = Limits {
        requests: 64,
        write_buffers: 64,
        copier_buffers: 4,
        write_buffer_bytes: CHUNK_BYTES_DEFAULT,
        copier_buffer_bytes: CHUNK_BYTES_DEFAULT,
        drain_deadline_ms: 1000,
    };
    let image = SetImage::prepared(&geometry, header, SuperblockGeneration(1));
    let mut master = Master::new(geometry, 4096, limits);
    master.add_set(SetIndex(0), parameters, image);
    master
}

/// Writes 4 KiB to each chunk, 32 at a time, on devices that need no time.
fn write(master: &mut Master, chunks: impl Iterator<Item = u64>) {
    let mut chunks = chunks.peekable();
    let mut actions = Vec::new();
    while chunks.peek().is_some() {
        for (id, chunk) in (0..32).zip(&mut chunks) {
            let range = ByteRange::new(chunk * CHUNK_BYTES_DEFAULT, 4096);
            let kind = RequestKind::Write { fua: false };
            let request = Request { id: RequestId(id), side: Side::Master, kind, range };
            master.apply(Now(1), Event::Request(request), &mut actions);
        }
        master.end_turn(Now(1), &mut actions);
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                let op = match action {
                    Action::Io { op, .. }
                    | Action::Flush { op, .. }
                    | Action::Journal { op, .. }
                    | Action::Page { op, .. }
                    | Action::Superblock { op, .. } => op,
                    _ => continue,
                };
                master.apply(Now(1), Event::Done { op, ok: true, hash: Some(0) }, &mut actions);
            }
            master.end_turn(Now(1), &mut actions);
        }
    }
}

fn say(what: &str, ops: u64, run: &mut dyn FnMut()) {
    let best = (0..ROUNDS).map(|_| {
        let begin = Instant::now();
        run();
        begin.elapsed()
    });
    let best = best.min().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
    let each = best.as_nanos() as f64 / ops as f64;
    println!("{what:<36} {each:>9.2} ns");
}

fn main() {
    planes(&bits());
    writes();
}

/// Returns shared bits of which about a quarter are 1.
fn bits() -> AtomicBits {
    let shared = AtomicBits::new(BITS, false);
    say("shared: get", COUNT, &mut || {
        scattered(COUNT).for_each(|bit| {
            black_box(shared.get(bit));
        });
    });
    say("shared: set", COUNT, &mut || scattered(COUNT).for_each(|bit| shared.set(bit)));
    say("shared: set, was set", COUNT, &mut || scattered(COUNT).for_each(|bit| shared.set(bit)));

    shared
}

fn planes(shared: &AtomicBits) {
    let mut plane = Plane::new(BITS, false);
    say("plane: get", COUNT, &mut || {
        scattered(COUNT).for_each(|bit| {
            black_box(plane.get(bit));
        });
    });
    let mut value = false;
    say("plane: put, a change", COUNT, &mut || {
        value = !value;
        scattered(COUNT).for_each(|bit| plane.put(bit, value));
    });
    say("plane: put, no change", COUNT, &mut || scattered(COUNT).for_each(|bit| plane.put(bit, value)));

    let mut sparse = Plane::new(BITS, false);
    (0..BITS).step_by(1000).for_each(|bit| sparse.put(bit, true));
    say("plane: find, next of 1000", BITS / 1000, &mut || {
        let mut at = 0;
        while let Some(bit) = sparse.find(at, true) {
            at = black_box(bit) + 1;
        }
    });
    let dense = Plane::new(BITS, true);
    say("plane: find, the next bit", COUNT, &mut || {
        for at in 0..COUNT {
            black_box(dense.find(at, true));
        }
    });
    say("plane: find, all of it", 1, &mut || {
        black_box(dense.find(0, false));
    });
    say("plane: count of 1024", BITS / 1024, &mut || {
        for run in 0..BITS / 1024 {
            black_box(sparse.count(run * 1024 + 1, run * 1024 + 1023));
        }
    });
    let words = sparse.page_words(3).to_vec();
    say("plane: load a page", 1, &mut || sparse.load_page(black_box(3), black_box(&words)));
    say("plane: or of the shared bits, none new", 1, &mut || {
        plane.or_shared(black_box(shared));
    });
    say("plane: a clone", 1, &mut || {
        black_box(plane.clone());
    });
    say("plane: dirty pages", 1, &mut || {
        sparse.mark_all(true);
        let mut page = 0;
        while let Some(next) = sparse.take_dirty(page) {
            page = next + 1;
        }
        black_box(sparse.is_dirty());
    });
}

fn writes() {
    let mut all = master();
    let mut begin = 0;
    let writes = 200_000;
    say("master: a first write", writes, &mut || {
        write(&mut all, scattered(begin + writes).skip(usize::try_from(begin).unwrap_or_default()));
        begin += writes;
    });
    say("master: a write that passes", writes, &mut || write(&mut all, scattered(writes)));
}
