use super::*;
use crate::id::{DeviceIdentity, MasterRef, SetRef};
use crate::map::ChunkMap;
use crate::time::{IoDeadline, Millis, WallTime};
use proptest::prelude::*;

#[test]
fn sizes_are_read_with_suffixes_of_1024() {
    let read = |text: &str| text.parse::<ByteCount>().map(|size| size.0).ok();
    assert_eq!(read("1Ti"), Some(1 << 40));
    assert_eq!(read("64Ki"), Some(64 << 10));
    assert_eq!(read("4k"), Some(4096));
    assert_eq!(read("4K"), Some(4096));
    assert_eq!(read("16MiB"), Some(16 << 20));
    assert_eq!(read("512"), Some(512));
    assert_eq!(read("512b"), Some(512));
    assert_eq!(read("0"), Some(0));
    for bad in ["", "Ti", "1.5Gi", "-1", "1X", "1 Ti", "16Ei", "99999999999999999999", "0x10"] {
        assert_eq!(read(bad), None, "{bad:?}");
    }
}

#[test]
fn chunk_sizes_are_powers_of_two_in_range() {
    for good in ["4Ki", "64Ki", "4Mi", "65536"] {
        good.parse::<ChunkSize>().expect(good);
    }
    for bad in ["0", "2Ki", "8Mi", "96Ki", "65537"] {
        bad.parse::<ChunkSize>().expect_err(bad);
    }
}

#[test]
fn names_cannot_be_mistaken_for_uuids_or_paths() {
    for good in ["a", "pg-1", "node.A_1", "9lives"] {
        assert_eq!(good.parse::<Label>().expect(good).to_string(), good);
    }
    let long = "x".repeat(254);
    let bad = ["", "-a", ".a", "a/b", "a b", "ä", "a\n", "6d9ce08d-6d6c-4b5b-9b3a-1f2f6bb9f0a1", &long];
    for bad in bad {
        bad.parse::<Label>().expect_err(bad);
    }
}

#[test]
fn paths_are_absolute_and_plain() {
    for good in ["/dev/sda", "/dev/disk/by-id/wwn-0x5000", "/srv/with blank.img"] {
        good.parse::<DevicePath>().expect(good);
    }
    let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
    for bad in ["", "sda", "/dev/../etc", "/dev/./sda", "/dev/\u{1b}[2J", "/a\nb", &long] {
        bad.parse::<DevicePath>().expect_err(bad);
    }
}

#[test]
fn details_are_one_line_and_bounded() {
    assert_eq!(Detail::from("two\nlines\u{7}").as_str(), "two lines ");
    let long = Detail::from("ä".repeat(1000));
    assert_eq!(long.as_str().len(), DETAIL_BYTES_MAX);
    let odd = Detail::from(format!("x{}", "ä".repeat(1000)));
    assert_eq!(odd.as_str().len(), DETAIL_BYTES_MAX - 1);
}

#[test]
fn times_and_deadlines_are_read() {
    let read = |text: &str| text.parse::<Millis>().map(|time| time.0).ok();
    assert_eq!(read("250ms"), Some(250));
    assert_eq!(read("5s"), Some(5000));
    assert_eq!(read("2m"), Some(120_000));
    assert_eq!(read("1h"), Some(3_600_000));
    for bad in ["", "5", "s", "5 s", "5d", "-1s"] {
        assert_eq!(read(bad), None, "{bad:?}");
    }
    "0ms".parse::<IoDeadline>().expect_err("no time at all");
    "61m".parse::<IoDeadline>().expect_err("more than an hour");
}

#[test]
fn wall_times_are_rfc_3339() {
    let known = [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_001_059_200_250, "2001-09-21T08:00:00.250Z"),
        (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        (253_402_207_200_999, "9999-12-30T22:00:00.999Z"),
    ];
    for (millis, text) in known {
        assert_eq!(WallTime::from_unix_millis(millis).to_string(), text);
        assert_eq!(text.parse(), Ok(WallTime::from_unix_millis(millis)));
    }
    assert_eq!(WallTime::from_unix_millis(u64::MAX).to_string(), "9999-12-30T22:00:00.999Z");
    for bad in [
        "",
        "2001-09-21T08:00:00.25Z",
        "2001-09-21T10:00:00.250+02:00",
        "1969-12-31T23:59:59.999Z",
        "2001-09-21",
        "2001-02-29T00:00:00.000Z",
        "2001-09-21T24:00:00.000Z",
        "2001-09-21 08:00:00.250Z",
    ] {
        bad.parse::<WallTime>().expect_err(bad);
    }
}

