//! A picture of a set's bitmap: counts for runs of chunks.

use crate::id::{Epoch, SetId};
use crate::status::ChunkCounts;
use crate::value::{ChunkSize, Columns};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Answer to [`crate::call::MapQuery`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunkMap {
    /// The set.
    pub set: SetId,
    /// The epoch that the counts are of.
    pub epoch: Epoch,
    /// Unit of tracking, in bytes.
    #[serde(rename = "chunkBytes")]
    pub chunk: ChunkSize,
    /// Counts of each run, in order of the chunks; together they cover every chunk once.
    pub columns: Vec<ChunkCounts>,
}

impl ChunkMap {
    /// The runs that `total` chunks are cut into for so many columns: as even as they can be, none empty.
    pub fn runs(total: u64, columns: Columns) -> impl ExactSizeIterator<Item = Range<u64>> {
        let count = u16::try_from(total.min(columns.get().into())).expect("at most the number of columns");
        // 128 bits: a master may have 2^40 chunks and more.
        let edge = move |i: u16| {
            let at = u128::from(total) * u128::from(i) / u128::from(count.max(1));
            u64::try_from(at).expect("at most the number of chunks")
        };
        (0..count).map(move |i| edge(i)..edge(i + 1))
    }

    /// The sum over all columns.
    pub fn sum(&self) -> ChunkCounts {
        self.columns.iter().fold(ChunkCounts::default(), |sum, c| ChunkCounts {
            total: sum.total + c.total,
            held: sum.held + c.held,
            pending: sum.pending + c.pending,
            lost: sum.lost + c.lost,
            differs: sum.differs + c.differs,
        })
    }
}
