//! Boots a machine and runs one command in it: `cargo run -p umbra-lab --example boot -- 'uname -a'`.

use std::time::Duration;

use umbra_lab::{Disk, Vm, progress};

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let script =
        if words.is_empty() { "uname -a; ls -l /dev/ublk-control /dev/lab".into() } else { words.join(" ") };
    let vm = Vm::builder("boot").disk(Disk::blank("scratch", 1 << 30)).boot()?;
    progress::say(format_args!("up after {:.1} s", vm.boot_took().as_secs_f64()));
    let output = vm.sh(&script).timeout(Duration::from_secs(600)).output()?;
    print!("{}", output.stdout);
    eprint!("{}", output.stderr);
    progress::say(format_args!("{} after {:.1} s", output.status, output.took.as_secs_f64()));
    vm.finish()
}
