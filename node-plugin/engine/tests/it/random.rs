//! Random sequences of events: whatever ends in whatever order, well or badly, nothing panics, every invariant that can
//! be seen from inside holds after each event, and every request and command is answered once the devices are well.

use crate::bench::{Bench, LIMITS, Set};
use proptest::prelude::*;
use umbra_engine::{
    Command, CopyKind, CutMember, Device, Id128, Limits, Refusal, RequestKind, SetIndex, Side,
};

const CHUNKS: u64 = 16;

#[derive(Clone, Copy, Debug)]
enum Step {
    Request { side: u8, kind: u8, first: u64, count: u64, part: bool },
    End { which: usize, ok: bool },
    Rest(u8),
    Pass(u64),
    Fails { bitmap: bool, set: u8 },
    Cut { set: u8, kind: u8 },
    Copier { set: u8, run: bool },
    Group { commit: bool, restore: bool },
    Disable { set: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..4, 0u8..6, 0..CHUNKS, 1u64..6, any::<bool>())
            .prop_map(|(side, kind, first, count, part)| Step::Request { side, kind, first, count, part }),
        24 => (0usize..64, prop::bool::weighted(0.93)).prop_map(|(which, ok)| Step::End { which, ok }),
        2 => (0u8..20).prop_map(Step::Rest),
        2 => prop_oneof![4 => 1u64..50, 1 => 900u64..1500].prop_map(Step::Pass),
        1 => (any::<bool>(), 0u8..3).prop_map(|(bitmap, set)| Step::Fails { bitmap, set }),
        2 => (0u8..3, 0u8..4).prop_map(|(set, kind)| Step::Cut { set, kind }),
        1 => (0u8..3, any::<bool>()).prop_map(|(set, run)| Step::Copier { set, run }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(commit, restore)| Step::Group { commit, restore }),
        1 => (0u8..3).prop_map(|set| Step::Disable { set }),
    ]
}

fn set() -> impl Strategy<Value = Set> {
    let kind = prop_oneof![
        Just(Set::dependent().held(0..5).head_moved()),
        Just(Set::copying().held(3..9).head_moved()),
        Just(Set::complete(CHUNKS)),
        Just(Set::merging(CHUNKS)),
    ];
    (kind, any::<bool>()).prop_map(|(set, fails)| if fails { set.fail_write() } else { set })
}

fn first_set() -> impl Strategy<Value = Set> {
    let restoring = prop_oneof![
        Just(Set::restoring(0..7).head_moved()),
        Just(Set::restoring(2..9)),
        Just(Set::restoring(0..9).aborted().head_moved().lost(5..7)),
    ];
    prop_oneof![1 => set(), 1 => restoring]
}

/// A bench, and what it was asked.
struct Life {
    bench: Bench,
    sets: u8,
    asked: Vec<u32>,
    commands: u64,
    group: Option<Id128>,
}

impl Life {
    fn member(&self, set: u8, kind: u8) -> CutMember {
        let set = SetIndex(set % self.sets);
        match kind {
            0 => CutMember::to_shadow(set, CopyKind::Update),
            1 => CutMember { reset: true, ..CutMember::to_shadow(set, CopyKind::Full) },
            2 => CutMember::to_shadow(set, CopyKind::Full),
            _ => CutMember::to_master(set, CopyKind::Update),
        }
    }

    fn command(&mut self, command: Command) {
        self.commands += 1;
        self.bench.command(self.commands, command);
    }

