//! `/proc/self/mountinfo`: `proc_pid_mountinfo(5)`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use umbra_identity::DeviceNumber;

/// A mount. Lines come in the order in which mounts were made, so that the last one of a place is on top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) device: DeviceNumber,
    pub(super) at: PathBuf,
    pub(super) kind: String,
    pub(super) source: PathBuf,
    /// The mount takes no writes, or the whole file system does not.
    pub(super) read_only: bool,
}

/// The lines that can be read; a line of another form is none of ours.
pub(super) fn lines(table: &[u8]) -> impl Iterator<Item = Line> {
    table.split(|byte| *byte == b'\n').filter_map(line)
}

fn line(line: &[u8]) -> Option<Line> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = DeviceNumber::parse(std::str::from_utf8(fields.nth(2)?).ok()?)?;
    let at = path(fields.nth(1)?);
    let of_mount = fields.next()?;
    // Optional fields end with a hyphen.
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = path(fields.next()?);
    let of_file_system = fields.next()?;
    let is_read_only = |options: &[u8]| options.split(|byte| *byte == b',').any(|option| option == b"ro");
    let read_only = is_read_only(of_mount) || is_read_only(of_file_system);
    Some(Line { device, at, kind, source, read_only })
}

/// Undoes the octal escapes of blanks, tabs, newlines and backslashes.
fn path(text: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let escaped = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table_is_read() {
        let table = b"36 35 98:0 /mnt1 /mnt/a\\040b\\134 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
            42 27 0:31 /sub /mnt/b rw - btrfs /dev/vdb ro,space_cache\n43 27 0:31 / /mnt/c ro,nosuid shared:1 - btrfs /dev/vdb rw\n\
            garbage\n44 27 x:1 / /mnt/d rw - ext4 /dev/x rw\n\n";
        let found: Vec<Line> = lines(table).collect();
        let line = |major, minor, at: &str, kind: &str, source: &str, read_only| Line {
            device: DeviceNumber { major, minor },
            at: at.into(),
            kind: kind.into(),
            source: source.into(),
            read_only,
        };
        let wanted = [
            line(98, 0, "/mnt/a b\\", "ext3", "/dev/root", false),
            line(0, 31, "/mnt/b", "btrfs", "/dev/vdb", true),
            line(0, 31, "/mnt/c", "btrfs", "/dev/vdb", true),
        ];
        assert_eq!(found, wanted);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_table(table in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(lines(&table).count() <= table.len() + 1);
        }
    }
}
