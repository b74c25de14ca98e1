//! What the sectors of one presented device may hold.
//!
//! Every sector has a list of writes that may have made its content. A write is *before* another if it was
//! acknowledged before the other was issued, or if a read has shown it. What a read may return, what a power cut
//! may leave and what an image may hold all follow from that order; nothing here knows chunks, bits or devices.

use crate::stamp::{Value, original, show};
use std::collections::{BTreeMap, BTreeSet};

/// Counts issues and acknowledgements of a run: the oracle's clock.
pub type Time = u64;

/// Names a request for as long as it is in flight.
pub type Request = u32;

/// Marks values that nobody knows before somebody reads them: what a discard leaves.
const UNKNOWN: Value = 1 << 63;

/// A write of one sector, or one of the contents that a crash or a cut may have left.
#[derive(Clone, Debug)]
struct Candidate {
    id: u64,
    request: Option<Request>,
    value: Value,
    issued: Time,
    /// When it ended, well or not; none while it is in flight.
    ended: Option<Time>,
    /// It has certainly taken effect.
    definite: bool,
    fua: bool,
    /// On the medium if it is there at all, and one of a group of which exactly one is true.
    base: bool,
    /// Candidates that a read has shown to be over this one.
    beaten_by: Vec<u64>,
    /// In an image: the cut was not before the first and not after the second of these (invariant 4).
    window: (Time, Time),
}

impl Candidate {
    fn base(id: u64, value: Value, at: Time, window: (Time, Time)) -> Self {
        Self {
            id,
            request: None,
            value,
            issued: 0,
            ended: Some(at),
            definite: false,
            fua: false,
            base: true,
            beaten_by: Vec::new(),
            window,
        }
    }

    fn is_before(&self, other: &Self) -> bool {
        self.id != other.id
            && (self.ended.is_some_and(|ended| ended < other.issued) || self.beaten_by.contains(&other.id))
    }
}

type Sector = Vec<Candidate>;

/// What an image's sector may hold, and when the cut was if it does.
#[derive(Clone, Copy, Debug)]
struct Held {
    value: Value,
    window: (Time, Time),
}

/// A write in flight.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    first: u64,
    count: u64,
}

/// What a check has found.
pub type Verdict = Result<(), String>;

/// See the module.
#[derive(Clone, Debug)]
pub struct Volume {
    name: &'static str,
    write_through: bool,
    /// Sectors that are no longer what the master was before the run.
    sectors: BTreeMap<u64, Sector>,
    in_flight: BTreeMap<Request, InFlight>,
    /// Everything acknowledged up to here is durable: the newest issue of a flush that succeeded.
    flushed: Time,
    /// When each look that is not over began, a read or a cut: what was there then may still be found.
    looking: Vec<Time>,
    next_id: u64,
    /// What discards have left, as far as somebody has looked. Images look it up in their master's.
    unknowns: Vec<Option<Value>>,
    /// Since when the device presents this.
    since: Time,
    /// In an image: what reads have said about the instant of the cut so far.
    window: (Time, Time),
    /// Sectors that have rotted where no hash tells, here or in what this was made of: whatever is found there is right,
    /// now one thing and now another.
    decayed: BTreeSet<u64>,
}

impl Volume {
    /// The master before the run.
    pub fn master(write_through: bool) -> Self {
        Self {
            name: "master",
            write_through,
            sectors: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            flushed: 0,
            looking: Vec::new(),
            next_id: 1,
            unknowns: Vec::new(),
            since: 0,
            window: (0, Time::MAX),
            decayed: BTreeSet::new(),
        }
    }

    /// The image of this volume that a cut between `from` and `to` makes.
    pub fn image(&self, name: &'static str, from: Time, to: Time, write_through: bool) -> Self {
        let mut image = Self::master(write_through);
        image.name = name;
        image.window = (from, to);
        image.since = from;
        image.unknowns = self.unknowns.clone();
        image.decayed = self.decayed.clone();
        for (number, sector) in &self.sectors {
            let mut candidates = Vec::new();
            for held in Self::held_between(sector, from, to) {
                image.next_id += 1;
                candidates.push(Candidate::base(image.next_id, held.value, to, held.window));
            }
            image.sectors.insert(*number, candidates);
        }
        image
    }

    /// The master that a restore between `from` and `to` makes of this image: what it holds, durably, and is looked
    /// at by whoever looks at `before`, the master until then.
    pub fn restored(&self, before: &Self, from: Time, to: Time) -> Self {
        let mut master = self.image(before.name, from, to, before.write_through);
        // Its sectors are of no one instant of the master's past.
        master.window = (0, Time::MAX);
        for candidate in master.sectors.values_mut().flatten() {
            candidate.window = (0, Time::MAX);
        }
        // What the image never touched is what the master was before the run, whatever was written there since.
        for number in before.sectors.keys() {
            master.sectors.entry(*number).or_insert_with(|| untouched(*number));
        }
        master.looking.clone_from(&before.looking);
        master
    }

