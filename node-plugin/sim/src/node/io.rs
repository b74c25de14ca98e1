//! The workload: reads and writes of what is presented, and what they say.

use super::driver::Io;
use super::life::Life;
use super::model::Here;
use super::plan::SetAt;
use crate::oracle::{Time, Verdict};
use crate::stamp::{self, SECTOR};
use std::time::Duration;
use umbra_engine::RequestKind;

/// How long a request is waited for.
const PATIENCE: Duration = Duration::from_secs(40);
/// Sectors of one read of a read-out.
const READ_SECTORS: u64 = 256;

/// A request that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Outstanding {
    master: usize,
    set: Option<usize>,
    kind: RequestKind,
    first: u64,
    count: u64,
    issued: Time,
}

impl Outstanding {
    pub(super) fn is_of(&self, master: usize) -> bool {
        self.master == master
    }
}

impl Life {
    /// The number that presents a master, or a set's shadow.
    fn number_of(&self, master: usize, set: Option<usize>) -> Option<u32> {
        let model = &self.model.masters[master];
        let id = match set {
            None => model.id?,
            Some(set) => model.sets[set].id?,
        };
        self.machine.borrow().names.get(&id).copied()
    }

    fn sectors(&self, master: usize) -> u64 {
        self.plan.masters[master].size / SECTOR as u64
    }

    /// Hands a request to what presents a side; false if nothing does.
    fn issue(
        &mut self,
        master: usize,
        set: Option<usize>,
        kind: RequestKind,
        first: u64,
        count: u64,
    ) -> bool {
        let Some(number) = self.number_of(master, set) else { return false };
        let issued = self.model.now();
        let writes = matches!(kind, RequestKind::Write { .. });
        let values = if writes { self.model.fresh_values(count) } else { Vec::new() };
        let id = self.machine.borrow_mut().token();
        let request = u32::try_from(id).expect("few requests");
        let Some(volume) = self.volume(master, set) else { return false };
        match kind {
            RequestKind::Write { fua } => volume.issue(request, first, &values, fua, issued),
            RequestKind::Read => volume.look(issued),
            _ => {}
        }
        let of = set.map_or("master".to_owned(), |set| format!("set {set}"));
        self.note(|| format!("io {id} {kind:?} {master} {of} {first}+{count}"));
        self.machine.borrow_mut().driver.ask(number, Io { id, kind, first, count, values });
        self.outstanding.insert(id, Outstanding { master, set, kind, first, count, issued });
        true
    }

    fn volume(&mut self, master: usize, set: Option<usize>) -> Option<&mut crate::oracle::Volume> {
        let model = &mut self.model.masters[master];
        match set {
            None => Some(&mut model.volume),
            Some(set) => model.sets[set].image.as_mut().map(|image| &mut image.volume),
        }
    }

