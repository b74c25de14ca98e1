//! Structured logs on standard error, where kubelets and journald collect them: text for people, JSON for
//! programs. Standard output stays free for results.
//!
//! Whoever reads the logs may stand still, and the disk they go to may be full. Neither may hold up a master, or
//! the supervisor that watches one: lines go through a bounded queue to a thread of its own, and what does not fit
//! is lost, counted, and reported once lines get through again.
//!
//! ```text
//!   any thread ── try_send ──> queue of LINES_MAX lines ──> thread "log" ──> standard error
//!        └─ full: the line is lost                               └─ an error: the line is lost
//! ```
//!
//! Nothing secret is ever logged, because umbra-io knows no secrets; device contents are never logged.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// What is logged where the environment says nothing.
const FILTER: &str = "info";
/// Says what is logged: a level, or `target=level` with commas between.
const VARIABLE: &str = "RUST_LOG";
/// Lines that wait for whoever reads them.
const LINES_MAX: usize = 1024;
/// Bytes of a line; the rest of a longer one is cut off. Together with [`LINES_MAX`] it bounds the memory.
const LINE_BYTES_MAX: usize = 8 << 10;
/// Stack of the thread that writes. It is locked, as all memory of these processes.
const STACK_BYTES: usize = 128 << 10;
/// Time for the last lines before a process ends.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// Lines that were logged, that were written or lost, and of these, that were lost.
static LOGGED: AtomicU64 = AtomicU64::new(0);
static DEALT_WITH: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// How lines are dressed, by what reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dress {
    colours: bool,
    time: bool,
}

impl Dress {
    /// Colours for terminals that want them; times for everybody but journald, which has its own.
    fn of(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        let refused = variable("NO_COLOR").is_some_and(|text| !text.is_empty());
        let journald = variable("JOURNAL_STREAM").is_some() && !is_terminal;
        Self { colours: is_terminal && !refused, time: !journald }
    }
}

/// Starts logging; what is logged comes from `RUST_LOG`, else it is `info`. A second start in one process
/// leaves the first alone. Panics are logged like everything else: printing them could wait for a reader, too.
pub fn init(format: LogFormat) {
    let variable = |name: &str| std::env::var(name).ok();
    let (filter, problem) = filter(variable(VARIABLE).as_deref());
    let dress = Dress::of(io::stderr().is_terminal(), variable);
    let (lines, queue) = Lines::queue();
    let logs = subscriber(format, dress, filter, move || lines.clone());
    if logs.try_init().is_err() {
        return;
    }
    std::panic::set_hook(Box::new(log_panic));
    let writer = std::thread::Builder::new().name("log".into()).stack_size(STACK_BYTES);
    // Without the thread every line is lost and counted, which is better than not to start.
    drop(writer.spawn(move || write_lines(&queue, &mut io::stderr())));
    if let Some(problem) = problem {
        tracing::warn!(%problem, using = FILTER, "{VARIABLE} says nothing that can be used");
    }
}

/// Lines that were lost since the process started: nobody read them in time, or writing them failed.
pub fn lost_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Waits a moment for lines that are on their way; called before a process ends. Returns in any case.
pub fn flush() {
    let deadline = Instant::now() + FLUSH_LIMIT;
    let logged = LOGGED.load(Ordering::Acquire);
    while DEALT_WITH.load(Ordering::Acquire) < logged && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("a value that is no text");
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
    tracing::error!(thread = thread.name(), %place, message, trace, "panic");
    // The process may be about to abort.
    flush();
}

/// Where events put their lines.
#[derive(Clone, Debug)]
struct Lines(SyncSender<Vec<u8>>);

impl Lines {
    fn queue() -> (Self, Receiver<Vec<u8>>) {
        let (to, from) = sync_channel(LINES_MAX);
        (Self(to), from)
    }
}

