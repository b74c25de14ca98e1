//! The pure middle of recovery: pages and journal blocks in, planes out.

use std::collections::HashSet;
use umbra_engine::mutation::{Rule, is_off};
use umbra_engine::{
    ChunkRun, Geometry, JournalBlock, Mode, OfflineCause, PAGE_BITS, PLANES, Plane, PlaneId, Record,
    Sequence, SetHeader, SetImage, SetState, SuperblockGeneration,
};
use umbra_format::{Page, SetIdentity};

/// What was found of a page.
#[derive(Clone, Debug)]
pub(crate) enum Base {
    /// Neither place is readable: every bit is unknown.
    Damaged,
    /// The newer valid place.
    Page(Page),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Replay {
    geometry: Geometry,
    mode: Mode,
    header: SetHeader,
    bases: Vec<Vec<Base>>,
    blocks: Vec<JournalBlock>,
    confirmed: Sequence,
    last: Sequence,
    planes: Vec<Plane>,
    replayed: bool,
}

impl Replay {
    pub(crate) fn new(
        identity: &SetIdentity,
        header: SetHeader,
        bases: Vec<Vec<Base>>,
        blocks: Vec<JournalBlock>,
    ) -> Self {
        let confirmed =
            blocks.iter().map(|block| block.confirmed_upto).fold(header.confirmed_upto, Sequence::max);
        let last = blocks.last().map_or(confirmed, |block| block.sequence.max(confirmed));
        let geometry = identity.geometry;
        let planes = PlaneId::ALL.iter().map(|id| Plane::new(id.bits(&geometry), false)).collect();
        let mode = identity.mode;
        Self { geometry, mode, header, bases, blocks, confirmed, last, planes, replayed: false }
    }

    pub(crate) fn head_moved(&self) -> bool {
        self.header.head_moved
    }

    /// E8: a block that was confirmed, and so was there, is not there any more.
    pub(crate) fn is_damaged(&self) -> bool {
        let present: HashSet<u64> = self.blocks.iter().map(|block| block.sequence.0).collect();
        let from = self.header.checkpoint_upto.0 + 1;
        let missing = (from..=self.confirmed.0).any(|sequence| !present.contains(&sequence));
        missing && !is_off(Rule::MissingBlockEnds)
    }

    /// The image cannot be trusted: whatever leans on the master is given up, the rest may differ everywhere.
    pub(crate) fn give_up(&mut self) {
        if self.header.state == SetState::Complete {
            self.load_bases();
            self.plane(PlaneId::Held).fill(true);
            let differs = PlaneId::differs(self.header.tracking);
            self.plane(differs).fill(true);
        } else if self.header.state != SetState::Prepared {
            self.header.state = SetState::Offline(OfflineCause::Bitmap);
        }
        self.replayed = true;
    }

    /// The master is not what the set knows of it: every chunk may differ, and of an image that leans on the master only
    /// what the shadow holds is left.
    pub(crate) fn master_changed(&mut self) {
        match self.header.state {
            SetState::Prepared | SetState::Offline(_) | SetState::Disabled => return,
            SetState::Complete => {}
            SetState::Dependent
            | SetState::Copying
            | SetState::CopyAborted
            | SetState::Restoring
            | SetState::RestoreAborted => {
                for chunk in 0..self.geometry.chunk_count() {
                    if !self.planes[PlaneId::Held.index()].get(chunk) {
                        self.plane(PlaneId::Lost).put(chunk, true);
                    }
                }
            }
        }
        let differs = PlaneId::differs(self.header.tracking);
        self.plane(differs).fill(true);
        self.replayed = true;
    }

    /// Runs and hashes of the records that nobody has confirmed, in the order that [`apply`](Self::apply) expects.
    pub(crate) fn unconfirmed(&self) -> impl Iterator<Item = (ChunkRun, u64)> {
        self.hashed().map(|(_, record, hash)| (record.run, hash))
    }

    fn hashed(&self) -> impl Iterator<Item = (Sequence, Record, u64)> {
        let held_epoch = self.header.planes[PlaneId::Held.index()].epoch;
        let doubtful =
            move |block: &&JournalBlock| block.sequence > self.confirmed && block.epoch >= held_epoch;
        self.blocks.iter().filter(doubtful).flat_map(|block| {
            let hashed = |record: &Record| record.hash.map(|hash| (block.sequence, *record, hash));
            block.records.iter().filter_map(hashed).collect::<Vec<_>>()
        })
    }

    /// Pages, then records, then what a frozen pair says. `accepted` has one answer for each of
    /// [`unconfirmed`](Self::unconfirmed).
    pub(crate) fn apply(&mut self, accepted: &[bool]) {
        let rejected: HashSet<(Sequence, ChunkRun)> = self
            .hashed()
            .zip(accepted)
            .filter(|(_, accepted)| !**accepted)
            .map(|((sequence, record, _), _)| (sequence, record.run))
            .collect();
        self.load_bases();
        let blocks = std::mem::take(&mut self.blocks);
        self.replayed |= !blocks.is_empty();
        let flipped = self.header.epoch;
        for block in blocks.iter().filter(|block| block.epoch < flipped) {
            self.apply_block(block, &rejected);
        }
        if self.header.merging {
            self.merge_frozen();
        }
        for block in blocks.iter().filter(|block| block.epoch >= flipped) {
            self.apply_block(block, &rejected);
        }
        self.blocks = blocks;
    }

    fn plane(&mut self, id: PlaneId) -> &mut Plane {
        &mut self.planes[id.index()]
    }

