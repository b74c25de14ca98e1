//! A block device in memory, served by this crate: the shortest whole server, and what the crate is tried
//! out with on a real kernel.
//!
//! ```text
//! memdisk probe                        can this host serve devices, and what can its driver do
//! memdisk list                         devices and their states
//! memdisk serve [OPTIONS]              make a device, or recover one, and serve it until it is stopped
//! memdisk reread ID                    have the kernel read the partition table again
//! memdisk map PATH                     map a page of a device, close it, and stay
//! memdisk remove ID                    stop a device and delete it
//!
//! --dev-id N        number of the device (default: the first free one)
//! --size-mib N      size (default 64)
//! --file PATH       keep the data in this file, to survive the server: put it on a tmpfs
//! --recover         take over device --dev-id, whose server died; needs the same --file
//! --cache KIND      none, volatile or fua (default volatile)
//! --discard         offer discard and write-zeroes
//! --depth N         requests in flight (default 64)
//! --write-us N      time that each write takes (default 0)
//! --read-ms N       time that each read takes (default 0)
//! --deadline-ms N   for each control command (default 10000)
//! --late-ms N       offer no tag to the kernel for so long, to see START_DEV miss its deadline
//! --tag N           the owner's tag of the device
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, squeue};
use umbra_ublk::{
    CharDevice, Control, DeviceId, DeviceInfo, DeviceParams, DeviceSpec, DiscardParams, Errno, Host, Op,
    OwnerTag, Queue, QueueConfig, QueueEvent, Request, RingFile, RingSlot, SECTOR_BYTES, become_io_flusher,
    is_io_flusher, lock_memory, reread_partitions, serve_helper, wait_for_block_node,
};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const NODE_PATIENCE: Duration = Duration::from_secs(5);
const MAX_IO_BYTES: u32 = 512 << 10;
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

fn main() -> ExitCode {
    if let Some(code) = serve_helper() {
        return code;
    }
    let Err(error) = run() else { return ExitCode::SUCCESS };
    eprint!("memdisk: {error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        eprint!(": {source}");
        cause = source.source();
    }
    eprintln!();
    ExitCode::FAILURE
}

fn run() -> Outcome {
    let mut words = std::env::args().skip(1);
    let verb = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();
    match verb.as_str() {
        "probe" => probe(),
        "list" => list(),
        "serve" => serve(&Options::parse(&rest)?),
        "remove" => remove(&rest),
        "reread" => reread(&rest),
        "map" => map(&rest),
        _ => Err("memdisk probe | list | serve [OPTIONS] | remove ID; see the example's source".into()),
    }
}

fn probe() -> Outcome {
    let host = Host::probe()?;
    println!("kernel {} can serve ublk devices", host.kernel);
    for warning in &host.warnings {
        println!("note: {}; {}", warning.fault, warning.remedy);
    }
    println!("driver: {}", Control::open(NODE_PATIENCE)?.features()?);
    Ok(())
}

fn list() -> Outcome {
    for info in Control::open(NODE_PATIENCE)?.devices()? {
        let DeviceInfo { id, state, server_pid, queues, depth, features, owner_tag, .. } = info;
        let tag = owner_tag.map_or_else(|| "none".to_owned(), |tag| tag.to_string());
        println!("device {id}: {state:?}, server {server_pid:?}, tag {tag}, {queues} x {depth}, {features}");
    }
    Ok(())
}

fn remove(words: &[String]) -> Outcome {
    let id = DeviceId::new(words.first().ok_or("remove which device?")?.parse()?);
    let control = Control::open(NODE_PATIENCE)?;
    for (what, outcome) in [("stop", timed(|| control.stop(id))), ("delete", timed(|| control.delete(id)))] {
        let (took, outcome) = outcome;
        outcome?;
        println!("{what} of device {id} took {took:?}");
    }
    Ok(())
}

fn reread(words: &[String]) -> Outcome {
    let id = DeviceId::new(words.first().ok_or("which device?")?.parse()?);
    println!("{:?}", reread_partitions(id, NODE_PATIENCE)?);
    Ok(())
}

