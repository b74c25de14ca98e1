//! A write that must be durable when it is answered (FUA), where the device below has to be flushed for that.

use umbra_engine::{
    Action, ByteRange, Device, Durability, Epoch, Event, Geometry, Id128, IoKind, Limits, Master, Mode, Now,
    OpId, PlaneId, Request, RequestError, RequestId, RequestKind, SetHeader, SetImage, SetIndex,
    SetParameters, SetState, Side, SuperblockGeneration, Unrecordable,
};

const CHUNK: u64 = 4096;
const SET: SetIndex = SetIndex(0);

/// A master with one dependent set that holds every chunk.
fn master() -> Master {
    let geometry = Geometry::new(8 * CHUNK, CHUNK).expect("a possible geometry");
    let header = SetHeader {
        epoch: Epoch(2),
        cut: Id128([1; 16]),
        state: SetState::Dependent,
        head_moved: false,
        shadow_written: true,
        ..SetHeader::prepared()
    };
    let mut image = SetImage::prepared(&geometry, header, SuperblockGeneration(1));
    (0..8).for_each(|chunk| image.planes[PlaneId::Held.index()].put(chunk, true));
    let parameters = SetParameters {
        mode: Mode::Dependent,
        shadow_durability: Durability::Flush,
        bitmap_durability: Durability::Flush,
        ring_blocks: 8,
        head_bytes: 0,
        head_offset: 0,
        shadow_deadline_ms: 1000,
        bitmap_deadline_ms: 1000,
        unrecordable: Unrecordable::Block,
    };
    let limits = Limits {
        requests: 4,
        write_buffers: 1,
        copier_buffers: 4,
        write_buffer_bytes: 8 * CHUNK,
        copier_buffer_bytes: 8 * CHUNK,
        drain_deadline_ms: 1000,
    };
    let mut master = Master::new(geometry, 4096, limits);
    master.add_set(SET, parameters, image);
    master
}

fn turn(master: &mut Master, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    master.apply(Now(1), event, &mut actions);
    master.end_turn(Now(1), &mut actions);
    actions
}

/// Sends a write through `side` and returns the name of its operation on `device`.
fn write(master: &mut Master, side: Side, fua: bool, device: Device) -> OpId {
    let range = ByteRange::new(CHUNK, CHUNK);
    let kind = RequestKind::Write { fua };
    let actions = turn(master, Event::Request(Request { id: RequestId(0), side, kind, range }));
    let io = |action: &Action| match action {
        Action::Io { op, device: at, kind: IoKind::Write { fua: durable }, .. } if *at == device => {
            assert_eq!(*durable, fua, "what the request asks for reaches the device");
            Some(*op)
        }
        _ => None,
    };
    actions.iter().find_map(io).unwrap_or_else(|| panic!("no write to {device:?} in {actions:?}"))
}

fn answer(actions: &[Action]) -> Option<Result<(), RequestError>> {
    actions.iter().find_map(|action| match action {
        Action::Complete { result, .. } => Some(*result),
        _ => None,
    })
}

#[test]
fn a_failed_fua_write_to_a_shadow_is_a_failed_flush() {
    for (fua, offline) in [(true, true), (false, false)] {
        let mut master = master();
        let op = write(&mut master, Side::Shadow(SET), fua, Device::Shadow(SET));
        let actions = turn(&mut master, Event::Done { op, ok: false, hash: None });
        assert_eq!(answer(&actions), Some(Err(RequestError::Io)), "{actions:?}");
        let ends = |action: &Action| match action {
            Action::Superblock { header, .. } => matches!(header.state, SetState::Offline(_)),
            _ => false,
        };
        assert_eq!(actions.iter().any(ends), offline, "fua {fua}: {actions:?}");
    }
}

#[test]
fn a_failed_fua_write_to_the_master_ends_no_image() {
    let mut master = master();
    let op = write(&mut master, Side::Master, true, Device::Master);
    let actions = turn(&mut master, Event::Done { op, ok: false, hash: None });
    assert_eq!(answer(&actions), Some(Err(RequestError::Io)), "{actions:?}");
    assert!(master.status(SET).is_some_and(|status| status.header.state == SetState::Dependent));
}
