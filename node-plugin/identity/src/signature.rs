//! What lies on a device, by its first and last MiB: every file system, volume manager, partition table and other
//! owner that leaves a mark there, so that nothing is overwritten without a question.
//!
//! A table of our own: the libraries that know such marks (libblkid and its bindings) are LGPL, and would have
//! to be linked in. Simple marks are rows of `table.rs`, those that need a look at other fields are functions of
//! `special.rs`; each names its source. The list need not be complete: what is not recognised and not
//! zero is `unknown`, and asks for the same confirmation.

mod special;
mod table;
#[cfg(test)]
mod tests;

use crate::edges::{EDGE_BYTES, Edges};
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use umbra_format::{BLOCK_BYTES, Label, LabelError, SLOT_B_OFFSET, Superblock, SuperblockError};
use xxhash_rust::xxh3::Xxh3;

/// The confirmation that a wipe needs, `TYPE:UUID`, as a refusal prints it. Where the content has no UUID, a hash
/// of its first and last MiB stands in its place, so that a confirmation is always of this very content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignatureId(String);

impl SignatureId {
    /// Of this type and UUID.
    pub fn new(kind: &str, uuid: &str) -> Self {
        Self(format!("{kind}:{uuid}"))
    }

    /// The type, such as `ext4`.
    pub fn kind(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// Whether Umbra itself wrote it.
    pub fn is_umbra(&self) -> bool {
        [UMBRA_BITMAP, UMBRA_LABEL].contains(&self.kind())
    }
}

impl FromStr for SignatureId {
    type Err = Infallible;

    /// What somebody typed. Anything goes: only what equals a signature that is found confirms it. Types and UUIDs
    /// are compared as they are printed.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.trim().to_owned()))
    }
}

impl fmt::Display for SignatureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One thing that lies on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature {
    /// What confirms its destruction.
    pub id: SignatureId,
    /// Where it was recognised, in bytes from the start.
    pub at: u64,
}

/// Type of a bitmap volume.
const UMBRA_BITMAP: &str = "umbra-bitmap";
/// Type of a labelled shadow.
const UMBRA_LABEL: &str = "umbra-label";
/// Type of what nothing recognises.
const UNKNOWN: &str = "unknown";

/// A mark that was recognised; without a UUID where the content has none.
#[derive(Debug)]
struct Mark {
    kind: &'static str,
    uuid: Option<String>,
    at: u64,
}

/// All that lies on a device, in order of its place; nothing if both ends are zero.
pub fn scan(edges: &Edges<'_>) -> Vec<Signature> {
    let mut marks = umbra(edges);
    marks.extend(table::scan(edges));
    marks.extend(special::scan(edges));
    if marks.is_empty() && !is_empty(edges) {
        marks.push(Mark { kind: UNKNOWN, uuid: None, at: 0 });
    }
    let hash = || format!("{:016x}", content_hash(edges));
    let named = |mark: Mark| Signature {
        id: SignatureId::new(mark.kind, &mark.uuid.unwrap_or_else(hash)),
        at: mark.at,
    };
    let mut found: Vec<Signature> = marks.into_iter().map(named).collect();
    found.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
    // A backup of the same thing is confirmed with it.
    let mut seen = Vec::new();
    found.retain(|signature| {
        let new = !seen.contains(&signature.id);
        if new {
            seen.push(signature.id.clone());
        }
        new
    });
    found
}

/// The first MiB and the last.
fn ends<'a>(edges: &Edges<'a>) -> [&'a [u8]; 2] {
    let most = usize::try_from(EDGE_BYTES).expect("1 MiB is addressable");
    let (first, last) = (edges.first(), edges.last());
    [&first[..first.len().min(most)], &last[last.len() - last.len().min(most)..]]
}

fn is_empty(edges: &Edges<'_>) -> bool {
    ends(edges).iter().all(|bytes| bytes.iter().all(|byte| *byte == 0))
}

fn content_hash(edges: &Edges<'_>) -> u64 {
    let mut hash = Xxh3::new();
    for bytes in ends(edges) {
        hash.update(bytes);
    }
    hash.digest()
}

/// The block at `at`, if it was read.
pub(crate) fn block(edges: &Edges<'_>, at: u64) -> Option<[u8; BLOCK_BYTES]> {
    edges.array(at)
}

/// Our own: also what is damaged, since it may be a set's.
fn umbra(edges: &Edges<'_>) -> Vec<Mark> {
    let mut marks = Vec::new();
    for at in [0, SLOT_B_OFFSET] {
        let Some(block) = block(edges, at) else { continue };
        let uuid = match Superblock::decode(&block) {
            Ok(superblock) => Some(superblock.identity.set.to_string()),
            Err(SuperblockError::Foreign) => continue,
            Err(_) => None,
        };
        marks.push(Mark { kind: UMBRA_BITMAP, uuid, at });
    }
    let label = block(edges, 0).map(|block| Label::decode(&block));
    match label {
        Some(Ok(label)) => marks.push(Mark { kind: UMBRA_LABEL, uuid: Some(label.set.to_string()), at: 0 }),
        Some(Err(LabelError::Damaged)) => marks.push(Mark { kind: UMBRA_LABEL, uuid: None, at: 0 }),
        Some(Err(LabelError::Foreign)) | None => {}
    }
    marks
}
