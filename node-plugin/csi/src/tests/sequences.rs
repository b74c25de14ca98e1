//! Calls in any order, killed, refused by the kernel, across starts of the machine, against a model that knows only what is
//! promised.

use super::process;
use crate::ledger::Ledger;
use crate::mode::AccessMode;
use crate::record::SEAL_LASTS;
use crate::refusal::Refusal;
use crate::request::Access;
use crate::testing::{Kill, Memory, State, directory, leave, master, path, publish, shadow, stage};
use crate::volume::Volume;
use crate::volumes::Volumes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use umbra_platform::id::RequestId;
use uuid::Uuid;

const TARGETS: [&str; 3] = ["/pod/0", "/pod/1", "/pod/2"];

#[derive(Clone, Copy, Debug)]
enum Call {
    Stage { block: bool, mode: AccessMode },
    Publish { block: bool, mode: AccessMode, target: usize, read_only: bool },
    Unpublish { target: usize },
    Unstage,
    Seal { owner: u128 },
    Unseal { owner: u128 },
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A call for a volume.
    Call(usize, Call),
    /// One in which the process ends; then it is asked again, or the volume is left.
    Killed(usize, Call, Kill, bool),
    /// One in which the kernel refuses an effect; then it is asked again.
    Refused(usize, Call, usize),
    Pass(u64),
    Reboot,
}

#[derive(Clone, Debug, Default)]
struct Expected {
    /// As a device, and read-only.
    staged: Option<(bool, bool)>,
    /// Read-only, and the mode.
    published: BTreeMap<usize, (bool, AccessMode)>,
    seal: Option<(u128, u64)>,
}

struct Life {
    memory: Arc<Memory>,
    volumes: Volumes<Memory>,
    ledger: Ledger<Memory>,
    all: Vec<Volume>,
    model: Vec<Expected>,
}

impl Life {
    fn new() -> Self {
        let all = vec![master(1), master(2), shadow(3)];
        let memory = Memory::new(State { uptime: 10, ..State::default() });
        for (minor, volume) in (0..).zip(&all) {
            memory.with_device(volume, minor, &["ext4"]);
        }
        let (volumes, ledger) = process(&memory);
        Self { memory, volumes, ledger, model: vec![Expected::default(); all.len()], all }
    }

    /// What the calls say, and whether the model changes.
    fn expect(&mut self, of: usize, call: Call) -> bool {
        let uptime = self.memory.state().uptime;
        let is_shadow = self.all[of].twin.is_some();
        let others = self.model.iter().enumerate().filter(|(index, _)| *index != of);
        let taken: Vec<usize> = others.flat_map(|(_, model)| model.published.keys().copied()).collect();
        let model = &mut self.model[of];
        let seal = model.seal.filter(|(_, ends)| *ends > uptime);
        let until = uptime + SEAL_LASTS.as_secs();
        match call {
            Call::Stage { block, mode } => {
                let wanted = (block, is_shadow || mode.only_reads());
                let is_done = model.staged.is_none_or(|staged| staged == wanted);
                let is_ok =
                    seal.is_none() && (mode.is_of_one_node() || is_shadow && mode.only_reads()) && is_done;
                if is_ok {
                    model.staged = Some(wanted);
                }
                is_ok
            }
            Call::Publish { block, mode, target, read_only } => {
                let Some((as_device, staged_read_only)) = model.staged else { return false };
                let reads = read_only || mode.only_reads();
                let one = AccessMode::SingleNodeSingleWriter;
                let others = || model.published.iter().filter(|(at, _)| **at != target);
                let is_ok = seal.is_none()
                    && (mode.is_of_one_node() || is_shadow && mode.only_reads())
                    && as_device == block
                    && !(block && is_shadow && !reads)
                    && !taken.contains(&target)
                    && !others().any(|(_, (_, its))| *its == one || mode == one)
                    && model.published.get(&target).is_none_or(|(is, _)| *is == (reads || staged_read_only));
                if is_ok {
                    model.published.insert(target, (reads || staged_read_only, mode));
                }
                is_ok
            }
            Call::Unpublish { target } => {
                model.published.remove(&target);
                true
            }
            Call::Unstage => {
                let is_ok = model.published.is_empty();
                if is_ok {
                    model.staged = None;
                }
                is_ok
            }
            Call::Seal { owner } => {
                let is_ok = seal.is_none_or(|(its, _)| its == owner);
                if is_ok {
                    model.seal = Some((owner, until));
                }
                is_ok
            }
            Call::Unseal { owner } => {
                let is_ok = seal.is_none_or(|(its, _)| its == owner);
                if is_ok {
                    model.seal = None;
                }
                is_ok
            }
        }
    }

    fn call(&self, of: usize, call: Call) -> Result<(), Refusal> {
        let volume = &self.all[of];
        let access = |block| if block { Access::Block } else { directory() };
        let staging = stage(volume, directory()).at;
        let operation = |owner| RequestId(Uuid::from_u128(owner));
        match call {
            Call::Stage { block, mode } => {
                let ask = crate::request::Stage { mode, ..stage(volume, access(block)) };
                self.volumes.stage(&ask, volume)
            }
            Call::Publish { block, mode, target, read_only } => {
                let ask = crate::request::Stage { mode, ..stage(volume, access(block)) };
                let mut ask = publish(&ask, TARGETS[target]);
                ask.is_read_only = read_only;
                self.volumes.publish(&ask, volume)
            }
            Call::Unpublish { target } => self.volumes.unpublish(&leave(volume, &path(TARGETS[target]))),
            Call::Unstage => self.volumes.unstage(&leave(volume, &staging)),
            Call::Seal { owner } => self.ledger.seal(volume.handle, operation(owner)),
            Call::Unseal { owner } => self.ledger.unseal(volume.handle, operation(owner)),
        }
    }

