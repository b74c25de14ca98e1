//! The device alone: the floor, and the proof that a device operation takes what it should.

use anyhow::Result;

use super::System;
use crate::bed::{Bed, Medium};

/// A disk under its delay.
#[derive(Debug)]
pub struct Raw {
    device: String,
}

impl Raw {
    pub(super) fn present(bed: &Bed, medium: Medium) -> Result<Self> {
        Ok(Self { device: bed.device(medium, "master")? })
    }
}

impl System for Raw {
    fn device(&self) -> &str {
        &self.device
    }

    fn renew(&mut self, _bed: &Bed) -> Result<()> {
        Ok(())
    }

    fn cut_script(&mut self, _bed: &Bed) -> Result<Option<String>> {
        Ok(None)
    }

    fn remove(self: Box<Self>, _bed: &Bed) -> Result<()> {
        Ok(())
    }
}
