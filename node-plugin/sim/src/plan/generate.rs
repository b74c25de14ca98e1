//! The random part of a plan: devices, and a script weighted by what the seed has switched on.

mod storm;

use super::{Area, Ask, Bounds, Disk, LARGE_BLOCK, Plan, SMALL_BLOCK, SetPlan, Step};
use crate::oracle::{SETS_MAX, SetNumber, Side};
use umbra_engine::{Geometry, Mode};
use umbra_store::{Cache, Crash, Faults, SimRng};

/// How likely the kinds of steps are, relative to each other; 0 for what the seed has switched off.
#[derive(Clone, Copy, Debug)]
struct Weights {
    master_write: u64,
    master_zeroes: u64,
    master_read: u64,
    master_flush: u64,
    discard: u64,
    shadow_write: u64,
    shadow_zeroes: u64,
    shadow_read: u64,
    shadow_flush: u64,
    turns: u64,
    settle: u64,
    cut: u64,
    restore: u64,
    group: u64,
    abort: u64,
    limit: u64,
    disable: u64,
    detach: u64,
    crash: u64,
    faults: u64,
}

struct Generator<'a> {
    rng: &'a mut SimRng,
    /// What concerns more than one set comes from here, so that seeds with one set stay what they are.
    more: SimRng,
    sets: usize,
    sectors: u64,
    chunk_sectors: u64,
    weights: Weights,
    fua: u32,
    whole: u32,
    /// Sectors that most requests are for.
    hot: u64,
    power: u32,
    crash_span: u64,
    /// By kind: master, shadows, bitmap volumes.
    faulty: [bool; 3],
    /// Sets with good devices beside others with bad ones show that only those suffer.
    faulty_sets: [bool; SETS_MAX],
    note_faults: bool,
    drop_cache: bool,
}

/// Small ones mostly: what happens when a ring is full must happen.
pub(super) const RINGS: [u64; 5] = [8, 8, 12, 16, 64];

pub(super) fn sibling(rng: &mut SimRng, geometry: &Geometry) -> SetPlan {
    SetPlan {
        mode: if rng.chance(500) { Mode::Dependent } else { Mode::Independent },
        caches: [(); 2].map(|()| any_cache(rng)),
        blocks: [SMALL_BLOCK; 2],
        ring_blocks: rng.pick(&RINGS),
        head_bytes: rng.range(1, 4).min(geometry.chunk_count()) * geometry.chunk_bytes(),
        fail_write: rng.chance(200),
    }
}

pub(super) fn geometry(rng: &mut SimRng, mode: Mode) -> Geometry {
    // Two pages per plane; a whole copy of that takes its time.
    let large = rng.chance(if mode == Mode::Dependent { 4 } else { 1 });
    let chunk = if large { 4096 } else { rng.pick(&[4096, 4096, 4096, 8192, 65536]) };
    let chunks = if large { 32_256 + rng.range(1, 600) } else { rng.range(2, 40) };
    let short = if rng.chance(400) { rng.range(1, chunk / 512 - 1) * 512 } else { 0 };
    Geometry::new(chunks * chunk - short, chunk).expect("a possible geometry")
}

pub(super) fn any_cache(rng: &mut SimRng) -> Cache {
    // Mostly volatile: that is where flushes matter.
    let all = [Cache::Volatile, Cache::Fua, Cache::WriteThrough];
    if rng.chance(550) { Cache::Volatile } else { rng.pick(&all) }
}

fn weights(rng: &mut SimRng) -> Weights {
    let mut sometimes = |on: u32, weight: u64| if rng.chance(on) { weight } else { 0 };
    Weights {
        master_write: 30,
        master_zeroes: sometimes(300, 6),
        master_read: sometimes(700, 10),
        master_flush: sometimes(700, 6),
        discard: sometimes(250, 5),
        shadow_write: sometimes(700, 16),
        shadow_zeroes: sometimes(250, 4),
        shadow_read: sometimes(800, 16),
        shadow_flush: sometimes(600, 5),
        turns: 30,
        settle: sometimes(500, 3),
        cut: sometimes(800, 4),
        restore: sometimes(450, 3),
        group: sometimes(450, 4),
        abort: sometimes(250, 4),
        limit: sometimes(200, 2),
        disable: sometimes(150, 2),
        detach: sometimes(300, 2),
        crash: sometimes(800, 5),
        faults: sometimes(350, 4),
    }
}

