//! Tables: what is found, what is expected, what becomes of it. Here: what devices are made of, and new ones.

mod known;

use super::*;
use crate::content::{Content, Contents, SuperblockFacts, UmbraSuperblock};
use crate::facts::{DeviceKey, Holder, Layer, Used};
use crate::hardware::DeviceKind;
use crate::signature::Signature;
use crate::sysfs::DeviceNumber;
use crate::testing::{BITMAP, CHUNK, GIB, MASTER, NODE, SHADOW};
use umbra_engine::{Epoch, Geometry, SetState};
use umbra_format::{ImageEnd, Label, SetIdentity, SuperblockError};

const SET: Id128 = Id128([2; 16]);
const OTHER: Id128 = Id128([9; 16]);

fn number(minor: u32) -> DeviceNumber {
    DeviceNumber { major: 8, minor }
}

fn disk(name: &str, minor: u32) -> DeviceFacts {
    DeviceFacts::disk(name, number(minor), GIB)
}

fn master(id: Id128, name: &str) -> Owner {
    Owner { kind: OwnerKind::Master, id, name: name.to_owned() }
}

fn set(id: Id128, name: &str) -> Owner {
    Owner { kind: OwnerKind::Set, id, name: name.to_owned() }
}

fn configured(role: Role, owner: Owner, device: &DeviceFacts) -> Configured {
    Configured {
        role,
        owner,
        path: device.path.clone(),
        identity: device.identity.stable_id(),
        device: Some(device.clone()),
    }
}

/// `db` on `sda`; its set `nightly` on `sdb` and `sdc`.
fn world() -> World {
    let owner = set(SET, "nightly");
    World {
        configured: vec![
            configured(Role::Master, master(MASTER, "db"), &disk("sda", 0)),
            configured(Role::Shadow, owner.clone(), &disk("sdb", 16)),
            configured(Role::Bitmap, owner, &disk("sdc", 32)),
        ],
        presented: vec![
            Presented {
                number: DeviceNumber { major: 259, minor: 0 },
                by: PresentedBy::Us(master(MASTER, "db")),
            },
            Presented {
                number: DeviceNumber { major: 259, minor: 1 },
                by: PresentedBy::Other { pid: 77, command: "ublk".to_owned() },
            },
        ],
        retired: vec![Id128([7; 16])],
    }
}

fn ublk(minor: u32) -> DeviceFacts {
    let name = format!("ublkb{minor}");
    let mut facts = DeviceFacts::disk(&name, DeviceNumber { major: 259, minor }, GIB).with_serial(None);
    facts.identity.kind = DeviceKind::Ublk;
    facts
}

fn partition(name: &str, minor: u32, of: &DeviceFacts) -> DeviceFacts {
    let mut facts = disk(name, minor).standing_on(of);
    facts.identity.serial = of.identity.serial.clone();
    facts.identity.partition = Some(1);
    facts
}

fn signature(id: &str, at: u64) -> Signature {
    Signature { id: id.parse().unwrap(), at }
}

fn holding(mut facts: DeviceFacts, ids: &[&str]) -> DeviceFacts {
    let signatures = ids.iter().map(|id| signature(id, 0)).collect();
    facts.contents = Contents::Read(Box::new(Content { signatures, ..Content::default() }));
    facts
}

fn with(mut facts: DeviceFacts, change: impl FnOnce(&mut Content)) -> DeviceFacts {
    let mut content = Content::default();
    change(&mut content);
    facts.contents = Contents::Read(Box::new(content));
    facts
}

fn label(set: Id128, shadow: Id128, end: Option<ImageEnd>) -> Label {
    Label { set, shadow, epoch: Epoch(1), session: NODE, end }
}

fn labelled(facts: DeviceFacts, set: Id128) -> DeviceFacts {
    with(facts, |content| {
        content.label = Some(label(set, SHADOW, None));
        content.signatures = vec![signature(&format!("umbra-label:{set}"), 0)];
    })
}

fn superblock(set: Id128) -> SuperblockFacts {
    let superblock = crate::testing::superblock(set);
    SuperblockFacts {
        epoch: umbra_engine::Epoch(1),
        identity: superblock.identity,
        state: superblock.header.state,
        first_slot: true,
    }
}

fn bitmap_with(facts: DeviceFacts, superblock: SuperblockFacts) -> DeviceFacts {
    with(facts, |content| {
        content.signatures = vec![signature(&format!("umbra-bitmap:{}", superblock.identity.set), 0)];
        content.superblock = Some(UmbraSuperblock::Readable(Box::new(superblock)));
    })
}

