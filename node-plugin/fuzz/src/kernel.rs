//! A machine made of files: some of `/sys` and `/proc` say what no kernel has said yet.

use crate::choices::Choices;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;
use umbra_identity::Roots;
use umbra_identity::gather::{Look, Machine};

const MOUNTS: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
    36 22 8:17 / /mnt/a\\040b rw,noatime master:1 - xfs /dev/sdb1 rw,errors=continue\n\
    42 22 0:31 /sub /mnt/b rw - btrfs /dev/sdb2 ro,space_cache\n";
const MAPS: &str = "00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus-daemon\n\
    7f2c1b000000-7f2c1b021000 rw-s 00000000 00:05 1029 /dev/zero (deleted)\n\
    7ffd8000-7ffda000 rw-p 00000000 00:00 0 [stack]\n";
const LOCKS: &str =
    "1: FLOCK  ADVISORY  WRITE 708 08:10:8432 0 EOF\n2: OFDLCK ADVISORY  READ -1 00:06:4 0 EOF\n";

/// What a good machine says; `vda`, and `sdb` with two partitions.
const FILES: &[(&str, &str)] = &[
    ("sys/devices/vda/dev", "254:0\n"),
    ("sys/devices/vda/size", "16384\n"),
    ("sys/devices/vda/serial", "umbra-1"),
    ("sys/devices/vda/diskseq", "9\n"),
    ("sys/devices/vda/ro", "0\n"),
    ("sys/devices/vda/queue/logical_block_size", "512\n"),
    ("sys/devices/vda/queue/physical_block_size", "4096\n"),
    ("sys/devices/vda/queue/optimal_io_size", "131072\n"),
    ("sys/devices/vda/queue/write_cache", "write back\n"),
    ("sys/devices/vda/queue/fua", "1\n"),
    ("sys/devices/vda/queue/discard_max_bytes", "1048576\n"),
    ("sys/devices/vda/loop/backing_file", "/dev/sdb1\n"),
    ("sys/devices/vda/dm/name", "vg-lv\n"),
    ("sys/devices/sdb/dev", "8:16\n"),
    ("sys/devices/sdb/size", "32768\n"),
    ("sys/devices/sdb/wwid", "naa.5000c500a1b2c3d4\n"),
    ("sys/devices/sdb/queue/logical_block_size", "4096\n"),
    ("sys/devices/sdb/sdb1/dev", "8:17\n"),
    ("sys/devices/sdb/sdb1/size", "2048\n"),
    ("sys/devices/sdb/sdb1/partition", "1\n"),
    ("sys/devices/sdb/sdb1/uevent", "MAJOR=8\nPARTN=1\nPARTUUID=0fc63daf-8483-4772-8e79-3d69d8477de4\n"),
    ("sys/devices/sdb/sdb2/dev", "8:18\n"),
    ("sys/devices/sdb/sdb2/size", "2048\n"),
    ("sys/devices/sdb/sdb2/partition", "2\n"),
    ("sys/fs/btrfs/7d6a/devices/x/dev", "8:18\n"),
    ("proc/swaps", "Filename Type Size Used Priority\n/dev/sdb2 partition 8 0 -2\n"),
    ("proc/locks", LOCKS),
    ("proc/1/comm", "init\n"),
    ("proc/1/stat", "1 (init) S 0 1 1 0 -1 4194560\n"),
    ("proc/1/mountinfo", MOUNTS),
    ("proc/1/maps", MAPS),
    ("dev/vda", ""),
    ("dev/sdb", ""),
    ("dev/sdb1", ""),
    ("dev/sdb2", ""),
];
const LINKS: &[(&str, &str)] = &[
    ("sys/dev/block/254:0", "../../devices/vda"),
    ("sys/dev/block/8:16", "../../devices/sdb"),
    ("sys/dev/block/8:17", "../../devices/sdb/sdb1"),
    ("sys/dev/block/8:18", "../../devices/sdb/sdb2"),
    ("sys/devices/sdb/sdb1/holders/vda", "../../../vda"),
    ("sys/devices/vda/slaves/sdb1", "../../sdb/sdb1"),
    ("proc/1/ns/mnt", "mnt:[4026531841]"),
    ("proc/1/fd/3", "../../../dev/sdb"),
    ("proc/self", "1"),
];

struct Fake(TempDir);

impl Fake {
    fn new() -> Self {
        let fake = Self(tempfile::tempdir().expect("a temporary folder"));
        FILES.iter().for_each(|(path, text)| fake.write(path, text.as_bytes()));
        for (path, to) in LINKS {
            let path = fake.0.path().join(path);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("made");
            symlink(to, path).expect("linked");
        }
        fake
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    fn roots(&self) -> Roots {
        let at = |part: &str| self.0.path().join(part);
        Roots { sys: at("sys"), proc: at("proc"), dev: at("dev") }
    }
}

thread_local! {
    static MACHINE: Fake = Fake::new();
}

/// A text with a word, a line or a byte changed.
fn changed(text: &str, choices: &mut Choices<'_>) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    let words: Vec<&str> = text.split(' ').collect();
    match choices.byte() % 6 {
        0 => choices.text().into_bytes(),
        1 => choices.edge().to_string().into_bytes(),
        2 => {
            let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let at = choices.below(words.len());
            words[at] = choices.text();
            words.join(" ").into_bytes()
        }
        3 => {
            bytes.truncate(choices.below(bytes.len() + 1));
            bytes
        }
        4 if !bytes.is_empty() => {
            let at = choices.below(bytes.len());
            bytes[at] = choices.byte();
            bytes
        }
        _ => text.replace(' ', choices.pick(&["\t", "  ", "\n", ""])).into_bytes(),
    }
}

/// Whether the machine could be looked at with nothing unseen.
pub(crate) fn run(data: &[u8]) -> bool {
    MACHINE.with(|machine| {
        let mut choices = Choices::new(data);
        let other: Vec<_> = (0..1 + choices.byte() % 4).map(|_| choices.pick(FILES)).collect();
        for (path, text) in &other {
            machine.write(path, &changed(text, &mut choices));
        }
        let good = look(machine);
        other.iter().for_each(|(path, text)| machine.write(path, text.as_bytes()));
        good
    })
}

fn look(machine: &Fake) -> bool {
    let roots = machine.roots();
    let file = roots.dev.join("vda");
    let look = Look::default().with_roots(roots.clone()).with_openers();
    let seen = Machine::look(&look, &[Path::new(&file)]).expect("the folders are there");
    let mut blind = false;
    for facts in seen.devices() {
        blind |= !facts.blind.is_empty();
        let (size, block) = (facts.capabilities.size, facts.capabilities.logical_block);
        assert!(block.is_power_of_two() && size.is_multiple_of(u64::from(block)), "{facts:?}");
        assert!(!facts.above.iter().any(|layer| layer.key == facts.key), "a device upon itself: {facts:?}");
        assert!(facts.overlaps(&facts), "a device is itself");
    }
    let by_path = seen.facts(&file).expect("a file").expect("it is there");
    assert_eq!(by_path.capabilities.size % 512, 0);
    seen.names().expect("the folders are there");
    !blind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_good_machine_is_unseen() {
        assert!(look(&Fake::new()));
    }
}
