//! Times PostgreSQL on a virtual disk, before and after a power cut: `cargo run -p umbra-lab --example postgres`.

use std::thread;
use std::time::Duration;

use umbra_lab::progress::say;
use umbra_lab::{Disk, Output, Vm, postgres};

const MINUTE: Duration = Duration::from_secs(60);

fn main() -> anyhow::Result<()> {
    let image = postgres::image(1 << 30, 1)?;
    let mut vm = Vm::builder("postgres").disk(Disk::copy_of("pg", image)).boot()?;
    say(format_args!("up after {:.1} s", vm.boot_took().as_secs_f64()));
    start(&vm)?;
    let bench = "pgbench -h /tmp -c 4 -T 10 bench";
    let output = vm.cmd(&["sh", "-c", bench]).user("postgres").timeout(MINUTE).run()?;
    print!("{}", output.stdout);
    let load = vm.sh("exec pgbench -h /tmp -c 4 -T 600 -P 1 bench").user("postgres").spawn()?;
    load.wait_for("progress: 3", MINUTE)?;
    thread::sleep(Duration::from_millis(500));
    vm.reset()?;
    say(format_args!("up again after {:.1} s", vm.boot_took().as_secs_f64()));
    start(&vm)?;
    let count = "psql -h /tmp -Atc 'select count(*), sum(abalance) from pgbench_accounts' bench";
    took("count", &vm.cmd(&["sh", "-c", count]).user("postgres").timeout(MINUTE).run()?);
    vm.finish()
}

fn start(vm: &Vm) -> anyhow::Result<()> {
    let mount = format!("mkdir -p {0} && mount /dev/lab/pg {0}", postgres::MOUNT);
    took("mount", &vm.sh(&mount).run()?);
    let data = format!("{}/{}", postgres::MOUNT, postgres::DATA);
    let start = ["pg_ctl", "-D", &data, "-w", "-t", "60", "-l", "/tmp/pg.log", "start"];
    took("start", &vm.cmd(&start).user("postgres").timeout(MINUTE).run()?);
    Ok(())
}

fn took(what: &str, output: &Output) {
    say(format_args!("{what}: {:.2} s", output.took.as_secs_f64()));
}