    /// Lets time pass until no request of these is outstanding; what has ended is judged.
    pub(super) fn drain(&mut self, of: impl Fn(&Outstanding) -> bool + Copy) -> Verdict {
        if self.outstanding.is_empty() {
            return Ok(());
        }
        self.up()?;
        let machine = std::rc::Rc::clone(&self.machine);
        let wanted: Vec<u64> = self.outstanding.iter().filter(|(_, io)| of(io)).map(|(id, _)| *id).collect();
        self.drive(PATIENCE, async move {
            while wanted.iter().any(|id| !machine.borrow().driver.ended.contains_key(id)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        self.collect()
    }

    /// Judges what has ended.
    pub(super) fn collect(&mut self) -> Verdict {
        let ended = std::mem::take(&mut self.machine.borrow_mut().driver.ended);
        for (id, result) in ended {
            let Some(io) = self.outstanding.remove(&id) else { continue };
            let ok = result.is_ok();
            if let Err(error) = &result {
                self.note(|| format!("io {id} failed: {error}"));
                self.judge_error(&io, error)?;
            }
            let now = self.model.now();
            let request = u32::try_from(id).expect("few requests");
            let Some(volume) = self.volume(io.master, io.set) else { continue };
            match io.kind {
                RequestKind::Write { .. } => volume.end(request, ok, now),
                RequestKind::Flush if ok => volume.flushed(io.issued),
                RequestKind::Read => {
                    volume.looked(io.issued);
                    if let Ok(Some(bytes)) = result {
                        self.judge_read(&io, &bytes, now)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn judge_read(&mut self, io: &Outstanding, bytes: &[u8], now: Time) -> Verdict {
        let name = self.model.masters[io.master].name.clone();
        self.tally.judged += io.count;
        let Some(volume) = self.volume(io.master, io.set) else { return Ok(()) };
        if io.issued < volume.since() {
            return Ok(());
        }
        for (number, sector) in (io.first..).zip(bytes.chunks(SECTOR)) {
            let read = volume.read(number, stamp::decode(sector), io.issued, now);
            read.map_err(|text| format!("{name}, set {:?}: {text}", io.set))?;
        }
        Ok(())
    }

    fn judge_error(&self, io: &Outstanding, error: &str) -> Verdict {
        let master = &self.model.masters[io.master];
        let failed = |disk: usize| {
            let machine = self.machine.borrow();
            machine.store.injected(machine.disks[disk].slot) > 0
        };
        let any_set = || master.sets.iter().any(|set| failed(set.shadow) || failed(set.bitmap));
        let gone = master.here != Here::Yes || error.contains("device");
        let excused = match io.set {
            None => failed(master.disk) || master.faulty || gone && self.troubled || any_set(),
            Some(set) => {
                let set = &master.sets[set];
                set.excused || set.here != Here::Yes || failed(master.disk) || any_set() || gone
            }
        };
        if excused {
            return Ok(());
        }
        Err(format!(
            "{:?} {}+{} of {}, set {:?}, failed without a fault: {error}",
            io.kind, io.first, io.count, master.name, io.set
        ))
    }

    pub(super) fn write(&mut self, master: usize, first: u64, count: u64, wait: bool) -> Verdict {
        if !self.model.masters[master].is_settled() {
            return Ok(());
        }
        let busy = self.model.masters[master].volume.is_writing(first, count);
        if !busy
            && self.issue(master, None, RequestKind::Write { fua: count.is_multiple_of(5) }, first, count)
            && wait
        {
            self.drain(|io| io.master == master)?;
        }
        Ok(())
    }

    pub(super) fn write_shadow(&mut self, (m, s): SetAt, first: u64, count: u64) -> Verdict {
        let set = &self.model.masters[m].sets[s];
        if !self.model.masters[m].is_settled() || set.here != Here::Yes || set.excused || set.image.is_none()
        {
            return Ok(());
        }
        if self.issue(m, Some(s), RequestKind::Write { fua: false }, first, count) {
            self.drain(|io| io.master == m)?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self, master: usize) -> Verdict {
        if self.model.masters[master].is_settled() {
            self.issue(master, None, RequestKind::Flush, 0, 0);
        }
        Ok(())
    }

    /// Reads everything that is presented.
    pub(super) fn read_out(&mut self) -> Verdict {
        self.settle(Duration::from_secs(20))?;
        for m in 0..self.model.masters.len() {
            if !self.model.masters[m].is_settled() {
                continue;
            }
            self.drain(|io| io.master == m)?;
            let sets = 0..self.model.masters[m].sets.len();
            for side in std::iter::once(None).chain(sets.map(Some)) {
                let there = side.is_none_or(|s| {
                    let set = &self.model.masters[m].sets[s];
                    set.here == Here::Yes && set.image.is_some()
                });
                if !there || !self.model.masters[m].is_settled() {
                    continue;
                }
                for first in (0..self.sectors(m)).step_by(usize::try_from(READ_SECTORS).expect("small")) {
                    let count = READ_SECTORS.min(self.sectors(m) - first);
                    if !self.issue(m, side, RequestKind::Read, first, count) && self.resting {
                        return Err(format!(
                            "{} {side:?} is served, and has no name",
                            self.model.masters[m].name
                        ));
                    }
                }
                self.drain(|io| io.master == m)?;
            }
        }
        Ok(())
    }

    /// Waits until the copier of a set rests.
    pub(super) fn wait_for_copies(&mut self, (m, s): SetAt) -> Verdict {
        let name = self.model.masters[m].sets[s].name.clone();
        let Some(process) = &self.process else { return Ok(()) };
        let service = process.service.clone();
        self.drive(Duration::from_secs(100), async move {
            use umbra_platform::Platform;
            let set = name.parse().expect("a plain name");
            service
                .wait(umbra_platform::call::Wait { set, timeout: umbra_platform::time::Millis(90_000) })
                .await
        });
        Ok(())
    }
}
