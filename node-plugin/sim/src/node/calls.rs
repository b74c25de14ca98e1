//! Calls of the platform API: asked, repeated, broken off, and what their answers mean.

use super::life::Life;
use super::model::{Doubt, Here};
use super::plan::{Ask, DiskAt, SetAt};
use super::world::{LOOKER, Node};
use crate::oracle::Verdict;
use std::time::Duration;
use umbra_lifecycle::Service;
use umbra_platform::call::{
    AcceptMaster, AcceptedImages, AttachMaster, Copied, CopyKind, CopySets, DetachMaster, Direction,
    DisableSet, EnableSet, EnabledSet, Reset, ResetDone, SetTarget, SetTargets, WipeSignatures,
};
use umbra_platform::id::{CutId, MasterRef, RequestId, SetName, SetRef};
use umbra_platform::status::{Deadlines, Mode, Unrecordable};
use umbra_platform::value::{ChunkSize, Detail, DevicePath, QueueDepth, Signature};
use umbra_platform::{Platform, PlatformError};

/// How long a caller waits.
const PATIENCE: Duration = Duration::from_secs(70);

/// A call, as it is sent, and sent again.
#[derive(Clone, Debug)]
enum Sent {
    Attach(AttachMaster),
    Detach(DetachMaster),
    Enable(EnableSet),
    Disable(DisableSet),
    Copy(CopySets),
    Reset(Reset),
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Done,
    Enabled(EnabledSet),
    Copied(Copied),
    Reset(ResetDone),
}

/// A call that was asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    ask: Ask,
    sent: Sent,
    answer: Option<Answer>,
    /// The answer may not be on record.
    disturbed: bool,
    /// What was there when it was asked.
    before: Before,
    /// Paths mean something else after the next start of the machine.
    boot: u64,
}

/// What a call is about, as it was.
#[derive(Clone, Debug, Default)]
struct Before {
    master: Option<Here>,
    /// The sets, and the epoch of each.
    sets: Vec<(SetAt, Here, u64)>,
}

/// How a call has ended, as far as it can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    No,
    Whole,
    Unknown,
}

/// What became of a call.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// It was not asked.
    Skipped,
    /// It was answered well.
    Done,
    /// It was refused.
    Refused(PlatformError),
    /// The process died, or nobody knows.
    Unknown,
}

async fn send(service: Service<Node>, sent: Sent) -> Result<Answer, PlatformError> {
    match sent {
        Sent::Attach(call) => service.attach_master(call).await.map(|_| Answer::Done),
        Sent::Detach(call) => service.detach_master(call).await.map(|()| Answer::Done),
        Sent::Enable(call) => service.enable_set(call).await.map(Answer::Enabled),
        Sent::Disable(call) => service.disable_set(call).await.map(|()| Answer::Done),
        Sent::Copy(call) => service.copy(call).await.map(Answer::Copied),
        Sent::Reset(call) => service.reset(call).await.map(Answer::Reset),
    }
}

fn masters_of(ask: &Ask) -> Vec<usize> {
    match ask {
        Ask::Attach(m) | Ask::Detach(m) => vec![*m],
        Ask::Enable((m, _)) | Ask::Disable((m, _)) | Ask::Restore((m, _)) | Ask::Reset((m, _)) => vec![*m],
        Ask::Misuse((m, _), _) => vec![*m],
        Ask::Cut(sets, _) => sets.iter().map(|(m, _)| *m).collect(),
    }
}

impl Life {
    /// Calls, all at once; of those on the same master only the first.
    pub(super) fn calls(&mut self, asks: Vec<Ask>) -> Verdict {
        let mut chosen: Vec<Ask> = Vec::new();
        for ask in asks {
            let apart = |other: &Ask| masters_of(other).iter().all(|m| !masters_of(&ask).contains(m));
            if chosen.iter().all(apart) {
                chosen.push(ask);
            }
        }
        self.ask_all(chosen, Vec::new()).map(drop)
    }

