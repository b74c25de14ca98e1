//! Recovery that is cut off, that hangs, and that is shown the wrong volumes.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

mod golden;

use golden::{
    BLOCK, CHUNKS, DEPENDENT, INDEPENDENT, PAGE_PLACES, PAGES, SESSION, SLOTS, block, golden, label,
    shadow_of,
};
use std::time::Duration;
use umbra_engine::{Id128, PlaneId, SetImage, SetState};
use umbra_format::{ImageEnd, Label, Superblock};
use umbra_store::{
    Cache, Crash, Expected, Faults, Fill, Known, MemStore, Mismatch, RecoverError, SetDevices, SetOptions,
    SimWorld, Timing, Volume, find_set, recover_set,
};

const TIMING: Timing = Timing { effect: 3, completion: 3, slow: 20, late: u64::MAX };

/// A machine whose disks hold a golden set.
struct Machine {
    world: SimWorld,
    devices: SetDevices,
}

impl Machine {
    fn new(seed: u64, image: &[u8], caches: [Cache; 2]) -> Self {
        let world = SimWorld::new(seed, TIMING);
        let shadow_bytes = shadow_of(image);
        let shadow = world.add_device("shadow", shadow_bytes.len() as u64, caches[0], Fill::Zero);
        let bitmap = world.add_device("bitmap", image.len() as u64, caches[1], Fill::Zero);
        for (device, bytes) in [(shadow, &shadow_bytes[..]), (bitmap, image)] {
            for (n, part) in bytes.chunks(BLOCK).enumerate() {
                if part.iter().any(|byte| *byte != 0) {
                    world.poke(device, (n * BLOCK) as u64, part);
                }
            }
        }
        Self { world, devices: SetDevices { shadow, bitmap } }
    }

    fn recover(&self) -> Result<SetImage, RecoverError> {
        self.recover_with(Known::default())
    }

    fn recover_with(&self, known: Known) -> Result<SetImage, RecoverError> {
        let mut store = self.world.claim();
        recover_set(&mut store, self.devices, SESSION, known, SetOptions::default()).map(|(_, image)| image)
    }

    /// As [`recover`](Self::recover), with a power cut at the `at`th operation; whether it came to that.
    fn recover_and_cut(&self, at: u64) -> bool {
        let mut store = self.world.claim();
        let crash = Crash::PowerCut { granule: 512 };
        self.world.crash_at(Some((self.world.operations() + at, crash)));
        let outcome = recover_set(&mut store, self.devices, SESSION, Known::default(), SetOptions::default());
        self.world.crash_at(None);
        assert_eq!(outcome.is_err(), self.world.crashed().is_some());
        self.world.crashed().is_some()
    }
}

fn planes(image: &SetImage) -> Vec<Vec<u64>> {
    let bits = |plane: &PlaneId| {
        let bits = &image.planes[plane.index()];
        (0..bits.len()).filter(|bit| bits.get(*bit)).collect()
    };
    PlaneId::ALL.iter().map(bits).collect()
}

/// Two power cuts at any two operations of two recoveries, one after the other; the third finds everything.
fn cut_twice(image: &[u8], seeds: u64) {
    let expected = Machine::new(0, image, [Cache::Volatile; 2]).recover().unwrap();
    let mut pairs = 0;
    for seed in 0..seeds {
        for first in 1.. {
            let mut more = false;
            for second in 1.. {
                let machine = Machine::new(seed, image, [Cache::Volatile; 2]);
                more = machine.recover_and_cut(first);
                if !more || !machine.recover_and_cut(second) {
                    break;
                }
                pairs += 1;
                let found = machine.recover().unwrap_or_else(|error| {
                    panic!("seed {seed}, cuts at {first} and {second}: {error}");
                });
                assert_eq!(found.header.state, expected.header.state);
                assert_eq!(planes(&found), planes(&expected), "seed {seed}, cuts at {first} and {second}");
            }
            if !more {
                break;
            }
        }
    }
    assert!(pairs > 40 * seeds, "{pairs} pairs");
}