impl Write for Lines {
    /// Takes one whole line, and never fails: an error would be printed, which is what must not happen.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut kept = line[..line.len().min(LINE_BYTES_MAX)].to_vec();
        if kept.len() < line.len() {
            kept.push(b'\n');
        }
        LOGGED.fetch_add(1, Ordering::AcqRel);
        if self.0.try_send(kept).is_err() {
            lose();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lose() {
    LOST.fetch_add(1, Ordering::Relaxed);
    DEALT_WITH.fetch_add(1, Ordering::AcqRel);
}

/// Writes lines until nobody can log any more. What was lost is logged when a line has got through again.
fn write_lines(queue: &Receiver<Vec<u8>>, to: &mut impl Write) {
    let mut told = 0;
    for line in queue {
        if to.write_all(&line).and_then(|()| to.flush()).is_err() {
            lose();
            continue;
        }
        DEALT_WITH.fetch_add(1, Ordering::AcqRel);
        let lost = lost_lines();
        if lost > told {
            tracing::warn!(
                lines = lost - told,
                "lines of the log were lost: nobody read them in time, or they could not be written"
            );
            told = lost;
        }
    }
}

/// The filter, and what is wrong with the text that it should have come from.
fn filter(text: Option<&str>) -> (EnvFilter, Option<String>) {
    match text.filter(|text| !text.trim().is_empty()).map(EnvFilter::try_new) {
        None => (EnvFilter::new(FILTER), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(FILTER), Some(error.to_string())),
    }
}

fn subscriber<W>(
    format: LogFormat,
    dress: Dress,
    filter: EnvFilter,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let logs = fmt().with_env_filter(filter).with_writer(writer);
    match (format, dress.time) {
        (LogFormat::Text, true) => Box::new(logs.with_ansi(dress.colours).finish()),
        (LogFormat::Text, false) => Box::new(logs.with_ansi(dress.colours).without_time().finish()),
        // Fields beside the message: collectors index them without knowing our shape.
        (LogFormat::Json, _) => Box::new(logs.json().flatten_event(true).finish()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::sync::{Arc, Mutex};

    /// What one info, one debug and one quoted line become.
    fn logged(format: LogFormat, dress: Dress, filter_text: Option<&str>) -> Vec<String> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&written);
        let writer = move || Sink(Arc::clone(&sink));
        let logs = subscriber(format, dress, filter(filter_text).0, writer);
        tracing::subscriber::with_default(logs, || {
            tracing::info!(set = "prod/nightly", epoch = 7, "cut");
            tracing::debug!("detail");
            tracing::error!(error = "a\n\"b\"", "failed");
        });
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A writer that fails for a while, and one queue that nobody empties.
    #[test]
    fn lines_that_cannot_be_written_are_counted_and_nothing_waits_for_them() {
        struct Full(usize, Vec<u8>);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.0 > 0 {
                    self.0 -= 1;
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.1.extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut lines, queue) = Lines::queue();
        let before = lost_lines();
        for _ in 0..LINES_MAX + 7 {
            lines.write_all(b"a line\n").unwrap();
        }
        assert!(lost_lines() >= before + 7, "what does not fit is lost");
        drop(lines);
        let mut full = Full(3, Vec::new());
        write_lines(&queue, &mut full);
        assert!(lost_lines() >= before + 10, "what cannot be written is lost");
        assert_eq!(full.1.len(), 7 * (LINES_MAX - 3));
        let (mut lines, queue) = Lines::queue();
        lines.write_all(&vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(queue.recv().unwrap().len(), LINE_BYTES_MAX + 1);
    }

    const PLAIN: Dress = Dress { colours: false, time: false };

    #[test]
    fn text_is_one_line_per_event_without_colours_unless_asked_for() {
        let lines = logged(LogFormat::Text, PLAIN, None);
        assert!(
            lines[0].contains("INFO") && lines[0].contains("cut set=\"prod/nightly\" epoch=7"),
            "{lines:?}"
        );
        assert!(lines.iter().all(|line| !line.contains("detail") && !line.contains('\u{1b}')), "{lines:?}");
        assert_eq!(lines.len(), 2, "{lines:?}");
        let coloured = logged(LogFormat::Text, Dress { colours: true, time: true }, None);
        assert!(coloured[0].contains('\u{1b}'), "{coloured:?}");
    }

    #[test]
    fn json_is_one_object_per_line_with_fields_beside_the_message() {
        let lines = logged(LogFormat::Json, PLAIN, None);
        let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&events[0]["message"], &events[0]["level"]), (&"cut".into(), &"INFO".into()));
        assert_eq!((&events[0]["set"], &events[0]["epoch"]), (&"prod/nightly".into(), &7.into()));
        assert_eq!(events[1]["error"], "a\n\"b\"");
        assert!(events.iter().all(|event| event["timestamp"].is_string()));
    }

    #[test]
    fn the_environment_says_what_is_logged_and_nonsense_is_named() {
        assert_eq!(logged(LogFormat::Text, PLAIN, Some("debug")).len(), 3);
        assert_eq!(logged(LogFormat::Text, PLAIN, Some("error")).len(), 1);
        assert_eq!(logged(LogFormat::Text, PLAIN, Some("umbra_io=off")).len(), 0);
        for (text, is_wrong) in
            [(None, false), (Some(""), false), (Some("warn"), false), (Some("a=b=c"), true)]
        {
            assert_eq!(filter(text).1.is_some(), is_wrong, "{text:?}");
        }
    }

    #[test]
    fn terminals_get_colours_and_journald_no_times() {
        let with = |terminal, set: &'static [(&str, &str)]| {
            Dress::of(terminal, |name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned())
            })
        };
        assert_eq!(with(true, &[]), Dress { colours: true, time: true });
        assert_eq!(with(true, &[("NO_COLOR", "1")]), Dress { colours: false, time: true });
        assert_eq!(with(true, &[("NO_COLOR", "")]), Dress { colours: true, time: true });
        assert_eq!(with(false, &[]), Dress { colours: false, time: true });
        assert_eq!(with(false, &[("JOURNAL_STREAM", "8:1")]), Dress { colours: false, time: false });
        assert_eq!(with(true, &[("JOURNAL_STREAM", "8:1")]), Dress { colours: true, time: true });
    }
}
