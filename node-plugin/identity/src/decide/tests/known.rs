//! Devices on record: found again, or waited for.

use super::*;

fn record(role: Role) -> Known {
    let (owner, name, marks) = match role {
        Role::Master => (master(MASTER, "db"), "sda", Marks::Plain),
        Role::Shadow => (set(SET, "nightly"), "sdb", Marks::Label { set: SET, shadow: SHADOW }),
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

/// Nothing compared the superblock with the record.
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
    assert!(matches!(waits(Role::Bitmap, &weak(record(Role::Bitmap)), &nameless), Refusal::Swapped { .. }));
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
    assert!(verdict(Role::Shadow, &known, &given_up).ours().is_ok(), "that it has ended is for the recovery");
}

/// A label in a plain image's user data was believed.
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
    assert!(matches!(waits(Role::Shadow, &weak(plain(Role::Shadow)), &nameless), Refusal::Swapped { .. }));
    let forged = labelled(disk("sdb", 16).with_serial(None), OTHER);
    assert!(verdict(Role::Shadow, &weak(plain(Role::Shadow)), &forged).ours().is_ok());
    let elsewhere = disk("sdm", 200).with_serial(None);
    assert!(matches!(waits(Role::Shadow, &weak(plain(Role::Shadow)), &elsewhere), Refusal::Swapped { .. }));
}

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

/// The volumes of a set, and its master, changed names over a reboot.
#[test]
fn a_renamed_machine_is_found_again() {
    let renamed = |role, name: &str| DeviceFacts { path: name.into(), name: name.to_owned(), ..right(role) };
    let machine = [
        renamed(Role::Shadow, "/dev/sda"),
        renamed(Role::Bitmap, "/dev/sdb"),
        renamed(Role::Master, "/dev/sdc"),
    ];
    for (role, path) in [(Role::Shadow, "/dev/sda"), (Role::Bitmap, "/dev/sdb"), (Role::Master, "/dev/sdc")] {
        assert_eq!(find(role, &record(role), &machine).unwrap().path, Path::new(path));
    }
    // Weak ones are known by what Umbra wrote there; a master without a name only by its path.
    let nameless: Vec<DeviceFacts> = machine.iter().map(|facts| facts.clone().with_serial(None)).collect();
    for (role, path) in [(Role::Shadow, "/dev/sda"), (Role::Bitmap, "/dev/sdb")] {
        assert_eq!(find(role, &weak(record(role)), &nameless).unwrap().path, Path::new(path));
    }
    assert!(matches!(
        find(Role::Master, &weak(record(Role::Master)), &nameless),
        Err(Refusal::Swapped { .. })
    ));
}

/// Without unique hardware Umbra's marks tell; that a volume now lies where another one was says nothing.
#[test]
fn volumes_without_a_name_that_were_exchanged_are_both_found() {
    let at = |facts: DeviceFacts, path: &str| DeviceFacts { path: path.into(), ..facts.with_serial(None) };
    let machine = [at(right(Role::Shadow), "/dev/sdc"), at(right(Role::Bitmap), "/dev/sdb")];
    let mut world = world();
    for configured in &mut world.configured {
        (configured.device, configured.identity) = (None, None);
    }
    for (role, path) in [(Role::Shadow, "/dev/sdc"), (Role::Bitmap, "/dev/sdb")] {
        let fit = Fit { bytes: 1 << 20, logical_block: 512 };
        let found = locate(role, &weak(record(role)), fit, &machine, &world).unwrap();
        assert_eq!(found.path, Path::new(path));
    }
    // A plain one has nothing else: it might be the other one.
    let plain = Known { marks: Marks::Plain, path: "/dev/sdb".into(), ..weak(record(Role::Shadow)) };
    let device = disk("sdb", 16).with_serial(None);
    world.configured[2].path = "/dev/sdb".into();
    let consent = Consent::default();
    let verdict = decide(&ask(Role::Shadow, Expected::Known(&plain), &device, &consent, &world));
    assert!(matches!(verdict, Verdict::Wait(Refusal::AlreadyUsed { .. })), "{verdict:?}");
}

#[test]
fn one_device_under_two_paths_is_one_and_what_was_not_looked_at_may_be_it() {
    let known = Known { path: "/dev/disk/by-id/x".into(), ..weak(record(Role::Bitmap)) };
    let there = right(Role::Bitmap).with_serial(None);
    let linked = DeviceFacts { path: known.path.clone(), ..there.clone() };
    let found = find(Role::Bitmap, &known, &[there.clone(), linked]).unwrap();
    assert_eq!(found.path, known.path);
    // A name that an older kernel did not show is no other device where the marks say whose it is.
    assert!(find(Role::Bitmap, &known, &[there.clone().with_serial(Some("new"))]).is_ok());
    let plain = Known { marks: Marks::Plain, ..known.clone() };
    assert!(find(Role::Shadow, &plain, &[there.clone().with_serial(Some("new"))]).is_err());
    let unasked = DeviceFacts { contents: Contents::Unasked, ..there };
    assert_eq!(candidates(&known, std::slice::from_ref(&unasked)), [&unasked]);
    assert!(find(Role::Bitmap, &known, &[unasked]).is_err(), "nobody looked");
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
