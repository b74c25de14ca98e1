#![forbid(unsafe_code)]
//! umbra-node: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    umbra_node::main()
}