/// The script of a plan. In a storm it is made of episodes of trouble.
pub(super) fn script(
    rng: &mut SimRng,
    mut more: SimRng,
    geometry: &Geometry,
    sets: usize,
    storm: bool,
) -> Vec<Step> {
    let mut weights = weights(rng);
    if sets > 1 && more.chance(350) {
        // Sets that come and go beside others.
        weights.disable = 4;
    }
    let sectors = geometry.master_bytes() / 512;
    let chunk_sectors = geometry.chunk_bytes() / 512;
    let hot = sectors.min(chunk_sectors * rng.range(1, 12));
    let mut generator = Generator {
        fua: rng.pick(&[0, 100, 400]),
        whole: rng.pick(&[50, 300, 700]),
        power: rng.pick(&[0, 500, 500, 1000]),
        crash_span: rng.pick(&[20, 100, 400]),
        faulty: [rng.chance(400), rng.chance(600), rng.chance(600)],
        note_faults: rng.chance(200),
        drop_cache: rng.chance(500),
        faulty_sets: [(); SETS_MAX].map(|()| sets == 1 || more.chance(600)),
        rng,
        more,
        sets,
        sectors,
        chunk_sectors,
        weights,
        hot,
    };
    if storm {
        return generator.storm();
    }
    let length = generator.rng.range(15, 110);
    let before = generator.rng.below(6);
    let mut script: Vec<Step> = (0..before).map(|_| generator.request(Side::Master)).collect();
    script.extend([Step::Enable(0), Step::Cut { set: 0, update: false }]);
    if generator.rng.chance(500) {
        script.push(Step::Settle);
    }
    let start = script.len() as u64;
    script.extend((0..length).map(|_| generator.step()));
    for set in (1..).take(sets - 1) {
        script.extend((0..generator.more.below(length / 2 + 1)).map(|_| generator.step()));
        // At the beginning, or into a life that is well under way.
        let span = if generator.more.chance(500) { 4 } else { script.len() as u64 + 1 - start };
        let at = usize::try_from(start + generator.more.below(span)).unwrap_or(0).min(script.len());
        script.splice(at..at, [Step::Enable(set), Step::Cut { set, update: false }]);
    }
    script
}

/// Chooses the logical blocks of a plan that is otherwise finished, and makes its requests fit, but for a few.
pub(super) fn choose_blocks(plan: &mut Plan, rng: &mut SimRng) {
    if !rng.chance(200) {
        // A volume that does not fit this master.
        let unfit = plan.sets.iter_mut().skip(1).filter(|_| rng.chance(40));
        unfit.for_each(|set| set.blocks[1] = LARGE_BLOCK);
        return;
    }
    plan.block = LARGE_BLOCK;
    for set in &mut plan.sets {
        set.blocks = [(); 2].map(|()| rng.pick(&[LARGE_BLOCK, LARGE_BLOCK, SMALL_BLOCK]));
    }
    let bytes = plan.geometry.master_bytes().next_multiple_of(u64::from(LARGE_BLOCK));
    plan.geometry = Geometry::new(bytes, plan.geometry.chunk_bytes()).expect("a possible geometry");
    let (sectors, block) = (bytes / 512, u64::from(LARGE_BLOCK) / 512);
    for step in &mut plan.script {
        if let Step::Request { first, count, .. } = step
            && !rng.chance(25)
        {
            *first -= *first % block;
            *count = count.next_multiple_of(block).min(sectors - *first);
        }
    }
}

/// A device with bounds is quick otherwise: one that is slow as well misses deadlines and shows nothing else.
const BOUNDED_LATE: u64 = 300;