    fn restart(&mut self) {
        (self.volumes, self.ledger) = process(&self.memory);
    }

    fn run(&mut self, event: Event) {
        match event {
            Event::Call(of, call) => self.asked(of, call),
            Event::Killed(of, call, kill, is_repeated) => {
                self.memory.kill(kill);
                let _cut_off = self.call(of, call);
                self.memory.revive();
                self.restart();
                self.all_is_known();
                let is_of_a_seal = matches!(call, Call::Seal { .. } | Call::Unseal { .. });
                if is_repeated || is_of_a_seal {
                    self.asked_after(of, call);
                } else {
                    self.left(of);
                }
            }
            Event::Refused(of, call, effect) => {
                self.memory.refuse(effect);
                let _refused = self.call(of, call);
                self.memory.revive();
                self.all_is_known();
                self.asked_after(of, call);
            }
            Event::Pass(seconds) => self.memory.change(|state| state.uptime += seconds),
            Event::Reboot => {
                self.memory.change(State::reboot);
                self.restart();
                let ends = self.memory.state().uptime + SEAL_LASTS.as_secs();
                for model in &mut self.model {
                    let seal = model.seal.map(|(owner, _)| (owner, ends));
                    *model = Expected { seal, ..Expected::default() };
                }
            }
        }
        self.compare();
    }

    fn asked(&mut self, of: usize, call: Call) {
        let before = self.memory.state();
        let expected = self.expect(of, call);
        let done = self.call(of, call);
        assert_eq!(done.is_ok(), expected, "{call:?} of {of}: {done:?}");
        if done.is_err() {
            assert_eq!(self.memory.state(), before, "{call:?} of {of} was refused and changed something");
        }
    }

    /// As [`Life::asked`], where a part of it may have been done.
    fn asked_after(&mut self, of: usize, call: Call) {
        let expected = self.expect(of, call);
        let done = self.call(of, call);
        assert_eq!(done.is_ok(), expected, "{call:?} of {of}: {done:?}");
    }

    /// All pods of a volume end.
    fn left(&mut self, of: usize) {
        for target in 0..TARGETS.len() {
            self.call(of, Call::Unpublish { target }).expect("leaving is always possible");
        }
        self.call(of, Call::Unstage).expect("no pod is left");
        let seal = self.model[of].seal;
        self.model[of] = Expected { seal, ..Expected::default() };
    }

    fn all_is_known(&self) {
        let state = self.memory.state();
        for at in state.mounts.keys() {
            let known = state.records.values().any(|record| record.names(at));
            assert!(known, "{at} is mounted and not known: {state:?}");
        }
    }

    fn compare(&self) {
        let state = self.memory.state();
        let mut mounts = BTreeMap::new();
        for (volume, model) in self.all.iter().zip(&self.model) {
            let staging = stage(volume, directory()).at;
            let in_use = self.ledger.in_use(volume.handle).expect("known");
            let staged = in_use.staged.as_ref().map(|staged| (&staged.path, staged.read_only));
            assert_eq!(staged, model.staged.map(|(_, read_only)| (&staging, read_only)));
            let mut published: Vec<_> = in_use
                .published
                .iter()
                .map(|entry| (entry.path.clone(), entry.read_only, entry.mode))
                .collect();
            published.sort_by(|a, b| a.0.cmp(&b.0));
            let expected =
                model.published.iter().map(|(at, (read, mode))| (path(TARGETS[*at]), *read, *mode));
            assert_eq!(published, expected.collect::<Vec<_>>());
            if let Some((false, read_only)) = model.staged {
                mounts.insert(staging, read_only);
            }
            mounts.extend(model.published.iter().map(|(at, (read, _))| (path(TARGETS[*at]), *read)));
        }
        let found = state.mounts.iter().map(|(at, upon)| {
            assert_eq!(upon.len(), 1, "{at} is mounted more than once");
            (at.clone(), upon[0].read_only)
        });
        assert_eq!(found.collect::<BTreeMap<_, _>>(), mounts);
    }
}

fn mode() -> impl Strategy<Value = AccessMode> {
    prop_oneof![
        4 => Just(AccessMode::SingleNodeWriter),
        1 => prop::sample::select(AccessMode::ALL.to_vec()),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let (block, target, owner) = (|| prop::bool::weighted(0.3), || 0..TARGETS.len(), || 1..3_u128);
    prop_oneof![
        4 => (block(), mode()).prop_map(|(block, mode)| Call::Stage { block, mode }),
        6 => (block(), mode(), target(), prop::bool::weighted(0.3)).prop_map(
            |(block, mode, target, read_only)| Call::Publish { block, mode, target, read_only }
        ),
        3 => target().prop_map(|target| Call::Unpublish { target }),
        2 => Just(Call::Unstage),
        1 => owner().prop_map(|owner| Call::Seal { owner }),
        1 => owner().prop_map(|owner| Call::Unseal { owner }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let kill = prop_oneof![(0..6_usize).prop_map(Kill::Before), (0..6_usize).prop_map(Kill::After)];
    prop_oneof![
        10 => (0..3_usize, call()).prop_map(|(of, call)| Event::Call(of, call)),
        3 => (0..3_usize, call(), kill, any::<bool>())
            .prop_map(|(of, call, kill, again)| Event::Killed(of, call, kill, again)),
        2 => (0..3_usize, call(), 0..6_usize).prop_map(|(of, call, effect)| Event::Refused(of, call, effect)),
        1 => (1..90_u64).prop_map(Event::Pass),
        1 => Just(Event::Reboot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_calls_in_any_order_do_what_is_promised(events in prop::collection::vec(event(), 1..60)) {
        let mut life = Life::new();
        events.into_iter().for_each(|event| life.run(event));
    }
}