    /// One call.
    pub(super) fn call(&mut self, ask: Ask) -> Result<Outcome, String> {
        let outcomes = self.ask_all(vec![ask], Vec::new())?;
        Ok(outcomes.into_iter().next().unwrap_or(Outcome::Skipped))
    }

    fn request(&mut self) -> RequestId {
        RequestId(self.machine.borrow_mut().fresh())
    }

    fn path(&self, disk: usize) -> DevicePath {
        umbra_lifecycle::device_path(&self.machine.borrow().disks[disk].path())
    }

    fn target(&self, (m, s): SetAt) -> SetTarget {
        SetTarget::from(self.model.masters[m].sets[s].name.parse::<SetRef>().expect("a plain name"))
    }

    fn master_ref(&self, m: usize) -> MasterRef {
        self.model.masters[m].name.parse().expect("a plain name")
    }

    fn enable(&mut self, (m, s): SetAt, wipe: Vec<Signature>) -> EnableSet {
        let request = self.request();
        let plan = self.plan.masters[m].clone();
        let set = &self.model.masters[m].sets[s];
        let name = SetName { cluster: None, namespace: None, name: set.name.parse().expect("a plain name") };
        EnableSet {
            request,
            master: self.master_ref(m),
            name,
            mode: if set.independent { Mode::Independent } else { Mode::Dependent },
            shadow: self.path(set.shadow),
            bitmap: self.path(set.bitmap),
            chunk: Some(ChunkSize::new(plan.chunk).expect("plans have possible sizes")),
            deadlines: Deadlines::default(),
            unrecordable: Unrecordable::default(),
            protected: false,
            wipe: WipeSignatures::new(wipe).expect("a few"),
        }
    }

    /// The call as it is sent; none if it makes no sense now.
    fn prepare(&mut self, ask: &Ask, wipe: &[Signature]) -> Option<Sent> {
        let masters = masters_of(ask);
        let clear = |m: &usize| {
            let master = &self.model.masters[*m];
            !master.rotten && master.sets.iter().all(|set| set.doubt.is_none())
        };
        if !masters.iter().all(clear) {
            return None;
        }
        let request = self.request();
        Some(match ask {
            Ask::Attach(m) => {
                let master = &self.model.masters[*m];
                Sent::Attach(AttachMaster {
                    request,
                    device: self.path(master.disk),
                    name: master.name.parse().expect("a plain name"),
                    expected_identity: None,
                    accept_weak_identity: true,
                    ublk: None,
                    queue_depth: QueueDepth::new(8).expect("a possible depth"),
                })
            }
            Ask::Detach(m) => Sent::Detach(DetachMaster { request, master: self.master_ref(*m) }),
            Ask::Enable(at) => Sent::Enable(self.enable(*at, wipe.to_vec())),
            Ask::Disable(at) => Sent::Disable(DisableSet { request, target: self.target(*at) }),
            Ask::Reset(at) => Sent::Reset(Reset { request, target: self.target(*at) }),
            Ask::Restore(at) => {
                Sent::Copy(self.copy(request, &[*at], Direction::ToMaster, CopyKind::Update)?)
            }
            Ask::Cut(sets, update) => {
                let kind = if *update { CopyKind::Update } else { CopyKind::Full };
                Sent::Copy(self.copy(request, sets, Direction::ToShadow, kind)?)
            }
            Ask::Misuse(at, what) => Sent::Enable(self.misuse(*at, *what)?),
        })
    }

    fn copy(
        &mut self,
        request: RequestId,
        sets: &[SetAt],
        direction: Direction,
        kind: CopyKind,
    ) -> Option<CopySets> {
        let there = |at: &&SetAt| {
            let master = &self.model.masters[at.0];
            master.is_settled() && master.sets[at.1].here == Here::Yes
        };
        let targets: Vec<SetTarget> = sets.iter().filter(there).map(|at| self.target(*at)).collect();
        let sets = SetTargets::new(targets).ok()?;
        // Some callers keep names of their own.
        let mut machine = self.machine.borrow_mut();
        let cut = machine.rng.chance(400).then(|| CutId(machine.fresh()));
        Some(CopySets { request, sets, direction, kind, cut })
    }

