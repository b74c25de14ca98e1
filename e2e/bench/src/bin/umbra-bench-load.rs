//! Puts a load on a block device and tells how long each request took, as JSON.
//!
//! Closed loop: each of the threads has one request in flight. Open loop: requests are due at random times, whether
//! earlier ones are done or not, and a request's time counts from when it was due. A closed loop waits with a device
//! that stalls and so measures little of the stall; the open loop measures all of it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use rand::SeedableRng;
use rand_distr::{Distribution, Exp};
use rand_xorshift::XorShiftRng;
use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};
use umbra_bench::iolog::{self, Request, SEED};
use umbra_bench::samples::Samples;

/// Direct I/O wants memory aligned like the largest logical block there is.
const ALIGNMENT: usize = 4096;
const STACK: usize = 128 << 10;
/// Threads take a while to start under emulation; none may be the reason why the first requests are late.
const LEAD: Duration = Duration::from_millis(300);

/// A load on a block device.
#[derive(Debug, Parser)]
struct Arguments {
    /// The device.
    device: PathBuf,
    /// What to do, as fio's iolog of version 2.
    log: PathBuf,
    /// Threads: requests in flight at most.
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Open loop: requests per second, at random times.
    #[arg(long)]
    rate: Option<f64>,
    /// Repeat the log for this time.
    #[arg(long)]
    seconds: Option<u64>,
}

/// When the requests are due.
struct Schedule {
    begin: Instant,
    due: Option<Vec<Duration>>,
    end: Option<Duration>,
    count: usize,
}

impl Schedule {
    fn new(arguments: &Arguments, count: usize) -> Result<Self> {
        let due = arguments.rate.map(|rate| poisson(rate, count)).transpose()?;
        let end = arguments.seconds.map(Duration::from_secs);
        Ok(Self { begin: Instant::now() + LEAD, due, end, count })
    }

    /// Waits until request `number` is due and tells since when it is; none at the end of the load.
    fn wait(&self, number: usize) -> Option<Instant> {
        match (&self.due, self.end) {
            (Some(due), _) => {
                let due = self.begin + *due.get(number)?;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                Some(due)
            }
            (None, Some(end)) => (Instant::now() < self.begin + end).then(Instant::now),
            (None, None) => (number < self.count).then(Instant::now),
        }
    }
}

fn poisson(rate: f64, count: usize) -> Result<Vec<Duration>> {
    let gap = Exp::new(rate).context("a rate is above 0")?;
    let mut random = XorShiftRng::seed_from_u64(SEED);
    let mut at = 0.0;
    Ok((0..count)
        .map(|_| {
            at += gap.sample(&mut random);
            Duration::from_secs_f64(at)
        })
        .collect())
}

/// Memory for one request.
struct Buffer {
    bytes: Vec<u8>,
    pad: usize,
}

impl Buffer {
    /// Filled with something that no thread's neighbour has, and that is not zero.
    fn new(length: usize, thread: usize) -> Self {
        let fill = u8::try_from(thread % 255).unwrap_or(0) + 1;
        let bytes = vec![fill; length + ALIGNMENT];
        let pad = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, pad }
    }

    fn part(&mut self, length: usize) -> &mut [u8] {
        &mut self.bytes[self.pad..self.pad + length]
    }
}

fn execute(device: &File, request: &Request, buffer: &mut Buffer) -> std::io::Result<()> {
    let part = buffer.part(request.length);
    if request.write {
        device.write_all_at(part, request.offset)?;
    } else {
        device.read_exact_at(part, request.offset)?;
    }
    if request.datasync { device.sync_data() } else { Ok(()) }
}

/// One thread's share: number, due time, time taken of each request.
fn work(
    device: &File,
    requests: &[Request],
    schedule: &Schedule,
    next: &AtomicUsize,
    thread: usize,
) -> Result<Vec<(usize, Instant, Duration)>> {
    let longest = requests.iter().map(|request| request.length).max().unwrap_or(0);
    let mut buffer = Buffer::new(longest, thread);
    let mut done = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(due) = schedule.wait(number) else { return Ok(done) };
        let request = &requests[number % requests.len()];
        execute(device, request, &mut buffer).with_context(|| format!("{request:?}"))?;
        done.push((number, due, due.elapsed()));
    }
}

fn measure(arguments: &Arguments) -> Result<Samples> {
    let requests = iolog::parse(&fs::read_to_string(&arguments.log)?)?;
    let device = open(&arguments.device)?;
    let schedule = Schedule::new(arguments, requests.len())?;
    let next = AtomicUsize::new(0);
    let (base, base_us) = (Instant::now(), since_boot());
    let mut done = thread::scope(|scope| -> Result<Vec<_>> {
        let (device, requests, schedule, next) = (&device, &requests, &schedule, &next);
        let threads: std::io::Result<Vec<_>> = (0..arguments.depth)
            .map(|number| {
                let work = move || work(device, requests, schedule, next, number);
                thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work)
            })
            .collect();
        let mut done = Vec::new();
        for thread in threads? {
            done.extend(thread.join().map_err(|_| anyhow!("a thread died"))??);
        }
        Ok(done)
    })?;
    done.sort_unstable_by_key(|(number, ..)| *number);
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let since_base = |due: Instant| match due.checked_duration_since(base) {
        Some(after) => base_us + us(after),
        None => base_us - us(base - due),
    };
    Ok(Samples {
        due_us: done.iter().map(|(_, due, _)| since_base(*due)).collect(),
        took_us: done.iter().map(|(_, _, took)| us(*took)).collect(),
    })
}

fn open(device: &Path) -> Result<File> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).context("a flag of the kernel")?;
    let file = OpenOptions::new().read(true).write(true).custom_flags(direct).open(device);
    file.with_context(|| device.display().to_string())
}

/// The clock that `/proc/uptime` shows.
fn since_boot() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1000).unwrap_or(0)
}

fn main() -> Result<()> {
    let samples = measure(&Arguments::parse())?;
    println!("{}", serde_json::to_string(&samples)?);
    Ok(())
}