/// Rule 5: what the shadow holds is kept, what was the master's is lost, and everything may differ; durably.
#[test]
fn of_an_image_whose_master_was_written_past_it_only_what_the_shadow_holds_is_left() {
    for (name, complete) in [(DEPENDENT, false), (INDEPENDENT, false), (INDEPENDENT, true)] {
        let mut volume = golden(name);
        for at in SLOTS.into_iter().filter(|_| complete) {
            let slot: &mut [u8; BLOCK] = (&mut volume[at..at + BLOCK]).try_into().unwrap();
            let mut superblock = Superblock::decode(slot).unwrap();
            superblock.header.state = SetState::Complete;
            superblock.encode(slot);
        }
        let machine = Machine::new(0, &volume, [Cache::Volatile; 2]);
        let before = machine.recover().unwrap();
        let leans = before.header.state != SetState::Complete;
        assert_eq!(leans, !complete);
        let known = Known { master_changed: true, ..Known::default() };
        let changed = machine.recover_with(known).unwrap();
        let after = machine.recover().unwrap();
        assert_eq!(planes(&after), planes(&changed), "{name}");
        assert_eq!(after.header.state, before.header.state, "{name}");
        let bit = |image: &SetImage, plane: PlaneId, chunk| image.planes[plane.index()].get(chunk);
        let mut lost = 0;
        for chunk in 0..CHUNKS {
            let (held, was_lost) = (bit(&before, PlaneId::Held, chunk), bit(&before, PlaneId::Lost, chunk));
            assert_eq!(bit(&after, PlaneId::Held, chunk), held, "{name}, chunk {chunk}");
            assert_eq!(
                bit(&after, PlaneId::Lost, chunk),
                was_lost || leans && !held,
                "{name}, chunk {chunk}"
            );
            assert!(bit(&after, PlaneId::differs(after.header.tracking), chunk), "{name}, chunk {chunk}");
            lost += u64::from(leans && !held);
        }
        assert_eq!(lost > 0, leans, "{name}: nothing of the image leaned on the master");
    }
}

/// The good slot was written over first, whichever that was: torn, there were two damaged ones.
#[test]
fn no_two_power_cuts_take_both_superblocks() {
    for slot in SLOTS {
        let mut image = golden(DEPENDENT);
        image[slot + 100] ^= 1;
        cut_twice(&image, 3);
    }
}

/// Likewise the good place of a page.
#[test]
fn no_two_power_cuts_take_both_places_of_a_page() {
    for name in [DEPENDENT, INDEPENDENT] {
        for place in 0..2 {
            let mut image = golden(name);
            for page in 0..PAGE_PLACES / 2 {
                image[PAGES + (2 * page + place) * BLOCK + 100] ^= 1;
            }
            cut_twice(&image, 1);
        }
    }
}

/// What nobody can know is lost (E2). A page that could not be read was written anew before that was durable: after a
/// power cut in between it said that nothing was held, and nothing said that it was lost.
#[test]
fn what_is_taken_for_lost_stays_lost_over_a_power_cut() {
    let mut image = golden(DEPENDENT);
    for place in 0..2 {
        image[PAGES + place * BLOCK + 100] ^= 1;
    }
    for at in 1.. {
        let mut came = false;
        for seed in 0..40 {
            let machine = Machine::new(seed, &image, [Cache::Volatile; 2]);
            came |= machine.recover_and_cut(at);
            let found = machine.recover().unwrap();
            let lost = found.planes[PlaneId::Lost.index()].ones();
            assert_eq!(lost, CHUNKS, "seed {seed}, cut off at operation {at}");
        }
        if !came {
            break;
        }
    }
}

/// What an interrupted checkpoint left in one place of a page counted again when the other one rotted, after a
/// recovery had dropped the journal that led from one to the other.
#[test]
fn both_places_of_every_page_are_the_same_after_a_recovery() {
    for name in [DEPENDENT, INDEPENDENT] {
        for damaged in 0..PAGE_PLACES {
            let mut image = golden(name);
            image[PAGES + damaged * BLOCK + 100] ^= 1;
            let machine = Machine::new(1, &image, [Cache::Volatile; 2]);
            let found = machine.recover().unwrap();
            for place in 0..2 {
                let rotten = Machine::new(1, &image, [Cache::Volatile; 2]);
                rotten.recover().unwrap();
                for page in 0..PAGE_PLACES / 2 {
                    let at = PAGES + (2 * page + place) * BLOCK;
                    rotten.world.poke(rotten.devices.bitmap, at as u64, &[0x5a; BLOCK]);
                }
                let again = rotten.recover().unwrap();
                assert_eq!(planes(&again), planes(&found), "{name}, place {damaged} damaged");
                rotten.world.crash(Crash::Kill);
            }
        }
    }
}

