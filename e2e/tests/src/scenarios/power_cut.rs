//! Power cuts under PostgreSQL: master and shadow both recover, and the set is still online.

use crate::node::{NewSet, Node, attach, set_state};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use umbra_lab::{Disk, Vm, postgres};

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(180);

/// Starts PostgreSQL on a mounted file system, recovers it, checks it and counts the accounts.
fn accounts(vm: &Vm, data: &str, port: u16) -> Result<u64> {
    let script = format!(
        "runuser -u postgres -- pg_ctl -D {data} -w -t 120 -o '-p {port}' -l /tmp/pg-{port}.log start >&2
         runuser -u postgres -- psql -h /tmp -p {port} -tA -c 'select count(*) from pgbench_accounts' bench
         runuser -u postgres -- pg_ctl -D {data} -m fast -w stop >&2"
    );
    let output = vm.sh(&script).timeout(LONG).run()?;
    output.text().trim().parse().with_context(|| format!("no count in {:?}", output.text()))
}

/// Two power cuts, a second apart from the start of the load.
pub(super) fn two_power_cuts() -> Result<()> {
    let image = postgres::image(512 * MIB, 1)?;
    let mut vm = Vm::builder("power-cut")
        .disk(Disk::copy_of("pg", image))
        .disk(Disk::blank("shadow", 512 * MIB))
        .disk(Disk::blank("bitmap", 64 * MIB))
        .disk(Disk::blank("state", 64 * MIB))
        .boot()?;
    let _node = Node::start(&mut vm)?;
    let master = attach(&vm, "/dev/lab/pg", "pg")?;
    let shadow = NewSet { master: "pg", ..NewSet::default() }.enable(&vm)?;
    for round in 1..=2 {
        vm.sh(&format!("mkdir -p {0} && mount {master} {0}", postgres::MOUNT)).run()?;
        vm.sh(&format!(
            "rm -f {0}/data/postmaster.pid; runuser -u postgres -- pg_ctl -D {0}/data -w -t 120 -l /tmp/pg.log start >&2",
            postgres::MOUNT
        ))
        .timeout(LONG)
        .run()?;
        let _load = vm.spawn("runuser -u postgres -- pgbench -h /tmp -c 4 -T 60 bench")?;
        std::thread::sleep(Duration::from_secs(6));
        vm.reset()?;
        let _node = Node::start(&mut vm)?;
        let state = set_state(&vm, "s")?;
        ensure!(state == "idle", "after power cut {round} the set is {state}");
        vm.sh(&format!("mount -o ro,noload {shadow} /mnt && umount /mnt")).run()?;
    }
    vm.sh(&format!("mkdir -p {0} && mount {master} {0} && rm -f {0}/data/postmaster.pid", postgres::MOUNT))
        .run()?;
    let on_master = accounts(&vm, &format!("{}/data", postgres::MOUNT), 5433)?;
    vm.sh(&format!("umount {0} && fsck.ext4 -fn {master} >&2", postgres::MOUNT)).timeout(LONG).run()?;
    // The shadow is written by its own journal's replay: that is what a writable shadow is for.
    vm.sh(&format!(
        "fsck.ext4 -fp {shadow} >&2 || test $? -le 1; mount {shadow} /mnt; rm -f /mnt/data/postmaster.pid"
    ))
    .timeout(LONG)
    .run()?;
    let on_shadow = accounts(&vm, "/mnt/data", 5434)?;
    vm.sh("umount /mnt").run()?;
    ensure!(
        on_master == 100_000 && on_shadow == 100_000,
        "accounts: {on_master} on the master, {on_shadow} on the shadow"
    );
    vm.finish()
}