fn ask<'a>(
    role: Role,
    expected: Expected<'a>,
    device: &'a DeviceFacts,
    consent: &'a Consent,
    world: &'a World,
) -> Question<'a> {
    let fit = match role {
        Role::Master => Fit::ANY,
        Role::Shadow => Fit { bytes: GIB, logical_block: 512 },
        Role::Bitmap => Fit { bytes: 1 << 20, logical_block: 512 },
    };
    Question { role, expected, path: &device.path, device: Some(device), fit, consent, world }
}

/// A new volume of the set `weekly`, or the new master `log`.
fn new_with(role: Role, device: &DeviceFacts, wipe: &[&str]) -> Result<Free, Refusal> {
    let consent = Consent { wipe: wipe.iter().map(|id| id.parse().unwrap()).collect(), weak_identity: false };
    let owner = if role == Role::Master { master(OTHER, "log") } else { set(OTHER, "weekly") };
    decide(&ask(role, Expected::New(&owner), device, &consent, &world())).free()
}

fn new(role: Role, device: &DeviceFacts) -> Result<Free, Refusal> {
    new_with(role, device, &[])
}

const ROLES: [Role; 3] = [Role::Master, Role::Shadow, Role::Bitmap];

#[test]
fn an_empty_disk_may_become_anything() {
    for role in ROLES {
        let free = new(role, &disk("sdx", 160)).unwrap();
        assert_eq!(free.wipe, []);
    }
}

/// A presented device was accepted as a shadow, and as a master.
#[test]
fn a_presented_device_of_ours_and_what_stands_on_one_is_nothing_else() {
    for role in ROLES {
        let own = ublk(0);
        let on_top = disk("dm-3", 99).standing_on(&partition("ublkb0p1", 5, &own));
        for device in [own, on_top] {
            let refusal = new(role, &device).unwrap_err();
            assert!(matches!(&refusal, Refusal::Presented { .. }), "{refusal}");
            let text = refusal.to_string();
            assert!(text.contains("master db") && text.contains("ublkb0"), "{text}");
        }
        let refusal = new(role, &ublk(2)).unwrap_err();
        assert!(matches!(&refusal, Refusal::Unattributed { .. }), "nobody knows whose it is: {refusal}");
    }
    assert!(new(Role::Shadow, &ublk(1)).is_ok(), "one that is provably another server's is a device");
}

/// A disk that is mounted through a loop device on top.
#[test]
fn a_device_in_use_is_refused_whoever_uses_it_but_readers() {
    let through = |by| Used { by, through: Some("loop3".to_owned()) };
    let opened = |writes| Holder::Opened { pid: 5, command: "dd".to_owned(), writes };
    let mapped = |writes| Holder::Mapped { pid: 5, command: "db".to_owned(), writes };
    let uses = [
        through(Holder::Mounted { at: "/mnt".into(), by: None }),
        through(Holder::Stacked { name: "vg-lv".to_owned() }),
        through(Holder::Swap),
        through(Holder::Member { of: "btrfs:1".to_owned() }),
        through(Holder::Locked { pid: 3 }),
        through(opened(true)),
        through(mapped(true)),
    ];
    for role in ROLES {
        for by in &uses {
            let mut device = disk("sdx", 160);
            device.used.push(by.clone());
            let refusal = new(role, &device).unwrap_err();
            assert!(
                matches!(&refusal, Refusal::InUse { used, .. } if used.as_slice() == std::slice::from_ref(by)),
                "{refusal}"
            );
            assert!(refusal.to_string().contains("loop3 is "), "{refusal}");
        }
        let device = disk("sdx", 160).used_by(opened(false)).used_by(mapped(false));
        assert!(new(role, &device).is_ok(), "udev looks at every device that appears");
    }
}

/// The same disk under another name, a partition of a master's disk, the disk of a master's partition.
#[test]
fn what_is_configured_is_recognised_under_every_name() {
    let sda = disk("sda", 0);
    let same_hardware = disk("sdz", 400).with_serial(Some("sda"));
    let below_lv = disk("dm-0", 77).standing_on(&sda);
    for device in [sda.clone(), same_hardware, partition("sda1", 1, &sda), below_lv] {
        for role in ROLES {
            let refusal = new(role, &device).unwrap_err();
            assert!(matches!(&refusal, Refusal::AlreadyUsed { has: Role::Master, .. }), "{refusal}");
            assert!(refusal.to_string().contains("master db"), "{refusal}");
        }
    }
    // The master is a partition; the disk, and its other partitions.
    let whole = disk("sdd", 48);
    let (first, second) = (partition("sdd1", 49, &whole), partition("sdd2", 50, &whole));
    let mut world = world();
    world.configured = vec![configured(Role::Master, master(MASTER, "db"), &first)];
    let consent = Consent::default();
    let owner = set(OTHER, "weekly");
    let question =
        |device| decide(&ask(Role::Shadow, Expected::New(&owner), device, &consent, &world)).free();
    assert!(matches!(question(&whole), Err(Refusal::AlreadyUsed { .. })));
    let mut second = second;
    second.identity.partition = Some(2);
    assert!(question(&second).is_ok(), "a sibling partition is another device");
}