/// It waited for ever, and with it its master.
#[test]
fn a_volume_that_hangs_is_named_and_what_it_was_asked_is_reported() {
    let image = golden(DEPENDENT);
    let hang = Faults { hang: 1000, ..Faults::default() };
    for (volume, hung) in [(Volume::Shadow, 0), (Volume::Bitmap, 1)] {
        let machine = Machine::new(7, &image, [Cache::Volatile; 2]);
        let device = [machine.devices.shadow, machine.devices.bitmap][hung];
        machine.world.set_faults(device, hang);
        let mut store = machine.world.claim();
        let recovered =
            recover_set(&mut store, machine.devices, SESSION, Known::default(), SetOptions::default());
        let Err(RecoverError::Hung { volume: named, deadline, mut abandoned }) = recovered else {
            panic!("{recovered:?}")
        };
        assert_eq!((named, deadline), (volume, Duration::from_secs(5)));
        assert_eq!((abandoned.len(), abandoned.on(device)), (1, 1));
        assert_eq!(machine.world.in_flight(), 1, "nothing else was left behind");
        assert!(!abandoned.land(&mut store, Duration::from_secs(1)));
        machine.world.set_faults(device, Faults::default());
        machine.world.release();
        assert!(abandoned.land(&mut store, Duration::from_secs(1)));
        assert_eq!((abandoned.len(), machine.world.in_flight()), (0, 0));
        machine.recover().unwrap();
    }
}

#[test]
fn a_recovery_that_hangs_anywhere_leaves_nothing_that_the_next_one_minds() {
    let image = golden(DEPENDENT);
    let expected = Machine::new(0, &image, [Cache::Fua; 2]).recover().unwrap();
    let mut hung = 0;
    for seed in 0..300 {
        let machine = Machine::new(seed, &image, [Cache::Fua; 2]);
        for device in [machine.devices.shadow, machine.devices.bitmap] {
            machine.world.set_faults(device, Faults { hang: 60, ..Faults::default() });
        }
        let mut store = machine.world.claim();
        let recovered =
            recover_set(&mut store, machine.devices, SESSION, Known::default(), SetOptions::default());
        for device in [machine.devices.shadow, machine.devices.bitmap] {
            machine.world.set_faults(device, Faults::default());
        }
        if let Err(RecoverError::Hung { mut abandoned, .. }) = recovered {
            hung += 1;
            assert_eq!(abandoned.len(), machine.world.in_flight());
            machine.world.release();
            assert!(abandoned.land(&mut store, Duration::from_secs(1)));
        }
        assert_eq!(planes(&machine.recover().unwrap()), planes(&expected), "seed {seed}");
    }
    assert!((50..300).contains(&hung), "{hung} of 300 hung");
}

/// A golden set on plain memory.
struct Bench {
    store: MemStore,
    devices: SetDevices,
}

impl Bench {
    fn new(image: &[u8], shadow: Vec<u8>) -> Self {
        let mut store = MemStore::new();
        let devices =
            SetDevices { shadow: store.add_device(shadow), bitmap: store.add_device(image.to_vec()) };
        Self { store, devices }
    }

    fn recover(&mut self, expected: Expected) -> Result<SetImage, RecoverError> {
        let known = Known { expected, ..Known::default() };
        recover_set(&mut self.store, self.devices, SESSION, known, SetOptions::default())
            .map(|(_, image)| image)
    }

    /// Refused, with nothing written.
    fn refused(&mut self, expected: Expected) -> RecoverError {
        let contents = |bench: &Self| {
            [bench.devices.shadow, bench.devices.bitmap].map(|device| bench.store.content(device).to_vec())
        };
        let before = contents(self);
        let error = self.recover(expected).unwrap_err();
        assert!(before == contents(self), "a refusal writes nothing: {error}");
        error
    }
}

fn superblock(image: &[u8]) -> Superblock {
    SLOTS
        .iter()
        .filter_map(|at| Superblock::decode(block(image, *at)).ok())
        .max_by_key(|superblock| superblock.generation)
        .unwrap()
}

/// Nothing was compared: exchanged volumes were served as each other.
#[test]
fn volumes_of_another_record_are_refused_before_anything_is_written() {
    let image = golden(DEPENDENT);
    let right = Expected::all_of(&superblock(&image).identity);
    let (other, found) = (Id128([0xcc; 16]), superblock(&image).identity);
    let wrong = [
        (Expected { set: Some(other), ..right }, Mismatch::Set { expected: other, found: found.set }),
        (
            Expected { master: Some(other), ..right },
            Mismatch::Master { expected: other, found: found.master.uuid },
        ),
        (
            Expected { shadow: Some(other), ..right },
            Mismatch::Shadow { expected: other, found: found.shadow.uuid },
        ),
        (
            Expected { bitmap: Some(other), ..right },
            Mismatch::Bitmap { expected: other, found: found.bitmap },
        ),
        (
            Expected { master_bytes: Some(512), ..right },
            Mismatch::MasterBytes { expected: 512, found: 1 << 20 },
        ),
        (Expected { chunk_bytes: Some(8192), ..right }, Mismatch::ChunkBytes { expected: 8192, found: 4096 }),
    ];
    let mut bench = Bench::new(&image, shadow_of(&image));
    for (expected, mismatch) in wrong {
        assert_eq!(bench.refused(expected), RecoverError::NotExpected(mismatch));
    }
    bench.recover(right).unwrap();
}

