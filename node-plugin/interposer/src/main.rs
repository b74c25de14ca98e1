#![forbid(unsafe_code)]
//! umbra-io: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    umbra_io::main()
}
