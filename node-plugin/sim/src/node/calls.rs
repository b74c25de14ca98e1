//! Calls of the platform API: asked, repeated, broken off, and what their answers mean.

use super::life::Life;
use super::model::{Doubt, Here};
use super::plan::{Ask, DiskAt, SetAt};
use super::world::Node;
use crate::oracle::Verdict;
use std::time::Duration;
use umbra_lifecycle::Service;
use umbra_platform::call::{
    AcceptMaster, AcceptedImages, AttachMaster, Copied, CopyKind, CopySets, DetachMaster, Direction,
    DisableSet, EnableSet, EnabledSet, Reset, ResetDone, SetTarget, SetTargets, WipeSignatures,
};
use umbra_platform::id::{MasterRef, RequestId, SetName, SetRef};
use umbra_platform::status::{Deadlines, Mode, Unrecordable};
use umbra_platform::value::{ChunkSize, DevicePath, QueueDepth, Signature};
use umbra_platform::{Platform, PlatformError};

/// How long a caller waits.
const PATIENCE: Duration = Duration::from_secs(70);

/// A call, as it is sent, and sent again.
#[derive(Clone, Debug)]
enum Sent {
    Attach(AttachMaster),
    Detach(DetachMaster),
    Accept(AcceptMaster),
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
        Sent::Accept(call) => service.accept_master(call).await.map(|()| Answer::Done),
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
        &self,
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
        Some(CopySets { request, sets, direction, kind, cut: None })
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
            all.push(Asked { ask, sent, answer: None });
        }
        // What was waited for may have killed the process.
        if self.process.is_none() {
            return Ok(Vec::new());
        }
        self.ask_prepared(all, &wipe)
    }

    fn ask_prepared(&mut self, mut all: Vec<Asked>, wipe: &[Signature]) -> Result<Vec<Outcome>, String> {
        let before: Vec<Vec<(SetAt, Here)>> = all.iter().map(|asked| self.open(asked)).collect();
        let met = self.machine.borrow().met;
        let Some(process) = &self.process else { return Ok(Vec::new()) };
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
        let died = self.process.is_none();
        let disturbed = died || self.troubled || self.machine.borrow().met > met || self.plan.mounts > 0;
        let mut outcomes = Vec::new();
        for (at, asked) in all.iter_mut().enumerate() {
            let answer = answers.as_ref().and_then(|answers| answers.get(at).cloned().flatten());
            self.note(|| format!("-> {:?}: {answer:?}", asked.ask));
            let outcome = match answer {
                Some(Ok(answer)) => {
                    asked.answer = Some(answer.clone());
                    self.tally.done += 1;
                    self.answered(asked, &answer)?;
                    Outcome::Done
                }
                Some(Err(error)) => {
                    self.refused(asked, &error, disturbed, &before[at])?;
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

    /// Marks what a call is about.
    fn open(&mut self, asked: &Asked) -> Vec<(SetAt, Here)> {
        let cuts = self.cuts_of(&asked.ask, &asked.sent);
        let (from, group) = (self.model.now(), self.model.group());
        let mut before = Vec::new();
        for at in cuts {
            let restores = matches!(asked.ask, Ask::Restore(_));
            self.model.masters[at.0].volume.look(from);
            let set = self.set(at);
            set.refused = false;
            before.push((at, set.here));
            set.doubt = Some(Doubt { from, group, cut: None, restores, made: None });
            if set.here == Here::No {
                set.here = Here::Maybe;
            }
        }
        match asked.ask {
            Ask::Attach(m) if self.model.masters[m].here == Here::No => {
                self.model.masters[m].here = Here::Maybe
            }
            Ask::Detach(m) if self.model.masters[m].here == Here::Yes => {
                self.model.masters[m].unwatched |= !self.model.masters[m].serving;
                self.model.masters[m].here = Here::Maybe;
            }
            Ask::Disable(at) if self.set(at).here == Here::Yes => {
                before.push((at, Here::Yes));
                self.set(at).here = Here::Maybe;
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
                (set.here, set.image, set.excused) = (Here::No, None, false);
            }
            (Ask::Enable(at), Answer::Enabled(enabled)) => {
                let set = self.set(*at);
                (set.here, set.id, set.refused) = (Here::Yes, Some(enabled.id.0), false);
                self.cut_done(*at, enabled.epoch.0)?;
            }
            (Ask::Cut(..) | Ask::Restore(_), Answer::Copied(copied)) => {
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
        let known = self.model.masters[m].sets[s].image.as_ref().map_or(0, |image| image.epoch);
        if doubt.restores && epoch == known {
            // A restore that had stopped goes on.
            return Ok(());
        }
        if epoch <= known {
            return Err(format!("a cut was answered with epoch {epoch}; it was {known} before"));
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
    fn refused(
        &mut self,
        asked: &Asked,
        error: &PlatformError,
        disturbed: bool,
        before: &[(SetAt, Here)],
    ) -> Verdict {
        if let PlatformError::NotFound { name, .. } = error {
            let configured = match &asked.ask {
                Ask::Attach(_) | Ask::Enable(_) | Ask::Misuse(..) => false,
                Ask::Detach(m) => self.model.masters[*m].here == Here::Yes,
                _ => before
                    .iter()
                    .any(|(at, here)| *here == Here::Yes && self.model.masters[at.0].here == Here::Yes),
            };
            if configured {
                return Err(format!("{name} is configured, and was not found"));
            }
        }
        let open = is_open(&Outcome::Refused(error.clone()));
        if let Ask::Enable(at) = asked.ask
            && before.iter().any(|(of, here)| *of == at && *here == Here::No)
            && !open
        {
            self.set(at).refused = true;
        }
        if disturbed || open {
            return Ok(());
        }
        for (at, here) in before {
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
        let request = self.request();
        self.model.masters[m].excuse_all();
        let sent =
            Sent::Accept(AcceptMaster { request, master: self.master_ref(m), images: AcceptedImages::Lost });
        let Some(process) = &self.process else { return Ok(Vec::new()) };
        let service = process.service.clone();
        match self.drive(PATIENCE, send(service, sent)) {
            Some(Ok(_)) => {
                self.model.masters[m].unwatched = false;
                self.ask_all(vec![then], Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The last call once more, with the same request id: the same answer, and no second effect.
    pub(super) fn again(&mut self) -> Verdict {
        let Some(asked) = self.last.take() else { return Ok(()) };
        self.settle(Duration::from_secs(20))?;
        let masters = masters_of(&asked.ask);
        let settled = |m: &usize| self.model.masters[*m].is_settled();
        let Some(process) = &self.process else { return Ok(()) };
        let Some(answer) = asked.answer.clone().filter(|_| masters.iter().all(settled)) else {
            return Ok(());
        };
        let service = process.service.clone();
        let met = self.machine.borrow().met;
        let repeated = self.drive(PATIENCE, send(service, asked.sent.clone()));
        self.note(|| format!("-> again {:?}: {repeated:?}", asked.ask));
        match repeated {
            Some(Ok(repeated)) if repeated != answer => {
                Err(format!("repeated, {:?} was answered {repeated:?}; before it was {answer:?}", asked.ask))
            }
            Some(Err(error)) if !self.troubled && self.machine.borrow().met == met => {
                Err(format!("repeated, {:?} was refused: {error}", asked.ask))
            }
            _ => self.settle(Duration::from_secs(20)),
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
