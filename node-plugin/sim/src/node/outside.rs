//! A master that is written past Umbra while no process runs: its file system says when, or its first bytes are others
//! than they were, and that must be noticed (E19) and accepted by somebody before it is served again.
//!
//! The writer takes back what it wrote, so that the content is known; nobody tells umbra-io.

use super::life::Life;
use super::model::{Here, SetModel};
use super::plan::Writer;
use crate::oracle::Verdict;
use crate::stamp::SECTOR;
use std::time::Duration;
use umbra_platform::PlatformError;
use umbra_platform::call::AcceptedImages;
use umbra_store::DeviceSlot;

/// What is written: the superblock of an ext file system lies there.
const AT: u64 = 1024;
/// How long after the last service it is written, in milliseconds.
const LATER_MS: u64 = 5000;
const PATIENCE: Duration = Duration::from_secs(20);
/// So long after the last write the first bytes are known.
const KNOWN_AFTER: Duration = Duration::from_secs(5);

/// As much of an ext superblock as says when it was written.
fn ext_superblock(written: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    let low = u32::try_from(written & u64::from(u32::MAX)).expect("masked");
    bytes[0x30..0x34].copy_from_slice(&low.to_le_bytes());
    bytes[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
    bytes[0x68..0x78].copy_from_slice(b"mounted past us!");
    bytes
}

/// A sector that says nothing, and that nothing else in a life writes.
const UNDATED: [u8; SECTOR] = [0x58; SECTOR];

impl Life {
    /// The process is killed, and the raw device of a master is written. `kept`: the images are to count as changed, not
    /// as lost.
    pub(super) fn written_outside(&mut self, m: usize, writer: Writer, kept: bool) -> Verdict {
        self.settle(PATIENCE)?;
        for s in 0..self.model.masters[m].sets.len() {
            self.wait_for_copies((m, s))?;
        }
        self.drain(|io| io.is_of(m))?;
        // A restore, or a copy, that could not end needs the other side.
        let master = &self.model.masters[m];
        let whole = |set: &SetModel| match set.here {
            Here::No => true,
            Here::Yes => set.image.is_some() && !set.excused,
            Here::Maybe => false,
        };
        let watched =
            master.is_settled() && !master.faulty && !master.rotten && master.sets.iter().all(whole);
        if self.troubled || !watched || !master.sets.iter().any(|set| set.here == Here::Yes) {
            return Ok(());
        }
        self.machine.borrow_mut().armed.clear();
        if writer == Writer::Undated {
            self.drive(KNOWN_AFTER, std::future::pending::<()>());
        }
        self.stop(super::plan::Stop::Kill);
        let before = self.write_past(m, writer);
        self.model.masters[m].unwatched = true;
        self.must_be_quarantined(m)?;
        // It was noticed: that holds when a later process has a later time to compare with.
        self.stop(super::plan::Stop::Kill);
        self.must_be_quarantined(m)?;
        let slot = self.slot(m);
        self.machine.borrow().store.poke(slot, AT, &before);
        self.must_be_accepted(m, kept)
    }

    fn slot(&self, m: usize) -> DeviceSlot {
        self.machine.borrow().disks[self.model.masters[m].disk].slot
    }

    /// Returns what was there before.
    fn write_past(&mut self, m: usize, writer: Writer) -> [u8; SECTOR] {
        let slot = self.slot(m);
        let mut machine = self.machine.borrow_mut();
        machine.now_ms += LATER_MS;
        let mut before = [0; SECTOR];
        machine.store.peek(slot, AT, &mut before);
        let written = machine.unix_ms() / 1000;
        let after = match writer {
            Writer::Dated => ext_superblock(written),
            Writer::Undated => UNDATED,
        };
        machine.store.poke(slot, AT, &after);
        machine.note(|| format!("somebody writes the raw device of master {m} at {written} s: {writer:?}"));
        before
    }

    fn must_be_quarantined(&mut self, m: usize) -> Verdict {
        self.settle(PATIENCE)?;
        let master = &self.model.masters[m];
        if master.quarantined {
            return Ok(());
        }
        Err(format!("master {} was written while nobody served it, and is not quarantined", master.name))
    }

    fn must_be_accepted(&mut self, m: usize, kept: bool) -> Verdict {
        // While the record says that a restore may be under way, the images cannot end.
        let mut images = if kept { AcceptedImages::Changed } else { AcceptedImages::Lost };
        let mut answer = self.accept_images(m, images);
        if let (AcceptedImages::Lost, Some(Err(PlatformError::BadArgument { .. }))) = (images, &answer) {
            images = AcceptedImages::Changed;
            answer = self.accept_images(m, images);
        }
        if !matches!(answer, Some(Ok(()))) {
            return Err(format!("{images:?} images were to be accepted, and that was answered {answer:?}"));
        }
        let master = &mut self.model.masters[m];
        match images {
            AcceptedImages::Lost => master.excuse_all(),
            // An independent image that is complete is what it was.
            AcceptedImages::Changed => {
                let dependent = |set: &&mut SetModel| !set.independent;
                master.sets.iter_mut().filter(dependent).for_each(|set| set.excused = true);
            }
        }
        self.model.masters[m].unwatched = false;
        self.settle(PATIENCE)?;
        let master = &self.model.masters[m];
        if master.serving {
            return Ok(());
        }
        Err(format!("what was written to master {} is accepted, and it is not served", master.name))
    }
}