/// Gives the devices of a plan bounds.
pub(super) fn choose_bounds(plan: &mut Plan, rng: &mut SimRng) {
    if rng.chance(200) {
        let (transfers, blocking) = (rng.pick(&[1, 2, 3, 8]), rng.pick(&[1, 1, 2]));
        plan.queue = Some(Bounds { transfers, blocking });
        (plan.timing.slow, plan.timing.late) = (0, BOUNDED_LATE);
    }
}

/// Lets metadata of a plan rot that is otherwise finished, at starts and at any moment, and writes of it go astray.
pub(super) fn choose_damage(plan: &mut Plan, rng: &mut SimRng) {
    if !rng.chance(250) {
        return;
    }
    plan.rot_at_start = rng.pick(&[0, 500, 1000, 1000]);
    // What is damaged is read again if the start that found it does not come to its end.
    plan.crash_in_recovery = plan.crash_in_recovery.max(rng.pick(&[0, 500, 750]));
    let (rots, strays) = (rng.pick(&[0, 0, 2, 5]), rng.pick(&[0, 1, 3]));
    for n in 0..rots + strays {
        let set = SetNumber::try_from(rng.index(plan.sets.len())).unwrap_or(0);
        let pick = rng.bits();
        let step = match n < rots {
            true => Step::Rot { set, area: rng.pick(&Area::ALL), pick },
            false => Step::Stray { set, area: rng.pick(&[Area::Slot, Area::Journal, Area::Page]), pick },
        };
        let at = rng.index(plan.script.len() + 1);
        plan.script.insert(at, step);
    }
    if rng.chance(400) {
        let losses = losses_in_the_journal(plan.sets.len(), rng);
        plan.script.extend(losses);
    }
}

/// An image that has lost chunks becomes complete, and the journal that said so rots.
fn losses_in_the_journal(sets: usize, rng: &mut SimRng) -> Vec<Step> {
    let set = SetNumber::try_from(rng.index(sets)).unwrap_or(0);
    let ask = Ask::Write { fua: false };
    let bad = Faults { read: rng.pick(&[150, 500]), ..Faults::default() };
    let mut steps = vec![Step::Heal, Step::Enable(set), Step::Faults(Disk::Master, bad)];
    steps.extend([Step::Cut { set, update: false }, Step::Settle, Step::Turns(60), Step::Turns(60)]);
    steps.extend([Step::Heal, Step::ReadOut]);
    for _ in 0..2 {
        steps.extend([Step::Request { side: Side::Master, ask, first: 0, count: 8 }, Step::Settle]);
    }
    steps.push(Step::Rot { set, area: Area::Journal, pick: rng.bits() });
    let crash = rng.pick(&[Crash::Kill, Crash::PowerCut { granule: 512 }]);
    steps.extend([Step::Crash { after: 0, crash }, Step::ReadOut]);
    steps
}