/// The image with its superblock changed in both slots.
fn with_superblock(image: &[u8], change: impl FnOnce(&mut Superblock)) -> Vec<u8> {
    let mut superblock = superblock(image);
    change(&mut superblock);
    let mut image = image.to_vec();
    for slot in SLOTS {
        superblock.encode(&mut image[slot..slot + BLOCK]);
    }
    image
}

#[test]
fn a_master_that_was_written_outside_is_told_from_the_one_that_was_detached() {
    let image = with_superblock(&golden(DEPENDENT), |superblock| {
        superblock.identity.master.fingerprint = 5;
        superblock.header.clean = true;
    });
    let right = Expected::all_of(&superblock(&image).identity);
    let mut bench = Bench::new(&image, shadow_of(&image));
    let refused = bench.refused(Expected { fingerprint: Some(6), ..right });
    assert_eq!(refused, RecoverError::NotExpected(Mismatch::Fingerprint { expected: 5, found: 6 }));
    bench.recover(Expected { fingerprint: Some(5), ..right }).unwrap();
    // While it is attached it changes.
    bench.recover(Expected { fingerprint: Some(6), ..right }).unwrap();
}

/// A disk without a label was taken for the shadow, and what was on it destroyed.
#[test]
fn a_disk_without_the_label_is_not_taken_for_the_shadow() {
    let copying = with_superblock(&golden(INDEPENDENT), |superblock| {
        assert!(superblock.header.head_moved);
        superblock.labelled = true;
    });
    for image in [golden(DEPENDENT), copying] {
        let (set, identity) = (superblock(&image).identity.set, superblock(&image).identity);
        let expected = identity.shadow.uuid;
        let blank = vec![0; shadow_of(&image).len()];
        let mut bench = Bench::new(&image, blank.clone());
        assert_eq!(bench.refused(Expected::default()), RecoverError::Unlabelled { set, expected });
        let mut foreign = blank;
        let found = Id128([0xcc; 16]);
        label(found, found).encode(&mut foreign);
        let mut bench = Bench::new(&image, foreign);
        let swapped = RecoverError::Swapped { set, expected, found_set: found, found };
        assert_eq!(bench.refused(Expected::default()), swapped);
        // Put right, it is served again; also if its label has a rotten bit elsewhere.
        let mut rotten = shadow_of(&image);
        rotten[3000] ^= 1;
        for shadow in [shadow_of(&image), rotten] {
            let mut bench = Bench::new(&image, shadow);
            bench.recover(Expected::default()).unwrap();
            let start = block(bench.store.content(bench.devices.shadow), 0);
            assert_eq!(Label::decode(start).unwrap().set, set);
        }
    }
}

/// A crash right after a cut leaves no label, and one while the head moves back leaves the head there already.
#[test]
fn a_label_that_a_crash_explains_is_written_anew() {
    let image = golden(INDEPENDENT);
    let head = usize::try_from(superblock(&image).identity.head_bytes).unwrap();
    let set = superblock(&image).identity.set;
    let mut shadow = shadow_of(&image);
    let head_at = 3 << 20;
    shadow[..head].copy_from_slice(&image[head_at..head_at + head]);
    for labelled in [false, true] {
        let image = with_superblock(&image, |superblock| superblock.labelled = labelled);
        let mut bench = Bench::new(&image, shadow.clone());
        bench.recover(Expected::default()).unwrap();
        let start = block(bench.store.content(bench.devices.shadow), 0);
        assert_eq!(Label::decode(start).unwrap().set, set);
        let written = find_set(&mut bench.store, bench.devices, SetOptions::default()).unwrap();
        assert!(written.superblock().labelled);
    }
}

/// A label in a plain image is its user's data: a copy of some other shadow, stale or forged.
#[test]
fn a_label_in_a_plain_image_is_not_believed() {
    let image = with_superblock(&golden(INDEPENDENT), |superblock| {
        superblock.header.state = SetState::Complete;
        superblock.header.head_moved = false;
        superblock.header.merging = false;
    });
    let identity = superblock(&image).identity;
    let own = (identity.set, identity.shadow.uuid);
    for (set, shadow_id) in [own, (Id128([0xcc; 16]), Id128([0xcc; 16]))] {
        let mut shadow = shadow_of(&image);
        let end = Some(ImageEnd::GivenUp);
        Label { end, epoch: superblock(&image).header.epoch, ..label(set, shadow_id) }.encode(&mut shadow);
        let mut bench = Bench::new(&image, shadow.clone());
        assert_eq!(bench.recover(Expected::default()).unwrap().header.state, SetState::Complete);
        assert_eq!(bench.store.content(bench.devices.shadow), shadow, "nor written over");
    }
    assert_eq!(CHUNKS, identity.geometry.chunk_count());
}