/// A volume that is configured and not there now is recognised by its unique name, and a weak one by its path.
#[test]
fn what_is_configured_and_was_not_found_is_recognised_too() {
    let mut world = world();
    for configured in &mut world.configured {
        configured.device = None;
    }
    let consent = Consent::default();
    let owner = set(OTHER, "weekly");
    let question = |world: &World, device: &DeviceFacts| {
        decide(&ask(Role::Shadow, Expected::New(&owner), device, &consent, world)).free()
    };
    let moved = disk("sdz", 400).with_serial(Some("sdb"));
    assert!(matches!(question(&world, &moved), Err(Refusal::AlreadyUsed { has: Role::Shadow, .. })));
    let partition_of_it = partition("sdz1", 401, &moved);
    assert!(matches!(question(&world, &partition_of_it), Err(Refusal::AlreadyUsed { .. })));
    world.configured[1].identity = None;
    assert!(matches!(question(&world, &disk("sdb", 16).with_serial(None)), Err(Refusal::AlreadyUsed { .. })));
    assert!(question(&world, &disk("sdq", 17).with_serial(None)).is_ok());
}

#[test]
fn the_volumes_of_one_set_are_two_devices() {
    let owner = set(OTHER, "weekly");
    let (shadow, consent) = (disk("sdx", 160), Consent::default());
    let mut world = world();
    world.configured.push(configured(Role::Shadow, owner.clone(), &shadow));
    let again = disk("sdy", 176).with_serial(Some("sdx"));
    for device in [&shadow, &again] {
        let bitmap = decide(&ask(Role::Bitmap, Expected::New(&owner), device, &consent, &world)).free();
        assert!(matches!(bitmap, Err(Refusal::AlreadyUsed { has: Role::Shadow, .. })), "{bitmap:?}");
    }
    let bitmap = disk("sdz", 192);
    assert!(decide(&ask(Role::Bitmap, Expected::New(&owner), &bitmap, &consent, &world)).free().is_ok());
}

#[test]
fn two_masters_cannot_have_one_name() {
    let consent = Consent::default();
    let owner = master(OTHER, "db");
    let device = disk("sdx", 160);
    let world = world();
    let refusal =
        decide(&ask(Role::Master, Expected::New(&owner), &device, &consent, &world)).free().unwrap_err();
    assert!(matches!(&refusal, Refusal::NameTaken { owner } if owner.id == MASTER), "{refusal}");
}

#[test]
fn a_wipe_is_confirmed_exactly_or_not_at_all() {
    let two = ["ext4:aa", "gpt:bb"];
    for role in [Role::Shadow, Role::Bitmap] {
        let device = holding(disk("sdx", 160), &two);
        for asked in [
            &[][..],
            &["ext4:aa"],
            &["gpt:bb"],
            &["ext4:aa", "gpt:cc"],
            &["ext4:aa", "gpt:bb", "xfs:dd"],
            &["ext4"],
        ] {
            let refusal = new_with(role, &device, asked).unwrap_err();
            assert!(matches!(&refusal, Refusal::NeedsWipe { .. }), "{asked:?}: {refusal}");
            let text = refusal.to_string();
            assert!(text.contains("--wipe-signature ext4:aa --wipe-signature gpt:bb"), "{text}");
        }
        for asked in [["ext4:aa", "gpt:bb"], ["gpt:bb", "ext4:aa"]] {
            assert_eq!(new_with(role, &device, &asked).unwrap().wipe.len(), 2);
        }
        let unknown = holding(disk("sdx", 160), &["unknown:0123"]);
        assert!(matches!(new(role, &unknown), Err(Refusal::NeedsWipe { .. })));
        let refusal = new_with(role, &disk("sdx", 160), &["ext4:aa"]).unwrap_err();
        assert!(refusal.to_string().contains("it is empty, and ext4:aa was confirmed"), "{refusal}");
        let mut unread = disk("sdx", 160);
        unread.contents = Contents::Unread { why: "input/output error".to_owned() };
        assert!(matches!(new(role, &unread), Err(Refusal::Unread { .. })));
    }
    let data = holding(disk("sdx", 160), &two);
    assert!(new(Role::Master, &data).unwrap().wipe.is_empty(), "a master's content is kept");
    assert!(matches!(new_with(Role::Master, &data, &two), Err(Refusal::MasterIsNotWiped { .. })));
}