    fn request(&mut self, side: u8, kind: u8, chunks: std::ops::Range<u64>, part: bool) {
        let answered = |number: &u32| self.bench.result(*number).is_some();
        let free = |number: &u32| !self.asked.contains(number) || answered(number);
        let Some(number) = (0..8).find(free) else { return };
        let side = if side < self.sets { Side::Shadow(SetIndex(side)) } else { Side::Master };
        let kind = match kind {
            0 | 1 => RequestKind::Write { fua: false },
            2 => RequestKind::WriteZeroes { fua: true },
            3 => RequestKind::Read,
            4 => RequestKind::Discard,
            _ => RequestKind::Flush,
        };
        if !self.asked.contains(&number) {
            self.asked.push(number);
        }
        let bytes = chunks.start * crate::bench::CHUNK..chunks.end * crate::bench::CHUNK;
        let start = bytes.start + if part { 4096 } else { 0 };
        self.bench.request_bytes(number, side, kind, start..bytes.end);
    }

    fn group(&mut self, commit: bool, restore: bool) {
        let Some(cut) = self.group else {
            let cut = Id128([u8::try_from(100 + self.commands % 100).expect("small"); 16]);
            let kind = |set| if restore && set == 0 { 3 } else { 0 };
            let members = (0..self.sets).map(|set| self.member(set, kind(set))).collect();
            let all = vec![Id128::default(); usize::from(self.sets)].into();
            self.group = Some(cut);
            return self.command(Command::Prepare { members, cut, unix_ms: 0, all });
        };
        if commit {
            self.command(Command::Flip { cut });
        } else {
            self.decide(cut);
        }
    }

    fn decide(&mut self, cut: Id128) {
        self.command(Command::Decide { cut, commit: true });
        self.command(Command::Decide { cut, commit: false });
        // Who is busy is asked again.
        if self.bench.answer(self.commands) != Some(Err(Refusal::Busy)) {
            self.group = None;
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Request { side, kind, first, count, part } => {
                self.request(side, kind, first..(first + count).min(CHUNKS), part);
            }
            Step::End { which, ok } => self.bench.end_nth(which, ok),
            Step::Rest(most) => (0..most).for_each(|_| self.bench.end_nth(0, true)),
            Step::Pass(ms) => self.bench.pass(ms),
            Step::Fails { bitmap: true, set } => {
                self.bench.device_fails(Device::Bitmap(SetIndex(set % self.sets)));
            }
            Step::Fails { bitmap: false, set } => {
                self.bench.device_fails(Device::Shadow(SetIndex(set % self.sets)));
            }
            Step::Cut { set, kind } => {
                self.commands += 1;
                let member = self.member(set, kind);
                self.bench.cut(self.commands, member);
            }
            Step::Copier { set, run: true } => {
                self.command(Command::Resume { set: SetIndex(set % self.sets) })
            }
            Step::Copier { set, run: false } => {
                self.command(Command::Abort { set: SetIndex(set % self.sets) })
            }
            Step::Group { commit, restore } => self.group(commit, restore),
            Step::Disable { set } => {
                self.command(Command::Disable { set: SetIndex(set % self.sets), force: true });
            }
        }
    }

    /// The devices are well from here on: everything is answered.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.bench.rest();
            self.bench.pass(2000);
            if let Some(cut) = self.group {
                self.decide(cut);
            }
        }
        self.bench.rest();
        for number in &self.asked {
            assert!(self.bench.result(*number).is_some(), "request {number} is not answered");
        }
        for number in 1..=self.commands {
            assert!(
                self.bench.answer(number).is_some(),
                "command {number} is not answered: {:#?}",
                self.bench.open()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_ends_however_everything_is_answered(
        first in first_set(),
        others in prop::collection::vec(set(), 0..3),
        buffers in 1u16..3,
        steps in prop::collection::vec(step(), 1..160),
    ) {
        let limits = Limits { write_buffers: buffers, copier_buffers: buffers, ..LIMITS };
        let sets: Vec<Set> = std::iter::once(first).chain(others).collect();
        let count = u8::try_from(sets.len()).expect("few sets");
        let bench = Bench::with_limits(CHUNKS, limits, sets);
        let mut life = Life { bench, sets: count, asked: Vec::new(), commands: 0, group: None };
        for step in steps {
            life.take(step);
        }
        life.settle();
    }
}