    /// An enable that must be refused: a volume is somebody's.
    fn misuse(&mut self, (m, s): SetAt, what: u32) -> Option<EnableSet> {
        if !self.model.masters[m].is_settled() || self.model.masters.iter().any(|master| master.rotten) {
            return None;
        }
        let mut call = self.enable((m, s), Vec::new());
        call.name.name = "misused".parse().expect("a plain name");
        let master_disk = self.disk(DiskAt::Master(m));
        let path = match what {
            0 => self.path(master_disk),
            1 => self.path(self.foreign_disk()),
            2 => {
                let id = self.model.masters[m].id?;
                let number = self.machine.borrow().names.get(&id).copied()?;
                format!("/dev/ublkb{number}").parse().ok()?
            }
            _ => {
                let used = |at: &(usize, usize)| self.model.masters[at.0].sets[at.1].here == Here::Yes;
                let sets = (0..self.model.masters.len())
                    .flat_map(|m| (0..self.model.masters[m].sets.len()).map(move |s| (m, s)));
                let taken: Vec<SetAt> = sets.filter(used).collect();
                let at = *taken.get(what as usize % taken.len().max(1))?;
                self.path(self.disk(if what.is_multiple_of(2) {
                    DiskAt::Shadow(at)
                } else {
                    DiskAt::Bitmap(at)
                }))
            }
        };
        if what.is_multiple_of(3) {
            call.bitmap = path
        } else {
            call.shadow = path
        }
        Some(call)
    }

    /// What will be, if the call is carried out.
    fn begin(&mut self, ask: &Ask) -> Verdict {
        match ask {
            Ask::Attach(m) => {
                let disk = self.model.masters[*m].disk;
                self.machine.borrow_mut().told.insert(disk);
            }
            Ask::Detach(m) => self.drain(|io| io.is_of(*m))?,
            Ask::Enable(at) | Ask::Misuse(at, _) => {
                let disks = [self.disk(DiskAt::Shadow(*at)), self.disk(DiskAt::Bitmap(*at))];
                self.machine.borrow_mut().told.extend(disks);
            }
            Ask::Disable((m, _)) | Ask::Restore((m, _)) => self.drain(|io| io.is_of(*m))?,
            Ask::Cut(..) | Ask::Reset(_) => {}
        }
        Ok(())
    }

    /// The sets whose image a call makes anew.
    fn cuts_of(&self, ask: &Ask, sent: &Sent) -> Vec<SetAt> {
        match (ask, sent) {
            (Ask::Enable(at) | Ask::Reset(at) | Ask::Restore(at), _) => vec![*at],
            (Ask::Cut(sets, _), Sent::Copy(call)) => {
                let named = |at: &&SetAt| call.sets.as_slice().contains(&self.target(**at));
                sets.iter().filter(named).copied().collect()
            }
            _ => Vec::new(),
        }
    }

    fn ask_all(&mut self, asks: Vec<Ask>, wipe: Vec<Signature>) -> Result<Vec<Outcome>, String> {
        self.settle(Duration::from_secs(20))?;
        let mut all: Vec<Asked> = Vec::new();
        for ask in asks {
            let Some(sent) = self.prepare(&ask, &wipe) else { continue };
            self.begin(&ask)?;
            let boot = self.machine.borrow().boots;
            all.push(Asked { ask, sent, answer: None, disturbed: false, before: Before::default(), boot });
        }
        // What was waited for may have killed the process.
        if self.process.is_none() {
            return Ok(Vec::new());
        }
        self.ask_prepared(all, &wipe, &[])
    }

    /// A call whose sender sends it again whenever it has waited so long: the first one goes on meanwhile.
    pub(super) fn impatient(&mut self, ask: Ask, pauses: &[u64]) -> Verdict {
        self.settle(Duration::from_secs(20))?;
        let Some(sent) = self.prepare(&ask, &[]) else { return Ok(()) };
        self.begin(&ask)?;
        let boot = self.machine.borrow().boots;
        let asked = Asked { ask, sent, answer: None, disturbed: false, before: Before::default(), boot };
        self.ask_prepared(vec![asked], &[], pauses).map(drop)
    }

