//! How results look: tables for people, JSON for programs. Pure.

mod map;
mod status;
mod table;
#[cfg(test)]
pub(super) mod tests;

use super::command::{CopyOutcome, CtlError, Output};
use crate::failure::Failure;
use serde::Serialize;
use std::fmt::Write;
use table::Table;
use umbra_platform::ClientError;
use umbra_platform::call::ResetDone;
use umbra_platform::status::{Listing, SetStatus};

/// One line of JSON.
pub(crate) fn json(output: &impl Serialize) -> String {
    let mut line = serde_json::to_string(output).expect("plain data with text keys");
    line.push('\n');
    line
}

/// A failure, in the form that every command has.
pub(crate) fn failure(error: &CtlError) -> Failure {
    let failure = Failure::new(error.reason(), error, error.remedy());
    match error {
        CtlError::Client(ClientError::Refused(refusal)) => failure.with(refusal.fields()),
        CtlError::NotEnded { set, state, .. } => {
            failure.with([("set", set.to_string()), ("state", (*state).to_owned())])
        }
        CtlError::Client(_)
        | CtlError::Argument(_)
        | CtlError::Declined
        | CtlError::SetMissing(_)
        | CtlError::WatchEnded
        | CtlError::Output(_) => failure,
    }
}

/// A result for people.
pub(crate) fn text(output: &Output) -> String {
    match output {
        Output::Attached(master) => format!("master {}\ndevice {}\n", master.id, master.device),
        Output::Accepted { accepted, images } => {
            format!("master {accepted} is accepted as it is, its images {images}\n")
        }
        Output::Detached { detached } => format!("master {detached} is detached\n"),
        Output::Enabled(set) => {
            let (id, device, cut, epoch) = (set.id, &set.shadow_device, set.cut, set.epoch);
            format!("set    {id}\nshadow {device}\ncut    {cut} (epoch {epoch})\n")
        }
        Output::Disabled { disabled } => format!("set {disabled} is disabled\n"),
        Output::Copied(outcome) => copied(outcome),
        Output::Aborted { aborted } => format!("no copy of set {aborted} runs\n"),
        Output::Ended(outcome) => ended(&outcome.ended),
        Output::Limits(outcome) => {
            let limits = outcome.limits;
            let rate = limits.bytes_per_second.map_or("none".to_owned(), |rate| format!("{rate}/s"));
            format!("set {}: rate {rate}, in flight {}\n", outcome.set, limits.in_flight)
        }
        Output::Reset(outcome) => match outcome.reset {
            ResetDone::NotNeeded => format!("set {} was not offline; nothing was done\n", outcome.set),
            ResetDone::Cut { cut, epoch } => {
                format!("set {} is back\ncut {cut} (epoch {epoch})\n", outcome.set)
            }
        },
        Output::Status(all) => status::tables(all),
        Output::Details(one) => status::details(one),
        Output::Listing(all) => listing(all),
        Output::Map(map) => map::draw(map),
    }
}

fn copied(outcome: &CopyOutcome) -> String {
    let mut text = format!("cut {}\n", outcome.copied.cut);
    for set in &outcome.copied.sets {
        writeln!(text, "set {} is in epoch {}", set.name, set.epoch).expect("text takes everything");
    }
    text + &ended(outcome.ended.as_deref().unwrap_or_default())
}

fn ended(sets: &[SetStatus]) -> String {
    sets.iter().map(|set| format!("set {}: nothing is pending\n", set.name)).collect()
}

fn listing(all: &Listing) -> String {
    let mut masters = Table::new(&["MASTER", "DEVICE", "PRESENTED AS"]);
    for master in &all.masters {
        masters.row([master.name.to_string(), master.device.to_string(), master.presented.to_string()]);
    }
    let mut sets = Table::new(&["SET", "MASTER", "MODE", "SHADOW", "BITMAP", "UUID"]);
    for set in &all.sets {
        let master = all.masters.iter().find(|master| master.id == set.master);
        sets.row([
            set.name.to_string(),
            master.map_or_else(|| set.master.to_string(), |master| master.name.to_string()),
            set.mode.to_string(),
            set.paths.shadow.to_string(),
            set.paths.bitmap.to_string(),
            set.id.to_string(),
        ]);
    }
    format!("{masters}\n{sets}")
}
