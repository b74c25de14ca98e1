//! A disk of the simulated machine: what it is, where it is found in this boot, and what is wrong with it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use umbra_identity::{Content, Contents, DeviceFacts, DeviceKey, DeviceNumber};
use umbra_store::{BlockStore, DeviceSlot, SimWorld};

/// Driver number of simulated disks.
const MAJOR: u32 = 253;

/// Tells the disks of a machine apart, for ever.
pub(super) type DiskId = usize;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) slot: DeviceSlot,
    /// What it is recognised by; none: nothing about it is unique.
    pub(super) serial: Option<String>,
    /// Where it is in this boot.
    pub(super) letter: u32,
    /// Where it will be in the next: no disk changes its name while the machine runs.
    pub(super) next_letter: u32,
    /// Not there now.
    pub(super) missing: bool,
    /// There from this moment on.
    pub(super) appears_ms: u64,
    /// Does not answer.
    pub(super) hung: bool,
    /// Bytes, if it is not what it was made with.
    pub(super) size: u64,
    /// What lay on it at its latest look, after so many changes: most lives look far more often than they write.
    read: RefCell<Option<(u64, Content)>>,
}

/// The path of the disk with this letter.
pub(super) fn path_of(letter: u32) -> PathBuf {
    PathBuf::from(format!("/dev/sim{letter}"))
}

impl Disk {
    pub(super) fn new(slot: DeviceSlot, serial: Option<String>, letter: u32, size: u64) -> Self {
        Self {
            slot,
            serial,
            letter,
            next_letter: letter,
            missing: false,
            appears_ms: 0,
            hung: false,
            size,
            read: RefCell::default(),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        path_of(self.letter)
    }

    pub(super) fn is_there(&self, now_ms: u64) -> bool {
        !self.missing && self.appears_ms <= now_ms
    }

    /// What there is to know of it; its content only if it is asked for.
    pub(super) fn facts(&self, store: &SimWorld, id: DiskId, path: &Path, read: bool) -> DeviceFacts {
        let number = DeviceNumber { major: MAJOR, minor: self.letter };
        let mut facts = DeviceFacts::disk(&format!("sim{}", self.letter), number, self.size)
            .with_serial(self.serial.as_deref());
        facts.path = path.to_owned();
        facts.key = DeviceKey::Block(number);
        facts.diskseq = Some(id as u64);
        facts.capabilities = store.handle().capabilities(self.slot);
        facts.capabilities.size = self.size;
        facts.contents = if read {
            Contents::Read(Box::new(self.content(store)))
        } else {
            Contents::Unread { why: "it was not asked for".to_owned() }
        };
        facts
    }

    /// What lies on it.
    fn content(&self, store: &SimWorld) -> Content {
        let changes = store.changes(self.slot);
        if let Some((_, content)) = self.read.borrow().as_ref().filter(|(at, _)| *at == changes) {
            return content.clone();
        }
        let read = Content::read::<()>(self.size, |offset, out| {
            store.peek(self.slot, offset, out);
            Ok(())
        });
        let content = read.unwrap_or_default();
        self.read.replace(Some((changes, content.clone())));
        content
    }
}
