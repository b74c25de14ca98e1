//! The caller's side: starts a helper, asks it, leaves it behind.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::wire::{BUFFER_BYTES, Frame, Reply};
use crate::Errno;

/// Stack of a thread that does nothing but wait; small, since all of it may be locked.
const REAPER_STACK_BYTES: usize = 64 << 10;

/// A running helper; ended, or left behind in the kernel, when dropped.
#[derive(Debug)]
pub(crate) struct Helper {
    socket: Arc<UnixStream>,
    stopped: Arc<AtomicBool>,
    /// None once this is dropped.
    child: Option<Child>,
}

/// Ends the wait for an answer, from another thread.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    socket: Arc<UnixStream>,
    stopped: Arc<AtomicBool>,
}

impl Interrupt {
    /// Whoever waits gets an error, and whoever asks next.
    pub(crate) fn fire(&self) {
        self.stopped.store(true, Ordering::Release);
        // A socket that is shut down already is what this is for.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Helper {
    /// Starts one. The program is the one that runs now, whatever has become of its file.
    pub(crate) fn start() -> io::Result<Helper> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("umbra-io").arg(super::ARGUMENT);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        // What a terminal sends to this program is not for its helper, which ends with the socket.
        let child = command.process_group(0).spawn()?;
        Ok(Helper { socket: Arc::new(ours), stopped: Arc::default(), child: Some(child) })
    }

    pub(crate) fn interrupt(&self) -> Interrupt {
        Interrupt { socket: Arc::clone(&self.socket), stopped: Arc::clone(&self.stopped) }
    }

    /// Asks for a control command and waits, until the answer, the helper's end or an [`Interrupt`]. An error means
    /// that there is no answer: the outcome is not known.
    pub(crate) fn command(
        &self,
        opcode: u32,
        dev_id: u32,
        data: u64,
        buffer: &[u8],
    ) -> io::Result<Result<Box<[u8]>, Errno>> {
        let reply = self.exchange(&Frame::new(opcode, dev_id, data, buffer))?;
        Ok(Errno::from_result(reply.result).map(|_| reply.buffer[..buffer.len()].into()))
    }

    /// Has the partition table of a device read again, for at most `deadline`.
    pub(crate) fn reread(&self, dev_id: u32, deadline: Duration) -> io::Result<Result<(), Errno>> {
        self.socket.set_read_timeout(Some(deadline.max(Duration::from_millis(1))))?;
        let reply = self.exchange(&Frame::new(Frame::REREAD_PARTITIONS, dev_id, 0, &[]))?;
        Ok(Errno::from_result(reply.result).map(drop))
    }

    fn exchange(&self, frame: &Frame) -> io::Result<Reply> {
        let mut socket = &*self.socket;
        socket.write_all(bytemuck::bytes_of(frame))?;
        let mut reply = Reply { result: 0, pad: 0, buffer: [0; BUFFER_BYTES] };
        socket.read_exact(bytemuck::bytes_of_mut(&mut reply))?;
        Ok(reply)
    }

    /// Whether it can be asked: it lives, and nobody has stopped waiting for it.
    pub(crate) fn serves(&mut self) -> bool {
        !self.stopped.load(Ordering::Acquire) && self.is_there()
    }

    /// Whether the process has not ended.
    pub(crate) fn is_there(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Ends it; one that hangs in the kernel stays until the kernel lets go of it.
    pub(crate) fn dismiss(&mut self) {
        self.interrupt().fire();
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.dismiss();
        let Some(mut child) = self.child.take() else { return };
        // What hangs can be waited for by a thread only. Where there is none to be had, a dead process stays in the
        // list of processes until this one ends, which costs nothing else.
        let reaper = thread::Builder::new().name("ublk-reaper".to_owned()).stack_size(REAPER_STACK_BYTES);
        let _ = reaper.spawn(move || child.wait());
    }
}
