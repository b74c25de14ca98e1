//! What devices did, by the kernel's own books.
//!
//! `/sys/block/*/stat` counts requests, sectors and flushes, but among its writes are flushes that carry no data. The
//! histogram of issued requests tells those apart, so the writes are taken from there.

use std::collections::HashMap;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::bed::{Bed, Medium};

const EVENT: &str = "/sys/kernel/tracing/events/block/block_rq_issue";
const TRIGGER: &str = "hist:keys=dev,rwbs:vals=nr_sector";
const SECTORS_PER_KIB: f64 = 2.0;

/// Operations of one disk, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Operations {
    /// Reads.
    pub reads: u64,
    /// Sectors read.
    pub read_sectors: u64,
    /// Writes with data.
    pub writes: u64,
    /// Sectors written.
    pub written_sectors: u64,
    /// Flushes.
    pub flushes: u64,
}

impl Operations {
    fn combine(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            reads: with(self.reads, other.reads),
            read_sectors: with(self.read_sectors, other.read_sectors),
            writes: with(self.writes, other.writes),
            written_sectors: with(self.written_sectors, other.written_sectors),
            flushes: with(self.flushes, other.flushes),
        }
    }

    /// Per request.
    #[must_use]
    pub fn per(self, requests: usize) -> PerRequest {
        let each = |count: u64| count as f64 / requests.max(1) as f64;
        PerRequest {
            reads: each(self.reads),
            read_kib: each(self.read_sectors) / SECTORS_PER_KIB,
            writes: each(self.writes),
            written_kib: each(self.written_sectors) / SECTORS_PER_KIB,
            flushes: each(self.flushes),
        }
    }
}

/// Operations of all disks, divided by the requests that caused them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PerRequest {
    /// Reads.
    pub reads: f64,
    /// KiB read.
    pub read_kib: f64,
    /// Writes with data.
    pub writes: f64,
    /// KiB written.
    pub written_kib: f64,
    /// Flushes.
    pub flushes: f64,
}

/// Operations of each disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ByDisk(Vec<(String, Operations)>);

impl ByDisk {
    /// What was done after `earlier`, without the disks that did nothing.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before: HashMap<&str, Operations> =
            earlier.0.iter().map(|(disk, operations)| (disk.as_str(), *operations)).collect();
        let of = |disk: &str| before.get(disk).copied().unwrap_or_default();
        let differences =
            self.0.iter().map(|(disk, now)| (disk.clone(), now.combine(of(disk), u64::saturating_sub)));
        Self(differences.filter(|(_, operations)| *operations != Operations::default()).collect())
    }

    /// All disks together.
    #[must_use]
    pub fn total(&self) -> Operations {
        self.0.iter().fold(Operations::default(), |sum, (_, each)| sum.combine(*each, |a, b| a + b))
    }
}

/// Reads the books of a family's disks.
#[derive(Debug)]
pub struct Books {
    disks: Vec<(String, String)>,
}

impl Books {
    /// Opens the books.
    ///
    /// # Errors
    /// A kernel without histograms of block requests.
    pub fn open(bed: &Bed, medium: Medium) -> Result<Self> {
        bed.sh(&format!("grep -q '^{TRIGGER}' {EVENT}/trigger || echo '{TRIGGER}' > {EVENT}/trigger"))
            .context("counting block requests")?;
        Ok(Self { disks: bed.disks(medium)? })
    }

