//! The journal of a set: records go out at once, each turn's in a new block; blocks are confirmed in order.
//!
//! Rules E1 and E8. A block is *durable* when its write is; *confirmed* when it, everything before it and all
//! the data it speaks of are durable. What is released does not wait for confirmation, so a record may be used
//! before the blocks ahead of it are durable: replay takes every valid block of the ring, gaps or not, and
//! checks the hash of those that nobody has confirmed.

use crate::action::CopyId;
use crate::record::{JournalBlock, RECORDS_PER_BLOCK, Record};
use crate::units::{Chunk, ChunkRun, Epoch, RingGeneration, Sequence};
use std::collections::VecDeque;

/// What a durable record was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The shadow holds the run of this copy.
    Held(CopyId),
    /// The run of this copy is lost.
    Lost(CopyId),
    /// The run of this copy is on the master again.
    Restored(CopyId),
    /// The region is active.
    RegionActive(u64),
}

#[derive(Debug)]
struct Block {
    sequence: Sequence,
    says_confirmed: Sequence,
    durable: bool,
    /// Copies whose data is not durable yet.
    awaits_data: u32,
    purposes: Vec<Purpose>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) ring_generation: RingGeneration,
    ring_blocks: u64,
    next: Sequence,
    /// Blocks up to here are in pages, and a durable superblock says so: their places may be used again.
    checkpoint_upto: Sequence,
    confirmed: Sequence,
    confirmed_durably: Sequence,
    queue: VecDeque<(Record, Purpose)>,
    blocks: VecDeque<Block>,
    unconfirmed: VecDeque<(Sequence, ChunkRun)>,
    confirm_wanted: Sequence,
    spare: Vec<Vec<Purpose>>,
}

impl Journal {
    /// A journal whose next block has the number after `last`; everything up to `checkpoint_upto` is in the pages.
    pub(crate) fn new(
        ring_generation: RingGeneration,
        ring_blocks: u64,
        checkpoint_upto: Sequence,
        last: Sequence,
    ) -> Self {
        Self {
            ring_generation,
            ring_blocks,
            next: last.next(),
            checkpoint_upto,
            confirmed: last,
            confirmed_durably: last,
            queue: VecDeque::with_capacity(256),
            blocks: VecDeque::with_capacity(256),
            unconfirmed: VecDeque::with_capacity(256),
            confirm_wanted: Sequence(0),
            spare: Vec::new(),
        }
    }

    /// Queues a record for the next block.
    pub(crate) fn push(&mut self, record: Record, purpose: Purpose) {
        self.queue.push_back((record, purpose));
    }

    /// Asks that a durable block confirms everything up to `sequence` soon.
    pub(crate) fn want_confirmed(&mut self, sequence: Sequence) {
        self.confirm_wanted = self.confirm_wanted.max(sequence);
    }

    /// The block that must be confirmed durably before `chunk` may be written in place, if it is not yet (E1).
    pub(crate) fn unconfirmed(&self, chunk: Chunk) -> Option<Sequence> {
        self.unconfirmed.iter().rev().find(|(_, run)| run.contains(chunk)).map(|(sequence, _)| *sequence)
    }

    /// Everything up to here is durable, with its data.
    pub(crate) fn confirmed(&self) -> Sequence {
        self.confirmed
    }

    /// Everything up to here is said to be confirmed by something durable.
    pub(crate) fn confirmed_durably(&self) -> Sequence {
        self.confirmed_durably
    }

    /// Whether every record is confirmed and none is queued.
    pub(crate) fn is_drained(&self) -> bool {
        self.queue.is_empty() && self.blocks.is_empty()
    }

    /// Blocks between the checkpoint and the head of the ring.
    pub(crate) fn used(&self) -> u64 {
        self.next.0 - 1 - self.checkpoint_upto.0
    }

    /// Whether records wait although the ring has no place for them.
    pub(crate) fn is_stalled(&self) -> bool {
        !self.queue.is_empty() && self.used() >= self.ring_blocks
    }

