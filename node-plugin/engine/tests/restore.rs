//! What a restore asks for, where only a part of what is pending can be had.

use umbra_engine::{
    Action, Device, Durability, Epoch, Event, Geometry, Id128, IoKind, Limits, Master, Mode, Now, PLANES,
    PlaneHeader, PlaneId, RingGeneration, Sequence, SetHeader, SetImage, SetIndex, SetParameters, SetState,
    SuperblockGeneration, TrackingPair, Unrecordable,
};

const CHUNK: u64 = 4096;

/// E9: a page of *pending* that was damaged makes its chunks lost, the ones before it are to be restored: no run may
/// take both, or what nobody knows would be written to the master.
#[test]
fn a_run_ends_where_what_is_pending_is_lost() {
    let geometry = Geometry::new(8 * CHUNK, CHUNK).expect("a possible geometry");
    let header = SetHeader {
        epoch: Epoch(2),
        cut: Id128([1; 16]),
        cut_unix_ms: 0,
        state: SetState::Restoring,
        planes: [PlaneHeader::default(); PLANES],
        tracking: TrackingPair::First,
        merging: false,
        head_moved: false,
        ring_generation: RingGeneration(1),
        checkpoint_upto: Sequence(0),
        confirmed_upto: Sequence(0),
        shadow_written: false,
        recovered: false,
        clean: false,
    };
    let mut image = SetImage::prepared(&geometry, header, SuperblockGeneration(1));
    for chunk in 0..8 {
        image.planes[PlaneId::Held.index()].put(chunk, true);
        image.planes[PlaneId::Pending.index()].put(chunk, true);
        image.planes[PlaneId::Lost.index()].put(chunk, chunk >= 3);
    }
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
    let mut master = Master::new(geometry, limits);
    master.add_set(SetIndex(0), parameters, image);
    let mut actions = Vec::new();
    master.apply(Now(1), Event::Tick, &mut actions);
    master.end_turn(Now(1), &mut actions);
    let read = |action: &Action| match action {
        Action::Io { device: Device::Shadow(_), kind: IoKind::Read { .. }, range, .. } => Some(range.end()),
        _ => None,
    };
    let ends: Vec<u64> = actions.iter().filter_map(read).collect();
    assert_eq!(ends, [3 * CHUNK], "{actions:?}");
}
