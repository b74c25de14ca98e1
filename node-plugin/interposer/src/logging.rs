//! Structured logs on standard error, where kubelets and journald collect them: text for people, JSON for
//! programs. Standard output stays free for results.
//!
//! Nothing secret is ever logged, because umbra-io knows no secrets; device contents are never logged.

use std::io::{self, IsTerminal};
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// What is logged where the environment says nothing.
const FILTER: &str = "info";
/// Says what is logged: a level, or `target=level` with commas between.
const VARIABLE: &str = "RUST_LOG";

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
/// leaves the first alone.
pub fn init(format: LogFormat) {
    let variable = |name: &str| std::env::var(name).ok();
    let (filter, problem) = filter(variable(VARIABLE).as_deref());
    let dress = Dress::of(io::stderr().is_terminal(), variable);
    let logs = subscriber(format, dress, filter, io::stderr);
    if logs.try_init().is_ok()
        && let Some(problem) = problem
    {
        tracing::warn!(%problem, using = FILTER, "{VARIABLE} says nothing that can be used");
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
