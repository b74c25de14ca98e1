//! A disk as users have them: an ext4 file system with a PostgreSQL cluster and pgbench's tables, made before any
//! shadow was thought of.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::disk::Disk;
use crate::rootfs::Root;
use crate::vm::Vm;
use crate::{cache, host, progress};

/// Where the disk was mounted when it was made, and may be again.
pub const MOUNT: &str = "/srv/pg";
/// The folder of the cluster, relative to the file system.
pub const DATA: &str = "data";
/// The database with pgbench's tables.
pub const DATABASE: &str = "bench";

const MAKE: &str = r"
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/lab/pg
mkdir -p /srv/pg && mount /dev/lab/pg /srv/pg
install -d -o postgres -g postgres -m 700 /srv/pg/data
runuser -u postgres -- initdb -D /srv/pg/data --auth=trust --no-locale --encoding=UTF8 --data-checksums >&2
cat >> /srv/pg/data/postgresql.conf <<CONF
listen_addresses = ''
unix_socket_directories = '/tmp'
shared_buffers = 64MB
CONF
runuser -u postgres -- pg_ctl -D /srv/pg/data -w -t 60 -l /tmp/pg.log start >&2
runuser -u postgres -- createdb -h /tmp bench
runuser -u postgres -- pgbench -h /tmp -i -q -s SCALE bench >&2
runuser -u postgres -- pg_ctl -D /srv/pg/data -m fast -w stop >&2
umount /srv/pg
e2fsck -fn /dev/lab/pg >&2
";

/// An image of `size` bytes with ext4 and a cluster in `data/`, cleanly shut down: superuser `postgres`, socket in
/// `/tmp`, database `bench` with pgbench's tables at `scale` (100,000 accounts each), page checksums on.
///
/// The image stays in the cache; use it with [`Disk::copy_of`].
///
/// # Errors
/// Where the machine that makes it fails.
pub fn image(size: u64, scale: u32) -> Result<PathBuf> {
    let (bytes, accounts) = (size.to_string(), scale.to_string());
    let root = Root::default().recipe();
    let mut recipe: Vec<&str> = root.iter().map(String::as_str).collect();
    recipe.extend([MAKE, &bytes, &accounts]);
    let entry = cache::entry("postgres", &recipe, |into| {
        progress::step("making a disk with a PostgreSQL cluster", || {
            let vm = Vm::builder("make-postgres").disk(Disk::blank("pg", size)).boot()?;
            vm.sh(&MAKE.replace("SCALE", &accounts)).timeout(Duration::from_secs(600)).run()?;
            let off = vm.shut_down()?;
            let made = off.disk_path("pg").context("the disk is gone")?;
            host::copy_sparse(made, &into.join("pg.img"))?;
            off.finish();
            Ok(())
        })
    })?;
    fs::metadata(entry.join("pg.img"))?;
    Ok(entry.join("pg.img"))
}
