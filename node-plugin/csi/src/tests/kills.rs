//! The process ends before and after each effect of each call: the same call again ends where the first would have, the
//! opposite call leaves nothing, and at no moment is anything mounted that the ledger does not know.

use super::process;
use crate::handle::VolumeHandle;
use crate::refusal::Refusal;
use crate::request::{Access, Leave, Publish, Stage};
use crate::testing::{Kill, Memory, State, directory, leave, master, path, publish, shadow, stage};
use crate::volume::Volume;
use crate::volumes::Volumes;
use std::sync::Arc;

/// What is asked of one volume, with what leads to it.
struct Life {
    volume: Volume,
    stage: Stage,
    publish: Publish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Stage,
    Publish,
    Unpublish,
    Unstage,
}

const ORDER: [Call; 4] = [Call::Stage, Call::Publish, Call::Unpublish, Call::Unstage];

impl Life {
    fn all() -> Vec<Self> {
        let mut lives = Vec::new();
        for volume in [master(7), shadow(7)] {
            for access in [directory(), Access::Block] {
                for is_read_only in [false, true] {
                    let stage = Stage { is_writable_shadow: true, ..stage(&volume, access.clone()) };
                    let publish = Publish { is_read_only, ..publish(&stage, "/pod") };
                    lives.push(Self { volume: volume.clone(), stage, publish });
                }
            }
        }
        lives
    }

    fn machine(&self) -> Arc<Memory> {
        Memory::new(State::default()).with_device(&self.volume, 0, &["ext4"])
    }

    fn leave(&self, call: Call) -> Leave {
        leave(&self.volume, if call == Call::Unpublish { &self.publish.at } else { &self.stage.at })
    }

    fn call(&self, volumes: &Volumes<Memory>, call: Call) -> Result<(), Refusal> {
        match call {
            Call::Stage => volumes.stage(&self.stage, &self.volume),
            Call::Publish => volumes.publish(&self.publish, &self.volume),
            Call::Unpublish => volumes.unpublish(&self.leave(call)),
            Call::Unstage => volumes.unstage(&self.leave(call)),
        }
    }

    /// The machine after the calls before this one.
    fn before(&self, call: Call) -> Arc<Memory> {
        let memory = self.machine();
        let (volumes, _) = process(&memory);
        for earlier in ORDER.into_iter().take_while(|earlier| *earlier != call) {
            self.call(&volumes, earlier).expect("nothing is in the way");
        }
        memory
    }

    /// Runs `then` for each moment at which the call can be cut off, with the machine as it is then.
    fn sweep(&self, call: Call, then: impl Fn(&Arc<Memory>, Kill)) -> usize {
        let mut moments = 0;
        for number in 0.. {
            let mut was_killed = false;
            for kill in [Kill::Before(number), Kill::After(number)] {
                let memory = self.before(call);
                memory.kill(kill);
                let done = self.call(&process(&memory).0, call);
                if memory.revive() {
                    assert!(done.is_err() || kill == Kill::After(number), "{call:?} {kill:?}");
                    (was_killed, moments) = (true, moments + 1);
                    known(&memory, self.volume.handle);
                    then(&memory, kill);
                }
            }
            if !was_killed {
                break;
            }
        }
        moments
    }
}

/// Everything that is mounted is in the ledger.
fn known(memory: &Memory, volume: VolumeHandle) {
    let state = memory.state();
    for at in state.mounts.keys() {
        let record = state.records.get(&volume);
        assert!(record.is_some_and(|record| record.names(at)), "{at} is mounted and not known: {state:?}");
    }
}

#[test]
fn the_same_call_again_ends_where_the_first_would_have() {
    let mut moments = 0;
    for life in Life::all() {
        for call in ORDER {
            let memory = life.before(call);
            life.call(&process(&memory).0, call).expect("nothing is in the way");
            let wanted = memory.state();
            moments += life.sweep(call, |memory, kill| {
                let (volumes, _) = process(memory);
                life.call(&volumes, call).unwrap_or_else(|refusal| panic!("{call:?} {kill:?}: {refusal}"));
                assert_eq!(memory.state(), wanted, "{call:?} {kill:?}");
                life.call(&volumes, call).expect("once more");
                assert_eq!(memory.state(), wanted, "{call:?} {kill:?}, once more");
            });
        }
    }
    assert!(moments > 100, "{moments} moments are too few to be all");
}

#[test]
fn the_opposite_call_leaves_nothing() {
    for life in Life::all() {
        for call in ORDER {
            life.sweep(call, |memory, kill| {
                let (volumes, ledger) = process(memory);
                for call in [Call::Unpublish, Call::Unstage] {
                    life.call(&volumes, call)
                        .unwrap_or_else(|refusal| panic!("{call:?} {kill:?}: {refusal}"));
                }
                let state = memory.state();
                assert!(state.mounts.is_empty() && state.records.is_empty(), "{call:?} {kill:?}: {state:?}");
                assert!(ledger.in_use(life.volume.handle).expect("known").is_free());
                assert!(!state.nodes.contains_key(&path("/pod")), "what was made for the pod is gone");
            });
        }
    }
}

#[test]
fn a_machine_that_starts_anew_begins_from_the_beginning() {
    for life in Life::all() {
        let fresh = life.before(Call::Unpublish);
        for call in ORDER {
            life.sweep(call, |memory, kill| {
                memory.change(State::reboot);
                let (volumes, ledger) = process(memory);
                assert!(ledger.in_use(life.volume.handle).expect("known").is_free(), "{call:?} {kill:?}");
                assert!(memory.state().records.is_empty(), "nothing is kept of what was mounted");
                for call in [Call::Stage, Call::Publish] {
                    life.call(&volumes, call)
                        .unwrap_or_else(|refusal| panic!("{call:?} {kill:?}: {refusal}"));
                }
                assert_eq!(memory.state().mounts, fresh.state().mounts, "{call:?} {kill:?}");
            });
        }
    }
}
