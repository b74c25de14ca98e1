//! `umbra-io ctl`: a small command line over the interposer's socket, for people and tests.
//!
//! ```text
//!   args ──> command ──> Output (data) ──> render: table or JSON ──> stdout
//!                └─ progress, question ──────────────────────────> stderr
//! ```
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage (clap's). With `--json` exactly one document comes out on
//! stdout, one per line for a watch, also when the command fails (`failure.rs`).

mod args;
mod command;
mod confirm;
mod figures;
mod progress;
mod render;

pub(crate) use args::Ctl;

use command::{CtlError, Output};
use std::io::{self, Write};
use std::process::ExitCode;

/// Runs a command to its end.
pub(crate) fn main(ctl: &Ctl) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("error: no runtime: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    let mut screen = Screen { json: ctl.json };
    match runtime.block_on(command::run(ctl, &mut screen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.fail(&error);
            ExitCode::FAILURE
        }
    }
}

/// Where results go.
#[derive(Debug)]
pub(crate) struct Screen {
    json: bool,
}

impl Screen {
    /// Whether bars and questions would reach a person.
    fn is_for_people(&self) -> bool {
        !self.json && console::Term::stderr().is_term()
    }

    /// Characters in a line of the terminal; 80 where there is none.
    fn width() -> u16 {
        console::Term::stdout().size_checked().map_or(80, |(_, columns)| columns)
    }

    /// Shows a result.
    fn show(&mut self, output: &Output) -> Result<(), CtlError> {
        let text = if self.json { render::json(output) } else { render::text(output) };
        print(&text)
    }

    /// Shows a result in place of the last one, where there is a terminal.
    fn refresh(&mut self, output: &Output) -> Result<(), CtlError> {
        let terminal = console::Term::stdout();
        if !self.json && terminal.is_term() {
            terminal.clear_screen().map_err(CtlError::Output)?;
        }
        self.show(output)
    }

    /// Tells what went wrong and what to do: on stderr, and as a document where one is expected.
    fn fail(&mut self, error: &CtlError) {
        if error.is_broken_pipe() {
            return;
        }
        let failure = render::failure(error);
        if self.json {
            // The text on stderr is all that is left if this fails too.
            drop(print(&failure.json()));
        }
        complain(&failure.text());
    }
}

/// Writes to stderr; unlike `eprint!` it does not panic where that is closed or full.
pub(crate) fn complain(text: &str) {
    // Nobody is left to be told.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

/// Writes to stdout; unlike `print!` it does not panic when the reader has gone.
fn print(text: &str) -> Result<(), CtlError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CtlError::Output)
}
