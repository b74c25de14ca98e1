//! What a workload may see, worked out without knowing how the engine works.
//!
//! The oracle only hears what the workload and the operator hear: requests issued and ended, cuts asked for and
//! answered, crashes. From that it keeps, per sector, everything that a read may return (see [`Volume`]).

mod volume;

use crate::stamp::Value;
use std::collections::BTreeSet;
pub use volume::{Request, Time, Verdict, Volume};

/// Most sets of a simulated master.
pub const SETS_MAX: usize = umbra_engine::SETS_MAX;
/// Names of the shadows.
pub(crate) const SHADOW_NAMES: [&str; SETS_MAX] = [
    "shadow 0",
    "shadow 1",
    "shadow 2",
    "shadow 3",
    "shadow 4",
    "shadow 5",
    "shadow 6",
    "shadow 7",
    "shadow 8",
    "shadow 9",
    "shadow 10",
    "shadow 11",
    "shadow 12",
    "shadow 13",
    "shadow 14",
    "shadow 15",
];

/// Tells the sets of a master apart.
pub type SetNumber = u8;

/// The device that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The logical master.
    Master,
    /// The shadow of this set.
    Shadow(SetNumber),
}

/// What the shadow presents since a cut.
#[derive(Clone, Debug)]
pub struct Image {
    /// Counts cuts.
    pub epoch: u64,
    /// Its sectors.
    pub volume: Volume,
    /// Sectors that were found lost: they never come back (invariant 7).
    lost: BTreeSet<u64>,
    /// Faults injected before the cut began: only a later one excuses an error.
    pub faults_before: u64,
    /// Names the cut over several sets that made it.
    group: Option<Time>,
}

/// A cut over several sets: all are on the far side, or none is.
#[derive(Clone, Debug)]
struct Together {
    name: Time,
    sets: Vec<SetNumber>,
    /// After a crash: what the first member that could tell has told.
    happened: Option<bool>,
}

#[derive(Clone, Debug)]
struct Cut {
    from: Time,
    faults_before: u64,
}

/// What is known of a set's shadow.
#[derive(Clone, Debug)]
struct Shadow {
    name: &'static str,
    write_through: bool,
    image: Option<Image>,
    cut: Option<Cut>,
    /// The image of a cut whose outcome only the bitmap volume knows.
    in_doubt: Option<Image>,
}

/// See the module.
///
/// The sets know nothing of each other: whatever happens to one, the others' images must stay what they are.
#[derive(Clone, Debug)]
pub struct Oracle {
    clock: Time,
    next_value: Value,
    /// The logical master.
    pub master: Volume,
    shadows: Vec<Shadow>,
    /// A restore that was asked for: from which set, and when.
    restore: Option<(SetNumber, Time)>,
    together: Option<Together>,
    /// What the master is if a restore has happened that only the bitmap volume knows of.
    restore_in_doubt: Option<(SetNumber, Volume)>,
}

impl Oracle {
    /// Before anything has happened. The arguments say whether completed writes are durable by themselves: on the
    /// master, and on the shadow of each set.
    pub fn new(master_write_through: bool, shadows_write_through: &[bool]) -> Self {
        let shadow = |(name, write_through): (&&'static str, &bool)| Shadow {
            name,
            write_through: *write_through,
            image: None,
            cut: None,
            in_doubt: None,
        };
        Self {
            clock: 1,
            next_value: 1,
            master: Volume::master(master_write_through),
            shadows: SHADOW_NAMES.iter().zip(shadows_write_through).map(shadow).collect(),
            restore: None,
            together: None,
            restore_in_doubt: None,
        }
    }

    /// A new instant.
    pub fn now(&mut self) -> Time {
        self.clock += 1;
        self.clock
    }

    /// Values that were never written before.
    pub fn fresh_values(&mut self, count: u64) -> Vec<Value> {
        let first = self.next_value;
        self.next_value += count;
        (first..first + count).collect()
    }

    fn shadow(&mut self, set: SetNumber) -> &mut Shadow {
        &mut self.shadows[usize::from(set)]
    }

    /// The image of a set, if it has one.
    pub fn image(&self, set: SetNumber) -> Option<&Image> {
        self.shadows[usize::from(set)].image.as_ref()
    }

    /// The sectors of a side, if it is there.
    pub fn volume(&mut self, side: Side) -> Option<&mut Volume> {
        match side {
            Side::Master => Some(&mut self.master),
            Side::Shadow(set) => self.shadow(set).image.as_mut().map(|image| &mut image.volume),
        }
    }