#[test]
fn volumes_of_sets_are_nothing_else_and_those_of_disabled_ones_are_free() {
    let live = bitmap_with(disk("sdx", 160), superblock(SET));
    for role in ROLES {
        let wipe = [format!("umbra-bitmap:{SET}")];
        let refusal = new_with(role, &live, &wipe.each_ref().map(String::as_str)).unwrap_err();
        assert!(matches!(&refusal, Refusal::VolumeOfSet { has: Role::Bitmap, .. }), "{refusal}");
        let refusal = new(role, &labelled(disk("sdx", 160), SET)).unwrap_err();
        assert!(matches!(&refusal, Refusal::VolumeOfSet { has: Role::Shadow, .. }), "{refusal}");
    }
    // Of a set that nobody here knows: perhaps another node's.
    let foreign = bitmap_with(disk("sdx", 160), superblock(OTHER));
    assert!(matches!(new(Role::Master, &foreign), Err(Refusal::NotAMaster { .. })));
    assert!(matches!(new(Role::Shadow, &foreign), Err(Refusal::NeedsWipe { .. })));
    assert!(new_with(Role::Shadow, &foreign, &[&format!("umbra-bitmap:{OTHER}")]).is_ok());
    let disabled =
        bitmap_with(disk("sdx", 160), SuperblockFacts { state: SetState::Disabled, ..superblock(OTHER) });
    assert!(new(Role::Bitmap, &disabled).is_ok());
    assert!(new(Role::Shadow, &labelled(disk("sdx", 160), Id128([7; 16]))).is_ok(), "retired");
    assert!(matches!(new(Role::Shadow, &labelled(disk("sdx", 160), OTHER)), Err(Refusal::NeedsWipe { .. })));
}

#[test]
fn what_somebody_put_onto_a_volume_after_its_set_was_disabled_is_asked_for() {
    let disabled = || SuperblockFacts { state: SetState::Disabled, ..superblock(OTHER) };
    let and = |superblock: SuperblockFacts, id: &str, at: u64| {
        let mut device = bitmap_with(disk("sdx", 160), superblock);
        let Contents::Read(content) = &mut device.contents else { unreachable!("just made") };
        content.signatures.push(signature(id, at));
        device
    };
    assert!(new(Role::Bitmap, &and(disabled(), "gpt:aa", GIB - 512)).is_ok(), "a piece of the old image");
    assert!(matches!(new(Role::Bitmap, &and(disabled(), "ext4:aa", 1024)), Err(Refusal::NeedsWipe { .. })));
    let overwritten = SuperblockFacts { first_slot: false, ..disabled() };
    assert!(matches!(
        new(Role::Bitmap, &and(overwritten, "gpt:aa", GIB - 512)),
        Err(Refusal::NeedsWipe { .. })
    ));
}

#[test]
fn a_weak_master_needs_consent_and_volumes_must_fit() {
    let weak = disk("sdx", 160).with_serial(None);
    assert!(matches!(new(Role::Master, &weak), Err(Refusal::WeakIdentity { .. })));
    let owner = master(OTHER, "log");
    let (consent, world) = (Consent { weak_identity: true, ..Consent::default() }, world());
    assert!(decide(&ask(Role::Master, Expected::New(&owner), &weak, &consent, &world)).free().is_ok());
    let mut device = disk("sdx", 160);
    device.capabilities.read_only = true;
    assert!(matches!(new(Role::Master, &device), Err(Refusal::ReadOnly { .. })));
    let mut device = disk("sdx", 160);
    device.capabilities.size -= 512;
    assert!(matches!(new(Role::Shadow, &device), Err(Refusal::TooSmall { .. })));
    // The head may lie on the bitmap volume.
    let mut device = disk("sdx", 160);
    device.capabilities.logical_block = 4096;
    for role in [Role::Shadow, Role::Bitmap] {
        assert!(matches!(new(role, &device), Err(Refusal::BlockTooLarge { allowed: 512, .. })));
    }
    let consent = Consent::default();
    let nothing =
        Question { device: None, ..ask(Role::Shadow, Expected::New(&owner), &device, &consent, &world) };
    assert!(matches!(decide(&nothing), Verdict::Refused(Refusal::Absent { .. })));
}