/// Holds a device as no descriptor shows.
#[expect(unsafe_code, reason = "nothing else maps a file")]
fn map(words: &[String]) -> Outcome {
    let file = File::open(words.first().ok_or("map which device?")?)?;
    // SAFETY: a fresh mapping of a page that nothing here points into.
    let page = unsafe {
        libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if page == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    drop(file);
    println!("mapped");
    loop {
        std::thread::park();
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let outcome = work();
    (start.elapsed(), outcome)
}

/// Time that requests take.
#[derive(Clone, Copy, Debug, Default)]
struct Delays {
    read: Duration,
    write: Duration,
}

struct Options {
    id: Option<DeviceId>,
    size_bytes: u64,
    file: Option<String>,
    recover: bool,
    cache: String,
    discard: bool,
    depth: u16,
    delays: Delays,
    deadline: Duration,
    late: Option<Duration>,
    tag: Option<OwnerTag>,
}

impl Options {
    fn parse(words: &[String]) -> Outcome<Options> {
        let mut values = HashMap::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = match word.as_str() {
                "--recover" | "--discard" => "",
                _ => words.next().ok_or_else(|| format!("{word} needs a value"))?,
            };
            values.insert(word.as_str(), value);
        }
        let number = |name: &str, default: u64| -> Outcome<u64> {
            values.get(name).map_or(Ok(default), |text| Ok(text.parse()?))
        };
        Ok(Options {
            id: values.get("--dev-id").map(|text| text.parse().map(DeviceId::new)).transpose()?,
            size_bytes: number("--size-mib", 64)? << 20,
            file: values.get("--file").map(|text| (*text).to_owned()),
            recover: values.contains_key("--recover"),
            cache: values.get("--cache").map_or("volatile", |text| text).to_owned(),
            discard: values.contains_key("--discard"),
            depth: number("--depth", 64)?.try_into()?,
            delays: Delays {
                write: Duration::from_micros(number("--write-us", 0)?),
                read: Duration::from_millis(number("--read-ms", 0)?),
            },
            deadline: Duration::from_millis(number("--deadline-ms", 10_000)?),
            late: values
                .contains_key("--late-ms")
                .then_some(number("--late-ms", 0)?)
                .map(Duration::from_millis),
            tag: OwnerTag::new(number("--tag", 0)?),
        })
    }

    fn params(&self) -> DeviceParams {
        DeviceParams {
            capacity_sectors: self.size_bytes / u64::from(SECTOR_BYTES),
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            io_min_bytes: 4096,
            io_opt_bytes: 4096,
            max_io_bytes: MAX_IO_BYTES,
            read_only: false,
            rotational: false,
            volatile_cache: self.cache != "none",
            fua: self.cache == "fua",
            discard: self.discard.then_some(DiscardParams {
                granularity_bytes: 4096,
                max_sectors: 65_536,
                max_write_zeroes_sectors: 65_536,
            }),
        }
    }
}

fn serve(options: &Options) -> Outcome {
    become_io_flusher()?;
    lock_memory()?;
    Host::probe()?;
    let disk = Disk::open(options)?;
    let control = Control::open(options.deadline)?;
    let start = Instant::now();
    let info = if options.recover { take_over(&control, options)? } else { make(&control, options)? };
    let params = control.params(info.id)?;
    let device = Arc::new(CharDevice::open(info.id, NODE_PATIENCE)?);
    let (ready, is_ready) = mpsc::channel();
    let late = options.late;
    let delays = options.delays;
    let queue = std::thread::spawn(move || {
        std::thread::sleep(late.unwrap_or_default());
        Server::new(device, &info, &params, disk, delays)?.run(&ready)
    });
    match options.late {
        Some(_) => miss_the_deadline(&control, info.id)?,
        // An error here means that the queue's thread has ended: its own error is the better one.
        None if is_ready.recv().is_err() => {}
        None if options.recover => control.end_recovery(info.id)?,
        None => control.start(info.id)?,
    }
    if !queue.is_finished() {
        let node = wait_for_block_node(info.id, NODE_PATIENCE)?;
        println!(
            "serving {} ({}:{}) after {:?}",
            node.path.display(),
            node.major,
            node.minor,
            start.elapsed()
        );
    }
    queue.join().map_err(|_| "the queue's thread panicked")?
}

fn make(control: &Control, options: &Options) -> Outcome<DeviceInfo> {
    let spec = DeviceSpec {
        id: options.id,
        depth: options.depth,
        max_io_bytes: MAX_IO_BYTES,
        queues: 1,
        owner_tag: options.tag,
    };
    let info = control.add_device(&spec)?;
    control.set_params(info.id, &options.params())?;
    println!("made device {}: {} x {}, {}", info.id, info.queues, info.depth, info.features);
    Ok(info)
}

fn take_over(control: &Control, options: &Options) -> Outcome<DeviceInfo> {
    let id = options.id.ok_or("--recover needs --dev-id")?;
    let waited = control.start_recovery(id)?;
    let info = control.info(id)?;
    println!("took over device {id} ({:?}), which was free after {waited:?}", info.state);
    Ok(info)
}

fn miss_the_deadline(control: &Control, id: DeviceId) -> Outcome {
    let (took, outcome) = timed(|| control.start(id));
    println!("start: {} after {took:?}", outcome.err().ok_or("START_DEV did not hang")?);
    let (took, outcome) = timed(|| control.info(id));
    println!("info: {:?} after {took:?}", outcome?.state);
    Ok(())
}

/// Where the data is.
enum Disk {
    Memory(Vec<u8>),
    /// Locked, as a claim: a successor gets the lock when the last I/O of this process has landed.
    File(File),
}

impl Disk {
    fn open(options: &Options) -> Outcome<Disk> {
        let Some(path) = &options.file else {
            return Ok(Disk::Memory(vec![0; usize::try_from(options.size_bytes)?]));
        };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.lock()?;
        file.set_len(options.size_bytes)?;
        Ok(Disk::File(file))
    }

    fn read(&self, position: u64, into: &mut [u8]) -> std::io::Result<()> {
        match self {
            Disk::Memory(bytes) => into.copy_from_slice(&bytes[range(position, into.len())]),
            Disk::File(file) => file.read_exact_at(into, position)?,
        }
        Ok(())
    }

    fn write(&mut self, position: u64, from: &[u8]) -> std::io::Result<()> {
        match self {
            Disk::Memory(bytes) => bytes[range(position, from.len())].copy_from_slice(from),
            Disk::File(file) => file.write_all_at(from, position)?,
        }
        Ok(())
    }

    fn zero(&mut self, position: u64, length: u64) -> std::io::Result<()> {
        let mut done = 0;
        while done < length {
            let step = (length - done).min(ZEROES.len() as u64);
            self.write(position + done, &ZEROES[..usize::try_from(step).expect("at most 64 KiB")])?;
            done += step;
        }
        Ok(())
    }
}

fn range(position: u64, length: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(position).expect("the queue refuses requests beyond the device");
    start..start + length
}

#[derive(Debug, Default)]
struct Counts {
    reads: u64,
    writes: u64,
    fua: u64,
    flushes: u64,
    discards: u64,
    write_zeroes: u64,
    no_unmap: u64,
    refused: u64,
    failed: u64,
}

struct Server {
    ring: IoUring<squeue::Entry, cqueue::Entry>,
    queue: Queue,
    disk: Disk,
    delays: Delays,
    buffer: Vec<u8>,
    counts: Counts,
}

impl Server {
    fn new(
        device: Arc<CharDevice>,
        info: &DeviceInfo,
        params: &DeviceParams,
        disk: Disk,
        delays: Delays,
    ) -> Outcome<Server> {
        assert!(is_io_flusher(), "threads inherit the mark");
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(u32::from(info.depth).next_power_of_two())?;
        ring.submitter().register_files(&[device.as_raw_fd()])?;
        let config = QueueConfig {
            queue: 0,
            depth: info.depth,
            max_io_bytes: info.max_io_bytes,
            capacity_sectors: params.capacity_sectors,
            file: RingFile::Fixed(0),
            slot: RingSlot::new(0),
        };
        let queue = Queue::new(device, &config)?;
        let buffer = vec![0; usize::try_from(info.max_io_bytes)?];
        Ok(Server { ring, queue, disk, delays, buffer, counts: Counts::default() })
    }

    fn run(mut self, ready: &Sender<()>) -> Outcome {
        self.queue.start_fetch();
        self.submit_waiting()?;
        ready.send(())?;
        let mut completions = Vec::with_capacity(usize::from(u16::MAX));
        while !self.queue.may_leave() {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(error.into()),
                _ => {}
            }
            completions.extend(self.ring.completion().map(|cqe| (cqe.user_data(), cqe.result())));
            for (user_data, result) in completions.drain(..) {
                if let Some(event) = self.queue.on_cqe(user_data, result) {
                    self.react(event);
                }
            }
            self.submit_waiting()?;
        }
        println!("leaving: {:?}, tags {:?}", self.counts, self.queue.tag_counts());
        Ok(())
    }

    fn submit_waiting(&mut self) -> Outcome {
        while self.queue.push_waiting(&mut self.ring.submission()) > 0 {
            self.ring.submit()?;
        }
        self.ring.submit()?;
        Ok(())
    }

    fn react(&mut self, event: QueueEvent) {
        match event {
            QueueEvent::Request(request) => {
                let outcome = self.execute(&request);
                self.queue.complete(request, outcome);
            }
            QueueEvent::Refused { tag, reason } => {
                self.counts.refused += 1;
                println!("tag {tag}: refused, {reason}");
            }
            QueueEvent::Aborted { .. } => {}
            QueueEvent::Failed { tag, errno } => {
                self.counts.failed += 1;
                println!("tag {tag}: {errno}");
            }
        }
    }

    fn execute(&mut self, request: &Request) -> Result<(), Errno> {
        let position = request.start_sector() * u64::from(SECTOR_BYTES);
        let length = u64::from(request.sectors()) * u64::from(SECTOR_BYTES);
        let buffer = &mut self.buffer[..usize::try_from(request.bytes()).expect("32 bits")];
        self.counts.fua += u64::from(request.fua());
        let io_error = |error: std::io::Error| Errno::of(&error);
        match request.op() {
            Op::Read => {
                self.counts.reads += 1;
                std::thread::sleep(self.delays.read);
                self.disk.read(position, buffer).map_err(io_error)?;
                self.queue.write_data(request, 0, buffer).map_err(|_| Errno::EIO)
            }
            Op::Write => {
                self.counts.writes += 1;
                self.queue.read_data(request, 0, buffer).map_err(|_| Errno::EIO)?;
                std::thread::sleep(self.delays.write);
                self.disk.write(position, buffer).map_err(io_error)
            }
            Op::Flush => {
                self.counts.flushes += 1;
                Ok(())
            }
            Op::Discard => {
                self.counts.discards += 1;
                self.disk.zero(position, length).map_err(io_error)
            }
            Op::WriteZeroes { no_unmap } => {
                self.counts.write_zeroes += 1;
                self.counts.no_unmap += u64::from(no_unmap);
                self.disk.zero(position, length).map_err(io_error)
            }
        }
    }
}
