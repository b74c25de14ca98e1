//! Writes what is generated from the kinds: manifests for the API server and the reference for people. With `--check`
//! nothing is written, and what differs is named.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use umbra_crds::generated;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let check = match arguments.as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => {
            eprintln!("usage: crdgen [--check]");
            return ExitCode::from(1);
        }
    };
    match run(check) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(stale) => {
            eprintln!("crdgen: {stale} files are not what the kinds say: write them with `cargo xtask crds`");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::from(2)
        }
    }
}

/// How many files differ, or were written.
fn run(check: bool) -> Result<usize, Box<dyn std::error::Error>> {
    let root = generated::workspace();
    let mut stale = 0;
    for file in generated::files()? {
        let path = root.join(&file.path);
        if fs::read_to_string(&path).is_ok_and(|found| found == file.text) {
            continue;
        }
        if check {
            eprintln!("crdgen: {} differs", file.path);
            stale += 1;
        } else {
            fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            fs::write(&path, &file.text)?;
            println!("{}", file.path);
        }
    }
    for path in generated::surplus()? {
        if check {
            eprintln!("crdgen: {} stands for no kind", path.display());
            stale += 1;
        } else {
            fs::remove_file(&path)?;
            println!("removed {}", path.display());
        }
    }
    Ok(stale)
}
