//! A port: the fast path of one front-end queue.
//!
//! A port alone submits the data I/O of its requests; the owner never touches a request's buffer. What needs
//! nothing goes straight through on the strength of the shared bits; what needs a copy, a record or a region
//! is announced to the owner ([`ToOwner::Need`]) and goes on when the owner says [`ToPort::Go`] (F3).
//!
//! ```text
//!              admit                   Go                    last piece
//!   request ──────────> Asking ────────────────> Submitted ──────────────> Complete
//!      │  └─ bits set ───────────────────────────────^ │
//!      └─ gate closed ─> held back until Open          └─ route changed: piece again (E3)
//! ```
//!
//! The gate (F2): `Close` holds back everything but master flushes and, unless a restore begins, master reads;
//! when the last request that may write or that reads through a shadow has ended, the port says `Closed`. That
//! is the drain of a cut. While a restore runs, a read of the logical master is routed like one of a shadow.

use crate::action::{
    Action, Device, IoKind, Memory, OpId, Request, RequestError, RequestId, RequestKind, Route, SETS_MAX,
    SetIndex, Side,
};
use crate::geometry::Geometry;
use crate::mutation::{Rule, is_off};
use crate::shared::{MasterMaps, ShadowMaps};
use crate::units::{ByteRange, Chunk};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// From a port to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToOwner {
    /// The request cannot go on by itself.
    Need(Request),
    /// Nothing that may write, and no shadow read, is in flight.
    Closed,
    /// A flush that the workload asked for has failed: what the owner wrote there may be gone as well (E8).
    FlushFailed(Device),
    /// What was let go with [`ToPort::GoAndTell`] is written, or not.
    Written(RequestId, bool),
}

/// From the owner to a port.
#[derive(Clone, Debug)]
pub(crate) enum ToPort {
    /// What the request needed is there.
    Go(RequestId),
    /// As `Go`, but the request is not answered before the owner has done its part with what was written.
    GoAndTell(RequestId),
    /// It has.
    Finish(RequestId, Result<(), RequestError>),
    /// It cannot be had.
    Fail(RequestId, RequestError),
    /// Close the gate; for a restore master reads are held back too.
    Close {
        /// Whether they are.
        reads: bool,
    },
    /// Open it.
    Open,
    /// A set exists from now on, or no longer. Only while the gate is closed.
    Maps(SetIndex, Option<Arc<ShadowMaps>>),
    /// The head of the shadow that is restored from is in memory, or no longer.
    HeadKept(bool),
}

/// Operations that one discard may have in flight. A discard of 64 MiB can be hundreds where chunks that may pass and
/// chunks that are kept lie side by side.
const DISCARDS_IN_FLIGHT_MAX: usize = 8;

/// Operations of all discards beyond the first of each. All requests share the places of the master's store, where a
/// flush must find one however many discards come at a time.
pub(crate) const MORE_DISCARDS_MAX: usize = 32;

/// Operations of all reads beyond the first of each. A read of 1 MiB can be hundreds where chunks that are held and chunks
/// that are not lie side by side, and what has no place in a device's queue ends with an error.
pub(crate) const MORE_READS_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Bytes of the presented device.
    range: ByteRange,
    route: Route,
    done: bool,
}

#[derive(Debug)]
struct InFlight {
    request: Request,
    pieces: Vec<Piece>,
    pending: u16,
    /// Of a read: the pieces before this one have been given out.
    given_out: usize,
    /// Of a read: operations in flight.
    open: usize,
    attempt: u16,
    failed: bool,
    submitted: bool,
    /// The owner is told before the request is answered.
    tells: bool,
    /// What of a discard has not been looked at yet: its next operation comes when one of those in flight has ended.
    rest: ByteRange,
}

