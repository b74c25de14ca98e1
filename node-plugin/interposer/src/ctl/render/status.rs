//! Statuses: tables of everything, or one set in full.

use super::table::Table;
use crate::ctl::figures::{human_bytes, percent};
use std::fmt::Write;
use umbra_platform::call::Direction;
use umbra_platform::status::{
    MasterState, MasterStatus, SetFlags, SetState, SetStatus, Status, WaitingFor, Waits,
};

/// A table of masters, one of sets, and what is wrong.
pub(super) fn tables(status: &Status) -> String {
    let head = [
        "MASTER",
        "STATE",
        "DEVICE",
        "SIZE",
        "BLOCK",
        "UBLK",
        "PRESENTED AS",
        "READS",
        "WRITES",
        "FLUSHES",
        "FIRST WRITES",
        "SETS",
    ];
    let mut masters = Table::new(&head);
    for master in &status.masters {
        masters.row(master_row(master));
    }
    let head =
        ["SET", "MASTER", "MODE", "STATE", "EPOCH", "CUT", "HELD", "PENDING", "LOST", "DIFFERS", "FLAGS"];
    let mut sets = Table::new(&head);
    for set in &status.sets {
        sets.row(set_row(set));
    }
    format!("{masters}\n{sets}{}", troubles(status))
}

fn master_row(master: &MasterStatus) -> [String; 12] {
    let n = &master.counters;
    [
        master.name.to_string(),
        master.state.word().to_owned(),
        master.device.to_string(),
        human_bytes(master.size.0),
        master.block.to_string(),
        master.ublk.map_or("-".to_owned(), |id| id.to_string()),
        master.presented.to_string(),
        n.reads.to_string(),
        n.writes.to_string(),
        n.flushes.to_string(),
        n.first_writes.to_string(),
        master.sets.len().to_string(),
    ]
}

fn set_row(set: &SetStatus) -> [String; 11] {
    let chunks = &set.chunks;
    let share = |part| percent(part, chunks.total);
    [
        set.name.to_string(),
        set.master_name.to_string(),
        set.mode.to_string(),
        state(&set.state),
        set.epoch.to_string(),
        set.last_cut.map_or("-".to_owned(), |cut| cut.at.to_string()),
        share(chunks.held),
        share(chunks.pending),
        share(chunks.lost),
        share(chunks.differs),
        flags(set.flags),
    ]
}

/// The state's word, with how far it is.
fn state(state: &SetState) -> String {
    match state.progress() {
        Some(progress) => format!("{} {}", state.word(), percent(progress.done(), progress.total())),
        None => state.word().to_owned(),
    }
}

fn flags(flags: SetFlags) -> String {
    let all =
        [(flags.shadow_written, "written"), (flags.recovered, "recovered"), (flags.protected, "protected")];
    let set: Vec<&str> = all.iter().filter(|(is_set, _)| *is_set).map(|(_, word)| *word).collect();
    if set.is_empty() { "-".into() } else { set.join(",") }
}

/// A line for whatever does not work, with the reason.
fn troubles(status: &Status) -> String {
    let mut text = String::new();
    for master in &status.masters {
        match &master.state {
            MasterState::Serving => {}
            MasterState::Detaching => {
                writeln!(text, "! master {} is detaching", master.name).expect("text takes everything");
            }
            MasterState::Claiming(wait)
            | MasterState::Recovering(wait)
            | MasterState::Blocked(wait)
            | MasterState::Quarantined(wait) => {
                let (name, word) = (&master.name, master.state.word());
                writeln!(text, "! master {name} is {word} {}", waiting(wait)).expect("text takes everything");
            }
            MasterState::Failed { reason } => {
                writeln!(text, "! master {} has failed: {reason}", master.name)
                    .expect("text takes everything");
            }
        }
    }
    for set in &status.sets {
        if let Some(trouble) = trouble(&set.state) {
            writeln!(text, "! set {}: {trouble}", set.name).expect("text takes everything");
        }
        if let Some(wait) = &set.stalled {
            let what = if set.state.direction() == Some(Direction::ToMaster) { "restore" } else { "copy" };
            let (name, since) = (&set.name, waiting(wait));
            writeln!(text, "! set {name}: the {what} stands still {since}").expect("text takes everything");
        }
        if set.chunks.lost > 0 {
            let (name, lost) = (&set.name, set.chunks.lost);
            writeln!(text, "! set {name}: {lost} chunks are lost; a new cut ends that")
                .expect("text takes everything");
        }
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

fn trouble(state: &SetState) -> Option<String> {
    match state {
        SetState::Idle | SetState::Copying(_) | SetState::Restoring(_) => None,
        SetState::CopyAborted(_) => Some("copy aborted; the shadow still leans on the master".into()),
        SetState::RestoreAborted(_) => Some("restore aborted; the master still leans on the shadow".into()),
        SetState::Offline { which, reason, since } => {
            Some(format!("{which} volume offline since epoch {since}: {reason}"))
        }
        SetState::GivenUp { reason } => Some(format!("image given up: {reason}")),
        SetState::Blocked(wait) => Some(format!("not served {}", waiting(wait))),
    }
}

fn waiting(wait: &WaitingFor) -> String {
    format!("since {}: {} ({})", wait.since, wait.what, wait.reason)
}

/// Everything about the sets of this status, one below the other.
pub(super) fn details(status: &Status) -> String {
    status.sets.iter().map(|set| detail(set) + &troubles_of(set)).collect::<Vec<_>>().join("\n")
}

fn troubles_of(set: &SetStatus) -> String {
    troubles(&Status { masters: Vec::new(), sets: vec![set.clone()] })
}

fn detail(set: &SetStatus) -> String {
    let chunks = &set.chunks;
    let kind = |part| format!("{part} ({})", percent(part, chunks.total));
    let cut = set.last_cut.map_or("none".to_owned(), |cut| format!("{} at {}", cut.id, cut.at));
    let rate = set.limits.bytes_per_second.map_or("none".to_owned(), |rate| format!("{rate}/s"));
    let name = match &set.name.cluster {
        Some(cluster) => format!("{} (cluster {cluster})", set.name),
        None => set.name.to_string(),
    };
    let lines = [
        ("set", name),
        ("uuid", set.id.to_string()),
        ("master", format!("{} on {}", set.master_name, set.paths.master)),
        ("mode", set.mode.to_string()),
        ("state", state(&set.state)),
        ("epoch", set.epoch.to_string()),
        ("cut", cut),
        ("presented as", set.shadow_device.to_string()),
        ("shadow", set.paths.shadow.to_string()),
        ("bitmap", set.paths.bitmap.to_string()),
        ("chunks", format!("{} of {}", chunks.total, set.chunk)),
        ("held", kind(chunks.held)),
        ("pending", kind(chunks.pending)),
        ("lost", kind(chunks.lost)),
        ("differs", kind(chunks.differs)),
        ("copy limits", format!("rate {rate}, in flight {}", set.limits.in_flight)),
        ("deadlines", format!("shadow {}, bitmap {}", set.deadlines.shadow, set.deadlines.bitmap)),
        ("unrecordable", format!("{} after {}", set.unrecordable.then, set.unrecordable.timeout)),
        ("waits", waits(set.waits)),
        ("flags", flags(set.flags)),
    ];
    lines.iter().map(|(label, value)| format!("{label:13} {value}\n")).collect()
}

fn waits(waits: Waits) -> String {
    format!("{}, {} in all, longest {}", waits.count, waits.total, waits.longest)
}
