//! How many operations of a recovery wait for one another: its time is that number times what a device takes.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

mod golden;

use golden::{DEPENDENT, INDEPENDENT, SESSION, golden, shadow_of};
use std::time::Duration;
use umbra_store::{
    BlockStore, Capabilities, Completion, DeviceSlot, Known, MemStore, SetDevices, SetOptions, StoreOp,
    prepare_set, recover_set,
};

/// Counts the times that somebody waits: everything that was submitted since the last time goes side by side.
struct Counting {
    store: MemStore,
    cache: bool,
    fua: bool,
    submitted: bool,
    steps: u32,
}

impl BlockStore for Counting {
    fn capabilities(&self, device: DeviceSlot) -> Capabilities {
        Capabilities { volatile_cache: self.cache, fua: self.fua, ..self.store.capabilities(device) }
    }

    fn submit(&mut self, op: StoreOp) {
        self.submitted = true;
        self.store.submit(op);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        self.steps += u32::from(std::mem::take(&mut self.submitted));
        self.store.poll(done);
    }

    fn wait(&mut self, _timeout: Duration, done: &mut Vec<Completion>) {
        self.poll(done);
    }
}

struct Bench {
    store: Counting,
    devices: SetDevices,
}

impl Bench {
    fn new(image: &[u8], (cache, fua): (bool, bool)) -> Self {
        let mut store = MemStore::new();
        let devices = SetDevices {
            shadow: store.add_device(shadow_of(image)),
            bitmap: store.add_device(image.to_vec()),
        };
        Self { store: Counting { store, cache, fua, submitted: false, steps: 0 }, devices }
    }

    fn recover(&mut self) -> u32 {
        self.store.steps = 0;
        let options = SetOptions::default();
        recover_set(&mut self.store, self.devices, SESSION, Known::default(), options).unwrap();
        self.store.steps
    }
}

const WRITE_THROUGH: (bool, bool) = (false, false);
const FUA: (bool, bool) = (true, true);
const VOLATILE: (bool, bool) = (true, false);

/// The bound of docs/architecture.md: flush, superblocks, metadata; data where records are unconfirmed; pages; two
/// superblocks. Each write is one step, or two where only a flush makes it durable.
#[test]
fn a_recovery_is_as_many_steps_as_its_order_needs() {
    for (cache, after_a_kill, at_rest) in [(WRITE_THROUGH, 7, 5), (FUA, 7, 5), (VOLATILE, 10, 7)] {
        let mut bench = Bench::new(&golden(DEPENDENT), cache);
        // Blocks 21 to 23 are replayed, one of them unconfirmed.
        assert_eq!(bench.recover(), after_a_kill, "dependent, {cache:?}");
        assert_eq!(bench.recover(), at_rest, "dependent, nothing to replay, {cache:?}");
    }
    // A region was active: its pages wait for those of what it stood for.
    for (cache, after_a_kill) in [(WRITE_THROUGH, 8), (FUA, 8), (VOLATILE, 12)] {
        let mut bench = Bench::new(&golden(INDEPENDENT), cache);
        assert_eq!(bench.recover(), after_a_kill, "independent, {cache:?}");
    }
}

/// An enable: slots, label and old slots away, pages, two superblocks.
#[test]
fn a_prepare_is_as_many_steps_as_its_order_needs() {
    for (cache, steps) in [(WRITE_THROUGH, 6), (FUA, 7), (VOLATILE, 9)] {
        let image = golden(DEPENDENT);
        let mut bench = Bench::new(&vec![0; image.len()], cache);
        let superblock = umbra_format::Superblock::decode(golden::block(&image, 0)).unwrap();
        let options = SetOptions::default();
        prepare_set(&mut bench.store, bench.devices, superblock.identity, options, false).unwrap();
        assert_eq!(bench.store.steps, steps, "{cache:?}");
    }
}