    /// A read of `values` from sector `first`, issued at `from`, has succeeded.
    ///
    /// # Errors
    /// The first sector that may not read so.
    pub fn read(&mut self, side: Side, first: u64, values: &[Option<Value>], from: Time) -> Verdict {
        let to = self.now();
        for (number, value) in (first..).zip(values) {
            if let Side::Shadow(set) = side
                && self.is_lost(set, number)
            {
                let name = self.shadow(set).name;
                return Err(format!("invariant 7: lost sector {number} of {name} reads data again"));
            }
            let volume = self.volume(side).ok_or("a shadow without an image was read")?;
            volume.read(number, *value, from, to)?;
        }
        match side {
            Side::Master => Ok(()),
            Side::Shadow(set) => self.check_group(set),
        }
    }

    /// These sectors could not be read although no fault is active: they are lost.
    pub fn lost(&mut self, set: SetNumber, first: u64, count: u64) {
        if let Some(image) = &mut self.shadow(set).image {
            image.lost.extend(first..first + count);
        }
    }

    /// Whether only the bitmap volume knows which image the set has.
    pub fn is_in_doubt(&self, set: SetNumber) -> bool {
        let shadow = &self.shadows[usize::from(set)];
        shadow.in_doubt.is_some() || shadow.cut.is_some() || self.restore_in_doubt.is_some()
    }

    /// Whether a shadow's sector was found lost.
    pub fn is_lost(&self, set: SetNumber, sector: u64) -> bool {
        self.image(set).is_some_and(|image| image.lost.contains(&sector))
    }

    /// A cut was asked for.
    pub fn cut_begins(&mut self, set: SetNumber, faults_before: u64) {
        let from = self.now();
        self.master.look(from);
        self.shadow(set).cut = Some(Cut { from, faults_before });
    }

    fn image_of_cut(&mut self, set: SetNumber) -> Option<Image> {
        let Cut { from, faults_before } = self.shadow(set).cut.take()?;
        let to = self.now();
        self.master.looked(from);
        let Shadow { name, write_through, .. } = *self.shadow(set);
        let epoch = self.image(set).map_or(0, |image| image.epoch) + 1;
        let mut volume = self.master.image(name, from, to, write_through);
        if let Some(before) = self.image(set) {
            volume.decay_like(&before.volume);
        }
        let group = self.together.as_ref().filter(|together| together.sets.contains(&set));
        let group = group.map(|together| together.name);
        Some(Image { epoch, volume, lost: BTreeSet::new(), faults_before, group })
    }

    /// The cut was answered with this epoch.
    ///
    /// # Errors
    /// If it is not the next one.
    pub fn cut_done(&mut self, set: SetNumber, epoch: u64) -> Verdict {
        let mut image = self.image_of_cut(set).ok_or("a cut was answered that nobody asked for")?;
        if epoch <= self.image(set).map_or(0, |image| image.epoch) {
            return Err(format!("the cut was answered with epoch {epoch}, which is not a new one"));
        }
        image.epoch = epoch;
        let shadow = self.shadow(set);
        shadow.image = Some(image);
        shadow.in_doubt = None;
        Ok(())
    }

    /// The cut was refused. `void`: nothing may have changed; otherwise the bitmap volume may say that it happened.
    pub fn cut_refused(&mut self, set: SetNumber, void: bool) {
        if let Some(image) = self.image_of_cut(set)
            && !void
        {
            self.shadow(set).doubt(image);
        }
    }

    /// These sets are cut, or restored from, at one instant. After the beginning of each.
    pub fn group_begins(&mut self, sets: Vec<SetNumber>, name: Time) {
        self.together = Some(Together { name, sets, happened: None });
    }

    /// The cut over several sets is over, either way.
    pub fn group_ends(&mut self) {
        self.together = None;
    }

    /// Whether a restore from this set was asked for and is not answered.
    pub fn restores_from(&self, set: SetNumber) -> bool {
        self.restore.is_some_and(|(of, _)| of == set)
    }

    /// Whether a restore was asked for and is not answered.
    pub fn is_restore_asked(&self) -> bool {
        self.restore.is_some()
    }

    /// Invariant 4 for several sets: what reads have said about the instant of each image of a group must fit.
    fn check_group(&self, set: SetNumber) -> Verdict {
        let Some(group) = self.image(set).and_then(|image| image.group) else { return Ok(()) };
        let images = self.shadows.iter().filter_map(|shadow| shadow.image.as_ref());
        let windows = images.filter(|image| image.group == Some(group)).map(|image| image.volume.window());
        let (from, to) =
            windows.fold((0, Time::MAX), |(from, to), window| (from.max(window.0), to.min(window.1)));
        if from <= to {
            return Ok(());
        }
        Err(format!(
            "invariant 4: the images of one cut are of no common instant: not before {from}, not after {to}"
        ))
    }

