//! What must be true of the node, worked out from what was asked and answered alone.

use super::disk::DiskId;
use crate::oracle::{Time, Volume};
use std::collections::BTreeMap;
use umbra_platform::id::{CutId, SetId};
use umbra_platform::status::{Listing, MasterState, MasterStatus, SetState, SetStatus, Status};
use uuid::Uuid;

/// Whether something is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Here {
    No,
    Yes,
    /// A call about it was broken off.
    Maybe,
}

/// What a set's shadow presents.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) epoch: u64,
    pub(super) volume: Volume,
}

/// A cut that was asked for and not answered.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    pub(super) from: Time,
    /// Names the call: its members have it together, or not.
    pub(super) group: u64,
    pub(super) cut: Option<CutId>,
    /// It goes back to the master.
    pub(super) restores: bool,
    /// What it has made, if it has happened: the image, or the master.
    pub(super) made: Option<Volume>,
}

#[derive(Clone, Debug)]
pub(super) struct SetModel {
    pub(super) name: String,
    pub(super) shadow: DiskId,
    pub(super) bitmap: DiskId,
    pub(super) independent: bool,
    pub(super) here: Here,
    pub(super) id: Option<Uuid>,
    pub(super) image: Option<Image>,
    /// The newest epoch that is known.
    pub(super) epoch: u64,
    /// Something happened that may have cost its image.
    pub(super) excused: bool,
    /// An enable of it was refused by the process that runs now: nothing of it may be alive.
    pub(super) refused: bool,
    pub(super) doubt: Option<Doubt>,
    /// Its volumes have writes without a flush.
    pub(super) write_through: bool,
}

#[derive(Clone, Debug)]
pub(super) struct MasterModel {
    pub(super) name: String,
    pub(super) disk: DiskId,
    pub(super) here: Here,
    pub(super) id: Option<Uuid>,
    pub(super) volume: Volume,
    pub(super) sets: Vec<SetModel>,
    /// Its disk was seen to fail.
    pub(super) faulty: bool,
    /// It was taken out while nobody served it: nobody vouches for its content.
    pub(super) unwatched: bool,
    /// Its record is damaged.
    pub(super) rotten: bool,
    /// As the last status says.
    pub(super) serving: bool,
    /// As the last status says.
    pub(super) quarantined: bool,
}

impl MasterModel {
    pub(super) fn is_settled(&self) -> bool {
        self.here == Here::Yes && self.serving && self.sets.iter().all(|set| set.doubt.is_none())
    }

    pub(super) fn excuse_all(&mut self) {
        self.sets.iter_mut().for_each(|set| set.excused = true);
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) masters: Vec<MasterModel>,
    clock: Time,
    next_value: u64,
    groups: u64,
    /// A call is being sent again and again: what it has not done when the process dies it may do yet.
    pub(super) repeating: bool,
    /// What became of each call that was broken off.
    happened: BTreeMap<u64, bool>,
}

type Verdict = Result<(), String>;

fn is_online(state: &SetState) -> bool {
    !matches!(state, SetState::Offline { .. } | SetState::GivenUp { .. } | SetState::Blocked(_))
}

impl Model {
    pub(super) fn new(masters: Vec<MasterModel>) -> Self {
        Self { masters, clock: 1, next_value: 1, groups: 0, repeating: false, happened: BTreeMap::new() }
    }

    pub(super) fn now(&mut self) -> Time {
        self.clock += 1;
        self.clock
    }

    pub(super) fn fresh_values(&mut self, count: u64) -> Vec<u64> {
        let first = self.next_value;
        self.next_value += count;
        (first..first + count).collect()
    }

    pub(super) fn group(&mut self) -> u64 {
        self.groups += 1;
        self.groups
    }

    pub(super) fn excuse_everything(&mut self) {
        self.masters.iter_mut().for_each(MasterModel::excuse_all);
    }

