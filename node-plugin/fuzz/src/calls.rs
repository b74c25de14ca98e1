//! What the platform API and the facade are asked and answer.

use crate::choices::Choices;
use crate::message::take;
use umbra_facade::call::Fenced;
use umbra_facade::node::{About, Finding, FindingReason, Inventory, SeenFence};
use umbra_facade::{Fence, wire::pb as facade};
use umbra_platform::call::{
    Abort, AcceptMaster, AcceptedImages, AttachMaster, Cadence, CopyKind, CopySets, DetachMaster, Direction,
    DisableSet, EnableSet, MapQuery, RecoverShadow, Reset, Scope, SetCopyLimits, SetTarget, SetTargets, Wait,
    Watch, WipeSignatures,
};
use umbra_platform::id::{CutId, Epoch, MasterId, MasterRef, RequestId, SetId, SetName, SetRef};
use umbra_platform::status::{
    CopyLimits, Deadlines, Listing, MasterEntry, Mode, SetEntry, SetPaths, Unrecordable,
};
use umbra_platform::time::Millis;
use umbra_platform::value::{ChunkSize, Columns, QueueDepth, UblkId};
use umbra_platform::wire::pb;
use uuid::Uuid;

const REQUEST: RequestId = RequestId(Uuid::from_u128(1));
const MASTER: MasterId = MasterId(Uuid::from_u128(2));
const SET: SetId = SetId(Uuid::from_u128(3));

fn valid<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is valid"))
}

fn target() -> SetTarget {
    SetTarget { set: SetRef::Id(SET), expected_epoch: Some(Epoch(7)) }
}

fn name() -> SetName {
    SetName { cluster: Some(valid("c")), namespace: Some(valid("n")), name: valid("s") }
}

fn attach() -> AttachMaster {
    AttachMaster {
        request: REQUEST,
        device: valid("/dev/sda"),
        name: valid("pg"),
        expected_identity: Some(valid("wwid:naa.5")),
        accept_weak_identity: true,
        ublk: Some(UblkId::default()),
        queue_depth: QueueDepth::default(),
    }
}

fn enable() -> EnableSet {
    EnableSet {
        request: REQUEST,
        master: MasterRef::Id(MASTER),
        name: name(),
        mode: Mode::Dependent,
        shadow: valid("/dev/sdb"),
        bitmap: valid("/dev/sdc"),
        chunk: Some(ChunkSize::new(65_536).expect("a size")),
        deadlines: Deadlines::default(),
        unrecordable: Unrecordable::default(),
        protected: true,
        wipe: WipeSignatures::new(vec![valid("ext4:1")]).expect("one"),
    }
}

fn copy() -> CopySets {
    let other = SetTarget { set: SetRef::Id(SetId(Uuid::from_u128(9))), expected_epoch: None };
    CopySets {
        request: REQUEST,
        sets: SetTargets::new(vec![target(), other]).expect("two"),
        direction: Direction::ToShadow,
        kind: CopyKind::Update,
        cut: Some(CutId(Uuid::from_u128(4))),
    }
}

fn accept() -> AcceptMaster {
    AcceptMaster { request: REQUEST, master: MasterRef::Id(MASTER), images: AcceptedImages::Lost }
}

fn limits() -> SetCopyLimits {
    SetCopyLimits { request: REQUEST, target: target(), limits: CopyLimits::default() }
}

fn listing() -> Listing {
    let paths = SetPaths { master: valid("/dev/sda"), shadow: valid("/dev/sdb"), bitmap: valid("/dev/sdc") };
    let master = MasterEntry {
        id: MASTER,
        name: valid("pg"),
        device: valid("/dev/sda"),
        presented: valid("/dev/umbra/m"),
    };
    let set = SetEntry { id: SET, name: name(), master: MASTER, mode: Mode::Independent, paths };
    Listing { masters: vec![master], sets: vec![set], version: Some(valid("1.0")) }
}

fn inventory() -> Inventory {
    let finding = Finding {
        reason: FindingReason::UblkMissing,
        what: "no driver".to_owned(),
        remedy: "load it".to_owned(),
    };
    Inventory {
        about: About { name: "node".to_owned(), version: "1.0".to_owned(), findings: vec![finding] },
        fence: SeenFence::Highest(Fence::new(3).expect("not 0")),
        contents: Ok(listing()),
    }
}

fn fenced<C>(call: C) -> Fenced<C> {
    Fenced { fence: Fence::new(3).expect("not 0"), call }
}

/// Whether the message was accepted.
pub(crate) fn run(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let choices = &mut choices;
    let detach = DetachMaster { request: REQUEST, master: MasterRef::Id(MASTER) };
    let disable = DisableSet { request: REQUEST, target: target() };
    let abort = Abort { request: REQUEST, target: target() };
    let reset = Reset { request: REQUEST, target: target() };
    match choices.byte() % 24 {
        0 => take::<_, pb::AttachMasterRequest, _>(&attach(), choices),
        1 => take::<_, pb::DetachMasterRequest, _>(&detach, choices),
        2 => take::<_, pb::AcceptMasterRequest, _>(&accept(), choices),
        3 => take::<_, pb::EnableSetRequest, _>(&enable(), choices),
        4 => take::<_, pb::DisableSetRequest, _>(&disable, choices),
        5 => take::<_, pb::CopyRequest, _>(&copy(), choices),
        6 => take::<_, pb::AbortRequest, _>(&abort, choices),
        7 => take::<_, pb::SetCopyLimitsRequest, _>(&limits(), choices),
        8 => take::<_, pb::ResetRequest, _>(&reset, choices),
        9 => take::<_, pb::WaitRequest, _>(&Wait { set: SetRef::Id(SET), timeout: Millis(5) }, choices),
        10 => {
            let watch = Watch { scope: Scope::Set(SetRef::Id(SET)), cadence: Cadence::Every(Millis(500)) };
            take::<_, pb::WatchRequest, _>(&watch, choices)
        }
        11 => take::<_, pb::MapRequest, _>(
            &MapQuery { set: SetRef::Id(SET), columns: Columns::default() },
            choices,
        ),
        12 => take::<_, pb::ListResponse, _>(&listing(), choices),
        13 => take::<_, facade::AttachRequest, _>(&fenced(attach()), choices),
        14 => take::<_, facade::DetachRequest, _>(&fenced(detach), choices),
        15 => take::<_, facade::AcceptMasterRequest, _>(&fenced(accept()), choices),
        16 => take::<_, facade::EnableRequest, _>(&fenced(enable()), choices),
        17 => take::<_, facade::DisableRequest, _>(&fenced(disable), choices),
        18 => take::<_, facade::CopyRequest, _>(&fenced(copy()), choices),
        19 => take::<_, facade::AbortRequest, _>(&fenced(abort), choices),
        20 => take::<_, facade::SetCopyParametersRequest, _>(&fenced(limits()), choices),
        21 => take::<_, facade::ResetRequest, _>(&fenced(reset), choices),
        22 => take::<_, pb::RecoverShadowRequest, _>(
            &RecoverShadow { set: SetRef::Id(SET), lasts: Millis(5) },
            choices,
        ),
        _ => take::<_, facade::ListResponse, _>(&inventory(), choices),
    }
}
