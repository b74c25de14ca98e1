//! Devices in memory: as simple as a store can be, for tests and for trying things.
//!
//! Operations take effect when they are submitted and complete at the next poll, in order. Nothing is ever lost.

use crate::block_store::{
    BlockStore, Capabilities, Completion, DeviceSlot, StoreError, StoreOp, StoreOpKind,
};
use crate::buf::IoBuf;
use std::time::Duration;
use umbra_engine::ByteRange;

/// See the module.
#[derive(Debug, Default)]
pub struct MemStore {
    devices: Vec<Vec<u8>>,
    done: Vec<Completion>,
}

impl MemStore {
    /// A store without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a device with this content.
    pub fn add_device(&mut self, content: Vec<u8>) -> DeviceSlot {
        self.devices.push(content);
        DeviceSlot(u16::try_from(self.devices.len() - 1).expect("few devices"))
    }

    /// The content of a device.
    pub fn content(&self, device: DeviceSlot) -> &[u8] {
        &self.devices[usize::from(device.0)]
    }

    /// The content of a device, to be changed by somebody else.
    pub fn content_mut(&mut self, device: DeviceSlot) -> &mut [u8] {
        &mut self.devices[usize::from(device.0)]
    }

    fn part(&mut self, device: DeviceSlot, range: ByteRange) -> Result<&mut [u8], StoreError> {
        let content = &mut self.devices[usize::from(device.0)];
        let (start, len) = (usize::try_from(range.start).ok(), usize::try_from(range.len).ok());
        start
            .zip(len)
            .and_then(|(start, len)| content.get_mut(start..start.checked_add(len)?))
            .ok_or(StoreError::Range(range))
    }

    fn execute(
        &mut self,
        device: DeviceSlot,
        kind: StoreOpKind,
        buf: Option<&mut IoBuf>,
    ) -> Result<(), StoreError> {
        let of = |offset, buf: &IoBuf| ByteRange::new(offset, buf.range.len() as u64);
        match (kind, buf) {
            (StoreOpKind::Read { offset }, Some(buf)) => {
                let part = self.part(device, of(offset, buf))?;
                buf.bytes_mut().copy_from_slice(part);
            }
            (StoreOpKind::Write { offset, .. }, Some(buf)) => {
                self.part(device, of(offset, buf))?.copy_from_slice(buf.bytes());
            }
            (StoreOpKind::Discard(range) | StoreOpKind::WriteZeroes { range, .. }, _) => {
                self.part(device, range)?.fill(0);
            }
            (StoreOpKind::Flush, _) => {}
            (StoreOpKind::Read { .. } | StoreOpKind::Write { .. }, None) => {
                unreachable!("reads and writes come with a buffer")
            }
        }
        Ok(())
    }
}

impl BlockStore for MemStore {
    fn capabilities(&self, device: DeviceSlot) -> Capabilities {
        Capabilities {
            size: self.devices[usize::from(device.0)].len() as u64,
            logical_block: 512,
            physical_block: 4096,
            optimal_io: 0,
            volatile_cache: false,
            fua: true,
            rotational: false,
            discard: true,
            write_zeroes: true,
            read_only: false,
        }
    }

    fn submit(&mut self, op: StoreOp) {
        let StoreOp { token, device, kind, mut buf } = op;
        let result = self.execute(device, kind, buf.as_mut());
        self.done.push(Completion { token, device, result, buf });
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.done);
    }

    fn wait(&mut self, _timeout: Duration, done: &mut Vec<Completion>) {
        self.poll(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_store::Token;
    use crate::buf::AlignedBuf;

    #[test]
    fn what_is_written_is_read_and_what_is_outside_is_refused() {
        let mut store = MemStore::new();
        let device = store.add_device(vec![1; 8192]);
        let op = |kind, buf: Option<Vec<u8>>| StoreOp {
            token: Token(9),
            device,
            kind,
            buf: buf.map(|bytes| IoBuf::whole(AlignedBuf::from_bytes(&bytes))),
        };
        store.submit(op(StoreOpKind::Write { offset: 512, fua: false }, Some(vec![2; 512])));
        store.submit(op(StoreOpKind::WriteZeroes { range: ByteRange::new(4096, 512), fua: false }, None));
        store.submit(op(StoreOpKind::Read { offset: 0 }, Some(vec![0; 8192])));
        store.submit(op(StoreOpKind::Write { offset: 8192, fua: false }, Some(vec![2; 512])));
        let mut done = Vec::new();
        store.poll(&mut done);
        let read = done[2].buf.as_ref().unwrap().bytes();
        assert_eq!((read[0], read[512], read[1024], read[4096], read[4608]), (1, 2, 1, 0, 1));
        assert_eq!(done[3].result, Err(StoreError::Range(ByteRange::new(8192, 512))));
    }
}
