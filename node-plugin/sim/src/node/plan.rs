//! From a seed to a plan: masters, sets, disks, and an explicit script that can be shortened.

use super::machine::Fate;
use umbra_store::{Cache, Crash, SimRng, Timing};

/// A set: the number of its master, and its own.
pub type SetAt = (usize, usize);

/// A disk, by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskAt {
    /// The master's.
    Master(usize),
    /// A set's shadow.
    Shadow(SetAt),
    /// A set's bitmap volume.
    Bitmap(SetAt),
}

/// A call of the platform API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Attach a master.
    Attach(usize),
    /// Detach it.
    Detach(usize),
    /// Enable a set.
    Enable(SetAt),
    /// Disable it.
    Disable(SetAt),
    /// One cut of one or several sets.
    Cut(Vec<SetAt>, bool),
    /// Restore a master from a set.
    Restore(SetAt),
    /// Bring a set back that is offline.
    Reset(SetAt),
    /// Enable a set on volumes that are not to be had: what must be refused.
    Misuse(SetAt, u32),
}

/// What happens to the power, or the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `kill -9`.
    Kill,
    /// The power is cut, and the machine starts again.
    Power,
    /// It is shut down in order, and starts again.
    Reboot,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Calls, all at once.
    Calls(Vec<Ask>),
    /// The last call is repeated with its request id.
    Again,
    /// A call is sent again whenever its sender has waited so many milliseconds for an answer.
    Impatient(Ask, Vec<u64>),
    /// A fate for the step after so many.
    Arm(u64, Fate),
    /// Writes to a master: from this sector, so many.
    Write {
        /// The master.
        master: usize,
        /// First sector.
        first: u64,
        /// Sectors.
        count: u64,
        /// Whether it is waited for.
        wait: bool,
    },
    /// Writes to a shadow.
    WriteShadow(SetAt, u64, u64),
    /// Flushes a master.
    Flush(usize),
    /// Reads all that is presented.
    ReadOut,
    /// Time passes, in milliseconds.
    Wait(u64),
    /// The process, or the machine, stops.
    Stop(Stop),
    /// A disk does not answer any more.
    Hang(DiskAt),
    /// A disk's operations fail.
    Break(DiskAt),
    /// A disk is gone after the next start of the machine.
    Miss(DiskAt),
    /// Two disks change places with the next start of the machine.
    Exchange(DiskAt, DiskAt),
    /// The state directory's disk is full.
    Full,
    /// It hangs.
    FilesHang,
    /// A record of a master rots, and a stray file lies beside it.
    Rot(usize),
    /// The thread of a master dies.
    Die(usize),
    /// The process is killed, and a master is written past Umbra by somebody; whether its images are to be kept.
    WriteOutside(usize, Writer, bool),
    /// All that is wrong is put right: where disks have changed places, while the machine is off.
    Heal,
}

/// Who writes past Umbra.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A file system that notes when it is written.
    Dated,
    /// One that does not, or none.
    Undated,
}

/// A set's part of a plan.
#[derive(Clone, Copy, Debug)]
pub struct SetPlan {
    /// Independent, or dependent.
    pub independent: bool,
    /// Of the shadow and of the bitmap volume.
    pub caches: [Cache; 2],
    /// Whether the volumes hold something.
    pub used: bool,
}

/// A master's part of a plan.
#[derive(Clone, Debug)]
pub struct MasterPlan {
    /// Bytes.
    pub size: u64,
    /// Bytes of a chunk.
    pub chunk: u64,
    /// Its cache.
    pub cache: Cache,
    /// Its sets.
    pub sets: Vec<SetPlan>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u64,
    /// How fast disks are.
    pub timing: Timing,
    /// The masters.
    pub masters: Vec<MasterPlan>,
    /// Disks have serial numbers.
    pub strong: bool,
    /// Names change with every start of the machine.
    pub renames: bool,
    /// Disks come late, up to so many milliseconds.
    pub late_ms: u64,
    /// Other servers have ublk devices.
    pub foreign: bool,
    /// How often somebody mounts a presented device, per thousand steps.
    pub mounts: u32,
    /// How often somebody reads a presented device when it is claimed, per thousand claims.
    pub looks: u32,
    /// What happens.
    pub script: Vec<Step>,
}

/// Which kinds of events a seed has.
struct Swarm {
    deaths: bool,
    faults: bool,
    files: bool,
    disks: bool,
    restores: bool,
    groups: bool,
    misuse: bool,
    rot: bool,
    outside: bool,
}