    /// The contents that a sector may have had at an instant of a span.
    fn held_between(sector: &Sector, from: Time, to: Time) -> Vec<Held> {
        let mut all = Vec::new();
        for candidate in sector.iter().filter(|candidate| Self::may_be_read(sector, candidate, from, to)) {
            let overwritten = sector.iter().filter(|other| other.definite && candidate.is_before(other));
            let until = overwritten.filter_map(|other| other.ended).min().unwrap_or(Time::MAX);
            all.push(Held { value: candidate.value, window: (candidate.issued, until) });
        }
        all
    }

    /// Whether a read between `from` and `to` may return this candidate.
    fn may_be_read(sector: &Sector, candidate: &Candidate, from: Time, to: Time) -> bool {
        let gone = |other: &Candidate| {
            other.definite && other.ended.is_some_and(|ended| ended <= from) && candidate.is_before(other)
        };
        candidate.issued <= to && !sector.iter().any(gone)
    }

    fn is_durable(&self, candidate: &Candidate) -> bool {
        let acknowledged = candidate.definite && candidate.ended.is_some();
        let flushed = candidate.ended.is_some_and(|ended| ended <= self.flushed);
        acknowledged && (candidate.base || candidate.fua || self.write_through || flushed)
    }

    /// Writes in flight that touch one of these sectors.
    pub fn is_writing(&self, first: u64, count: u64) -> bool {
        self.in_flight.values().any(|write| write.first < first + count && first < write.first + write.count)
    }

    /// A look at the sectors begins, a read or a cut.
    pub fn look(&mut self, from: Time) {
        self.looking.push(from);
    }

    /// The look that began then is over.
    pub fn looked(&mut self, from: Time) {
        if let Some(at) = self.looking.iter().position(|other| *other == from) {
            self.looking.swap_remove(at);
        }
    }

    /// Ends a sector's list of what nothing can bring back and nobody who looks now can still find.
    fn prune(&mut self, number: u64) {
        let Some(mut sector) = self.sectors.remove(&number) else { return };
        if sector.len() > 2 {
            let oldest = self.looking.iter().copied().min().unwrap_or(Time::MAX);
            let over = |candidate: &&Candidate| candidate.ended.is_some_and(|ended| ended <= oldest);
            let durable: Vec<Candidate> =
                sector.iter().filter(|candidate| self.is_durable(candidate)).filter(over).cloned().collect();
            sector.retain(|candidate| {
                candidate.ended.is_none() || !durable.iter().any(|over| candidate.is_before(over))
            });
        }
        self.sectors.insert(number, sector);
    }

    fn sector(&mut self, number: u64) -> &mut Sector {
        self.sectors.entry(number).or_insert_with(|| untouched(number))
    }

    /// A write is issued: these values, from sector `first` on.
    pub fn issue(&mut self, request: Request, first: u64, values: &[Value], fua: bool, now: Time) {
        for (number, value) in (first..).zip(values) {
            self.next_id += 1;
            let id = self.next_id;
            let candidate = Candidate {
                id,
                request: Some(request),
                value: *value,
                issued: now,
                ended: None,
                definite: false,
                fua,
                base: false,
                beaten_by: Vec::new(),
                window: (0, Time::MAX),
            };
            self.sector(number).push(candidate);
        }
        self.in_flight.insert(request, InFlight { first, count: values.len() as u64 });
    }

    /// Values for a discard of `count` sectors: whatever is found there later.
    pub fn unknown_values(&mut self, count: u64) -> Vec<Value> {
        let first = self.unknowns.len() as u64;
        self.unknowns.extend((0..count).map(|_| None));
        (first..first + count).map(|index| UNKNOWN | index).collect()
    }

    /// A write was acknowledged, or has failed and may have taken effect or not.
    pub fn end(&mut self, request: Request, ok: bool, now: Time) {
        let Some(write) = self.in_flight.remove(&request) else { return };
        for number in write.first..write.first + write.count {
            let mine =
                |candidate: &&mut Candidate| candidate.ended.is_none() && candidate.request == Some(request);
            if let Some(candidate) = self.sector(number).iter_mut().find(mine) {
                candidate.ended = Some(now);
                candidate.definite = ok;
                // Nothing is promised of a write that failed, even if it is seen to have taken effect.
                candidate.fua &= ok;
            }
            self.prune(number);
        }
    }

    /// A flush that was issued at `issued` has succeeded.
    pub fn flushed(&mut self, issued: Time) {
        self.flushed = self.flushed.max(issued);
    }

    fn known(&self, value: Value) -> Option<Value> {
        if value & UNKNOWN == 0 {
            return Some(value);
        }
        usize::try_from(value & !UNKNOWN).ok().and_then(|index| self.unknowns.get(index).copied().flatten())
    }