    /// Sends calls at once, and waits for all of them.
    fn send_all(&mut self, all: &[Asked]) -> Vec<Option<Result<Answer, PlatformError>>> {
        let Some(process) = &self.process else { return Vec::new() };
        let service = process.service.clone();
        let sent: Vec<Sent> = all.iter().map(|asked| asked.sent.clone()).collect();
        self.tally.calls += sent.len() as u64;
        let answers = self.drive(PATIENCE, async move {
            let asked: Vec<_> =
                sent.into_iter().map(|sent| tokio::spawn(send(service.clone(), sent))).collect();
            let mut answers = Vec::new();
            for asked in asked {
                answers.push(asked.await.ok());
            }
            answers
        });
        answers.unwrap_or_default()
    }

    /// Sends a call, and again after each pause without an answer, also to the process that follows a killed one.
    fn send_often(
        &mut self,
        asked: &Asked,
        pauses: &[u64],
    ) -> Result<Option<Result<Answer, PlatformError>>, String> {
        let boot = self.machine.borrow().boots;
        for pause in pauses {
            let Some(process) = &self.process else { return Ok(None) };
            let service = process.service.clone();
            self.tally.calls += 1;
            let answer = self.drive(Duration::from_millis(*pause), send(service, asked.sent.clone()));
            self.note(|| format!("-> {:?}, after {pause} ms: {answer:?}", asked.ask));
            if let Some(answer) = answer {
                return Ok(Some(answer));
            }
            self.up()?;
            // What a power cut left is judged before anything else happens to it.
            if self.machine.borrow().boots > boot {
                return Ok(None);
            }
        }
        Ok(self.send_all(std::slice::from_ref(asked)).pop().flatten())
    }

    fn ask_prepared(
        &mut self,
        mut all: Vec<Asked>,
        wipe: &[Signature],
        pauses: &[u64],
    ) -> Result<Vec<Outcome>, String> {
        if self.process.is_none() {
            return Ok(Vec::new());
        }
        for asked in &mut all {
            asked.before = self.open(asked);
        }
        let (met, starts) = (self.machine.borrow().met, self.tally.starts);
        let answers = match (all.as_slice(), pauses) {
            ([one], [_, ..]) => {
                self.model.repeating = true;
                let answer = self.send_often(one, pauses);
                self.model.repeating = false;
                vec![answer?]
            }
            (all, _) => self.send_all(all),
        };
        let died = self.process.is_none() || self.tally.starts > starts;
        let met = self.machine.borrow().met > met;
        let mut outcomes = Vec::new();
        for (at, asked) in all.iter_mut().enumerate() {
            let answer = answers.get(at).cloned().flatten();
            let disturbed = died || met || !pauses.is_empty() || self.is_troubled(&asked.ask);
            asked.disturbed |= disturbed;
            self.note(|| format!("-> {:?}: {answer:?}", asked.ask));
            let outcome = match answer {
                Some(Ok(answer)) => {
                    asked.answer = Some(answer.clone());
                    self.tally.done += 1;
                    self.answered(asked, &answer)?;
                    Outcome::Done
                }
                Some(Err(error)) => {
                    self.refused(asked, &error, disturbed, !pauses.is_empty())?;
                    Outcome::Refused(error)
                }
                None => Outcome::Unknown,
            };
            outcomes.push(outcome);
        }
        self.last = all.last().cloned();
        self.collect()?;
        if self.process.is_some() && outcomes.iter().any(is_open) {
            // It may go on: what becomes of it shows when the process is gone.
            self.stop(super::plan::Stop::Kill);
        }
        self.settle(Duration::from_secs(20))?;
        self.confirm(&all, &outcomes, wipe)
    }

    /// Whether something is wrong that a call may meet.
    fn is_troubled(&self, ask: &Ask) -> bool {
        let machine = self.machine.borrow();
        let wrong = |m: &usize| {
            let master = &self.model.masters[*m];
            master.faulty || master.sets.iter().any(|set| set.excused)
        };
        machine.disk_full || machine.files_hang || masters_of(ask).iter().any(wrong)
    }

