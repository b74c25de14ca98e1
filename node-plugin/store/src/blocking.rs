//! One operation at a time on an asynchronous store: for formatting, recovery and tools, before anything serves.

use crate::block_store::{BlockStore, Completion, DeviceSlot, StoreError, StoreOp, StoreOpKind, Token};
use crate::buf::{AlignedBuf, IoBuf};
use std::time::Duration;
use umbra_engine::ByteRange;
use umbra_format::BLOCK_BYTES;

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

    /// Reads a range in pieces of 1 MiB, handing each piece on with its offset.
    ///
    /// # Errors
    /// What the device says.
    pub fn scan(
        &mut self,
        device: DeviceSlot,
        range: ByteRange,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<(), StoreError> {
        let mut at = range.start;
        while at < range.end() {
            let len = (range.end() - at).min(1 << 20);
            let bytes = self.read(device, at, usize::try_from(len).expect("at most 1 MiB"))?;
            each(at, &bytes);
            at += len;
        }
        Ok(())
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
