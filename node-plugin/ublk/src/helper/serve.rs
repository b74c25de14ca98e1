//! The helper's side: asks the kernel, answers, ends with the socket.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::wire::{BUFFER_BYTES, Frame, Reply};
use crate::command::image;
use crate::device::{DeviceId, block_path};
use crate::host::CONTROL_PATH;
use crate::uapi::{BLKRRPART, DEV_ID_AUTO};
use crate::{Errno, process};

/// One command is in flight at a time; the kernel's smallest ring would do.
const RING_ENTRIES: u32 = 8;

/// Pause before a system call is tried again that failed for want of memory.
const RING_RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// Serves as a helper if this process was started as one; none if not. To be called first in `main`: a helper does
/// nothing of what the program does.
///
/// The [module](crate::helper) says what it is for.
#[must_use]
pub fn serve_helper() -> Option<ExitCode> {
    let is_helper = std::env::args_os().nth(1).is_some_and(|argument| argument == super::ARGUMENT);
    is_helper.then(|| match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}; it is started by the program itself", super::ARGUMENT);
            ExitCode::FAILURE
        }
    })
}

fn serve() -> io::Result<()> {
    // Neither is fatal: without them a helper may wait for memory, and it is there to be waited for.
    let _ = process::become_io_flusher();
    let _ = process::lock_touched_memory();
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut driver = None;
    loop {
        let mut frame = Frame::new(0, 0, 0, &[]);
        match socket.read_exact(bytemuck::bytes_of_mut(&mut frame)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            outcome => outcome?,
        }
        socket.write_all(bytemuck::bytes_of(&answer(&mut driver, &frame)))?;
    }
}

fn answer(driver: &mut Option<Driver>, frame: &Frame) -> Reply {
    let mut buffer = [0; BUFFER_BYTES];
    let outcome = match frame.opcode {
        Frame::REREAD_PARTITIONS => reread(frame.dev_id),
        _ => ask(driver, frame, &mut buffer),
    };
    let result = outcome.unwrap_or_else(|error| -Errno::of(&error).raw());
    Reply { result, pad: 0, buffer }
}

fn reread(dev_id: u32) -> io::Result<i32> {
    if dev_id == DEV_ID_AUTO {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let device = File::open(block_path(DeviceId::new(dev_id)))?;
    // SAFETY: BLKRRPART takes no argument and touches no memory of this process.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKRRPART) };
    if result == 0 { Ok(0) } else { Err(io::Error::last_os_error()) }
}

fn ask(driver: &mut Option<Driver>, frame: &Frame, answer: &mut [u8; BUFFER_BYTES]) -> io::Result<i32> {
    let bytes = frame.bytes().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let driver = match driver {
        Some(driver) => driver,
        None => driver.insert(Driver::open()?),
    };
    let (result, buffer) = driver.ask(frame, bytes.into())?;
    answer[..buffer.len()].copy_from_slice(&buffer);
    Ok(result)
}

struct Driver {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    file: File,
}

impl Driver {
    fn open() -> io::Result<Driver> {
        let file = OpenOptions::new().read(true).write(true).open(CONTROL_PATH)?;
        Ok(Driver { ring: IoUring::builder().build(RING_ENTRIES)?, file })
    }

    /// Runs to completion, however long that takes. The kernel reads and writes `buffer` meanwhile.
    fn ask(&mut self, frame: &Frame, mut buffer: Box<[u8]>) -> io::Result<(i32, Box<[u8]>)> {
        let addr = if buffer.is_empty() { 0 } else { buffer.as_mut_ptr().expose_provenance() as u64 };
        let len = u16::try_from(buffer.len()).expect("a frame's buffer is small");
        let entry = opcode::UringCmd80::new(types::Fd(self.file.as_raw_fd()), frame.opcode)
            .cmd(image(frame.dev_id, frame.data, addr, len))
            .build();
        let mut queue = self.ring.submission();
        // SAFETY: the entry's only pointer is to `buffer`, heap memory that this function keeps until the
        // command's completion was seen, or leaks.
        let pushed = unsafe { queue.push(&entry) };
        drop(queue);
        pushed.map_err(|_full| io::Error::from_raw_os_error(libc::EBUSY))?;
        match self.wait() {
            Ok(result) => Ok((result, buffer)),
            Err(error) => {
                // The kernel may still write to it.
                std::mem::forget(buffer);
                Err(error)
            }
        }
    }

    fn wait(&mut self) -> io::Result<i32> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY) => thread::sleep(RING_RETRY_INTERVAL),
                    _ => return Err(error),
                },
            }
            if let Some(completion) = self.ring.completion().next() {
                return Ok(completion.result());
            }
        }
    }
}
