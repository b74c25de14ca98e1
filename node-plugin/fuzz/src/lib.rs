#![forbid(unsafe_code)]
//! What comes from outside, made up: volumes behind hashes that fit, devices with marks of anybody, records, messages,
//! and files of the kernel. Whoever reads them accepts or refuses, and never panics; what was accepted holds what its
//! type promises, and is the same when it is written and read again.
//!
//! ```text
//!   seed ──> bytes ──> choices: which parts of something good are changed, and to what ──> the real reader ──> checks
//! ```
//! A case is a string of bytes, so that three can drive it: the tests here with some hundred seeds, `umbra-fuzz` for as
//! long as one likes, and libFuzzer (`libfuzzer/`), which looks for bytes that reach new code.

mod calls;
mod choices;
mod content;
mod json;
mod kernel;
mod kubelet;
mod ledger;
mod message;
mod state;
mod volume;

use umbra_store::SimRng;

/// A reader of something from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it reads.
    pub about: &'static str,
    /// Bytes that decide a case; more say nothing new.
    bytes: u64,
    run: fn(&[u8]) -> bool,
}

impl Target {
    /// Runs one case; whether what was made up was accepted.
    ///
    /// # Panics
    /// If the reader is wrong.
    pub fn run(&self, data: &[u8]) -> bool {
        (self.run)(data)
    }

    /// The case of a seed.
    pub fn case(&self, seed: u64) -> Vec<u8> {
        let mut rng = SimRng::new(seed);
        let len = rng.range(1, self.bytes);
        (0..len).map(|_| rng.bits().to_le_bytes()[0]).collect()
    }
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "recover",
        about: "superblocks, journal, pages, label and head of a set, hashes made to fit, in a recovery",
        bytes: 80,
        run: volume::recover,
    },
    Target {
        name: "decode",
        about: "one block as a superblock, journal block, page and label, its hash made to fit",
        bytes: 600,
        run: volume::decode,
    },
    Target {
        name: "content",
        about: "the first and last MiB of a device: file systems, partition tables, Umbra's own marks",
        bytes: 200,
        run: content::run,
    },
    Target { name: "state", about: "records of the state directory", bytes: 60, run: state::run },
    Target { name: "ledger", about: "records of the CSI ledger", bytes: 60, run: ledger::run },
    Target {
        name: "calls",
        about: "messages of the platform API and of the facade, both directions",
        bytes: 60,
        run: calls::run,
    },
    Target { name: "kubelet", about: "CSI calls of the kubelet", bytes: 60, run: kubelet::run },
    Target { name: "kernel", about: "files of /sys and /proc", bytes: 120, run: kernel::run },
];

/// Runs one case of the target with this name.
///
/// # Panics
/// If the reader is wrong, or there is no such target.
pub fn run(name: &str, data: &[u8]) -> bool {
    TARGETS.iter().find(|target| target.name == name).expect("a target of this name").run(data)
}
