//! Structured logs on standard error: text for people, JSON for programs. Each line of a call has its request id.

use tracing_subscriber::EnvFilter;

/// What is logged where `RUST_LOG` says nothing that can be used.
const FILTER: &str = "info";

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// Starts logging.
pub(crate) fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.with_ansi(false).init(),
        // Fields beside the message: collectors index them without knowing our shape.
        LogFormat::Json => logs.json().flatten_event(true).with_span_list(false).init(),
    }
}
