//! Commands that need no running interposer: they read a bitmap volume, or only arithmetic.
//!
//! ```text
//!   image ──> survey (what is there) ──> inspect: shown as it is
//!                                   └──> check: judged, and with --repair mended
//! ```
//! Each command computes a value and renders it apart. Exit codes: 0 done and nothing found, 1 problems found,
//! 2 wrong usage or nothing that can be read.

mod check;
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

use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use umbra_engine::{Mode, OfflineCause, PlaneId, SetState};

/// Problems were found.
const PROBLEMS: u8 = 1;
/// Wrong usage, or nothing that can be read.
const UNUSABLE: u8 = 2;

fn unusable(error: &impl Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(UNUSABLE)
}

/// Shows a result; `code` is how the program ends if that works.
fn show(text: &str, code: u8) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has seen enough is no error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => unusable(&error),
        _ => ExitCode::from(code),
    }
}

/// One document on one line.
fn json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("plain values");
    text.push('\n');
    text
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