    /// What each disk has done so far.
    ///
    /// # Errors
    /// Books that do not look as they should.
    pub fn read(&self, bed: &Bed) -> Result<ByDisk> {
        let nodes: Vec<&str> = self.disks.iter().map(|(_, node)| node.as_str()).collect();
        let script = format!(
            "for d in {}; do echo $d $(cat /sys/block/$d/dev /sys/block/$d/stat); done; cat {EVENT}/hist",
            nodes.join(" ")
        );
        let output = bed.sh(&script)?;
        let issued = issued_writes(output.text());
        let mut read = HashMap::new();
        for words in output.text().lines().map(|line| line.split_whitespace().collect::<Vec<_>>()) {
            if let [node, device, fields @ ..] = &words[..]
                && nodes.contains(node)
            {
                let writes = issued.get(&number(device)?).copied().unwrap_or(0);
                read.insert((*node).to_owned(), operations(fields, writes)?);
            }
        }
        let of = |(disk, node): &(String, String)| {
            let operations = read.get(node).with_context(|| format!("no books of {disk}"))?;
            Ok((disk.clone(), *operations))
        };
        Ok(ByDisk(self.disks.iter().map(of).collect::<Result<_>>()?))
    }
}

/// The kernel's number of a device, from `major:minor`.
fn number(text: &str) -> Result<u64> {
    let (major, minor) = text.split_once(':').context("no device number")?;
    Ok(major.parse::<u64>()? << 20 | minor.parse::<u64>()?)
}

/// The fields of a disk's `stat`; `writes` are those with data.
fn operations(fields: &[&str], writes: u64) -> Result<Operations> {
    let field = |index: usize| -> Result<u64> { Ok(fields.get(index).context("a short stat")?.parse()?) };
    Ok(Operations {
        reads: field(0)?,
        read_sectors: field(2)?,
        writes,
        written_sectors: field(6)?,
        flushes: field(15)?,
    })
}

/// Writes with data by device number, from lines such as
/// `{ dev:  266338320, rwbs: WS    } hitcount:         32  nr_sector:        256`.
fn issued_writes(text: &str) -> HashMap<u64, u64> {
    let mut writes = HashMap::new();
    for words in
        text.lines().map(|line| line.split([' ', ',']).filter(|word| !word.is_empty()).collect::<Vec<_>>())
    {
        if let ["{", "dev:", device, "rwbs:", kind, "}", "hitcount:", hits, "nr_sector:", _] = words[..]
            && kind.contains('W')
            && let (Ok(device), Ok(hits)) = (device.parse::<u64>(), hits.parse::<u64>())
        {
            *writes.entry(device).or_insert(0) += hits;
        }
    }
    writes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_are_no_writes() {
        let text = "# event histogram\n\n\
            { dev:  266338304, rwbs: RA                          } hitcount:          2  nr_sector:        152\n\
            { dev:  266338320, rwbs: WS                          } hitcount:         32  nr_sector:        256\n\
            { dev:  266338320, rwbs: WFS                         } hitcount:          1  nr_sector:          8\n\
            { dev:  266338320, rwbs: FF                          } hitcount:         33  nr_sector:          0\n";
        assert_eq!(issued_writes(text), HashMap::from([(number("254:16").unwrap(), 33)]));
    }

    #[test]
    fn stat_is_read_by_its_fields() {
        let stat = "1 0 8 0 49 0 256 12 0 12 18 0 0 0 0 33 5";
        let fields: Vec<&str> = stat.split(' ').collect();
        let read = operations(&fields, 32).unwrap();
        let expected =
            Operations { reads: 1, read_sectors: 8, writes: 32, written_sectors: 256, flushes: 33 };
        assert_eq!(read, expected);
        let each = read.per(32);
        assert!((each.written_kib - 4.0).abs() < 1e-9 && (each.writes - 1.0).abs() < 1e-9);
        assert!(operations(&fields[..9], 0).is_err());
    }

    #[test]
    fn disks_that_did_nothing_are_left_out() {
        let busy = Operations { reads: 3, ..Operations::default() };
        let before = ByDisk(vec![("a".into(), busy), ("b".into(), busy)]);
        let after = ByDisk(vec![("a".into(), busy), ("b".into(), Operations { reads: 5, ..busy })]);
        let done = after.since(&before);
        assert_eq!(done.0.len(), 1);
        assert_eq!(done.total().reads, 2);
    }
}
