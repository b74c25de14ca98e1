//! The names of actions; see the bench.

use super::{CHUNK, place};
use umbra_engine::{Action, ByteRange, Device, IoKind, JournalBlock, OpId, PlaneId, Record};

/// Where the heads of the sets are on their bitmap volumes.
#[derive(Debug, Default)]
pub(crate) struct Names {
    heads: Vec<(u64, u64)>,
}

impl Names {
    /// The next set's head.
    pub(crate) fn add_head(&mut self, offset: u64, bytes: u64) {
        self.heads.push((offset, bytes));
    }

    /// The name of an action.
    pub(crate) fn of(&self, action: &Action) -> String {
        match action {
            Action::Io { device, kind, range, .. } => {
                let kind = match kind {
                    IoKind::Read { .. } => "read",
                    IoKind::Write { .. } => "write",
                    IoKind::WriteZeroes { .. } => "zero",
                    IoKind::Discard => "discard",
                };
                format!("{kind} {} {}", of_device(*device), self.chunks(*device, *range))
            }
            Action::Flush { device, .. } => format!("flush {}", of_device(*device)),
            Action::Journal { set, block, .. } => format!("journal{} {}", set.0, of_block(block)),
            Action::Page { set, plane, page, place: at, .. } => {
                format!("page{} {} {page} {}", set.0, of_plane(*plane), place(*at))
            }
            Action::Superblock { op, set, header, doubt, .. } => {
                let OpId::Superblock(_, _, at) = op else { panic!("{op:?} is not of a superblock") };
                let doubt = if doubt.is_some() { " in doubt" } else { "" };
                format!("superblock{} {} {:?}{doubt}", set.0, place(*at), header.state)
            }
            Action::GiveUp { set, .. } => format!("giveup{}", set.0),
            Action::MoveHead { set, to } => format!("head{} {to:?}", set.0),
            Action::Label { set, .. } => format!("label{}", set.0),
            Action::ForgetHead { set } => format!("forget{}", set.0),
            Action::Complete { id, .. } => format!("complete {}", id.0),
            Action::Answer { command, .. } => format!("answer {}", command.0),
        }
    }

    fn chunks(&self, device: Device, range: ByteRange) -> String {
        let offset = match device {
            Device::Bitmap(set) => self.heads[usize::from(set.0)].0,
            Device::Master | Device::Shadow(_) | Device::Head(_) => 0,
        };
        let (start, end) = (range.start - offset, range.end() - offset);
        let first = start / CHUNK;
        format!("{first}+{}", end.div_ceil(CHUNK) - first)
    }
}

fn of_device(device: Device) -> String {
    match device {
        Device::Master => "master".to_owned(),
        Device::Shadow(set) => format!("shadow{}", set.0),
        Device::Bitmap(set) => format!("bitmap{}", set.0),
        Device::Head(set) => format!("memory{}", set.0),
    }
}

fn of_plane(plane: PlaneId) -> String {
    format!("{plane:?}").to_lowercase()
}

fn of_block(block: &JournalBlock) -> String {
    let records: Vec<String> = block.records.iter().map(of_record).collect();
    records.join(", ")
}

fn of_record(record: &Record) -> String {
    let planes = |sign: char, mask: u8| -> String {
        let named = PlaneId::ALL.iter().filter(|plane| mask & plane.mask() != 0);
        named.map(|plane| format!("{sign}{}", of_plane(*plane))).collect()
    };
    format!(
        "{}{} {}+{}",
        planes('+', record.set),
        planes('-', record.clear),
        record.run.first.0,
        record.run.count
    )
}
