//! How much memory of this process is locked.

use std::{fs, io};

/// Pages that are locked *and there*. `VmLck` of `/proc/self/status` would also count address space that the
/// allocator of every thread reserves and never touches.
///
/// # Errors
/// What the kernel says, or a text that says nothing.
pub(super) fn locked_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has no line Locked"))
}

fn parse(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Locked:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_is_read() {
        assert_eq!(parse("Rss:   9 kB\nSwap:   0 kB\nLocked:      24116 kB\n"), Some(24_116 << 10));
        assert_eq!(parse("Rss: 9 kB\nLocked: 5\n"), None);
        locked_bytes().unwrap();
    }
}
