//! A cut over several sets that is not decided: what the set becomes if it is committed, and who the members are.

use crate::codec::{Reader, Writer};
use crate::superblock::{IN_DOUBT_AT, PLANE_ROOM, SuperblockError, decode_state, is_state_of, state_code};
use std::sync::Arc;
use umbra_engine::{
    CUT_MEMBERS_MAX, Epoch, Id128, InDoubt, Mode, PLANES, PlaneHeader, Sequence, SetHeader, TrackingPair,
};

const PLANES_AT: usize = IN_DOUBT_AT + 48;
const MEMBERS_AT: usize = PLANES_AT + 8 * PLANE_ROOM;
/// First byte behind the members.
pub(crate) const MEMBERS_END: usize = MEMBERS_AT + 16 * CUT_MEMBERS_MAX;

const FLAG_MERGING: u8 = 1;
const FLAG_HEAD_MOVED: u8 = 1 << 1;

/// Writes the area.
pub(crate) fn encode(doubt: &InDoubt, w: &mut Writer<'_>) {
    assert!(doubt.members.len() <= CUT_MEMBERS_MAX, "the engine refuses more members than there is room for");
    let then = &doubt.then;
    w.at(IN_DOUBT_AT);
    w.id(then.cut);
    w.u64(then.epoch.0);
    w.u64(then.cut_unix_ms);
    w.u8(state_code(then.state));
    w.u8(u8::from(then.tracking == TrackingPair::Second));
    let flag = |on: bool, flag| if on { flag } else { 0 };
    w.u8(flag(then.merging, FLAG_MERGING) | flag(then.head_moved, FLAG_HEAD_MOVED));
    w.u8(0);
    w.u32(u32::try_from(doubt.members.len()).expect("few"));
    w.u64(then.checkpoint_upto.0);
    w.at(PLANES_AT);
    for plane in then.planes {
        w.u64(plane.epoch.0);
    }
    w.at(MEMBERS_AT);
    for member in doubt.members.iter() {
        w.id(*member);
    }
}

/// Reads the area of a set of `mode` whose undecided header is `now`.
///
/// # Errors
/// If a field makes no sense.
pub(crate) fn decode(r: &mut Reader<'_>, mode: Mode, now: &SetHeader) -> Result<InDoubt, SuperblockError> {
    let field = SuperblockError::Field;
    r.at(IN_DOUBT_AT);
    let (cut, epoch, cut_unix_ms) = (r.id(), Epoch(r.u64()), r.u64());
    let state = decode_state(r.u8()).ok_or(field("state in doubt"))?;
    let tracking = match r.u8() {
        0 => TrackingPair::First,
        1 => TrackingPair::Second,
        _ => return Err(field("tracking pair in doubt")),
    };
    let (flags, zero) = (r.u8(), r.u8());
    let count = usize::try_from(r.u32()).expect("32 bits fit");
    let checkpoint_upto = Sequence(r.u64());
    r.at(PLANES_AT);
    let planes: [PlaneHeader; PLANES] = std::array::from_fn(|_| PlaneHeader { epoch: Epoch(r.u64()) });
    r.at(MEMBERS_AT);
    let members: Vec<Id128> = (0..count.min(CUT_MEMBERS_MAX)).map(|_| r.id()).collect();
    let unused = MEMBERS_AT + 16 * members.len()..MEMBERS_END;
    if count > CUT_MEMBERS_MAX || flags & !(FLAG_MERGING | FLAG_HEAD_MOVED) != 0 || zero != 0 {
        return Err(field("cut in doubt"));
    }
    if !r.is_zero(PLANES_AT + 8 * PLANES..MEMBERS_AT) || !r.is_zero(unused) {
        return Err(field("reserved area of the cut in doubt"));
    }
    if epoch <= now.epoch || epoch.0 > crate::COUNTER_MAX || planes.iter().any(|plane| plane.epoch > epoch) {
        return Err(field("epoch in doubt"));
    }
    if !(now.checkpoint_upto..=now.confirmed_upto).contains(&checkpoint_upto) {
        return Err(field("sequence in doubt"));
    }
    let merging = flags & FLAG_MERGING != 0;
    if !state.is_online() || !is_state_of(mode, state) || (merging && mode == Mode::Dependent) {
        return Err(field("state of this mode in doubt"));
    }
    let then = SetHeader {
        epoch,
        cut,
        cut_unix_ms,
        state,
        planes,
        tracking,
        merging,
        head_moved: flags & FLAG_HEAD_MOVED != 0,
        checkpoint_upto,
        shadow_written: false,
        recovered: false,
        clean: false,
        ..*now
    };
    Ok(InDoubt { members: Arc::from(members), then })
}