    /// A restore was asked for; nobody uses the master or this shadow until it is answered.
    pub fn restore_begins(&mut self, set: SetNumber) {
        self.restore = Some((set, self.now()));
    }

    fn restored_master(&mut self) -> Option<(SetNumber, Volume)> {
        let (set, from) = self.restore.take()?;
        let to = self.now();
        let master = self.image(set)?.volume.restored(&self.master, from, to);
        Some((set, master))
    }

    /// The restore was answered with this epoch: from now on the master is what the shadow is.
    ///
    /// # Errors
    /// If it is not the next one.
    pub fn restore_done(&mut self, epoch: u64) -> Verdict {
        let (set, master) = self.restored_master().ok_or("a restore was answered that nobody asked for")?;
        self.master = master;
        let image = self.shadow(set).image.as_mut().ok_or("a restore from no image")?;
        if epoch <= image.epoch {
            return Err(format!("the restore was answered with epoch {epoch}, which is not a new one"));
        }
        image.epoch = epoch;
        Ok(())
    }

    /// The restore was refused: the master is what it was.
    pub fn restore_refused(&mut self) {
        self.restore = None;
    }

    /// The machine has crashed.
    pub fn crash(&mut self, power_cut: bool) {
        if let Some(restored) = self.restored_master() {
            self.restore_in_doubt = Some(restored);
        }
        for set in self.sets() {
            if let Some(image) = self.image_of_cut(set) {
                self.shadow(set).doubt(image);
            }
        }
        if power_cut {
            let now = self.now();
            self.master.power_cut(now);
            if let Some((_, master)) = &mut self.restore_in_doubt {
                master.power_cut(now);
            }
            for image in self.shadows.iter_mut().filter_map(|shadow| shadow.image.as_mut()) {
                image.volume.power_cut(now);
            }
        }
    }

    fn sets(&self) -> impl Iterator<Item = SetNumber> + use<> {
        (0..).take(self.shadows.len())
    }

    /// The set was recovered, in this epoch.
    ///
    /// # Errors
    /// If it can be in no such epoch.
    pub fn recovered(&mut self, set: SetNumber, epoch: u64, online: bool) -> Verdict {
        let current = self.image(set).map_or(0, |image| image.epoch);
        let restore = self.restore_in_doubt.as_ref().is_some_and(|(of, _)| *of == set);
        let in_doubt = restore || self.shadow(set).in_doubt.is_some();
        if in_doubt
            && online
            && let Some(together) = self.together.as_mut().filter(|together| together.sets.contains(&set))
        {
            let happened = epoch > current;
            if *together.happened.get_or_insert(happened) != happened {
                return Err(format!("P5: set {set} is on another side of the cut than its group"));
            }
        }
        if self.restore_in_doubt.as_ref().is_some_and(|(of, _)| *of == set) {
            let (_, master) = self.restore_in_doubt.take().expect("looked at");
            let image = self.shadow(set).image.as_mut();
            if let Some(image) = image.filter(|image| online && epoch > image.epoch) {
                image.epoch = epoch;
                self.master = master;
                return Ok(());
            }
        }
        let shadow = self.shadow(set);
        let current = shadow.image.as_ref().map_or(0, |image| image.epoch);
        match shadow.in_doubt.take() {
            Some(image) if epoch > current && image.epoch <= epoch => {
                // Offline it may be the number of an earlier cut, that was given up, which has been found.
                let earlier = shadow.image.as_ref().filter(|_| !online).map(|image| image.faults_before);
                let faults_before = image.faults_before.min(earlier.unwrap_or(u64::MAX));
                shadow.image = Some(Image { epoch, faults_before, ..image });
            }
            _ if epoch == current => {}
            // The number of a cut that was given up is skipped: nothing is read from such an image.
            _ if epoch > current && !online => {
                if let Some(image) = &mut shadow.image {
                    image.epoch = epoch;
                }
            }
            _ => return Err(format!("the set is in epoch {epoch} after recovery; it was in {current}")),
        }
        Ok(())
    }

    /// The set has ended or was given up: there is no image any more.
    pub fn forget_image(&mut self, set: SetNumber) {
        let shadow = self.shadow(set);
        (shadow.image, shadow.in_doubt) = (None, None);
        if let Some(cut) = shadow.cut.take() {
            self.master.looked(cut.from);
        }
    }
}

impl Shadow {
    /// Only the bitmap volume knows whether this image exists. If an earlier one was in doubt already, the end of
    /// either may be found: the faults of both excuse it.
    fn doubt(&mut self, image: Image) {
        let earlier = self.in_doubt.take().map_or(u64::MAX, |earlier| earlier.faults_before);
        let faults_before = image.faults_before.min(earlier);
        self.in_doubt = Some(Image { faults_before, ..image });
    }
}

#[cfg(test)]
mod tests;
