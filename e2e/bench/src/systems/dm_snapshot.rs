//! dm-snapshot: persistent, in the same unit as Umbra.

use anyhow::Result;

use super::{STAMP, System};
use crate::bed::{Bed, CHUNK, DMSETUP, MASTER, Medium, SHADOWS};

const ORIGIN: &str = "peer-origin";

/// An origin with its snapshots.
#[derive(Debug)]
pub struct DmSnapshot {
    device: String,
    /// The master under its delay, and the places for snapshots.
    base: String,
    stores: Vec<String>,
    shadows: usize,
}

impl DmSnapshot {
    pub(super) fn present(bed: &Bed, medium: Medium, shadows: usize) -> Result<Self> {
        let base = bed.device(medium, "master")?;
        let places = if medium == Medium::Virtio { SHADOWS } else { 1 };
        let stores = (1..=places)
            .map(|number| bed.device(medium, &format!("shadow{number}")))
            .collect::<Result<_>>()?;
        let table = format!("0 {} snapshot-origin {base}", MASTER / 512);
        bed.sh(&format!("{DMSETUP} create {ORIGIN} --table '{table}'"))?;
        let mut this = Self { device: bed.mapped(ORIGIN)?, base, stores, shadows };
        this.renew(bed)?;
        Ok(this)
    }

    /// A store whose first block is not a header of its own is made anew.
    fn forget(store: &str) -> String {
        format!("dd if=/dev/zero of={store} bs=1M count=1 oflag=direct status=none")
    }

    fn create(&self, store: usize) -> String {
        let (base, place, chunk) = (&self.base, &self.stores[store], CHUNK / 512);
        format!(
            "{DMSETUP} create peer-snapshot{store} --table '0 {} snapshot {base} {place} P {chunk}'",
            MASTER / 512
        )
    }

    fn remove_snapshots(&self) -> String {
        let each = (0..self.stores.len()).map(|store| {
            format!(
                "if {DMSETUP} info peer-snapshot{store} >/dev/null 2>&1; then {DMSETUP} remove --retry peer-snapshot{store}; fi"
            )
        });
        each.collect::<Vec<_>>().join("\n")
    }
}

impl System for DmSnapshot {
    fn device(&self) -> &str {
        &self.device
    }

    fn renew(&mut self, bed: &Bed) -> Result<()> {
        let made = (0..self.shadows)
            .map(|store| format!("{}\n{}", Self::forget(&self.stores[store]), self.create(store)));
        let made: Vec<String> = made.collect();
        bed.sh(&format!("{}\n{}\nsync", self.remove_snapshots(), made.join("\n"))).map(drop)
    }

    fn cut_script(&mut self, bed: &Bed) -> Result<Option<String>> {
        // The load runs on the origin alone; the cut makes its first snapshot.
        bed.sh(&format!("{}\n{}", self.remove_snapshots(), Self::forget(&self.stores[0])))?;
        Ok(Some(format!(
            "{STAMP}
             stamp closed; {DMSETUP} suspend {ORIGIN}; stamp drained
             {}; {DMSETUP} resume {ORIGIN}; stamp opened",
            self.create(0)
        )))
    }

    fn restore(&mut self, bed: &Bed) -> Result<bool> {
        let (sectors, chunk) = (MASTER / 512, CHUNK / 512);
        let (base, store) = (&self.base, &self.stores[0]);
        // All is merged when nothing but its own records is left in the store.
        bed.sh(&format!(
            "{}
             {DMSETUP} suspend {ORIGIN}
             {DMSETUP} load {ORIGIN} --table '0 {sectors} snapshot-merge {base} {store} P {chunk}'
             {DMSETUP} resume {ORIGIN}
             until {DMSETUP} status {ORIGIN} | awk '{{ split($4, used, \"/\"); exit used[1] != $5 }}'; do sleep 0.1; done
             {DMSETUP} suspend {ORIGIN}
             {DMSETUP} load {ORIGIN} --table '0 {sectors} snapshot-origin {base}'
             {DMSETUP} resume {ORIGIN}",
            self.remove_snapshots()
        ))?;
        Ok(true)
    }

    fn remove(self: Box<Self>, bed: &Bed) -> Result<()> {
        bed.sh(&format!("{}\n{DMSETUP} remove --retry {ORIGIN}", self.remove_snapshots())).map(drop)
    }
}