impl Generator<'_> {
    fn step(&mut self) -> Step {
        let w = self.weights;
        let kinds = [
            w.master_write + w.master_zeroes + w.master_read + w.master_flush + w.discard,
            w.shadow_write + w.shadow_zeroes + w.shadow_read + w.shadow_flush,
            w.turns,
            w.settle,
            w.cut,
            w.abort,
            w.limit,
            w.disable,
            w.detach,
            w.crash,
            w.faults,
            w.restore,
            w.group,
        ];
        match self.choose(&kinds) {
            0 => self.request(Side::Master),
            1 => {
                let set = self.set();
                self.request(Side::Shadow(set))
            }
            2 => Step::Turns(u32::try_from(self.rng.range(1, 12)).unwrap_or(1)),
            3 => self.rng.pick(&[Step::Settle, Step::ReadOut]),
            4 => Step::Cut { set: self.set(), update: self.rng.chance(600) },
            5 => {
                let set = self.set();
                self.rng.pick(&[Step::Abort(set), Step::Resume(set)])
            }
            6 if self.rng.chance(600) => Step::Limit(self.set(), Some(self.rng.range(1, 40))),
            6 => Step::Limit(self.set(), None),
            7 => {
                let set = self.set();
                let end = |force| Step::Disable { set, force };
                self.rng.pick(&[end(true), end(false), Step::Enable(set)])
            }
            8 => Step::Detach,
            9 => self.crash(),
            10 => self.faults(),
            11 => Step::Restore { set: self.set(), update: self.rng.chance(700) },
            _ => Step::Group {
                sets: self.group(),
                update: self.rng.chance(600),
                restore: self.rng.chance(250),
            },
        }
    }

    /// Some sets, as bits.
    fn group(&mut self) -> u16 {
        let all = u16::try_from((1u32 << self.sets.max(3)) - 1).unwrap_or(u16::MAX);
        u16::try_from(self.more.range(1, u64::from(all))).unwrap_or(1)
    }

    fn set(&mut self) -> SetNumber {
        SetNumber::try_from(self.more.index(self.sets)).unwrap_or(0)
    }

    fn choose(&mut self, weights: &[u64]) -> usize {
        let mut at = self.rng.below(weights.iter().sum());
        for (n, weight) in weights.iter().enumerate() {
            if at < *weight {
                return n;
            }
            at -= weight;
        }
        0
    }

    fn request(&mut self, side: Side) -> Step {
        let w = self.weights;
        let fua = self.rng.chance(self.fua);
        let (kinds, asks) = match side {
            Side::Master => (
                [w.master_write, w.master_zeroes, w.master_read, w.master_flush, w.discard],
                [Ask::Write { fua }, Ask::Zeroes { fua }, Ask::Read, Ask::Flush, Ask::Discard],
            ),
            Side::Shadow(_) => (
                [w.shadow_write, w.shadow_zeroes, w.shadow_read, w.shadow_flush, 0],
                [Ask::Write { fua }, Ask::Zeroes { fua }, Ask::Read, Ask::Flush, Ask::Flush],
            ),
        };
        let ask = asks[self.choose(&kinds)];
        let (first, count) = self.extent();
        Step::Request { side, ask, first, count }
    }

    /// Sectors: within a chunk, whole chunks, or anything; mostly where something has happened before.
    fn extent(&mut self) -> (u64, u64) {
        let space = if self.rng.chance(800) { self.hot } else { self.sectors };
        let chunk = self.chunk_sectors;
        if self.rng.chance(self.whole) {
            let first = self.rng.below(space.div_ceil(chunk)) * chunk;
            let count = chunk * self.rng.range(1, 3);
            return (first, count.min(self.sectors - first));
        }
        let first = self.rng.below(space);
        let longest = if self.rng.chance(200) { chunk * 2 } else { chunk / 2 };
        (first, self.rng.range(1, longest.min(64)).min(self.sectors - first))
    }

    fn crash(&mut self) -> Step {
        let granule = self.rng.pick(&[512, 512, 4096]);
        let power_cut = self.rng.chance(self.power);
        let crash = if power_cut { Crash::PowerCut { granule } } else { Crash::Kill };
        let after = if self.rng.chance(150) { 0 } else { self.rng.below(self.crash_span) };
        Step::Crash { after, crash }
    }

    fn faults(&mut self) -> Step {
        let kind = self.rng.index(3);
        let set = self.set();
        let disk = [Disk::Master, Disk::Shadow(set), Disk::Bitmap(set)][kind];
        let good = !self.faulty[kind] || !self.faulty_sets[usize::from(set)] && disk != Disk::Master;
        if self.rng.chance(400) || good {
            return Step::Heal;
        }
        if self.note_faults && self.rng.chance(150) {
            return Step::NoteFaults(self.rng.pick(&[300, 1000]));
        }
        let mut rate = |on: u32| if self.rng.chance(on) { self.rng.pick(&[20, 150, 1000]) } else { 0 };
        let (read, write, flush) = (rate(400), rate(400), rate(300));
        // A hung master hangs its workload too, and one that forgets what it could not flush breaks every promise
        // to whoever did not ask for that flush: nothing is promised then.
        let master = disk == Disk::Master;
        let hang = if master { 0 } else { rate(250).min(150) };
        let drop_cache = self.drop_cache && !master;
        Step::Faults(disk, Faults { read, write, flush, hang, drop_cache })
    }
}
