//! `umbra-io size`, `inspect` and `check` as programs: what they print where, and how they end.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

use flate2::read::GzDecoder;
use procfs::process::Process;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use umbra_engine::Geometry;
use umbra_format::{BLOCK_BYTES, Layout, RING_BLOCKS_MAX, SLOT_B_OFFSET, Superblock};

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

/// In the same form as those of `ctl`.
#[test]
fn errors_are_documents_for_programs() {
    let golden = golden();
    for (args, reason) in [
        (vec!["check", "/nonexistent"], "IO"),
        (vec!["inspect", "/dev/null"], "NOT_A_VOLUME"),
        (vec!["check", golden.to_str().unwrap(), "--repair"], "PACKED"),
        (vec!["check", env!("CARGO_MANIFEST_PATH")], "BITMAP_FOREIGN"),
        (vec!["inspect", env!("CARGO_MANIFEST_PATH")], "BITMAP_FOREIGN"),
        (vec!["size", "--master", "1000"], "BAD_ARGUMENT"),
    ] {
        let (code, out, error) = run(&[args.clone(), vec!["--json"]].concat());
        let document: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &document["error"]["reason"]), (2, &reason.into()), "{args:?}: {out}");
        for key in ["message", "remedy"] {
            let text = document["error"][key].as_str().unwrap();
            assert!(error.contains(text), "{args:?}: {text} is not in {error}");
        }
        assert!(document["error"]["fields"].is_object());
    }
}

/// A superblock of a few bytes can speak of a volume of any size; what is found there is listed as far as it fits.
#[test]
fn a_volume_that_claims_to_be_huge_is_checked_in_little_memory() {
    const MOST_KIB: u64 = 64 << 10;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.img");
    let mut block = Box::new([0; BLOCK_BYTES]);
    GzDecoder::new(File::open(golden()).unwrap()).read_exact(block.as_mut_slice()).unwrap();
    let mut superblock = Superblock::decode(&block).unwrap();
    superblock.identity.geometry = Geometry::new(4 << 40, 4096).unwrap();
    superblock.identity.ring_blocks = RING_BLOCKS_MAX;
    superblock.encode(block.as_mut_slice());
    let identity = &superblock.identity;
    let layout = Layout::new(identity.geometry, identity.ring_blocks, identity.head_bytes);
    let file = File::create(&path).unwrap();
    file.set_len(layout.total_bytes()).unwrap();
    for slot in [0, SLOT_B_OFFSET] {
        file.write_all_at(block.as_slice(), slot).unwrap();
    }
    let mut check = Command::new(env!("CARGO_BIN_EXE_umbra-io"))
        .args(["check", "--json", path.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its answer is larger than a pipe: when it begins, everything is in memory, and it is still there.
    let mut out = check.stdout.take().unwrap();
    let mut answer = vec![0];
    out.read_exact(&mut answer).unwrap();
    let status = Process::new(i32::try_from(check.id()).unwrap()).unwrap().status().unwrap();
    out.read_to_end(&mut answer).unwrap();
    assert_eq!(check.wait().unwrap().code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert!(
        answer.len() > 100_000 && report["more_problems"].as_u64().unwrap() > 100_000,
        "{}",
        answer.len()
    );
    let peak = status.vmhwm.unwrap();
    println!("checked {} GiB in {} MiB", layout.total_bytes() >> 30, peak >> 10);
    assert!(peak < MOST_KIB, "{peak} KiB");
}

#[test]
fn sizes_for_people_and_programs() {
    let (code, out, _) = run(&["size", "--master", "1Ti", "--chunk", "64Ki"]);
    assert_eq!((code, out.split(' ').next()), (0, Some("32Mi")));
    let (_, out, _) = run(&["size", "--master", "1Ti", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["bytes"], 32 << 20);
}