impl InFlight {
    /// Whether every gate waits for this request.
    fn drains(&self) -> bool {
        !passes_gate(&self.request, Gate::Writes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// Closed for what may write and for everything that goes through a shadow.
    Writes,
    /// Closed for master reads, too.
    All,
}

fn passes_gate(request: &Request, gate: Gate) -> bool {
    gate == Gate::Open
        || request.side == Side::Master
            && match request.kind {
                RequestKind::Flush => true,
                RequestKind::Read => gate == Gate::Writes,
                RequestKind::Write { .. } | RequestKind::WriteZeroes { .. } | RequestKind::Discard => false,
            }
}

fn is_master_read(request: &Request) -> bool {
    (request.side, request.kind) == (Side::Master, RequestKind::Read)
}

/// Output of a port, in order.
#[derive(Debug, Default)]
pub(crate) struct PortOutput {
    /// For the shell.
    pub actions: Vec<Action>,
    /// For the owner.
    pub messages: Vec<ToOwner>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Port {
    geometry: Geometry,
    maps: Arc<MasterMaps>,
    shadows: [Option<Arc<ShadowMaps>>; SETS_MAX],
    /// Requests are multiples of this: the logical block of the master.
    block_bytes: u64,
    slots: Vec<Option<InFlight>>,
    spare_pieces: Vec<Vec<Piece>>,
    held_back: VecDeque<Request>,
    gate: Gate,
    reported: bool,
    draining: usize,
    master_reads: usize,
    /// The head of the shadow that is restored from is read from memory.
    head_kept: bool,
    /// Operations of discards in flight beyond the first of each.
    more_discards: usize,
    /// The same of reads.
    more_reads: usize,
}

impl Port {
    /// A port for at most `requests` requests at a time, numbered from 0; its gate is open.
    pub(crate) fn new(geometry: Geometry, block_bytes: u64, maps: Arc<MasterMaps>, requests: usize) -> Self {
        Self {
            geometry,
            maps,
            block_bytes,
            shadows: Default::default(),
            slots: (0..requests).map(|_| None).collect(),
            spare_pieces: (0..requests).map(|_| Vec::with_capacity(8)).collect(),
            held_back: VecDeque::with_capacity(requests),
            gate: Gate::Open,
            reported: false,
            draining: 0,
            master_reads: 0,
            head_kept: false,
            more_discards: 0,
            more_reads: 0,
        }
    }

    /// Requests in flight or held back.
    pub(crate) fn in_flight(&self) -> usize {
        self.held_back.len() + self.slots.iter().flatten().count()
    }

    /// Takes a request.
    pub(crate) fn request(&mut self, request: Request, out: &mut PortOutput) {
        if !self.is_valid(&request) {
            out.actions.push(Action::Complete { id: request.id, result: Err(RequestError::Invalid) });
        } else if !passes_gate(&request, self.gate) {
            self.held_back.push_back(request);
        } else {
            self.admit(request, out);
        }
    }

    fn is_valid(&self, request: &Request) -> bool {
        if let Side::Shadow(set) = request.side
            && (self.shadows[usize::from(set.0)].is_none() || request.kind == RequestKind::Discard)
        {
            return false;
        }
        let range = request.range;
        let inside =
            range.start.checked_add(range.len).is_some_and(|end| end <= self.geometry.master_bytes());
        // Beyond this a device would refuse it, and be taken for one that fails (E17).
        let whole =
            range.start.is_multiple_of(self.block_bytes) && range.len.is_multiple_of(self.block_bytes);
        let passes = whole || is_off(Rule::WholeBlocks);
        request.kind == RequestKind::Flush || (range.len > 0 && inside && passes)
    }

    fn admit(&mut self, request: Request, out: &mut PortOutput) {
        let pieces = self.spare_pieces.pop().expect("one list of pieces for every slot");
        let in_flight = InFlight {
            request,
            pieces,
            pending: 0,
            given_out: 0,
            open: 0,
            attempt: 0,
            failed: false,
            submitted: false,
            tells: false,
            rest: request.range,
        };
        self.draining += usize::from(in_flight.drains());
        self.master_reads += usize::from(is_master_read(&request));
        let slot = &mut self.slots[request.id.0 as usize];
        assert!(slot.is_none(), "request {:?} is in flight already", request.id);
        *slot = Some(in_flight);
        if self.may_pass(&request) {
            self.submit(request.id, out);
        } else {
            out.messages.push(ToOwner::Need(request));
        }
    }

    /// F3: the one function that decides whether a request needs the owner.
    fn may_pass(&self, request: &Request) -> bool {
        match (request.side, request.kind) {
            (_, RequestKind::Read | RequestKind::Flush) => true,
            (Side::Shadow(_), _) => false,
            (Side::Master, RequestKind::Write { .. } | RequestKind::WriteZeroes { .. }) => {
                self.geometry.chunks_of(request.range).chunks().all(|chunk| {
                    self.maps.wpass.get(chunk.0) && self.maps.region.get(self.geometry.region_of(chunk))
                })
            }
            (Side::Master, RequestKind::Discard) => {
                self.geometry.chunks_of(request.range).chunks().all(|chunk| {
                    !self.maps.wpass.get(chunk.0) || self.maps.region.get(self.geometry.region_of(chunk))
                })
            }
        }
    }

    /// A message of the owner.
    pub(crate) fn message(&mut self, message: ToPort, out: &mut PortOutput) {
        match message {
            ToPort::Go(id) => self.submit(id, out),
            ToPort::GoAndTell(id) => {
                let slot = self.slots[id.0 as usize].as_mut();
                slot.expect("a request that is in flight").tells = true;
                self.submit(id, out);
            }
            ToPort::Finish(id, result) => self.finish(id, result, out),
            ToPort::Fail(id, error) => self.finish(id, Err(error), out),
            ToPort::Close { reads } => {
                assert!(self.gate == Gate::Open, "the gate is closed once");
                self.gate = if reads { Gate::All } else { Gate::Writes };
                self.reported = false;
            }
            ToPort::Open => {
                assert!(self.gate != Gate::Open, "an open gate is not opened");
                self.gate = Gate::Open;
                for _ in 0..self.held_back.len() {
                    let request = self.held_back.pop_front().expect("counted");
                    // Judged again: the set it was for may be gone.
                    self.request(request, out);
                }
            }
            ToPort::Maps(set, maps) => {
                assert!(self.gate != Gate::Open, "sets come and go under the gate");
                self.shadows[usize::from(set.0)] = maps;
            }
            ToPort::HeadKept(kept) => self.head_kept = kept,
        }
        self.report_closed(out);
    }

    fn report_closed(&mut self, out: &mut PortOutput) {
        let drained = match self.gate {
            Gate::Open => false,
            Gate::Writes => self.draining == 0,
            Gate::All => self.draining == 0 && self.master_reads == 0,
        };
        if drained && !self.reported {
            self.reported = true;
            out.messages.push(ToOwner::Closed);
        }
    }

    fn submit(&mut self, id: RequestId, out: &mut PortOutput) {
        let mut in_flight = self.slots[id.0 as usize].take().expect("a request that is in flight");
        assert!(!in_flight.submitted, "a request is submitted once");
        in_flight.submitted = true;
        let request = in_flight.request;
        let lost = self.cut_into_pieces(&mut in_flight);
        in_flight.pending = u16::try_from(in_flight.pieces.len()).expect("requests are bounded");
        if writes_data(request.kind) {
            for chunk in self.geometry.chunks_of(request.range).chunks() {
                self.maps.written.set(chunk.0);
            }
        }
        if request.kind == RequestKind::Discard {
            self.more_discards += in_flight.pieces.len().saturating_sub(1);
        }
        let nothing_to_do = in_flight.pieces.is_empty() || lost;
        if !nothing_to_do && request.kind == RequestKind::Read {
            self.give_out(&mut in_flight, out);
        } else if !nothing_to_do {
            for piece in 0..in_flight.pieces.len() {
                self.emit(&in_flight, piece, out);
            }
        }
        self.slots[id.0 as usize] = Some(in_flight);
        if nothing_to_do {
            self.finish(id, if lost { Err(RequestError::Io) } else { Ok(()) }, out);
        }
    }

    /// Fills the request's pieces; true if a part can not be had.
    fn cut_into_pieces(&self, in_flight: &mut InFlight) -> bool {
        let InFlight { request, pieces, rest, .. } = in_flight;
        pieces.clear();
        let mut push = |range, route| pieces.push(Piece { range, route, done: false });
        match (request.side, request.kind) {
            (Side::Master, RequestKind::Discard) => {
                let parts = std::iter::from_fn(|| self.next_discard(rest));
                let room = 1 + MORE_DISCARDS_MAX.saturating_sub(self.more_discards);
                parts.take(room.min(DISCARDS_IN_FLIGHT_MAX)).for_each(|range| push(range, Route::Master));
                false
            }
            (Side::Master, RequestKind::Read) if self.maps.restored_from().is_some() => {
                let mut lost = false;
                let route = |chunk| self.route(request.side, chunk);
                for (range, route) in split_by(&self.geometry, request.range, route) {
                    lost |= route == Route::Lost;
                    for part in split_at(range, self.source().map_or(0, |(_, maps)| maps.head_bytes())) {
                        push(part, route);
                    }
                }
                lost
            }
            (Side::Master, _) => {
                push(request.range, Route::Master);
                false
            }
            (Side::Shadow(set), RequestKind::Read) => {
                let Some(maps) = &self.shadows[usize::from(set.0)] else { return true };
                let mut lost = maps.is_offline();
                for (range, route) in split_by(&self.geometry, request.range, |chunk| maps.route(chunk)) {
                    lost |= route == Route::Lost;
                    for part in split_at(range, maps.head_bytes()) {
                        push(part, route);
                    }
                }
                lost
            }
            (Side::Shadow(set), RequestKind::Flush) => {
                // Both devices of the shadow side: the shadow and, for its head, the bitmap volume (E13).
                push(request.range, Route::Held);
                push(request.range, Route::Held);
                self.shadows[usize::from(set.0)].as_ref().is_none_or(|maps| maps.is_offline())
            }
            (Side::Shadow(set), _) => {
                let Some(maps) = &self.shadows[usize::from(set.0)] else { return true };
                for part in split_at(request.range, maps.head_bytes()) {
                    push(part, Route::Held);
                }
                maps.is_offline()
            }
        }
    }

    /// E16: what a set still needs, or cannot track, is acknowledged and not done. What passes has its region in the
    /// log, also where the chunk was let go only after the discard was.
    fn next_discard(&self, rest: &mut ByteRange) -> Option<ByteRange> {
        let passes = |chunk: Chunk| {
            self.maps.wpass.get(chunk.0) && self.maps.region.get(self.geometry.region_of(chunk))
        };
        let next = split_by(&self.geometry, *rest, passes).find(|(_, pass)| *pass).map(|(range, _)| range);
        let from = next.map_or(rest.end(), ByteRange::end);
        *rest = ByteRange::new(from, rest.end() - from);
        next
    }

    /// Gives out pieces of a read, one at least while none is in flight. Those after the first have waited and may have
    /// to be read from elsewhere by now (E3); what has failed is not read on.
    fn give_out(&mut self, in_flight: &mut InFlight, out: &mut PortOutput) {
        while in_flight.given_out < in_flight.pieces.len() {
            let more = in_flight.open > 0;
            if more && self.more_reads >= MORE_READS_MAX && !in_flight.failed {
                return;
            }
            let next = in_flight.given_out;
            if next > 0
                && let Some(appended) = self.reroute(in_flight, next)
            {
                in_flight.pending += u16::try_from(appended.len()).expect("requests are bounded");
            }
            if in_flight.failed {
                let dropped = in_flight.pieces.len() - next;
                in_flight.pending -= u16::try_from(dropped).expect("requests are bounded");
                in_flight.pieces.truncate(next);
                return;
            }
            self.emit(in_flight, next, out);
            in_flight.given_out += 1;
            in_flight.open += 1;
            self.more_reads += usize::from(more);
        }
    }

    fn emit(&self, in_flight: &InFlight, index: usize, out: &mut PortOutput) {
        let request = in_flight.request;
        let piece = in_flight.pieces[index];
        let number = u16::try_from(index).expect("requests are bounded");
        let op = OpId::Request { id: request.id, piece: number, attempt: in_flight.attempt };
        if request.kind == RequestKind::Flush {
            let device = match request.side {
                Side::Master => Device::Master,
                Side::Shadow(set) if index == 0 => Device::Shadow(set),
                Side::Shadow(set) => Device::Bitmap(set),
            };
            out.actions.push(Action::Flush { op, device });
            return;
        }
        let (device, range) =
            self.place_of(&request, piece).expect("its shadow was there when it was cut into pieces");
        let memory = Memory::Request(request.id, piece.range.start - request.range.start);
        let (kind, memory) = match request.kind {
            RequestKind::Read => (IoKind::Read { hash: false }, memory),
            RequestKind::Write { fua } => (IoKind::Write { fua }, memory),
            RequestKind::WriteZeroes { fua } => (IoKind::WriteZeroes { fua }, Memory::None),
            RequestKind::Discard => (IoKind::Discard, Memory::None),
            RequestKind::Flush => unreachable!("handled above"),
        };
        out.actions.push(Action::Io { op, device, kind, range, memory });
    }

    /// Where the bytes of a piece are; none if its shadow has gone.
    fn place_of(&self, request: &Request, piece: Piece) -> Option<(Device, ByteRange)> {
        let (set, maps) = match (request.side, piece.route) {
            (Side::Shadow(set), Route::Held) => (set, self.shadows[usize::from(set.0)].as_ref()?),
            (Side::Master, Route::Held) => {
                let (set, maps) = self.source()?;
                if self.head_kept && piece.range.start < maps.head_bytes() {
                    return Some((Device::Head(set), piece.range));
                }
                (set, maps)
            }
            (Side::Master | Side::Shadow(_), _) => return Some((Device::Master, piece.range)),
        };
        Some(maps.locate(set, piece.range))
    }

    /// The volume of a set that a piece was to flush. A write with FUA is a flush, too: where the device has no FUA
    /// the kernel flushes after the write, and does not say which of the two has failed (E24, E8).
    fn flushed_device(&self, in_flight: &InFlight, index: usize) -> Option<Device> {
        let request = &in_flight.request;
        let device = match (request.kind, request.side) {
            (RequestKind::Flush, Side::Shadow(set)) if index == 0 => Device::Shadow(set),
            (RequestKind::Flush, Side::Shadow(set)) => Device::Bitmap(set),
            (RequestKind::Write { fua: true } | RequestKind::WriteZeroes { fua: true }, _) => {
                self.place_of(request, in_flight.pieces[index])?.0
            }
            _ => return None,
        };
        matches!(device, Device::Shadow(_) | Device::Bitmap(_)).then_some(device)
    }

    /// An operation of a request has ended.
    pub(crate) fn done(&mut self, id: RequestId, piece: u16, attempt: u16, ok: bool, out: &mut PortOutput) {
        let mut in_flight =
            self.slots[id.0 as usize].take().expect("completions belong to requests in flight");
        let index = usize::from(piece);
        assert!(!in_flight.pieces[index].done, "a piece completes once");
        assert!(attempt <= in_flight.attempt || in_flight.request.kind == RequestKind::Discard);
        let appended = match (in_flight.request.side, in_flight.request.kind) {
            (Side::Shadow(set), RequestKind::Read) => {
                in_flight.failed |=
                    self.shadows[usize::from(set.0)].as_ref().is_none_or(|maps| maps.is_offline());
                self.reroute(&mut in_flight, index)
            }
            // Only what went to the shadow of a restore can have moved since.
            (Side::Master, RequestKind::Read) if in_flight.pieces[index].route == Route::Held => {
                self.reroute(&mut in_flight, index)
            }
            (Side::Master, RequestKind::Discard) => {
                in_flight.failed |= !ok;
                self.next_discard(&mut in_flight.rest).map(|range| {
                    in_flight.pieces[index].range = range;
                    0..0
                })
            }
            (Side::Master | Side::Shadow(_), _) => None,
        };
        if let Some(appended) = appended {
            // No name is in flight twice: a piece has one operation at a time.
            in_flight.attempt = in_flight.attempt.wrapping_add(1);
            in_flight.pending += u16::try_from(appended.len()).expect("requests are bounded");
            self.emit(&in_flight, index, out);
            // What was cut off waits for its turn behind the others.
            if !appended.is_empty() {
                self.give_out(&mut in_flight, out);
            }
        } else {
            in_flight.failed |= !ok;
            if !ok && let Some(device) = self.flushed_device(&in_flight, index) {
                out.messages.push(ToOwner::FlushFailed(device));
            }
            if let (RequestKind::Flush, Side::Shadow(set)) = (in_flight.request.kind, in_flight.request.side)
            {
                // Once a device has failed a later flush only seems to succeed (E8).
                let maps = self.shadows[usize::from(set.0)].as_ref();
                in_flight.failed |= maps.is_none_or(|maps| maps.is_failing());
            }
            in_flight.pieces[index].done = true;
            in_flight.pending -= 1;
            if in_flight.request.kind == RequestKind::Discard && in_flight.pending > 0 {
                self.more_discards -= 1;
            }
            if in_flight.request.kind == RequestKind::Read {
                in_flight.open -= 1;
                self.more_reads -= usize::from(in_flight.open > 0);
                self.give_out(&mut in_flight, out);
            }
        }
        let (pending, failed, tells) = (in_flight.pending, in_flight.failed, in_flight.tells);
        self.slots[id.0 as usize] = Some(in_flight);
        if pending == 0 && tells {
            out.messages.push(ToOwner::Written(id, !failed));
        } else if pending == 0 {
            self.finish(id, if failed { Err(RequestError::Io) } else { Ok(()) }, out);
        }
    }

    /// The shadow that is restored from.
    fn source(&self) -> Option<(SetIndex, &Arc<ShadowMaps>)> {
        let set = self.maps.restored_from()?;
        self.shadows[usize::from(set.0)].as_ref().map(|maps| (set, maps))
    }

    /// Where a chunk of a presented device is read from now.
    fn route(&self, side: Side, chunk: Chunk) -> Route {
        match side {
            Side::Shadow(set) => match &self.shadows[usize::from(set.0)] {
                Some(maps) if !maps.is_offline() => maps.route(chunk),
                Some(_) | None => Route::Lost,
            },
            Side::Master if !self.maps.pending.get(chunk.0) => Route::Master,
            // A pending chunk that cannot be read from the shadow is an error, never the old data (E9).
            Side::Master => match self.source() {
                Some((_, maps)) if !self.maps.is_source_failed() && !maps.lost.get(chunk.0) => Route::Held,
                Some(_) | None => Route::Lost,
            },
        }
    }

    /// E3: if a part of the piece at `index` would be read from elsewhere now, cuts it anew: the first part
    /// takes its place, the others are appended, and their indexes returned. The request fails if a part is
    /// lost by now.
    fn reroute(&self, in_flight: &mut InFlight, index: usize) -> Option<Range<usize>> {
        let side = in_flight.request.side;
        let Piece { range, route: was, .. } = in_flight.pieces[index];
        let mut chunks = self.geometry.chunks_of(range).chunks();
        if in_flight.failed || chunks.all(|chunk| self.route(side, chunk) == was) || is_off(Rule::ReadRecheck)
        {
            return None;
        }
        let appended = in_flight.pieces.len();
        let parts = split_by(&self.geometry, range, |chunk| self.route(side, chunk));
        for (n, (range, route)) in parts.enumerate() {
            in_flight.failed |= route == Route::Lost;
            let piece = Piece { range, route, done: false };
            if n == 0 {
                in_flight.pieces[index] = piece;
            } else {
                in_flight.pieces.push(piece);
            }
        }
        if in_flight.failed {
            in_flight.pieces.truncate(appended);
            return None;
        }
        Some(appended..in_flight.pieces.len())
    }

    fn finish(&mut self, id: RequestId, result: Result<(), RequestError>, out: &mut PortOutput) {
        let mut in_flight = self.slots[id.0 as usize].take().expect("a request that is in flight");
        self.draining -= usize::from(in_flight.drains());
        self.master_reads -= usize::from(is_master_read(&in_flight.request));
        in_flight.pieces.clear();
        self.spare_pieces.push(in_flight.pieces);
        out.actions.push(Action::Complete { id, result });
        self.report_closed(out);
    }
}

fn writes_data(kind: RequestKind) -> bool {
    matches!(kind, RequestKind::Write { .. } | RequestKind::WriteZeroes { .. } | RequestKind::Discard)
}

/// Cuts a range where `of` changes between chunks.
fn split_by<T: PartialEq + Copy>(
    geometry: &Geometry,
    range: ByteRange,
    of: impl Fn(Chunk) -> T,
) -> impl Iterator<Item = (ByteRange, T)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end() {
            return None;
        }
        let start = at;
        let value = of(geometry.chunk_at(start));
        // Each chunk is looked at once: what is shared may change between two looks, and a part would be empty.
        loop {
            at = (geometry.chunk_at(at).0 + 1) * geometry.chunk_bytes();
            if at >= range.end() || of(geometry.chunk_at(at)) != value {
                break;
            }
        }
        at = at.min(range.end());
        Some((ByteRange::new(start, at - start), value))
    })
}

/// Cuts a range in two at byte `at`, if that lies inside.
fn split_at(range: ByteRange, at: u64) -> impl Iterator<Item = ByteRange> {
    let middle = at.clamp(range.start, range.end());
    [ByteRange::new(range.start, middle - range.start), ByteRange::new(middle, range.end() - middle)]
        .into_iter()
        .filter(|part| part.len > 0)
}
