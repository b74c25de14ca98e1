//! Loads as logs that fio can replay too (`--read_iolog`, version 2), so that a figure can be checked with another
//! program. They are made from a fixed seed: every run writes the same places in the same order.

use anyhow::{Context, Result, bail, ensure};
use rand::SeedableRng;
use rand::seq::index;
use rand_xorshift::XorShiftRng;

/// Where all places come from.
pub const SEED: u64 = 7;
/// The file that a log speaks of; whoever replays it redirects to a device.
const FILE: &str = "/dev/bench";

/// One request, and whether it ends with the device's cache flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Write or read.
    pub write: bool,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: usize,
    /// An `fdatasync` follows and belongs to it.
    pub datasync: bool,
}

/// One write of `length` bytes into each of `count` different chunks of `chunk` bytes, in random order and at a
/// random place of the chunk, on a device of `size` bytes.
#[must_use]
pub fn one_per_chunk(count: usize, size: u64, chunk: u64, length: usize, datasync: bool) -> Vec<Request> {
    let mut random = XorShiftRng::seed_from_u64(SEED);
    let of = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let places = of(chunk) / length;
    let chunks = index::sample(&mut random, of(size / chunk), count);
    chunks
        .into_iter()
        .map(|number| {
            let place = index::sample(&mut random, places, 1).index(0) * length;
            let offset = number as u64 * chunk + place as u64;
            Request { write: true, offset, length, datasync }
        })
        .collect()
}

/// One write of `length` bytes to the beginning of each of the first `count` chunks, in order.
#[must_use]
pub fn each_chunk(count: usize, chunk: u64, length: usize) -> Vec<Request> {
    let offsets = (0..count as u64).map(|number| number * chunk);
    offsets.map(|offset| Request { write: true, offset, length, datasync: false }).collect()
}

/// The log's text.
#[must_use]
pub fn text(requests: &[Request]) -> String {
    let mut text = format!("fio version 2 iolog\n{FILE} add\n{FILE} open\n");
    for request in requests {
        let action = if request.write { "write" } else { "read" };
        text += &format!("{FILE} {action} {} {}\n", request.offset, request.length);
        if request.datasync {
            text += &format!("{FILE} datasync 0 0\n");
        }
    }
    text + FILE + " close\n"
}

/// Reads a log.
///
/// # Errors
/// Anything that [`text`] does not write.
pub fn parse(text: &str) -> Result<Vec<Request>> {
    let mut lines = text.lines();
    ensure!(lines.next() == Some("fio version 2 iolog"), "not a log of version 2");
    let mut requests: Vec<Request> = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "add" | "open" | "close"] => {}
            [_, action @ ("read" | "write"), offset, length] => requests.push(Request {
                write: action == "write",
                offset: offset.parse()?,
                length: length.parse()?,
                datasync: false,
            }),
            [_, "datasync", _, _] => requests.last_mut().context("a sync of nothing")?.datasync = true,
            _ => bail!("{line:?} is no line of a log"),
        }
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_log_is_read_as_it_was_written() {
        for datasync in [false, true] {
            let requests = one_per_chunk(20, 1 << 20, 1 << 14, 4096, datasync);
            assert_eq!(parse(&text(&requests)).unwrap(), requests);
        }
        assert!(parse("fio version 3 iolog\n").is_err());
        assert!(parse("fio version 2 iolog\n/dev/x trim 0 4096\n").is_err());
    }

    #[test]
    fn every_chunk_is_written_once_and_every_run_writes_the_same() {
        let requests = one_per_chunk(64, 1 << 22, 1 << 16, 4096, false);
        let chunks: BTreeSet<u64> = requests.iter().map(|request| request.offset >> 16).collect();
        assert_eq!(chunks.len(), 64);
        assert!(requests.iter().all(|request| request.offset % 4096 == 0 && request.offset < 1 << 22));
        assert_eq!(requests, one_per_chunk(64, 1 << 22, 1 << 16, 4096, false));
    }
}