    /// A read between `from` and `to` has found `found` in sector `number`.
    ///
    /// # Errors
    /// What was allowed instead.
    pub fn read(&mut self, number: u64, found: Option<Value>, from: Time, to: Time) -> Verdict {
        if self.decayed.contains(&number) {
            return Ok(());
        }
        if !self.sectors.contains_key(&number) && found == Some(original(number)) {
            return Ok(());
        }
        self.sector(number);
        let sector = &self.sectors[&number];
        let mut window = (Time::MAX, 0);
        let (mut matching, mut all_base) = (Vec::new(), true);
        for (at, candidate) in sector.iter().enumerate() {
            let known = self.known(candidate.value);
            let fits = found.is_some() && (known.is_none() || known == found);
            if fits && Self::may_be_read(sector, candidate, from, to) {
                matching.push(at);
                all_base &= candidate.base;
                window = (window.0.min(candidate.window.0), window.1.max(candidate.window.1));
            }
        }
        if matching.is_empty() {
            return Err(self.unexpected(number, found, from, to));
        }
        if sector.len() > 1 || sector[matching[0]].value & UNKNOWN != 0 {
            self.learn(number, found.unwrap_or_default(), &matching, from);
        }
        if all_base { self.narrow(number, window) } else { Ok(()) }
    }

    fn unexpected(&self, number: u64, found: Option<Value>, from: Time, to: Time) -> String {
        let sector = &self.sectors[&number];
        let readable = |candidate: &&Candidate| Self::may_be_read(sector, candidate, from, to);
        let allowed: Vec<String> =
            sector.iter().filter(readable).map(|candidate| self.show_value(candidate.value)).collect();
        let (name, found) = (self.name, show(found));
        format!("{name} sector {number} reads {found}, allowed: {}", allowed.join(", "))
    }

    /// What a read shows for all later ones, if it may have found one of `matching`.
    fn learn(&mut self, number: u64, found: Value, matching: &[usize], from: Time) {
        let sector = self.sectors.get_mut(&number).expect("just read");
        let quiet = sector.iter().all(|candidate| candidate.ended.is_some_and(|ended| ended <= from));
        let [one] = matching else { return };
        let one = sector[*one].clone();
        if quiet && one.value & UNKNOWN != 0 {
            let index = usize::try_from(one.value & !UNKNOWN).unwrap_or(usize::MAX);
            if let Some(unknown @ None) = self.unknowns.get_mut(index) {
                *unknown = Some(found);
            }
        }
        if one.base && one.value & UNKNOWN == 0 {
            sector.retain(|candidate| !candidate.base || candidate.id == one.id);
        }
        if quiet && sector.len() > 1 {
            for candidate in sector.iter_mut() {
                if candidate.id == one.id {
                    candidate.definite = true;
                } else if !candidate.beaten_by.contains(&one.id) && !one.beaten_by.contains(&candidate.id) {
                    candidate.beaten_by.push(one.id);
                }
            }
            self.prune(number);
        }
    }

    /// Invariant 4: all sectors of an image are of one instant.
    fn narrow(&mut self, number: u64, (earliest, latest): (Time, Time)) -> Verdict {
        self.window = (self.window.0.max(earliest), self.window.1.min(latest));
        let (from, to) = self.window;
        if from <= to {
            return Ok(());
        }
        let name = self.name;
        Err(format!(
            "invariant 4: the image is of no instant: {name} sector {number} is of [{earliest}, {latest}], \
             but other sectors say not before {from} and not after {to}"
        ))
    }

    /// These sectors have rotted.
    pub fn decay(&mut self, first: u64, count: u64) {
        self.decayed.extend(first..first + count);
    }

    /// What rotted in the image before is left where an update copies nothing.
    pub fn decay_like(&mut self, before: &Self) {
        self.decayed.extend(&before.decayed);
    }

    /// The power was cut: what is not durable may be there or not; nothing is in flight any more.
    pub fn power_cut(&mut self, now: Time) {
        self.in_flight.clear();
        self.looking.clear();
        let numbers: Vec<u64> = self.sectors.keys().copied().collect();
        for number in numbers {
            let sector = &self.sectors[&number];
            let gone = |candidate: &Candidate| {
                sector.iter().any(|other| self.is_durable(other) && candidate.is_before(other))
            };
            let mut left: Vec<Candidate> =
                sector.iter().filter(|candidate| !gone(candidate)).cloned().collect();
            let sole = left.len() == 1;
            for candidate in &mut left {
                candidate.ended = Some(candidate.ended.unwrap_or(now).max(now));
                candidate.base = true;
                candidate.definite = sole;
                candidate.beaten_by.clear();
            }
            self.sectors.insert(number, left);
        }
    }

    /// Since when the device presents this: what was asked of it before was asked of what it presented then.
    pub fn since(&self) -> Time {
        self.since
    }

    /// Between which instants the cut was, as far as reads have said.
    pub fn window(&self) -> (Time, Time) {
        self.window
    }

    /// The sectors that were ever written, for a read-out of a large device.
    pub fn touched(&self) -> impl Iterator<Item = u64> {
        self.sectors.keys().copied()
    }

    fn show_value(&self, value: Value) -> String {
        match self.known(value) {
            None => "anything".to_owned(),
            known => show(known),
        }
    }
}

/// A sector that nobody has written.
fn untouched(number: u64) -> Sector {
    vec![Candidate { definite: true, ..Candidate::base(0, original(number), 0, (0, Time::MAX)) }]
}
