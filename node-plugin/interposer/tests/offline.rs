//! `umbra-io size`, `inspect` and `check` as programs: what they print where, and how they end.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

use flate2::read::GzDecoder;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../format/testdata/v1-dependent.img.gz")
}

/// Exit code, stdout, stderr.
fn run(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_umbra-io")).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_golden_image_is_clean_as_it_lies_there() {
    let (code, out, _) = run(&["check", golden().to_str().unwrap()]);
    assert_eq!(code, 0, "{out}");
    assert!(out.ends_with("dependent is clean\n"), "{out}");
}

#[test]
fn a_damaged_image_is_mended_on_request_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bitmap.img");
    let image = path.to_str().unwrap();
    std::io::copy(&mut GzDecoder::new(File::open(golden()).unwrap()), &mut File::create(&path).unwrap())
        .unwrap();
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[1000] ^= 1;
    damaged[(4 << 20) + 100] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let (code, out, _) = run(&["check", image]);
    assert_eq!(code, 1);
    assert!(
        out.contains("problem   superblock slot A at 0x0: ") && out.ends_with("has 2 problems\n"),
        "{out}"
    );
    assert_eq!(run(&["inspect", image, "--pages"]).0, 0);
    assert_eq!(fs::read(&path).unwrap(), damaged, "nothing is written without being asked");
    let (code, out, _) = run(&["check", image, "--repair", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, report["repaired"].as_array().unwrap().len()), (0, 2), "{out}");
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn what_cannot_be_read_ends_with_2_and_says_why() {
    for (args, expected) in [
        (vec!["check", "/nonexistent"], "cannot open /nonexistent"),
        (vec!["inspect", "/dev/null"], "neither a block device nor a file"),
        (vec!["check", golden().to_str().unwrap(), "--repair"], "gunzip --keep"),
        (vec!["check", file!().rsplit('/').next().unwrap()], "cannot open"),
        (vec!["check", "x", "--accept-older"], "--repair"),
        (vec!["size", "--master", "1000"], "not a positive multiple of 512"),
        (vec!["size", "--master", "1Ti", "--chunk", "65Ki"], "no power of two"),
        (vec!["size", "--master", "16Ei"], "more than 2^64"),
    ] {
        let (code, out, error) = run(&args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn sizes_for_people_and_programs() {
    let (code, out, _) = run(&["size", "--master", "1Ti", "--chunk", "64Ki"]);
    assert_eq!((code, out.split(' ').next()), (0, Some("32Mi")));
    let (_, out, _) = run(&["size", "--master", "1Ti", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["bytes"], 32 << 20);
}