    /// Something is wrong with a disk.
    pub(super) fn excuse(&mut self, disk: DiskId) {
        for master in &mut self.masters {
            if master.disk == disk {
                master.faulty = true;
                master.excuse_all();
            }
            for set in master.sets.iter_mut().filter(|set| set.shadow == disk || set.bitmap == disk) {
                set.excused = true;
            }
        }
    }

    /// The process has died: what it has not answered has happened by now, or will not.
    pub(super) fn died(&mut self, power_cut: bool) {
        let now = self.now();
        for master in &mut self.masters {
            for set in &mut master.sets {
                set.refused = false;
                if self.repeating && !power_cut {
                    continue;
                }
                let Some(doubt) = set.doubt.as_mut().filter(|doubt| doubt.made.is_none()) else { continue };
                master.volume.looked(doubt.from);
                doubt.made = Some(match &set.image {
                    Some(image) if doubt.restores => image.volume.restored(&master.volume, doubt.from, now),
                    _ => master.volume.image("shadow", doubt.from, now, set.write_through),
                });
                if let Some(made) = doubt.made.as_mut().filter(|_| doubt.restores && power_cut) {
                    made.power_cut(now);
                }
            }
            if power_cut {
                master.volume.power_cut(now);
                for image in master.sets.iter_mut().filter_map(|set| set.image.as_mut()) {
                    image.volume.power_cut(now);
                }
            }
        }
    }

