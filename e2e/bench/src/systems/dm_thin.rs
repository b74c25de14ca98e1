//! dm-thin: redirects writes instead of copying, and must own the storage.

use std::time::Duration;

use anyhow::Result;

use super::{STAMP, System};
use crate::bed::{Bed, CHUNK, DMSETUP, MASTER, Medium};

const POOL: &str = "peer-pool";
const THIN: &str = "peer-thin";

/// A thin device that was filled, and its snapshot.
#[derive(Debug)]
pub struct DmThin {
    device: String,
    snapshot: u32,
}

impl DmThin {
    pub(super) fn present(bed: &Bed, medium: Medium) -> Result<Self> {
        let (meta, data) = (bed.device(medium, "pool-meta")?, bed.device(medium, "pool-data")?);
        let (sectors, chunk) = (MASTER / 512, CHUNK / 512);
        bed.sh(&format!(
            "dd if=/dev/zero of={meta} bs=4k count=1 oflag=direct status=none
             size=$(blockdev --getsz {data})
             {DMSETUP} create {POOL} --table \"0 $size thin-pool {meta} {data} {chunk} 0 1 skip_block_zeroing\"
             {DMSETUP} message {POOL} 0 'create_thin 0'"
        ))?;
        let pool = bed.mapped(POOL)?;
        bed.sh(&format!("{DMSETUP} create {THIN} --table '0 {sectors} thin {pool} 0'"))?;
        let mut this = Self { device: bed.mapped(THIN)?, snapshot: 0 };
        let (from, to) = (bed.device(medium, "master")?, &this.device);
        bed.sh(&format!("dd if={from} of={to} bs=1M iflag=direct oflag=direct status=none; sync"))?;
        this.renew(bed)?;
        Ok(this)
    }

    fn cut(&self) -> String {
        let next = self.snapshot + 1;
        format!("{DMSETUP} message {POOL} 0 'create_snap {next} 0'")
    }
}

impl System for DmThin {
    fn device(&self) -> &str {
        &self.device
    }

    fn late(&self) -> Duration {
        // It commits once a second.
        Duration::from_secs(2)
    }

    fn renew(&mut self, bed: &Bed) -> Result<()> {
        let forget = match self.snapshot {
            0 => String::new(),
            old => format!("{DMSETUP} message {POOL} 0 'delete {old}'"),
        };
        bed.sh(&format!(
            "{forget}\n{DMSETUP} suspend {THIN}; {}; {DMSETUP} resume {THIN}; sync",
            self.cut()
        ))?;
        self.snapshot += 1;
        Ok(())
    }

    fn cut_script(&mut self, _bed: &Bed) -> Result<Option<String>> {
        let script = format!(
            "{STAMP}
             stamp closed; {DMSETUP} suspend {THIN}; stamp drained
             {}; {DMSETUP} resume {THIN}; stamp opened",
            self.cut()
        );
        self.snapshot += 1;
        Ok(Some(script))
    }

    fn remove(self: Box<Self>, bed: &Bed) -> Result<()> {
        bed.sh(&format!("{DMSETUP} remove --retry {THIN}; {DMSETUP} remove --retry {POOL}")).map(drop)
    }
}
