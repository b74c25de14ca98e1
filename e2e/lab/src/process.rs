//! Processes that end with this one, however it ends, and the memory of processes.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};

/// A command that gets the kill signal when its parent is gone; arguments can be added.
pub(crate) fn for_life(argv: &[PathBuf]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(argv);
    command
}

type Order = (Command, Sender<io::Result<Child>>);

/// Starts a command from [`for_life`].
///
/// The kernel sends the signal when the starting *thread* ends, so one that lasts as long as the process starts all.
pub(crate) fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Who ordered waits for the answer, so it is received.
                answer.send(command.spawn()).ok();
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = mpsc::channel();
    let orders = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    orders.send((command, answer)).map_err(|_| anyhow!("the thread that starts processes is gone"))?;
    Ok(child.recv()??)
}

/// The memory of a process that is not shared out or swapped, in bytes: `VmRSS` of proc(5).
///
/// # Errors
/// Where there is no such process any more.
pub fn resident_bytes(id: u32) -> Result<u64> {
    let path = format!("/proc/{id}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} says nothing of memory"))? << 10)
}
