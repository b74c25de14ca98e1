//! What the ledger keeps of one volume.
//!
//! Entries are there before what they speak of, and go after it: the ledger may say too much after a kill, and never
//! too little.

use crate::handle::VolumeHandle;
use crate::mode::AccessMode;
use crate::path::PlacePath;
use crate::refusal::Refusal;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use umbra_platform::id::RequestId;

/// How long a seal lasts that nobody takes away.
pub const SEAL_LASTS: Duration = Duration::from_secs(60);

/// A pod, as the kubelet names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// As what a volume is staged or published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Shape {
    /// A mounted file system.
    FileSystem,
    /// A device.
    Block,
}

/// Where a volume is staged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Staged {
    /// The path.
    pub path: PlacePath,
    /// As what.
    pub shape: Shape,
    /// Nobody can write it there.
    pub read_only: bool,
    /// For whom.
    pub mode: AccessMode,
}

/// Where a pod has a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// The path.
    pub path: PlacePath,
    /// The pod, where the kubelet said so.
    pub pod: Option<Pod>,
    /// It only reads.
    pub read_only: bool,
    /// For whom.
    pub mode: AccessMode,
}

/// An operation that keeps users out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seal {
    /// The operation.
    pub owner: RequestId,
    /// When it ends by itself, in milliseconds since the machine started.
    pub ends_ms: u64,
}

/// The moment at which a record is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// This start of the machine.
    pub boot: String,
    /// Time since it.
    pub uptime: Duration,
}

impl Now {
    fn ms(&self) -> u64 {
        u64::try_from(self.uptime.as_millis()).unwrap_or(u64::MAX)
    }

    /// A seal from now on.
    pub(crate) fn seal(&self, owner: RequestId) -> Seal {
        let lasts = u64::try_from(SEAL_LASTS.as_millis()).unwrap_or(u64::MAX);
        Seal { owner, ends_ms: self.ms().saturating_add(lasts) }
    }
}

/// Who uses a volume, and who keeps users out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The start of the machine in which the rest holds.
    pub(crate) boot: String,
    pub(crate) staged: Option<Staged>,
    pub(crate) published: Vec<Published>,
    pub(crate) seal: Option<Seal>,
}

impl Record {
    /// Nobody uses it.
    pub(crate) fn unused(now: &Now) -> Self {
        Self { boot: now.boot.clone(), staged: None, published: Vec::new(), seal: None }
    }

    /// What holds now of what was kept: nothing that was mounted outlives the machine's start; a seal does, anew, since
    /// nobody knows how long the machine was down.
    pub(crate) fn into_present(self, now: &Now) -> Self {
        if self.boot == now.boot {
            return self;
        }
        let seal = self.seal.map(|seal| now.seal(seal.owner));
        Self { seal, ..Self::unused(now) }
    }

    /// Whether there is nothing to keep.
    pub(crate) fn is_empty(&self) -> bool {
        self.staged.is_none() && self.published.is_empty() && self.seal.is_none()
    }

    /// The seal, if it has not ended.
    pub(crate) fn sealed(&self, now: &Now) -> Option<Seal> {
        self.seal.filter(|seal| seal.ends_ms > now.ms())
    }

    /// Refuses what a seal keeps out.
    pub(crate) fn admit(&self, volume: VolumeHandle, now: &Now) -> Result<(), Refusal> {
        match self.sealed(now) {
            None => Ok(()),
            Some(seal) => Err(Self::sealed_by(volume, seal, now)),
        }
    }

    pub(crate) fn sealed_by(volume: VolumeHandle, seal: Seal, now: &Now) -> Refusal {
        let seconds = seal.ends_ms.saturating_sub(now.ms()).div_ceil(1000);
        Refusal::Sealed { volume, owner: seal.owner.to_string().into(), seconds }
    }

    /// Staged like this.
    pub(crate) fn staged_as(&self, staged: Staged) -> Self {
        Self { staged: Some(staged), ..self.clone() }
    }

    /// Staged nowhere, so that no pod has it.
    pub(crate) fn unstaged(&self) -> Self {
        Self { staged: None, published: Vec::new(), ..self.clone() }
    }

    /// The entry of a path.
    pub(crate) fn at(&self, path: &PlacePath) -> Option<&Published> {
        self.published.iter().find(|entry| entry.path == *path)
    }

    /// With this entry instead of the one of its path.
    pub(crate) fn with(&self, entry: Published) -> Self {
        let mut record = self.without(&entry.path);
        record.published.push(entry);
        record
    }

    /// Without the entry of a path.
    pub(crate) fn without(&self, path: &PlacePath) -> Self {
        let mut record = self.clone();
        record.published.retain(|entry| entry.path != *path);
        record
    }

    /// Whether it speaks of a path.
    pub(crate) fn names(&self, path: &PlacePath) -> bool {
        self.staged.as_ref().is_some_and(|staged| staged.path == *path) || self.at(path).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(boot: &str, seconds: u64) -> Now {
        Now { boot: boot.into(), uptime: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_start_of_the_machine_empties_what_was_mounted_and_begins_a_seal_anew() {
        let path: PlacePath = "/stage".parse().expect("a path");
        let mode = AccessMode::SingleNodeWriter;
        let staged = Staged { path, shape: Shape::Block, read_only: false, mode };
        let owner = RequestId::random();
        let first = now("first", 5000);
        let kept = Record { staged: Some(staged), seal: Some(first.seal(owner)), ..Record::unused(&first) };
        assert_eq!(kept.clone().into_present(&first), kept, "the same start: it holds");
        let second = now("second", 10);
        let found = kept.into_present(&second);
        assert_eq!(found.staged, None);
        assert_eq!(found.sealed(&now("second", 69)).map(|seal| seal.owner), Some(owner));
        assert_eq!(found.sealed(&now("second", 70)), None);
        assert_eq!(found.clone().into_present(&now("second", 30)), found, "it begins anew once");
    }
}
