use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// What a plane promises, as obviously as can be.
struct Naive {
    len: u64,
    ones: BTreeSet<u64>,
    dirty: BTreeSet<usize>,
}

impl Naive {
    fn pages(&self) -> usize {
        index(self.len.div_ceil(PAGE_BITS))
    }

    fn put(&mut self, bit: u64, value: bool) {
        let change = if value { self.ones.insert(bit) } else { self.ones.remove(&bit) };
        if change {
            self.dirty.insert(index(bit / PAGE_BITS));
        }
    }

    fn fill(&mut self, value: bool) {
        self.ones = if value { (0..self.len).collect() } else { BTreeSet::new() };
        self.dirty = (0..self.pages()).collect();
    }

    /// Page `page` is what was read from disk.
    fn load(&mut self, page: usize, words: &[u64]) {
        let first = page as u64 * PAGE_BITS;
        for bit in first..(first + PAGE_BITS).min(self.len) {
            self.put(bit, words[word_of(bit - first)] & mask_of(bit - first) != 0);
        }
        self.dirty.remove(&page);
    }

    fn find(&self, from: u64, value: bool) -> Option<u64> {
        (from..self.len).find(|bit| self.ones.contains(bit) == value)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64, bool),
    Fill(bool),
    MarkAll(bool),
    MarkDirty(usize),
    TakeDirty(usize),
    Load(usize, u64),
    /// The shared bits that are 1, and whether all others are 1 before.
    OrShared(Vec<u64>, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let bit = 0u64..100_000;
    prop_oneof![
        12 => (bit.clone(), any::<bool>()).prop_map(|(bit, value)| Step::Put(bit, value)),
        1 => any::<bool>().prop_map(Step::Fill),
        1 => any::<bool>().prop_map(Step::MarkAll),
        2 => (0usize..4).prop_map(Step::MarkDirty),
        4 => (0usize..5).prop_map(Step::TakeDirty),
        2 => (0usize..4, any::<u64>()).prop_map(|(page, seed)| Step::Load(page, seed)),
        1 => (prop::collection::vec(bit, 0..20), prop::bool::weighted(0.1))
            .prop_map(|(bits, all)| Step::OrShared(bits, all)),
    ]
}

/// Words of a page as found on disk, also behind the plane's end.
fn page_of(seed: u64) -> Vec<u64> {
    (1..=PAGE_WORDS as u64).map(|n| seed.wrapping_mul(n).rotate_left(17) & seed.rotate_right(7)).collect()
}

fn apply(plane: &mut Plane, naive: &mut Naive, step: Step) {
    let len = naive.len;
    match step {
        Step::Put(bit, value) => {
            plane.put(bit % len, value);
            naive.put(bit % len, value);
        }
        Step::Fill(value) => {
            plane.fill(value);
            naive.fill(value);
        }
        Step::MarkAll(dirty) => {
            plane.mark_all(dirty);
            naive.dirty = if dirty { (0..naive.pages()).collect() } else { BTreeSet::new() };
        }
        Step::MarkDirty(page) => {
            plane.mark_dirty(page % naive.pages());
            naive.dirty.insert(page % naive.pages());
        }
        Step::TakeDirty(from) => {
            let next = naive.dirty.range(from..).next().copied();
            assert_eq!(plane.take_dirty(from), next, "the next dirty page from {from}");
            next.map(|page| naive.dirty.remove(&page));
        }
        Step::Load(page, seed) => {
            plane.load_page(page % naive.pages(), &page_of(seed));
            naive.load(page % naive.pages(), &page_of(seed));
        }
        Step::OrShared(bits, all) => {
            let shared = AtomicBits::new(len, all);
            bits.iter().for_each(|bit| shared.set(bit % len));
            plane.or_shared(&shared);
            (0..len).filter(|bit| shared.get(*bit)).for_each(|bit| naive.put(bit, true));
        }
    }
}

fn assert_same(plane: &Plane, naive: &Naive) {
    assert_eq!(plane.ones(), naive.ones.len() as u64);
    assert_eq!(plane.is_dirty(), !naive.dirty.is_empty());
    assert_eq!(plane.pages(), naive.pages());
    let words: Vec<u64> = (0..plane.pages()).flat_map(|page| plane.page_words(page)).copied().collect();
    let mut expected = vec![0; words.len()];
    naive.ones.iter().for_each(|bit| expected[word_of(*bit)] |= mask_of(*bit));
    assert!(words == expected, "the words on disk differ");
    assert!((0..words.len()).all(|index| plane.word(index) == words[index]), "single words differ");
    let mut copy = plane.clone();
    let dirty = std::iter::from_fn(|| copy.take_dirty(0)).collect::<BTreeSet<usize>>();
    assert_eq!(dirty, naive.dirty);
}

proptest! {
    #[test]
    fn a_plane_is_a_set_of_bits_with_dirty_pages(
        len in 1u64..100_000,
        start in any::<bool>(),
        steps in prop::collection::vec(step(), 0..60),
        places in prop::collection::vec((0u64..100_000, 0u64..100_000), 1..10),
    ) {
        let mut plane = Plane::new(len, start);
        let mut naive = Naive { len, ones: BTreeSet::new(), dirty: BTreeSet::new() };
        naive.fill(start);
        naive.dirty.clear();
        assert_same(&plane, &naive);
        for step in steps {
            apply(&mut plane, &mut naive, step);
        }
        assert_same(&plane, &naive);
        for (from, to) in places {
            let (from, to) = (from % len, to % (len + 1));
            prop_assert_eq!(plane.get(from), naive.ones.contains(&from));
            for value in [false, true] {
                prop_assert_eq!(plane.find(from, value), naive.find(from, value));
                prop_assert_eq!(plane.find(len, value), None);
            }
            let count = (from..to).filter(|bit| naive.ones.contains(bit)).count() as u64;
            prop_assert_eq!(plane.count(from, to), count);
        }
    }

    #[test]
    fn shared_bits_are_a_set_of_bits(
        len in 1u64..1000,
        start in any::<bool>(),
        changes in prop::collection::vec((0u64..1000, any::<bool>()), 0..100),
    ) {
        let bits = AtomicBits::new(len, start);
        let mut naive: Vec<bool> = (0..len).map(|_| start).collect();
        for (bit, value) in changes {
            let bit = bit % len;
            if value { bits.set(bit) } else { bits.clear(bit) }
            naive[index(bit)] = value;
        }
        for bit in 0..len {
            prop_assert_eq!(bits.get(bit), naive[index(bit)]);
            prop_assert_eq!(bits.word(word_of(bit)) & mask_of(bit) != 0, naive[index(bit)]);
        }
        bits.fill(!start);
        prop_assert!((0..len).all(|bit| bits.get(bit) != start));
    }
}