fn any_cache(rng: &mut SimRng) -> Cache {
    rng.pick(&[Cache::WriteThrough, Cache::Fua, Cache::Volatile])
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = SimRng::new(seed ^ 0x90de);
        let count = rng.range(1, 3);
        let masters: Vec<MasterPlan> = (0..count)
            .map(|_| {
                let chunk = rng.pick(&[4 << 10, 16 << 10, 64 << 10]);
                let size = (rng.range(2, 10) * (64 << 10)) + rng.below(8) * 4096;
                let sets = (0..rng.range(0, 3))
                    .map(|_| SetPlan {
                        independent: rng.chance(500),
                        caches: [any_cache(&mut rng), any_cache(&mut rng)],
                        used: rng.chance(300),
                    })
                    .collect();
                MasterPlan { size, chunk, cache: any_cache(&mut rng), sets }
            })
            .collect();
        let strong = rng.chance(850);
        let mut plan = Self {
            seed,
            timing: Timing { effect: rng.range(1, 6), completion: rng.range(1, 6), slow: 20, late: u64::MAX },
            masters,
            strong,
            renames: strong && rng.chance(500),
            late_ms: if rng.chance(300) { 2500 } else { 0 },
            foreign: rng.chance(300),
            mounts: if rng.chance(250) { 30 } else { 0 },
            looks: if seed.is_multiple_of(3) { 500 } else { 0 },
            script: Vec::new(),
        };
        plan.script = plan.write_script(&mut rng);
        plan
    }

    fn sets(&self) -> Vec<SetAt> {
        let of = |(m, master): (usize, &MasterPlan)| (0..master.sets.len()).map(move |s| (m, s));
        self.masters.iter().enumerate().flat_map(of).collect()
    }

    fn write_script(&self, rng: &mut SimRng) -> Vec<Step> {
        let swarm = Swarm {
            deaths: rng.chance(800),
            faults: rng.chance(400),
            files: rng.chance(250),
            disks: rng.chance(300),
            restores: rng.chance(500),
            groups: rng.chance(500),
            misuse: rng.chance(300),
            rot: rng.chance(200),
            outside: rng.chance(300),
        };
        let mut script = Vec::new();
        for master in 0..self.masters.len() {
            script.push(Step::Calls(vec![Ask::Attach(master)]));
        }
        for set in self.sets() {
            if rng.chance(800) {
                script.push(Step::Calls(vec![Ask::Enable(set)]));
            }
        }
        for _ in 0..rng.range(4, 16) {
            self.write_some(rng, &mut script);
            if swarm.deaths && rng.chance(400) {
                script.push(Step::Arm(rng.below(40), any_fate(rng, swarm.faults)));
            }
            let step = self.any_step(rng, &swarm);
            script.extend(step);
            while rng.chance(200) {
                script.push(Step::Again);
            }
            if rng.chance(200) {
                script.push(Step::ReadOut);
            }
        }
        script
    }

    fn write_some(&self, rng: &mut SimRng, script: &mut Vec<Step>) {
        for _ in 0..rng.below(4) {
            let master = rng.index(self.masters.len());
            let sectors = self.masters[master].size / 512;
            let first = rng.below(sectors);
            let count = rng.range(1, 64).min(sectors - first);
            script.push(Step::Write { master, first, count, wait: rng.chance(700) });
        }
        let sets = self.sets();
        if !sets.is_empty() && rng.chance(200) {
            let set = rng.pick(&sets);
            let sectors = self.masters[set.0].size / 512;
            let first = rng.below(sectors);
            script.push(Step::WriteShadow(set, first, rng.range(1, 16).min(sectors - first)));
        }
        if rng.chance(200) {
            script.push(Step::Flush(rng.index(self.masters.len())));
        }
    }

    fn any_disk(&self, rng: &mut SimRng) -> DiskAt {
        let sets = self.sets();
        if sets.is_empty() || rng.chance(250) {
            return DiskAt::Master(rng.index(self.masters.len()));
        }
        let set = rng.pick(&sets);
        if rng.chance(500) { DiskAt::Shadow(set) } else { DiskAt::Bitmap(set) }
    }

    fn any_call(&self, rng: &mut SimRng, swarm: &Swarm) -> Ask {
        let master = rng.index(self.masters.len());
        let sets = self.sets();
        if sets.is_empty() {
            return if rng.chance(500) { Ask::Attach(master) } else { Ask::Detach(master) };
        }
        let set = rng.pick(&sets);
        match rng.below(20) {
            0 => Ask::Attach(master),
            1 => Ask::Detach(master),
            2..=4 => Ask::Enable(set),
            5 | 6 => Ask::Disable(set),
            7 | 8 if swarm.restores => Ask::Restore(set),
            9 => Ask::Reset(set),
            10 if swarm.misuse => Ask::Misuse(set, u32::try_from(rng.below(8)).expect("small")),
            11..=14 if swarm.groups => {
                let mut members: Vec<SetAt> = sets.iter().copied().filter(|_| rng.chance(600)).collect();
                if members.is_empty() {
                    members.push(set);
                }
                Ask::Cut(members, rng.chance(500))
            }
            _ => Ask::Cut(vec![set], rng.chance(500)),
        }
    }

    fn any_step(&self, rng: &mut SimRng, swarm: &Swarm) -> Vec<Step> {
        let disks = |rng: &mut SimRng| {
            let same_kind = |a: DiskAt, b: DiskAt| std::mem::discriminant(&a) == std::mem::discriminant(&b);
            let (a, b) = (self.any_disk(rng), self.any_disk(rng));
            // Without names of their own, only what Umbra left on bitmap volumes tells them apart.
            let tellable = self.strong || matches!((a, b), (DiskAt::Bitmap(_), DiskAt::Bitmap(_)));
            (a, b, a != b && tellable && (self.strong || same_kind(a, b)))
        };
        match rng.below(30) {
            0..=2 if swarm.deaths => vec![Step::Stop(Stop::Kill)],
            3 if swarm.deaths => vec![Step::Stop(Stop::Power)],
            4 if swarm.deaths => vec![Step::Stop(Stop::Reboot)],
            5 if swarm.faults => vec![Step::Hang(self.any_disk(rng)), Step::Wait(rng.below(9000))],
            6 if swarm.faults => vec![Step::Break(self.any_disk(rng))],
            7 if swarm.faults || swarm.files || swarm.disks => vec![Step::Heal],
            8 if swarm.files => {
                let mut steps = vec![Step::Full, Step::Calls(vec![self.any_call(rng, swarm)])];
                for _ in 0..rng.below(3) {
                    steps.push(Step::Again);
                }
                if rng.chance(700) {
                    steps.push(Step::Heal);
                }
                steps
            }
            9 if swarm.files => vec![Step::FilesHang],
            10 if swarm.disks => vec![Step::Miss(self.any_disk(rng)), Step::Stop(Stop::Reboot)],
            11..=13 if swarm.disks => match disks(rng) {
                (a, b, true) => {
                    let stop = rng.pick(&[Stop::Reboot, Stop::Power]);
                    vec![Step::Exchange(a, b), Step::Stop(stop), Step::Wait(rng.below(20_000))]
                }
                _ => Vec::new(),
            },
            14 if swarm.rot => vec![Step::Rot(rng.index(self.masters.len())), Step::Stop(Stop::Kill)],
            15 if swarm.deaths => vec![Step::Die(rng.index(self.masters.len()))],
            16 => vec![Step::Wait(rng.below(5000))],
            17 | 18 if self.masters.len() > 1 => {
                vec![Step::Calls(vec![self.any_call(rng, swarm), self.any_call(rng, swarm)])]
            }
            22 | 23 if swarm.outside => {
                let writer = rng.pick(&[Writer::Dated, Writer::Undated]);
                vec![Step::WriteOutside(rng.index(self.masters.len()), writer, rng.chance(500))]
            }
            19..=21 => {
                let pauses = (0..rng.range(1, 4)).map(|_| rng.pick(&[1, 3, 10, 100, 12_000])).collect();
                vec![Step::Impatient(self.any_call(rng, swarm), pauses)]
            }
            _ => vec![Step::Calls(vec![self.any_call(rng, swarm)])],
        }
    }
}

fn any_fate(rng: &mut SimRng, faults: bool) -> Fate {
    let power = Crash::PowerCut { granule: rng.pick(&[512, 4096]) };
    let crash = if rng.chance(200) { power } else { Crash::Kill };
    match rng.below(13) {
        0..=2 if faults => Fate::Fail,
        10 | 11 if faults => Fate::FailAfter,
        12 => Fate::Panic,
        3 if faults => Fate::Hang(rng.pick(&[100, 2000, 8000, 40_000])),
        n if n % 2 == 0 => Fate::DieBefore(crash),
        _ => Fate::DieAfter(crash),
    }
}
