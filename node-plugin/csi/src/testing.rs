//! A machine in memory: mounts, files and the ledger, and a fuse that ends the process before or after any effect.

use crate::handle::VolumeHandle;
use crate::mode::AccessMode;
use crate::path::PlacePath;
use crate::record::{Now, Record};
use crate::refusal::Refusal;
use crate::request::{Access, Leave, Publish, Stage};
use crate::volume::Volume;
use crate::world::{Device, Effect, Mounted, Node, Place, Usage, World};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use umbra_identity::signature::{Signature, SignatureId};
use umbra_identity::{Content, Contents, DeviceNumber};
use umbra_platform::id::{MasterId, SetId};
use umbra_platform::value::DevicePath;
use uuid::Uuid;

/// When the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kill {
    /// Before the effect with this number.
    Before(usize),
    /// After it.
    After(usize),
}

/// A mount of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upon {
    pub(crate) device: DeviceNumber,
    pub(crate) is_device_node: bool,
    pub(crate) read_only: bool,
    pub(crate) options: Vec<String>,
}

/// What the machine is like, and outlives a process of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) nodes: BTreeMap<PlacePath, bool>,
    pub(crate) mounts: BTreeMap<PlacePath, Vec<Upon>>,
    pub(crate) records: BTreeMap<VolumeHandle, Record>,
    pub(crate) boot: u32,
    pub(crate) uptime: u64,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    devices: BTreeMap<String, (Device, Contents)>,
    effects: usize,
    kill: Option<Kill>,
    is_dead: bool,
    /// The next effect that is refused by the kernel, by its number.
    refuse: Option<usize>,
}

/// A machine in memory.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Inner>);

impl Memory {
    pub(crate) fn new(state: State) -> Arc<Self> {
        let memory = Self::default();
        memory.inner().state = state;
        Arc::new(memory)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test panics with it")
    }

    pub(crate) fn with_device(self: &Arc<Self>, volume: &Volume, minor: u32, kinds: &[&str]) -> Arc<Self> {
        let device = Device {
            path: PathBuf::from(format!("/dev/ublkb{minor}")),
            number: DeviceNumber { major: 259, minor },
            size: 1 << 30,
        };
        self.inner().devices.insert(volume.device.as_str().to_owned(), (device, contents(kinds)));
        Arc::clone(self)
    }

    pub(crate) fn state(&self) -> State {
        self.inner().state.clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.inner().state);
    }

    /// The process ends then. What it does from then on has no effect.
    pub(crate) fn kill(&self, kill: Kill) {
        let mut inner = self.inner();
        (inner.kill, inner.effects, inner.is_dead) = (Some(kill), 0, false);
    }

    /// The kernel refuses the effect with this number.
    pub(crate) fn refuse(&self, effect: usize) {
        let mut inner = self.inner();
        (inner.refuse, inner.effects) = (Some(effect), 0);
    }

    /// Nothing more befalls the process, or it is another. Whether there was one that was killed.
    pub(crate) fn revive(&self) -> bool {
        let mut inner = self.inner();
        (inner.kill, inner.refuse) = (None, None);
        std::mem::take(&mut inner.is_dead)
    }

    /// One effect, with what may befall it.
    fn effect(&self, effect: impl FnOnce(&mut State) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let dead = || failed("killed");
        let mut inner = self.inner();
        let number = inner.effects;
        inner.effects += 1;
        if inner.is_dead || inner.kill == Some(Kill::Before(number)) {
            inner.is_dead = true;
            return Err(dead());
        }
        if inner.refuse == Some(number) {
            inner.refuse = None;
            return Err(failed("refused"));
        }
        effect(&mut inner.state)?;
        if inner.kill == Some(Kill::After(number)) {
            inner.is_dead = true;
            return Err(dead());
        }
        Ok(())
    }

    fn number(&self, path: &Path) -> Option<DeviceNumber> {
        self.inner().devices.values().find(|(device, _)| device.path == path).map(|(device, _)| device.number)
    }
}

fn failed(problem: &str) -> Refusal {
    Refusal::Failed { what: "act".into(), problem: problem.into() }
}

/// A device with these things on it.
pub(crate) fn contents(kinds: &[&str]) -> Contents {
    let signature = |(at, kind): (usize, &&str)| Signature { id: SignatureId::new(kind, "1"), at: at as u64 };
    let signatures = kinds.iter().enumerate().map(signature).collect();
    Contents::Read(Box::new(Content { signatures, ..Content::default() }))
}

impl World for Memory {
    fn now(&self) -> Result<Now, Refusal> {
        let inner = self.inner();
        let (boot, uptime) = (inner.state.boot.to_string(), Duration::from_secs(inner.state.uptime));
        Ok(Now { boot, uptime })
    }

    fn place(&self, path: &PlacePath) -> Result<Place, Refusal> {
        let inner = self.inner();
        let upon = inner.state.mounts.get(path).cloned().unwrap_or_default();
        let node = match (upon.last(), inner.state.nodes.get(path)) {
            (Some(top), _) if top.is_device_node => Node::Block(top.device),
            (Some(_), _) | (None, Some(true)) => Node::Directory,
            (None, Some(false)) => Node::File,
            (None, None) => Node::Absent,
        };
        let mounted = |upon: &Upon| Mounted {
            device: (!upon.is_device_node).then_some(upon.device),
            kind: if upon.is_device_node { "devtmpfs" } else { "ext4" }.into(),
            read_only: upon.read_only,
        };
        Ok(Place { path: path.clone(), node, mounts: upon.iter().map(mounted).collect() })
    }