    /// Marks what a call is about.
    fn open(&mut self, asked: &Asked) -> Before {
        let cuts = self.cuts_of(&asked.ask, &asked.sent);
        let (from, group) = (self.model.now(), self.model.group());
        let cut = match &asked.sent {
            Sent::Copy(call) => call.cut,
            _ => None,
        };
        let mut before = Before::default();
        for at in cuts {
            let restores = matches!(asked.ask, Ask::Restore(_));
            self.model.masters[at.0].volume.look(from);
            let set = self.set(at);
            set.refused = false;
            before.sets.push((at, set.here, set.epoch));
            set.doubt = Some(Doubt { from, group, cut, restores, made: None });
            if set.here == Here::No {
                set.here = Here::Maybe;
            }
        }
        match asked.ask {
            Ask::Attach(m) => {
                let master = &mut self.model.masters[m];
                before.master = Some(master.here);
                if master.here == Here::No {
                    master.here = Here::Maybe;
                }
            }
            Ask::Detach(m) => {
                let master = &mut self.model.masters[m];
                before.master = Some(master.here);
                if master.here == Here::Yes {
                    master.unwatched |= !master.serving;
                    master.here = Here::Maybe;
                }
            }
            Ask::Disable(at) if self.set(at).here == Here::Yes => {
                let set = self.set(at);
                before.sets.push((at, Here::Yes, set.epoch));
                set.here = Here::Maybe;
            }
            _ => {}
        }
        before
    }

    fn answered(&mut self, asked: &Asked, answer: &Answer) -> Verdict {
        match (&asked.ask, answer) {
            (Ask::Attach(m), _) => self.model.masters[*m].here = Here::Yes,
            (Ask::Detach(m), _) => self.model.masters[*m].here = Here::No,
            (Ask::Disable(at), _) => {
                let set = self.set(*at);
                (set.here, set.image, set.epoch, set.excused) = (Here::No, None, 0, false);
            }
            (Ask::Enable(at), Answer::Enabled(enabled)) => {
                let set = self.set(*at);
                (set.here, set.id, set.refused) = (Here::Yes, Some(enabled.id.0), false);
                self.cut_done(*at, enabled.epoch.0)?;
            }
            (Ask::Cut(..) | Ask::Restore(_), Answer::Copied(copied)) => {
                if let Sent::Copy(CopySets { cut: Some(cut), .. }) = &asked.sent
                    && copied.cut != *cut
                {
                    return Err(format!("cut {cut} was asked for, and is called {}", copied.cut));
                }
                for member in &copied.sets {
                    let at = self.model.set_of(member.id).ok_or("a set was cut that nobody knows")?;
                    self.cut_done(at, member.epoch.0)?;
                }
            }
            (Ask::Reset(at), Answer::Reset(ResetDone::Cut { epoch, .. })) => self.cut_done(*at, epoch.0)?,
            (Ask::Reset(at), _) => self.no_cut(*at),
            (Ask::Misuse(..), _) => return Err(format!("{:?} was not refused", asked.sent)),
            _ => {}
        }
        Ok(())
    }

    fn cut_done(&mut self, (m, s): SetAt, epoch: u64) -> Verdict {
        self.tally.cuts += 1;
        let to = self.model.now();
        let Some(doubt) = self.model.masters[m].sets[s].doubt.take() else { return Ok(()) };
        self.model.masters[m].volume.looked(doubt.from);
        let known = self.model.masters[m].sets[s].image.as_ref().map(|image| image.epoch);
        if doubt.restores && known == Some(epoch) {
            // A restore that had stopped goes on.
            return Ok(());
        }
        if known.is_some_and(|known| epoch != known + 1) {
            return Err(format!("one cut was answered with epoch {epoch}; it was {known:?} before"));
        }
        self.model.take_cut(m, s, doubt, to, epoch);
        Ok(())
    }