    fn load_bases(&mut self) {
        for id in PlaneId::ALL {
            for page in 0..self.planes[id.index()].pages() {
                match &self.bases[id.index()][page] {
                    Base::Page(base) if base.header.epoch >= self.header.planes[id.index()].epoch => {
                        let words = base.words.clone();
                        self.plane(id).load_page(page, &words);
                    }
                    Base::Page(_) | Base::Damaged => {}
                }
            }
        }
        // Last: a guess about one plane is a bit of another, which that one's own page must not take back.
        for id in PlaneId::ALL {
            for page in 0..self.planes[id.index()].pages() {
                if self.is_page_damaged(id, page) && !is_off(Rule::DamagedIsLost) {
                    self.guess_page(id, page);
                }
            }
        }
    }

    fn is_page_damaged(&self, id: PlaneId, page: usize) -> bool {
        matches!(self.bases[id.index()][page], Base::Damaged)
    }

    /// E2: an unreadable page of an exact plane makes its chunks lost; of the others, it says too much.
    fn guess_page(&mut self, id: PlaneId, page: usize) {
        let first = page as u64 * PAGE_BITS;
        let end = (first + PAGE_BITS).min(self.planes[id.index()].len());
        let targets: &[PlaneId] = match id {
            PlaneId::Held | PlaneId::Lost => &[PlaneId::Lost],
            // E9: what may be on the shadow only is an error on both sides.
            PlaneId::Pending if self.header.state.is_restoring() => &[PlaneId::Lost, PlaneId::Pending],
            PlaneId::Pending => &[],
            PlaneId::Differs0 | PlaneId::Differs1 | PlaneId::Region0 | PlaneId::Region1 => {
                std::slice::from_ref(&PlaneId::ALL[id.index()])
            }
        };
        for target in targets {
            (first..end).for_each(|bit| self.plane(*target).put(bit, true));
        }
        self.plane(id).mark_dirty(page);
        self.replayed = true;
    }

    fn apply_block(&mut self, block: &JournalBlock, rejected: &HashSet<(Sequence, ChunkRun)>) {
        for record in &block.records {
            if record.hash.is_some() && rejected.contains(&(block.sequence, record.run)) {
                continue;
            }
            for id in PlaneId::ALL {
                let value = record.set & id.mask() != 0;
                if value || record.clear & id.mask() != 0 {
                    self.apply_record(block, record.run, id, value);
                }
            }
        }
    }

    fn apply_record(&mut self, block: &JournalBlock, run: ChunkRun, id: PlaneId, value: bool) {
        if block.epoch < self.header.planes[id.index()].epoch {
            return;
        }
        let len = self.planes[id.index()].len();
        for bit in run.first.0..run.end().0.min(len) {
            let page = usize::try_from(bit / PAGE_BITS).expect("planes fit in memory");
            if !self.is_in_page(id, page, block) {
                self.plane(id).put(bit, value);
            }
        }
    }

    /// Whether the page was written when the block's records were in it already.
    fn is_in_page(&self, id: PlaneId, page: usize, block: &JournalBlock) -> bool {
        match &self.bases[id.index()][page] {
            Base::Damaged => false,
            Base::Page(base) => {
                base.header.epoch >= self.header.planes[id.index()].epoch
                    && base.header.sequence >= block.sequence
            }
        }
    }

    /// E2: pages of *held* that are older than the flip lack what the frozen pair says. Its regions do not count:
    /// *differs* was complete in its pages before the flip.
    fn merge_frozen(&mut self) {
        let frozen = self.header.tracking.other();
        let differs = self.planes[PlaneId::differs(frozen).index()].clone();
        for page in 0..self.planes[PlaneId::Held.index()].pages() {
            let merged = match &self.bases[PlaneId::Held.index()][page] {
                Base::Page(base) => base.header.epoch >= self.header.epoch,
                Base::Damaged => false,
            };
            self.plane(PlaneId::Held).mark_dirty(page);
            let first = page as u64 * PAGE_BITS;
            // Here *differs* is part of what is exact: a chunk taken for pending would be copied over its image.
            let unknown = self.is_page_damaged(PlaneId::differs(frozen), page);
            let target = if unknown { (PlaneId::Lost, true) } else { (PlaneId::Held, false) };
            for chunk in first..(first + PAGE_BITS).min(self.geometry.chunk_count()) {
                if !merged && differs.get(chunk) {
                    self.plane(target.0).put(chunk, target.1);
                }
            }
        }
    }

    /// The set as it is served: *differs* complete, no region active.
    pub(crate) fn finish(mut self, generation: SuperblockGeneration) -> SetImage {
        let tracking = self.header.tracking;
        let (differs, regions) = (PlaneId::differs(tracking), PlaneId::region(tracking));
        let active = self.planes[regions.index()].clone();
        let was_clean = self.header.clean;
        if !self.header.state.is_restoring() {
            // Left by a restore that has ended, or whose flip never came.
            self.plane(PlaneId::Pending).fill(false);
            self.plane(PlaneId::Pending).mark_all(false);
        }
        let mut next = active.find(0, true).filter(|_| !was_clean && self.mode == Mode::Independent);
        while let Some(region) = next {
            let first = region * self.geometry.region_chunks();
            for chunk in first..(first + self.geometry.region_chunks()).min(self.geometry.chunk_count()) {
                self.plane(differs).put(chunk, true);
            }
            next = active.find(region + 1, true);
        }
        let mut next = active.find(0, true);
        while let Some(region) = next {
            self.plane(regions).put(region, false);
            next = active.find(region + 1, true);
        }
        assert_eq!(self.planes.len(), PLANES, "an image has every plane");
        self.header.recovered = self.replayed || !was_clean;
        SetImage { header: self.header, generation, last: self.last, planes: self.planes }
    }
}