    fn device(&self, path: &DevicePath) -> Result<Option<Device>, Refusal> {
        Ok(self.inner().devices.get(path.as_str()).map(|(device, _)| device.clone()))
    }

    fn contents(&self, device: &Device) -> Contents {
        let inner = self.inner();
        let found = inner.devices.values().find(|(known, _)| known == device);
        found.map_or(Contents::Unasked, |(_, contents)| contents.clone())
    }

    fn usage(&self, _: &Path) -> Result<Usage, Refusal> {
        Ok(Usage { bytes: 2, bytes_free: 1, bytes_available: 1, inodes: None })
    }

    fn act(&self, effect: &Effect) -> Result<(), Refusal> {
        let from = match effect {
            Effect::Mount { device, .. } => self.number(device),
            Effect::Bind { from, .. } => self.number(from),
            _ => None,
        };
        self.effect(|state| state.act(effect, from))
    }

    fn kept(&self, volume: VolumeHandle) -> Result<Option<Record>, Refusal> {
        Ok(self.inner().state.records.get(&volume).cloned())
    }

    fn keep(&self, volume: VolumeHandle, record: &Record) -> Result<(), Refusal> {
        self.effect(|state| {
            if record.is_empty() {
                state.records.remove(&volume);
            } else {
                state.records.insert(volume, record.clone());
            }
            Ok(())
        })
    }

    fn volumes(&self) -> Result<Vec<VolumeHandle>, Refusal> {
        Ok(self.inner().state.records.keys().copied().collect())
    }
}

impl State {
    /// What the kernel does, and what it refuses.
    fn act(&mut self, effect: &Effect, from: Option<DeviceNumber>) -> Result<(), Refusal> {
        match effect {
            Effect::MakeDirectory(at) => self.make(at, true),
            Effect::MakeFile(at) => self.make(at, false),
            Effect::Mount { file_system, at, .. } => {
                let device = from.ok_or_else(|| failed("no device"))?;
                let (read_only, options) = (file_system.read_only, file_system.options.clone());
                self.put(at, true, Upon { device, is_device_node: false, read_only, options })
            }
            Effect::Bind { from: path, at } => {
                let source = PlacePath::try_from(path.display().to_string()).ok();
                let mounted = source.and_then(|source| self.mounts.get(&source)?.last().cloned());
                let upon = match (mounted, from) {
                    (Some(upon), _) => upon,
                    (None, Some(device)) => {
                        Upon { device, is_device_node: true, read_only: false, options: Vec::new() }
                    }
                    (None, None) => return Err(failed("nothing to bind")),
                };
                self.put(at, !upon.is_device_node, upon)
            }
            Effect::ForbidWrites(at) => {
                let top = self.mounts.get_mut(at).and_then(|upon| upon.last_mut());
                top.ok_or_else(|| failed("not mounted"))?.read_only = true;
                Ok(())
            }
            Effect::Unmount(at) => {
                if let Some(upon) = self.mounts.get_mut(at) {
                    upon.pop();
                    if upon.is_empty() {
                        self.mounts.remove(at);
                    }
                }
                Ok(())
            }
            Effect::Remove(at) if self.mounts.contains_key(at) => Err(failed("busy")),
            Effect::Remove(at) => {
                self.nodes.remove(at);
                Ok(())
            }
        }
    }

    fn make(&mut self, at: &PlacePath, is_directory: bool) -> Result<(), Refusal> {
        match self.nodes.insert(at.clone(), is_directory) {
            Some(found) if found != is_directory => Err(failed("in the way")),
            _ => Ok(()),
        }
    }

    fn put(&mut self, at: &PlacePath, upon_directory: bool, mount: Upon) -> Result<(), Refusal> {
        if self.nodes.get(at) != Some(&upon_directory) {
            return Err(failed("nothing to mount upon"));
        }
        self.mounts.entry(at.clone()).or_default().push(mount);
        Ok(())
    }

    /// The machine starts anew.
    pub(crate) fn reboot(&mut self) {
        self.mounts.clear();
        self.boot += 1;
        self.uptime = 10;
    }
}

pub(crate) fn path(text: &str) -> PlacePath {
    text.parse().expect("a test names valid paths")
}

pub(crate) fn master(number: u128) -> Volume {
    let id = MasterId(Uuid::from_u128(number));
    let device = format!("/dev/umbra/by-id/{id}").parse().expect("a path");
    Volume { handle: VolumeHandle::Master(id), device, twin: None }
}

pub(crate) fn shadow(number: u128) -> Volume {
    let id = SetId(Uuid::from_u128(number));
    let device = format!("/dev/umbra/by-id/{id}").parse().expect("a path");
    Volume { handle: VolumeHandle::Shadow(id), device, twin: Some(MasterId(Uuid::from_u128(1))) }
}

pub(crate) fn directory() -> Access {
    Access::FileSystem { kind: None, options: Vec::new() }
}

/// A call to stage it at `/stage/<last digit of the volume>`.
pub(crate) fn stage(volume: &Volume, access: Access) -> Stage {
    let name = volume.handle.to_string();
    let at = path(&format!("/stage/{}", name.chars().last().expect("not empty")));
    let mode = AccessMode::SingleNodeWriter;
    Stage { volume: volume.handle, at, access, mode, is_writable_shadow: false }
}

/// A call to publish what was staged that way.
pub(crate) fn publish(stage: &Stage, at: &str) -> Publish {
    Publish { stage: stage.clone(), at: path(at), is_read_only: false, pod: None }
}

pub(crate) fn leave(volume: &Volume, at: &PlacePath) -> Leave {
    Leave { volume: volume.handle, at: at.clone() }
}