#[test]
fn references_are_uuids_or_names() {
    let id = "6d9ce08d-6d6c-4b5b-9b3a-1f2f6bb9f0a1";
    assert!(matches!(id.parse(), Ok(SetRef::Id(_))));
    assert!(matches!(id.parse(), Ok(MasterRef::Id(_))));
    assert!(matches!("pg-1".parse(), Ok(SetRef::Name { namespace: None, .. })));
    assert!(matches!("prod/pg-1".parse(), Ok(SetRef::Name { namespace: Some(_), .. })));
    for bad in ["", "/", "a/", "/a", "a/b/c", "a b"] {
        bad.parse::<SetRef>().expect_err(bad);
    }
    let weak: DeviceIdentity = "file:8:17".parse().expect("a valid identity");
    assert!(weak.is_weak());
    assert_eq!(weak.to_string(), "file:8:17");
    for bad in ["", "wwid:", "foo:1", "serial", "serial: x"] {
        bad.parse::<DeviceIdentity>().expect_err(bad);
    }
}

#[test]
fn signatures_can_be_repeated_in_a_shell() {
    for good in ["ext4:1b4e28ba-2fa1", "dos:0x1234", "LVM2_member:a:b"] {
        assert_eq!(good.parse::<Signature>().expect(good).to_string(), good);
    }
    for bad in ["", "ext4", "ext4:", ":x", "a b:c", "a:$(reboot)", "a:'"] {
        bad.parse::<Signature>().expect_err(bad);
    }
    assert_eq!(Signature::new("ext4", "ab cd;ef").as_str(), "ext4:ab_cd_ef");
    let odd = Signature::new("", &"ä".repeat(500));
    assert_eq!(odd.as_str().parse(), Ok(odd.clone()));
    assert_eq!(
        "b:1 a:1 b:1".parse::<Signatures>().expect("two").flags(),
        "--wipe-signature a:1 --wipe-signature b:1"
    );
    "".parse::<Signatures>().expect_err("none");
}

proptest! {
    #[test]
    fn every_size_is_read_back_from_its_text(size: u64) {
        prop_assert_eq!(ByteCount(size).to_string().parse(), Ok(ByteCount(size)));
    }

    #[test]
    fn every_moment_is_read_back_from_its_text(millis in 0_u64..300_000_000_000_000) {
        let time = WallTime::from_unix_millis(millis);
        prop_assert_eq!(time.to_string().parse(), Ok(time));
    }

    #[test]
    fn no_text_upsets_a_reader(text in "\\PC{0,40}|[0-9T:.Z-]{20,26}|[0-9]{1,3}[a-zA-Zäß]{0,3}") {
        drop((text.parse::<ByteCount>(), text.parse::<Millis>(), text.parse::<WallTime>()));
        drop((text.parse::<SetRef>(), text.parse::<MasterRef>(), text.parse::<DeviceIdentity>()));
        drop((text.parse::<DevicePath>(), text.parse::<ChunkSize>(), text.parse::<Detail>()));
    }

    #[test]
    fn runs_cover_every_chunk_once_and_evenly(total in 0_u64..=1 << 40, columns in 1_u64..=16_384) {
        let columns = Columns::new(columns).expect("in bounds");
        let runs: Vec<_> = ChunkMap::runs(total, columns).collect();
        prop_assert_eq!(runs.len() as u64, total.min(u64::from(columns.get())));
        let mut next = 0;
        for run in &runs {
            prop_assert_eq!(run.start, next);
            prop_assert!(run.end > run.start);
            next = run.end;
        }
        prop_assert_eq!(next, total);
        let sizes = runs.iter().map(|run| run.end - run.start);
        prop_assert!(sizes.clone().max().unwrap_or(0) - sizes.min().unwrap_or(0) <= 1);
    }
}