    fn no_cut(&mut self, (m, s): SetAt) {
        if let Some(doubt) = self.model.masters[m].sets[s].doubt.take() {
            self.model.masters[m].volume.looked(doubt.from);
        }
    }

    /// A refused call has changed nothing; where something else went wrong meanwhile, it is looked at later.
    fn refused(&mut self, asked: &Asked, error: &PlatformError, disturbed: bool, repeated: bool) -> Verdict {
        let before = &asked.before;
        if self.is_double(asked, error) {
            return Err(format!("{:?} was refused because of what it had made itself: {error}", asked.ask));
        }
        if let PlatformError::HasOpeners { device, openers, .. } = error
            && openers.as_str() == LOOKER
        {
            return Err(format!("{:?} was refused because somebody looked at {device}", asked.ask));
        }
        if let PlatformError::NotFound { name, .. } = error {
            let configured = match &asked.ask {
                Ask::Attach(_) | Ask::Enable(_) | Ask::Misuse(..) => false,
                Ask::Detach(m) => self.model.masters[*m].here == Here::Yes,
                _ => before
                    .sets
                    .iter()
                    .any(|(at, here, _)| *here == Here::Yes && self.model.masters[at.0].here == Here::Yes),
            };
            // Asked again, a set that is taken away may be away.
            let away = repeated && matches!(asked.ask, Ask::Disable(_));
            if configured && !away {
                return Err(format!("{name} is configured, and was not found"));
            }
        }
        let open = is_open(&Outcome::Refused(error.clone()));
        if let Ask::Enable(at) = asked.ask
            && before.sets.iter().any(|(of, here, _)| *of == at && *here == Here::No)
            && !open
        {
            self.set(at).refused = true;
        }
        // What a cut meets leaves it whole or void, unless a member drops out of one that was decided.
        let cuts = matches!(asked.ask, Ask::Cut(..) | Ask::Restore(_)) && !self.is_troubled(&asked.ask);
        let decided = matches!(error, PlatformError::Offline { .. } | PlatformError::BadArgument { .. });
        if open || disturbed && (!cuts || decided || repeated) {
            return Ok(());
        }
        for (at, here, _) in &before.sets {
            self.set(*at).here = *here;
            self.no_cut(*at);
        }
        match asked.ask {
            Ask::Attach(m) if self.model.masters[m].here == Here::Maybe => {
                self.model.masters[m].here = Here::No
            }
            Ask::Detach(m) if self.model.masters[m].here == Here::Maybe => {
                self.model.masters[m].here = Here::Yes
            }
            _ => {}
        }
        Ok(())
    }

    /// Refusals that ask for a confirmation get it.
    fn confirm(
        &mut self,
        all: &[Asked],
        outcomes: &[Outcome],
        wipe: &[Signature],
    ) -> Result<Vec<Outcome>, String> {
        for (asked, outcome) in all.iter().zip(outcomes) {
            match (outcome, &asked.ask) {
                (Outcome::Refused(PlatformError::HasSignature { signatures, .. }), Ask::Enable(_)) => {
                    let more: Vec<Signature> =
                        signatures.as_slice().iter().filter(|s| !wipe.contains(s)).cloned().collect();
                    if !more.is_empty() {
                        let wipe = wipe.iter().cloned().chain(more).collect();
                        return self.ask_all(vec![asked.ask.clone()], wipe);
                    }
                }
                (Outcome::Refused(PlatformError::MasterWrittenOutside { .. }), Ask::Attach(m)) => {
                    return self.accept(*m, asked.ask.clone());
                }
                _ => {}
            }
        }
        Ok(outcomes.to_vec())
    }