    /// What is configured is in the list, and nothing else.
    pub(super) fn check_list(&self, listing: &Listing) -> Verdict {
        for master in &self.masters {
            let listed = listing.masters.iter().any(|entry| entry.name.as_str() == master.name);
            match master.here {
                Here::Yes if !listed && !master.rotten => {
                    return Err(format!("master {} is configured, and in no list", master.name));
                }
                Here::No if listed => {
                    return Err(format!("master {} is in the list, and was taken away", master.name));
                }
                _ => {}
            }
            for set in &master.sets {
                let listed = listing.sets.iter().any(|entry| entry.name.name.as_str() == set.name);
                match (master.here, set.here) {
                    (Here::Yes, Here::Yes) if !listed && !master.rotten => {
                        return Err(format!("set {} is configured, and in no list", set.name));
                    }
                    (_, Here::No) | (Here::No, _) if listed => {
                        return Err(format!("set {} is in the list, and was taken away", set.name));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What the status says is what must be. Masters that are served now are judged, the others must say what they
    /// wait for.
    pub(super) fn check_status(&mut self, status: &Status) -> Verdict {
        for at in 0..self.masters.len() {
            let name = self.masters[at].name.clone();
            let found = status.masters.iter().find(|master| master.name.as_str() == name);
            self.masters[at].serving = found.is_some_and(|found| found.state == MasterState::Serving);
            let quarantined = |found: &MasterStatus| matches!(found.state, MasterState::Quarantined(_));
            self.masters[at].quarantined = found.is_some_and(quarantined);
            let Some(found) = found else {
                let master = &mut self.masters[at];
                if master.here == Here::Yes && !master.rotten {
                    return Err(format!("master {name} is configured, and not in the status"));
                }
                if !master.rotten {
                    master.here = Here::No;
                }
                continue;
            };
            match &found.state {
                MasterState::Serving => {
                    self.masters[at].here = Here::Yes;
                    self.masters[at].id = Some(found.id.0);
                    self.judge_sets(at, status)?;
                }
                MasterState::Quarantined(_) if !self.masters[at].unwatched => {
                    return Err(format!("master {name} is quarantined, and nobody has written it"));
                }
                state => {
                    let silent = |text: &umbra_platform::value::Detail| text.as_str().is_empty();
                    if state.waiting_for().is_some_and(|wait| silent(&wait.what)) {
                        return Err(format!("master {name} waits without a word"));
                    }
                }
            }
        }
        Ok(())
    }

    fn judge_sets(&mut self, at: usize, status: &Status) -> Verdict {
        for number in 0..self.masters[at].sets.len() {
            let name = &self.masters[at].sets[number].name;
            let found = status.sets.iter().find(|set| set.name.name.as_str() == name).cloned();
            self.judge_set(at, number, found.as_ref())?;
        }
        Ok(())
    }

    fn judge_set(&mut self, at: usize, number: usize, found: Option<&SetStatus>) -> Verdict {
        let to = self.now();
        let master = &mut self.masters[at];
        let set = &mut master.sets[number];
        let name = set.name.clone();
        let Some(found) = found else {
            if set.here == Here::Yes {
                return Err(format!("set {name} is configured, and not in the status"));
            }
            if let Some(doubt) = set.doubt.take().filter(|doubt| doubt.made.is_none()) {
                master.volume.looked(doubt.from);
            }
            (set.here, set.image, set.epoch, set.excused) = (Here::No, None, 0, false);
            return Ok(());
        };
        if set.here == Here::No {
            return Err(format!("set {name} is in the status, and was taken away"));
        }
        set.id = Some(found.id.0);
        if !is_online(&found.state) {
            if !set.excused && set.here == Here::Yes {
                return Err(format!("set {name} is {:?}, and nothing excuses that", found.state));
            }
            if let Some(doubt) = set.doubt.take().filter(|doubt| doubt.made.is_none()) {
                master.volume.looked(doubt.from);
            }
            set.image = None;
            set.epoch = set.epoch.max(found.epoch.0);
            return Ok(());
        }
        if set.refused {
            return Err(format!("an enable of set {name} was refused, and it is {:?}", found.state));
        }
        if found.chunks.lost > 0 && !set.excused {
            return Err(format!(
                "set {name} has lost {} chunks, and nothing excuses that",
                found.chunks.lost
            ));
        }
        let (epoch, known) = (found.epoch.0, set.image.as_ref().map(|image| image.epoch));
        let doubt = set.doubt.take();
        if let Some(doubt) = doubt.as_ref().filter(|doubt| doubt.made.is_none()) {
            master.volume.looked(doubt.from);
        }
        if known == Some(epoch) {
            set.here = Here::Yes;
            return doubt.map_or(Ok(()), |doubt| self.group_is(doubt.group, false, &name));
        }
        let Some(doubt) = doubt.filter(|_| known.is_none_or(|known| epoch == known + 1)) else {
            return Err(format!(
                "set {name} is in epoch {epoch}; it was in {known:?}, and nobody asked for so many cuts"
            ));
        };
        if let (Some(cut), Some(last)) = (doubt.cut, found.last_cut)
            && last.id != cut
        {
            return Err(format!("set {name} has the cut {}; {cut} was asked for", last.id));
        }
        self.masters[at].sets[number].here = Here::Yes;
        let group = doubt.group;
        self.take_cut(at, number, doubt, to, epoch);
        self.group_is(group, true, &name)
    }

    /// A set has a new image, or its master has become the image of the set.
    pub(super) fn take_cut(&mut self, at: usize, number: usize, doubt: Doubt, to: Time, epoch: u64) {
        let Doubt { from, restores, made, .. } = doubt;
        let master = &mut self.masters[at];
        let set = &mut master.sets[number];
        set.epoch = epoch;
        match (&mut set.image, restores) {
            (Some(image), true) => {
                let restored = || image.volume.restored(&master.volume, from, to);
                master.volume = made.unwrap_or_else(restored);
                image.epoch = epoch;
            }
            (image, _) => {
                let cut = || master.volume.image("shadow", from, to, set.write_through);
                *image = Some(Image { epoch, volume: made.unwrap_or_else(cut) });
                set.excused = false;
            }
        }
    }

    fn group_is(&mut self, group: u64, happened: bool, name: &str) -> Verdict {
        if *self.happened.entry(group).or_insert(happened) == happened {
            return Ok(());
        }
        Err(format!("set {name} is on another side of a cut than its group"))
    }

    pub(super) fn set_of(&self, id: SetId) -> Option<(usize, usize)> {
        let of = |(m, master): (usize, &MasterModel)| {
            master.sets.iter().position(|set| set.id == Some(id.0)).map(|s| (m, s))
        };
        self.masters.iter().enumerate().find_map(of)
    }
}