    /// Whether a checkpoint is due: the ring is three quarters full, and a checkpoint would free some of it.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.used() * 4 >= self.ring_blocks * 3 && self.confirmed > self.checkpoint_upto
    }

    /// Seals the next block, if there is something to say and the ring has a free place.
    pub(crate) fn seal(&mut self, epoch: Epoch) -> Option<JournalBlock> {
        let said = self.blocks.back().map_or(self.confirmed_durably, |block| block.says_confirmed);
        let confirm_only = self.confirm_wanted <= self.confirmed && self.confirm_wanted > said;
        if (self.queue.is_empty() && !confirm_only) || self.used() >= self.ring_blocks {
            return None;
        }
        let sequence = self.next;
        self.next = sequence.next();
        let mut purposes = self.spare.pop().unwrap_or_default();
        let mut records = Vec::with_capacity(self.queue.len().min(RECORDS_PER_BLOCK));
        let mut awaits_data = 0;
        while records.len() < RECORDS_PER_BLOCK
            && let Some((record, purpose)) = self.queue.pop_front()
        {
            if record.hash.is_some() {
                self.unconfirmed.push_back((sequence, record.run));
                awaits_data += 1;
            }
            records.push(record);
            purposes.push(purpose);
        }
        self.blocks.push_back(Block {
            sequence,
            says_confirmed: self.confirmed,
            durable: false,
            awaits_data,
            purposes,
        });
        Some(JournalBlock {
            ring_generation: self.ring_generation,
            epoch,
            sequence,
            confirmed_upto: self.confirmed,
            records,
        })
    }

    /// The block is durable. Appends what its records were for.
    pub(crate) fn durable(&mut self, sequence: Sequence, purposes: &mut Vec<(Purpose, Sequence)>) {
        let Some(block) = self.block(sequence) else { return };
        assert!(!block.durable, "a block becomes durable once");
        block.durable = true;
        let says = block.says_confirmed;
        purposes.extend(block.purposes.iter().map(|purpose| (*purpose, sequence)));
        self.say_confirmed(says);
        self.advance();
    }

    /// The data of one of the block's hashed records is durable, or was given up durably.
    pub(crate) fn data_settled(&mut self, sequence: Sequence) {
        if let Some(block) = self.block(sequence) {
            block.awaits_data -= 1;
        }
        self.advance();
    }

    /// Something durable says that everything up to `upto` is confirmed.
    pub(crate) fn say_confirmed(&mut self, upto: Sequence) {
        self.confirmed_durably = self.confirmed_durably.max(upto);
        while self.unconfirmed.front().is_some_and(|(sequence, _)| *sequence <= self.confirmed_durably) {
            self.unconfirmed.pop_front();
        }
    }

    /// A durable superblock says that blocks up to `upto` are in the pages.
    pub(crate) fn checkpointed(&mut self, upto: Sequence) {
        assert!(upto <= self.confirmed, "E8: the tail advances only past confirmed records");
        self.checkpoint_upto = self.checkpoint_upto.max(upto);
    }

    fn block(&mut self, sequence: Sequence) -> Option<&mut Block> {
        let first = self.blocks.front()?.sequence;
        let index = usize::try_from(sequence.0.checked_sub(first.0)?).ok()?;
        self.blocks.get_mut(index)
    }

    fn advance(&mut self) {
        while let Some(block) = self.blocks.front()
            && block.durable
            && block.awaits_data == 0
        {
            let mut block = self.blocks.pop_front().expect("looked at");
            assert_eq!(block.sequence, self.confirmed.next(), "E8: blocks are confirmed in order");
            self.confirmed = block.sequence;
            block.purposes.clear();
            self.spare.push(block.purposes);
        }
    }

    /// What the records of the block sealed last were for.
    pub(crate) fn sealed(&self) -> &[Purpose] {
        self.blocks.back().map_or(&[], |block| &block.purposes)
    }

    /// The image has ended: what is on its way concerns nobody any more, and the next image's records count
    /// from here.
    pub(crate) fn forget(&mut self) {
        self.queue.clear();
        self.blocks.clear();
        self.unconfirmed.clear();
        self.confirmed = Sequence(self.next.0 - 1);
        self.confirmed_durably = self.confirmed;
    }
}