    fn accept(&mut self, m: usize, then: Ask) -> Result<Vec<Outcome>, String> {
        if !self.model.masters[m].unwatched && !self.troubled {
            return Err(format!(
                "master {} was written by nobody, and is refused",
                self.model.masters[m].name
            ));
        }
        self.model.masters[m].excuse_all();
        match self.accept_images(m, AcceptedImages::Lost) {
            Some(Ok(())) => {
                self.model.masters[m].unwatched = false;
                self.ask_all(vec![then], Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Says what becomes of the images of a master that was written outside; nothing, if the process does not live to
    /// answer.
    pub(super) fn accept_images(
        &mut self,
        m: usize,
        images: AcceptedImages,
    ) -> Option<Result<(), PlatformError>> {
        let request = self.request();
        let call = AcceptMaster { request, master: self.master_ref(m), images };
        let service = self.process.as_ref()?.service.clone();
        let answer = self.drive(PATIENCE, async move { service.accept_master(call).await });
        self.note(|| format!("-> accept {m}, {images:?}: {answer:?}"));
        answer
    }

    /// The last call once more, with the same request id: the same answer, and no second effect.
    pub(super) fn again(&mut self) -> Verdict {
        let Some(asked) = self.last.clone() else { return Ok(()) };
        self.settle(Duration::from_secs(20))?;
        let names_paths = matches!(asked.ask, Ask::Attach(_) | Ask::Enable(_) | Ask::Misuse(..));
        let stale = names_paths && asked.boot != self.machine.borrow().boots;
        if self.process.is_none() || stale {
            return Ok(());
        }
        match self.effect(&asked) {
            Effect::Unknown => Ok(()),
            Effect::Whole => self.repeat(asked),
            Effect::No => {
                self.begin(&asked.ask)?;
                self.ask_prepared(vec![asked], &[], &[]).map(drop)
            }
        }
    }

    /// Whether a call has had its effect.
    fn effect(&self, asked: &Asked) -> Effect {
        let whole = |there: bool| if there { Effect::Whole } else { Effect::No };
        let masters = masters_of(&asked.ask);
        let rests = |m: &usize| {
            let master = &self.model.masters[*m];
            !master.rotten && !master.unwatched && (master.here == Here::No || master.is_settled())
        };
        if !masters.iter().all(rests) {
            return Effect::Unknown;
        }
        if asked.answer.is_some() {
            return Effect::Whole;
        }
        let (before, here) = (&asked.before, |m: usize| self.model.masters[m].here);
        match asked.ask {
            Ask::Attach(m) if before.master == Some(Here::No) => whole(here(m) == Here::Yes),
            Ask::Detach(m) if before.master == Some(Here::Yes) => whole(here(m) == Here::No),
            Ask::Attach(_) | Ask::Detach(_) | Ask::Misuse(..) => Effect::No,
            Ask::Enable(_) | Ask::Disable(_) | Ask::Cut(..) | Ask::Restore(_) | Ask::Reset(_) => {
                let effects: Vec<Effect> =
                    before.sets.iter().map(|before| self.effect_on(&asked.ask, *before)).collect();
                let first = effects.first().copied().unwrap_or(Effect::No);
                if effects.iter().all(|effect| *effect == first) { first } else { Effect::Unknown }
            }
        }
    }

    fn effect_on(&self, ask: &Ask, (at, here, epoch): (SetAt, Here, u64)) -> Effect {
        let set = &self.model.masters[at.0].sets[at.1];
        match (ask, here, set.here) {
            _ if self.model.masters[at.0].here != Here::Yes => Effect::Unknown,
            (Ask::Disable(_), Here::Yes, Here::No) => Effect::Whole,
            (Ask::Enable(_), Here::No, Here::No) => Effect::No,
            (Ask::Disable(_), Here::Yes, Here::Yes) if set.image.is_some() => Effect::No,
            (Ask::Enable(_), Here::No, Here::Yes) if set.image.is_some() => Effect::Whole,
            (Ask::Cut(..) | Ask::Restore(_) | Ask::Reset(_), Here::Yes, Here::Yes) if set.image.is_some() => {
                if set.epoch > epoch {
                    Effect::Whole
                } else {
                    Effect::No
                }
            }
            _ => Effect::Unknown,
        }
    }

    /// Asks again for what has been done.
    fn repeat(&mut self, mut asked: Asked) -> Verdict {
        let Some(process) = &self.process else { return Ok(()) };
        let service = process.service.clone();
        let met = self.machine.borrow().met;
        let repeated = self.drive(PATIENCE, send(service, asked.sent.clone()));
        self.note(|| format!("-> again {:?}: {repeated:?}", asked.ask));
        let quiet = !self.is_troubled(&asked.ask) && self.machine.borrow().met == met;
        match repeated {
            Some(Ok(repeated)) => {
                if let Some(answer) = asked.answer.replace(repeated.clone())
                    && repeated != answer
                {
                    let ask = &asked.ask;
                    return Err(format!(
                        "repeated, {ask:?} was answered {repeated:?}; before it was {answer:?}"
                    ));
                }
                self.check_repeated(&asked, &repeated)?;
                self.last = Some(asked);
            }
            // What is away was not found, and its answer is not on record.
            Some(Err(PlatformError::NotFound { .. }))
                if matches!(asked.ask, Ask::Disable(_) | Ask::Detach(_))
                    && (asked.answer.is_none() || asked.disturbed) => {}
            // What is away may be in a record that cannot be read; a stray file is no record.
            Some(Err(PlatformError::Io { detail, .. }))
                if matches!(asked.ask, Ask::Disable(_) | Ask::Detach(_))
                    && self.rotten.iter().any(|(file, _)| detail.as_str().contains(&file.name)) => {}
            Some(Err(error)) if quiet || self.is_double(&asked, &error) => {
                return Err(format!("repeated, {:?} was refused: {error}", asked.ask));
            }
            _ => {}
        }
        self.settle(Duration::from_secs(20))
    }

    /// Whether a call was refused because of something that it has made itself. Of disks without names that have changed
    /// places one is taken for the other, which is another set's.
    fn is_double(&self, asked: &Asked, error: &PlatformError) -> bool {
        let none = |(_, here, _): &(SetAt, Here, u64)| *here == Here::No;
        let (made, name) = match asked.ask {
            Ask::Attach(m) => (asked.before.master == Some(Here::No), &self.model.masters[m].name),
            Ask::Enable((m, s)) => (asked.before.sets.iter().all(none), &self.model.masters[m].sets[s].name),
            _ => return false,
        };
        let taken_for_another = |owner: &Detail| {
            !self.plan.strong && self.exchanged && !owner.as_str().split(' ').any(|word| word == name)
        };
        made && match error {
            PlatformError::AlreadyExists { .. } => true,
            PlatformError::AlreadyInRole { owner, .. } | PlatformError::SameDeviceAs { owner, .. } => {
                !taken_for_another(owner)
            }
            _ => false,
        }
    }

    /// The answer to what was done before is about what is there.
    fn check_repeated(&self, asked: &Asked, answer: &Answer) -> Verdict {
        let wrong = || Err(format!("repeated, {:?} was answered {answer:?}, which is not there", asked.ask));
        let is = |at: SetAt, epoch: u64| self.model.masters[at.0].sets[at.1].epoch == epoch;
        match (&asked.ask, answer) {
            (Ask::Enable(at), Answer::Enabled(enabled)) => {
                let set = &self.model.masters[at.0].sets[at.1];
                if set.id == Some(enabled.id.0) && is(*at, enabled.epoch.0) { Ok(()) } else { wrong() }
            }
            (Ask::Cut(..) | Ask::Restore(_), Answer::Copied(copied)) => {
                let there = |member: &umbra_platform::call::SetEpoch| {
                    self.model.set_of(member.id).is_some_and(|at| is(at, member.epoch.0))
                };
                if copied.sets.iter().all(there) { Ok(()) } else { wrong() }
            }
            (Ask::Reset(at), Answer::Reset(ResetDone::Cut { epoch, .. })) if !is(*at, epoch.0) => wrong(),
            _ => Ok(()),
        }
    }
}

/// Whether nobody can say whether a call goes on, or has had an effect.
fn is_open(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Unknown => true,
        Outcome::Refused(error) => matches!(
            error,
            PlatformError::Hung { .. }
                | PlatformError::Deadline { .. }
                | PlatformError::Stopping { .. }
                | PlatformError::Blocked { .. }
        ),
        Outcome::Skipped | Outcome::Done => false,
    }
}
