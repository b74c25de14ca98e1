//! Commands that need no running interposer: they read a bitmap volume, or only arithmetic.
//!
//! ```text
//!   image ──> survey (what is there) ──> inspect: shown as it is
//!                                   └──> check: judged, and with --repair mended
//! ```
//! Each command computes a value and renders it apart. Exit codes: 0 done and nothing found, 1 problems found,
//! 2 wrong usage or nothing that can be read.

mod check;
mod findings;
mod image;
mod inspect;
mod repair;
mod shadow;
mod size;
mod survey;
#[cfg(test)]
mod tests;

pub(crate) use check::{Check, main as check};
pub(crate) use inspect::{Inspect, main as inspect};
pub(crate) use size::{Size, main as size};

use crate::ctl::complain;
use crate::failure::Failure;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use umbra_engine::{Mode, OfflineCause, PlaneId, SetState};

/// Problems were found.
const PROBLEMS: u8 = 1;
/// Wrong usage, or nothing that can be read.
const UNUSABLE: u8 = 2;

/// Tells what went wrong: on stderr, and as a document where one is expected.
fn unusable(failure: &Failure, as_json: bool) -> ExitCode {
    if as_json {
        // The text on stderr is all that is left if this fails too.
        let mut out = io::stdout().lock();
        drop(out.write_all(failure.json().as_bytes()).and_then(|()| out.flush()));
    }
    complain(&failure.text());
    ExitCode::from(UNUSABLE)
}

/// Shows a result; `code` is how the program ends if that works.
fn show(text: &str, code: u8) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has seen enough is no error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            unusable(&Failure::new("OUTPUT", error, "look at where the output goes"), false)
        }
        _ => ExitCode::from(code),
    }
}

/// One document on one line.
fn json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("plain values");
    text.push('\n');
    text
}

/// Neither slot was ever a superblock: whoever asked named another volume.
fn foreign(image: &Path) -> Failure {
    let message = "not an Umbra bitmap volume: neither superblock slot was ever written";
    let fields = [("image", image.display().to_string())];
    Failure::new("BITMAP_FOREIGN", message, "name the set's bitmap volume").with(fields)
}

fn plane_name(plane: PlaneId) -> &'static str {
    match plane {
        PlaneId::Held => "held",
        PlaneId::Lost => "lost",
        PlaneId::Differs0 => "differs-0",
        PlaneId::Region0 => "regions-0",
        PlaneId::Differs1 => "differs-1",
        PlaneId::Region1 => "regions-1",
        PlaneId::Pending => "pending",
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Independent => "independent",
        Mode::Dependent => "dependent",
    }
}

fn state_name(state: SetState) -> &'static str {
    match state {
        SetState::Prepared => "prepared",
        SetState::Dependent => "dependent",
        SetState::Copying => "copying",
        SetState::CopyAborted => "copy-aborted",
        SetState::Complete => "complete",
        SetState::Offline(OfflineCause::Shadow) => "offline (shadow failed)",
        SetState::Offline(OfflineCause::Bitmap) => "offline (bitmap volume failed or image given up)",
        SetState::Disabled => "disabled",
        SetState::Restoring => "restoring",
        SetState::RestoreAborted => "restore-aborted",
    }
}

/// A name from a volume, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
