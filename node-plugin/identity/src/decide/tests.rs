//! Tables: what is found, what is expected, what becomes of it.

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
        identity: superblock.identity,
        state: superblock.header.state,
        head_moved: superblock.header.head_moved,
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
        assert_eq!((free.wipe.len(), free.identity.as_deref()), (0, Some("serial:sdx")));
    }
}

/// Issue 6, 1: a presented device was accepted as a shadow, and as a master.
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

/// Issue 6, 1: a disk that is mounted through a loop device on top.
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

/// Issue 6, 4: the same disk under another name, a partition of a master's disk, the disk of a master's partition.
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
fn two_masters_cannot_have_one_name() {
    let consent = Consent::default();
    let owner = master(OTHER, "db");
    let device = disk("sdx", 160);
    let world = world();
    let refusal =
        decide(&ask(Role::Master, Expected::New(&owner), &device, &consent, &world)).free().unwrap_err();
    assert!(matches!(&refusal, Refusal::NameTaken { owner } if owner.id == MASTER), "{refusal}");
}

/// Issue 6, 6.
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
    assert_eq!(
        decide(&ask(Role::Master, Expected::New(&owner), &weak, &consent, &world)).free().unwrap().identity,
        None
    );
    let mut device = disk("sdx", 160);
    device.capabilities.read_only = true;
    assert!(matches!(new(Role::Master, &device), Err(Refusal::ReadOnly { .. })));
    let mut device = disk("sdx", 160);
    device.capabilities.size -= 512;
    assert!(matches!(new(Role::Shadow, &device), Err(Refusal::TooSmall { .. })));
    // Issue 6, 7: the head may lie on the bitmap volume.
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

mod known {
    use super::*;

    fn record(role: Role) -> Known {
        let (owner, name, marks) = match role {
            Role::Master => (master(MASTER, "db"), "sda", Marks::Plain),
            Role::Shadow => {
                (set(SET, "nightly"), "sdb", Marks::Label { set: SET, shadow: SHADOW, head_block: Some(77) })
            }
            Role::Bitmap => (
                set(SET, "nightly"),
                "sdc",
                Marks::Superblock {
                    set: SET,
                    master: MASTER,
                    master_bytes: GIB,
                    chunk_bytes: CHUNK,
                    bitmap: Some(BITMAP),
                    node: NODE,
                },
            ),
        };
        Known {
            owner,
            path: format!("/dev/{name}").into(),
            identity: Some(format!("serial:{name}")),
            size: GIB,
            marks,
            generation: None,
        }
    }

    /// The device on record, as it should be.
    fn right(role: Role) -> DeviceFacts {
        match role {
            Role::Master => holding(disk("sda", 0), &["ext4:aa"]),
            Role::Shadow => labelled(disk("sdb", 16), SET),
            Role::Bitmap => bitmap_with(disk("sdc", 32), superblock(SET)),
        }
    }

    fn weak(mut known: Known) -> Known {
        known.identity = None;
        known
    }

    fn verdict(role: Role, known: &Known, device: &DeviceFacts) -> Verdict {
        let (consent, world) = (Consent::default(), world());
        decide(&ask(role, Expected::Known(known), device, &consent, &world))
    }

