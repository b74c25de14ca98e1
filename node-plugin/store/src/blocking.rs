//! One operation at a time on an asynchronous store: for formatting, recovery and tools, before anything serves.

use crate::block_store::{BlockStore, Completion, DeviceSlot, StoreError, StoreOp, StoreOpKind, Token};
use crate::buf::{AlignedBuf, IoBuf};
use std::collections::VecDeque;
use std::time::Duration;
use umbra_engine::ByteRange;
use umbra_format::BLOCK_BYTES;

/// Bytes of a piece of a scan.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces of a scan that are read at the same time: a journal ring of the usual size is read at once.
const PIECES_IN_FLIGHT: usize = 8;

/// Tokens of blocking operations; nobody else uses a store while it is borrowed here.
const TOKEN: Token = Token(u64::MAX);

/// Runs operations of a store to their end.
#[derive(Debug)]
pub struct Blocking<'a, S> {
    store: &'a mut S,
    done: Vec<Completion>,
}

impl<'a, S: BlockStore> Blocking<'a, S> {
    /// Borrows a store that has nothing in flight.
    pub fn new(store: &'a mut S) -> Self {
        Self { store, done: Vec::new() }
    }

    /// The store.
    pub fn store(&self) -> &S {
        self.store
    }

    fn run(
        &mut self,
        device: DeviceSlot,
        kind: StoreOpKind,
        buf: Option<IoBuf>,
    ) -> Result<Option<IoBuf>, StoreError> {
        self.store.submit(StoreOp { token: TOKEN, device, kind, buf });
        loop {
            if let Some(completion) = self.done.pop() {
                assert_eq!(completion.token, TOKEN, "nothing else is in flight");
                return completion.result.map(|()| completion.buf);
            }
            self.store.wait(Duration::from_millis(100), &mut self.done);
        }
    }

    /// Reads `len` bytes.
    ///
    /// # Errors
    /// What the device says.
    pub fn read(&mut self, device: DeviceSlot, offset: u64, len: usize) -> Result<AlignedBuf, StoreError> {
        let buf = IoBuf::whole(AlignedBuf::zeroed(len));
        let done = self.run(device, StoreOpKind::Read { offset }, Some(buf))?;
        Ok(done.expect("a read hands its buffer back").buf)
    }

    /// Reads one metadata block.
    ///
    /// # Errors
    /// What the device says.
    pub fn read_block(&mut self, device: DeviceSlot, offset: u64) -> Result<[u8; BLOCK_BYTES], StoreError> {
        let mut block = [0; BLOCK_BYTES];
        block.copy_from_slice(&self.read(device, offset, BLOCK_BYTES)?);
        Ok(block)
    }

    /// Reads a range in pieces of 1 MiB, several at a time, handing each piece on with its offset, in order.
    ///
    /// # Errors
    /// What the device says of the first piece that it did not read; nothing is in flight then.
    pub fn scan(
        &mut self,
        device: DeviceSlot,
        range: ByteRange,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<(), StoreError> {
        let pieces = (range.start..range.end()).step_by(PIECE_BYTES);
        let mut unread = pieces.clone().enumerate();
        // Of each piece that was submitted and not handed on: nothing yet, or how it ended.
        let mut window: VecDeque<Option<Completion>> = VecDeque::with_capacity(PIECES_IN_FLIGHT);
        let mut outcome = Ok(());
        for (number, at) in pieces.enumerate() {
            while window.len() < PIECES_IN_FLIGHT
                && outcome.is_ok()
                && let Some((number, at)) = unread.next()
            {
                let len = (range.end() - at).min(PIECE_BYTES as u64);
                let buf = IoBuf::whole(AlignedBuf::zeroed(usize::try_from(len).expect("at most 1 MiB")));
                let kind = StoreOpKind::Read { offset: at };
                self.store.submit(StoreOp { token: Token(number as u64), device, kind, buf: Some(buf) });
                window.push_back(None);
            }
            let Some(mut first) = window.pop_front() else { break };
            let completion = loop {
                if let Some(completion) = first.take() {
                    break completion;
                }
                self.store.wait(Duration::from_millis(100), &mut self.done);
                for completion in self.done.drain(..) {
                    match completion.token.0 - number as u64 {
                        0 => first = Some(completion),
                        later => {
                            let place = usize::try_from(later - 1).expect("within the window");
                            window[place] = Some(completion);
                        }
                    }
                }
            };
            match (completion.result, completion.buf) {
                (Ok(()), Some(buf)) if outcome.is_ok() => each(at, buf.bytes()),
                (Ok(()), _) => {}
                (Err(error), _) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Writes a buffer.
    ///
    /// # Errors
    /// What the device says.
    pub fn write(&mut self, device: DeviceSlot, offset: u64, buf: AlignedBuf) -> Result<(), StoreError> {
        self.run(device, StoreOpKind::Write { offset, fua: false }, Some(IoBuf::whole(buf))).map(drop)
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// What the device says; a failed flush is a failed device.
    pub fn flush(&mut self, device: DeviceSlot) -> Result<(), StoreError> {
        self.run(device, StoreOpKind::Flush, None).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::{Cache, Faults, Fill, SimWorld, Timing};

    const SIZE: u64 = (21 << 20) + 4096;

    fn numbered(offset: u64, sector: &mut [u8]) {
        sector[..8].copy_from_slice(&offset.to_le_bytes());
    }

    #[test]
    fn a_scan_hands_on_every_byte_in_order_whatever_the_device_answers_first() {
        for seed in 0..20 {
            let world = SimWorld::new(seed, Timing { effect: 9, completion: 9, slow: 200 });
            let device = world.add_device("scanned", SIZE, Cache::Volatile, Fill::Each(numbered));
            let mut store = world.claim();
            let range = ByteRange::new(4096, SIZE - 4096);
            let (mut next, mut expected) = (range.start, Vec::new());
            let scanned = Blocking::new(&mut store).scan(device, range, |at, bytes| {
                assert_eq!(at, next);
                next += bytes.len() as u64;
                expected.extend_from_slice(&bytes[..8]);
            });
            assert_eq!((scanned, next), (Ok(()), range.end()));
            for (piece, first) in expected.chunks(8).enumerate() {
                let offset = range.start + (piece * PIECE_BYTES) as u64;
                let mut sector = [0; 512];
                world.peek(device, offset, &mut sector);
                assert_eq!(first, &sector[..8], "piece {piece}");
            }
        }
    }

    #[test]
    fn a_scan_that_fails_leaves_nothing_in_flight() {
        for seed in 0..20 {
            let world = SimWorld::new(seed, Timing { effect: 9, completion: 9, slow: 200 });
            let device = world.add_device("scanned", SIZE, Cache::Volatile, Fill::Each(numbered));
            world.set_faults(device, Faults { read: 200, write: 0, flush: 0, drop_cache: false, hang: 0 });
            let mut store = world.claim();
            let mut handed = 0;
            let scanned = Blocking::new(&mut store).scan(device, ByteRange::new(0, SIZE), |at, bytes| {
                assert_eq!(at, handed);
                handed += bytes.len() as u64;
            });
            assert_eq!(scanned.is_err(), handed < SIZE);
            assert_eq!(world.in_flight(), 0);
        }
    }
}