    fn waits(role: Role, known: &Known, device: &DeviceFacts) -> Refusal {
        match verdict(role, known, device) {
            Verdict::Wait(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_device_on_record_is_ours_under_whatever_name() {
        for role in ROLES {
            let ours = verdict(role, &record(role), &right(role)).ours().unwrap();
            assert_eq!((ours.grown, ours.written_outside), (None, None));
            let moved = DeviceFacts { path: "/dev/sdm".into(), ..right(role) };
            assert_eq!(verdict(role, &record(role), &moved).ours().unwrap().path, Path::new("/dev/sdm"));
        }
    }

    #[test]
    fn another_device_at_the_path_is_waited_for_and_both_are_named() {
        for role in ROLES {
            let other = DeviceFacts { path: record(role).path, ..disk("sdq", 300) };
            let refusal = waits(role, &record(role), &other);
            assert!(matches!(&refusal, Refusal::Swapped { .. }), "{refusal}");
            let text = refusal.to_string();
            assert!(
                text.contains("serial:sdq") && text.contains(record(role).identity.as_deref().unwrap()),
                "{text}"
            );
            assert!(text.contains("it is waited for"), "{text}");
            let nameless = right(role).with_serial(None);
            assert!(matches!(waits(role, &record(role), &nameless), Refusal::Swapped { .. }));
        }
    }

    /// Issue 6, 2: nothing compared the superblock with the record.
    #[test]
    fn a_bitmap_volume_must_say_that_it_is_the_one_on_record() {
        type Change = fn(&mut SetIdentity);
        let changes: [(&str, Change); 5] = [
            ("names set", |identity| identity.set = OTHER),
            ("names master", |identity| identity.master.uuid = OTHER),
            ("names bitmap volume", |identity| identity.bitmap = OTHER),
            ("of a master of", |identity| identity.geometry = Geometry::new(GIB / 2, CHUNK).unwrap()),
            ("of chunks of", |identity| identity.geometry = Geometry::new(GIB, 2 * CHUNK).unwrap()),
        ];
        for (expected, change) in changes {
            let mut found = superblock(SET);
            change(&mut found.identity);
            for identity in [true, false] {
                let device = disk("sdc", 32).with_serial(identity.then_some("sdc"));
                let known = if identity { record(Role::Bitmap) } else { weak(record(Role::Bitmap)) };
                let refusal = waits(Role::Bitmap, &known, &bitmap_with(device, found.clone()));
                assert!(refusal.to_string().contains(expected), "{refusal}");
                assert_eq!(matches!(&refusal, Refusal::Overwritten { .. }), identity, "{refusal}");
            }
        }
        let refusal = waits(Role::Bitmap, &record(Role::Bitmap), &disk("sdc", 32));
        assert!(matches!(&refusal, Refusal::Overwritten { .. }), "{refusal}");
    }

    #[test]
    fn a_damaged_superblock_is_for_the_recovery_where_the_hardware_says_whose_it_is() {
        let damaged = |device| {
            with(device, |content| {
                content.superblock = Some(UmbraSuperblock::Unusable(SuperblockError::Damaged));
            })
        };
        assert!(verdict(Role::Bitmap, &record(Role::Bitmap), &damaged(disk("sdc", 32))).ours().is_ok());
        let nameless = damaged(disk("sdc", 32).with_serial(None));
        assert!(matches!(
            waits(Role::Bitmap, &weak(record(Role::Bitmap)), &nameless),
            Refusal::Swapped { .. }
        ));
    }

    #[test]
    fn a_session_of_another_node_is_not_taken_over() {
        let mut found = superblock(SET);
        found.identity.node = OTHER;
        let refusal = waits(Role::Bitmap, &record(Role::Bitmap), &bitmap_with(disk("sdc", 32), found));
        assert!(matches!(&refusal, Refusal::OtherNode { node: OTHER, .. }), "{refusal}");
        let mut detached = superblock(SET);
        detached.identity.node = Id128::default();
        let device = bitmap_with(disk("sdc", 32), detached);
        assert!(verdict(Role::Bitmap, &record(Role::Bitmap), &device).ours().is_ok());
    }

    /// Issue 6, 3.
    #[test]
    fn a_disk_without_the_label_is_not_the_shadow_of_a_set_that_needs_it() {
        let known = record(Role::Shadow);
        let file_system = holding(disk("sdb", 16), &["ext4:aa"]);
        assert!(matches!(waits(Role::Shadow, &known, &file_system), Refusal::Overwritten { .. }));
        let nameless = holding(disk("sdb", 16).with_serial(None), &["ext4:aa"]);
        assert!(matches!(waits(Role::Shadow, &weak(known.clone()), &nameless), Refusal::Swapped { .. }));
        for (set, shadow) in [(OTHER, SHADOW), (SET, OTHER)] {
            let other = with(disk("sdb", 16), |content| content.label = Some(label(set, shadow, None)));
            assert!(matches!(waits(Role::Shadow, &known, &other), Refusal::Overwritten { .. }));
        }
        let given_up = with(disk("sdb", 16), |content| {
            content.label = Some(label(SET, SHADOW, Some(ImageEnd::GivenUp)));
        });
        assert!(
            verdict(Role::Shadow, &known, &given_up).ours().is_ok(),
            "that it has ended is for the recovery"
        );
    }

    /// A crash between the head's way and the label's or the superblock's leaves the head where it belongs.
    #[test]
    fn the_head_in_the_label_s_place_is_as_good_where_the_hardware_is_unique() {
        let head = |device| with(device, |content| content.first_block = 77);
        assert!(verdict(Role::Shadow, &record(Role::Shadow), &head(disk("sdb", 16))).ours().is_ok());
        // The master itself has the same first block; without unique hardware it might be the master.
        let nameless = head(disk("sdb", 16).with_serial(None));
        assert!(matches!(
            waits(Role::Shadow, &weak(record(Role::Shadow)), &nameless),
            Refusal::Swapped { .. }
        ));
        let mut blind = record(Role::Shadow);
        blind.marks = Marks::Label { set: SET, shadow: SHADOW, head_block: None };
        assert!(matches!(waits(Role::Shadow, &blind, &head(disk("sdb", 16))), Refusal::Overwritten { .. }));
    }

    /// Issue 6, 3: a label in a plain image's user data was believed.
    #[test]
    fn a_label_in_a_plain_image_is_user_data() {
        let plain = |role| Known { marks: Marks::Plain, ..record(role) };
        for stale in [SET, OTHER] {
            for role in [Role::Master, Role::Shadow] {
                let name = if role == Role::Master { ("sda", 0) } else { ("sdb", 16) };
                let device = labelled(disk(name.0, name.1), stale);
                assert!(verdict(role, &plain(role), &device).ours().is_ok());
            }
        }
        // Without unique hardware it is all there is to see that two volumes were exchanged.
        let nameless = labelled(disk("sdb", 16).with_serial(None), SET);
        assert!(matches!(
            waits(Role::Shadow, &weak(plain(Role::Shadow)), &nameless),
            Refusal::Swapped { .. }
        ));
        let forged = labelled(disk("sdb", 16).with_serial(None), OTHER);
        assert!(verdict(Role::Shadow, &weak(plain(Role::Shadow)), &forged).ours().is_ok());
        let elsewhere = disk("sdm", 200).with_serial(None);
        assert!(matches!(
            waits(Role::Shadow, &weak(plain(Role::Shadow)), &elsewhere),
            Refusal::Swapped { .. }
        ));
    }

    /// Issue 6, 10.
    #[test]
    fn what_has_grown_says_so_and_what_has_shrunk_is_waited_for() {
        for role in ROLES {
            let mut device = right(role);
            device.capabilities.size += 4096;
            let grown = verdict(role, &record(role), &device).ours().unwrap().grown;
            assert_eq!(grown, Some(Grown { recorded: GIB, found: GIB + 4096 }));
        }
        for role in [Role::Master, Role::Shadow] {
            let mut device = right(role);
            device.capabilities.size -= 4096;
            let refusal = waits(role, &record(role), &device);
            assert!(matches!(&refusal, Refusal::Shrunk { .. }), "{refusal}");
            assert!(refusal.to_string().contains(&(GIB - 4096).to_string()), "{refusal}");
        }
        let mut device = right(Role::Bitmap);
        device.capabilities.size = 2 << 20;
        assert!(
            verdict(Role::Bitmap, &record(Role::Bitmap), &device).ours().is_ok(),
            "it still holds its layout"
        );
    }

    #[test]
    fn whatever_is_in_the_way_of_a_known_device_is_waited_for() {
        for role in ROLES {
            let mounted = right(role).used_by(Holder::Mounted { at: "/mnt".into(), by: Some(9) });
            assert!(matches!(waits(role, &record(role), &mounted), Refusal::InUse { .. }));
            let mut presented = right(role);
            presented.below.push(ublk(0).layer());
            assert!(matches!(waits(role, &record(role), &presented), Refusal::Presented { .. }));
            let (consent, world, known) = (Consent::default(), world(), record(role));
            let device = right(role);
            let question =
                Question { device: None, ..ask(role, Expected::Known(&known), &device, &consent, &world) };
            assert!(matches!(decide(&question), Verdict::Wait(Refusal::NotThere { .. })));
        }
        let mut unread = right(Role::Bitmap);
        unread.contents = Contents::Unread { why: "timed out".to_owned() };
        assert!(waits(Role::Bitmap, &record(Role::Bitmap), &unread).to_string().contains("timed out"));
        unread.identity.serial = Some("sda".to_owned());
        unread.key = DeviceKey::Block(number(0));
        assert!(
            verdict(Role::Master, &record(Role::Master), &unread).ours().is_ok(),
            "nothing is expected to lie on it"
        );
    }

    /// Issue 6, 9.
    #[test]
    fn a_file_system_that_was_written_while_we_were_away_is_noticed() {
        let generation = |generation| FsGeneration::Btrfs { uuid: uuid::Uuid::nil(), generation };
        let known = Known { generation: Some(generation(5)), ..record(Role::Master) };
        let found = |found: Option<FsGeneration>| {
            let device = with(disk("sda", 0), |content| content.generation = found.clone());
            verdict(Role::Master, &known, &device).ours().unwrap().written_outside
        };
        assert_eq!(found(Some(generation(5))), None);
        for moved in [Some(generation(6)), None] {
            assert_eq!(found(moved.clone()), Some(WrittenOutside { recorded: generation(5), found: moved }));
        }
        let unknown = Known { generation: None, ..known.clone() };
        let device = with(disk("sda", 0), |content| content.generation = Some(generation(6)));
        assert_eq!(verdict(Role::Master, &unknown, &device).ours().unwrap().written_outside, None);
    }

    fn find(role: Role, known: &Known, machine: &[DeviceFacts]) -> Result<Ours, Refusal> {
        let fit = Fit { bytes: if role == Role::Bitmap { 1 << 20 } else { GIB }, logical_block: 512 };
        // Nothing else is found yet at a start.
        let mut world = world();
        for configured in &mut world.configured {
            configured.device = None;
        }
        locate(role, known, fit, machine, &world)
    }

    /// Issue 6, 2: the volumes of a set, and its master, changed names over a reboot.
    #[test]
    fn a_renamed_machine_is_found_again() {
        let renamed =
            |role, name: &str| DeviceFacts { path: name.into(), name: name.to_owned(), ..right(role) };
        let machine = [
            renamed(Role::Shadow, "/dev/sda"),
            renamed(Role::Bitmap, "/dev/sdb"),
            renamed(Role::Master, "/dev/sdc"),
        ];
        for (role, path) in
            [(Role::Shadow, "/dev/sda"), (Role::Bitmap, "/dev/sdb"), (Role::Master, "/dev/sdc")]
        {
            assert_eq!(find(role, &record(role), &machine).unwrap().path, Path::new(path));
        }
        // Weak ones are known by what Umbra wrote there; a master without a name only by its path.
        let nameless: Vec<DeviceFacts> =
            machine.iter().map(|facts| facts.clone().with_serial(None)).collect();
        for (role, path) in [(Role::Shadow, "/dev/sda"), (Role::Bitmap, "/dev/sdb")] {
            assert_eq!(find(role, &weak(record(role)), &nameless).unwrap().path, Path::new(path));
        }
        assert!(matches!(
            find(Role::Master, &weak(record(Role::Master)), &nameless),
            Err(Refusal::Swapped { .. })
        ));
    }

    #[test]
    fn what_is_nowhere_is_waited_for_and_copies_are_told_apart_or_not_at_all() {
        let known = record(Role::Master);
        let other = DeviceFacts { path: "/dev/sda".into(), ..disk("sdq", 300) };
        let refusal = find(Role::Master, &known, &[other]).unwrap_err();
        assert!(matches!(&refusal, Refusal::NotThere { found: Some(_), .. }), "{refusal}");
        assert!(refusal.to_string().contains("serial:sdq"), "{refusal}");
        // A device that is presented has the partition table, and so the identity, of what is below.
        let copy =
            DeviceFacts { path: "/dev/sdk".into(), key: DeviceKey::Block(number(99)), ..right(Role::Master) };
        let mut presented = copy.clone();
        presented.below = vec![Layer { key: ublk(0).key, name: "ublkb0".to_owned(), partition: false }];
        assert!(find(Role::Master, &known, &[right(Role::Master), presented]).is_ok());
        let refusal = find(Role::Master, &known, &[right(Role::Master), copy]).unwrap_err();
        assert!(matches!(&refusal, Refusal::Ambiguous { devices, .. } if devices.len() == 2), "{refusal}");
        let wrong = DeviceFacts { path: "/dev/sdk".into(), ..disk("sdc", 99) };
        let found = find(Role::Bitmap, &record(Role::Bitmap), &[wrong, right(Role::Bitmap)]).unwrap();
        assert_eq!(found.path, Path::new("/dev/sdc"), "its superblock tells it from its copy");
    }
}
