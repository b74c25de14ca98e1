//! Is a device the one on record?

use super::{Consent, Expected};
use super::{
    Fit, Known, Marks, Question, Refusal, Role, Wanted, World, check_apart, check_fit, check_unused,
    decide as decide_one,
};
use crate::content::{Content, Contents, SuperblockFacts, UmbraSuperblock};
use crate::facts::DeviceFacts;
use crate::generation::FsGeneration;
use std::path::PathBuf;
use umbra_engine::Id128;

/// The device on record, and what changed about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ours {
    /// Where it is now; may be another path than the recorded one.
    pub path: PathBuf,
    /// It is larger than on record. It is served at its recorded size.
    pub grown: Option<Grown>,
    /// Its file system was written while Umbra was not there: its images are wrong, and it must not be served
    /// before somebody has said what becomes of them (rule 5).
    pub written_outside: Option<WrittenOutside>,
}

/// A device has more bytes than on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grown {
    /// Bytes on record.
    pub recorded: u64,
    /// Bytes now.
    pub found: u64,
}

/// The file system's own count moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenOutside {
    /// On record.
    pub recorded: FsGeneration,
    /// Now; none: there is no file system any more that counts.
    pub found: Option<FsGeneration>,
}

pub(super) fn decide(question: &Question<'_>, known: &Known) -> Result<Ours, Refusal> {
    let role = question.role;
    let wanted = Wanted::new(role, known);
    let Some(device) = question.device else { return Err(Refusal::NotThere { wanted, found: None }) };
    let strong = check_identity(&wanted, device, known)?;
    check_marks(&wanted, question.world, device, known, strong)?;
    check_apart(question, device, &known.owner, strong || known.marks != Marks::Plain)?;
    // Before the question who uses it: with another size it is of no use to anybody.
    let found = device.capabilities.size;
    let needed = if role == Role::Master { known.size } else { question.fit.bytes };
    if found < needed {
        return Err(Refusal::Shrunk { wanted, device: device.to_string(), found });
    }
    check_unused(question, device)?;
    check_fit(question, device)?;
    Ok(Ours {
        path: device.path.clone(),
        grown: (found > known.size).then_some(Grown { recorded: known.size, found }),
        written_outside: written_outside(device, known),
    })
}

/// The hardware's word. Whether it is unique.
fn check_identity(wanted: &Wanted, device: &DeviceFacts, known: &Known) -> Result<bool, Refusal> {
    let swapped = |difference: String| {
        Err(Refusal::Swapped { wanted: wanted.clone(), device: device.to_string(), difference })
    };
    let found = device.identity.stable_id();
    match (&known.identity, found) {
        (Some(recorded), Some(found)) if *recorded == found => Ok(true),
        (Some(_), Some(_)) => swapped("it has another identity".to_owned()),
        (Some(_), None) => swapped("it has no unique identity".to_owned()),
        // Nothing but Umbra's own marks, or the path, can tell. A name may be new: kernels learn to show them.
        (None, Some(found)) if known.marks == Marks::Plain => {
            swapped(format!("that had no unique identity, and this is {found}"))
        }
        (None, None) if known.marks == Marks::Plain && device.path != known.path => {
            swapped("it is at another path, and nothing else tells them apart".to_owned())
        }
        (None, Some(_) | None) => Ok(false),
    }
}

fn check_marks(
    wanted: &Wanted,
    world: &World,
    device: &DeviceFacts,
    known: &Known,
    strong: bool,
) -> Result<(), Refusal> {
    let content = match device.contents.get() {
        Ok(content) => content,
        // The hardware's word is enough where Umbra left nothing.
        Err(_) if strong && known.marks == Marks::Plain => return Ok(()),
        Err(why) => {
            let difference = format!("what lies on it cannot be read ({why})");
            return Err(Refusal::Swapped { wanted: wanted.clone(), device: device.to_string(), difference });
        }
    };
    // The same hardware with other content was overwritten; other hardware is another device.
    let differs = |difference: String| {
        let (wanted, device) = (wanted.clone(), device.to_string());
        Err(if strong {
            Refusal::Overwritten { wanted, device, difference }
        } else {
            Refusal::Swapped { wanted, device, difference }
        })
    };
    let difference = match &known.marks {
        // In a plain image a label is user data. Without unique hardware it is all there is to see that a volume
        // of another set came to this path.
        Marks::Plain if strong => None,
        Marks::Plain => plain_difference(world, content),
        Marks::Label { set, shadow } => label_difference(content, *set, *shadow),
        Marks::Superblock { .. } => match &content.superblock {
            None => Some("it has no Umbra superblock".to_owned()),
            // The recovery knows what to do with a damaged bitmap volume; whose it is, the hardware says.
            Some(UmbraSuperblock::Unusable(_)) if strong => None,
            Some(UmbraSuperblock::Unusable(error)) => {
                Some(format!("its superblock cannot be used ({error})"))
            }
            Some(UmbraSuperblock::Readable(facts)) => {
                check_session(wanted, device, known, facts)?;
                superblock_difference(facts, &known.marks)
            }
        },
    };
    difference.map_or(Ok(()), differs)
}

fn plain_difference(world: &World, content: &Content) -> Option<String> {
    let label = content.label.map(|label| label.set);
    let superblock = content.superblock.as_ref().and_then(|superblock| match superblock {
        UmbraSuperblock::Readable(facts) => Some(facts.identity.set),
        UmbraSuperblock::Unusable(_) => None,
    });
    let set = [label, superblock].into_iter().flatten().find_map(|set| world.owner(set))?;
    Some(format!("it says that it is a volume of {set}"))
}

fn label_difference(content: &Content, set: Id128, shadow: Id128) -> Option<String> {
    match content.label {
        Some(label) if label.set == set && label.shadow == shadow => None,
        Some(label) => Some(format!("it is labelled as shadow {} of set {}", label.shadow, label.set)),
        None => Some(format!("it has no label of set {set}")),
    }
}

fn superblock_difference(facts: &SuperblockFacts, marks: &Marks) -> Option<String> {
    let Marks::Superblock { set, master, master_bytes, chunk_bytes, bitmap, node: _ } = marks else {
        return None;
    };
    let found = &facts.identity;
    let id = |what: &str, found: Id128, expected: Id128| {
        (found != expected).then(|| format!("its superblock names {what} {found} instead of {expected}"))
    };
    let number = |what: &str, found: u64, expected: u64| {
        (found != expected)
            .then(|| format!("its superblock is of {what} of {found} bytes instead of {expected}"))
    };
    id("set", found.set, *set)
        .or_else(|| id("master", found.master.uuid, *master))
        .or_else(|| bitmap.and_then(|bitmap| id("bitmap volume", found.bitmap, bitmap)))
        .or_else(|| number("a master", found.geometry.master_bytes(), *master_bytes))
        .or_else(|| number("chunks", found.geometry.chunk_bytes(), *chunk_bytes))
}

fn check_session(
    wanted: &Wanted,
    device: &DeviceFacts,
    known: &Known,
    facts: &SuperblockFacts,
) -> Result<(), Refusal> {
    let Marks::Superblock { set, node, .. } = &known.marks else { return Ok(()) };
    let session = facts.identity.node;
    if facts.identity.set == *set && session != Id128::default() && session != *node {
        let device = device.to_string();
        return Err(Refusal::OtherNode { wanted: wanted.clone(), device, node: session });
    }
    Ok(())
}

fn written_outside(device: &DeviceFacts, known: &Known) -> Option<WrittenOutside> {
    let (Some(recorded), Ok(content)) = (&known.generation, device.contents.get()) else { return None };
    let found = content.generation.clone();
    (found.as_ref() != Some(recorded)).then(|| WrittenOutside { recorded: recorded.clone(), found })
}

/// The devices of a machine that may be the one on record, whatever they are called now: those with its identity, or,
/// where nothing is unique, with Umbra's marks. Whose content was not looked at yet may have them: it is to be
/// read ([`Machine::read_contents`](crate::gather::Machine::read_contents)), and the question asked again.
pub fn candidates<'a>(known: &Known, machine: &'a [DeviceFacts]) -> Vec<&'a DeviceFacts> {
    let mut found: Vec<&DeviceFacts> = Vec::new();
    for device in machine.iter().filter(|device| may_be(device, known)) {
        // One device under two paths: the recorded one is told.
        match found.iter_mut().find(|other| other.key == device.key) {
            Some(other) if device.path == known.path => *other = device,
            Some(_) => {}
            None => found.push(device),
        }
    }
    found
}

/// Finds a device on record among all devices of the machine, and decides on it. `machine` has the device at the
/// recorded path under that path, too, which may be a link.
///
/// # Errors
/// What it is waited for.
pub fn locate(
    role: Role,
    known: &Known,
    fit: Fit,
    machine: &[DeviceFacts],
    world: &World,
) -> Result<Ours, Refusal> {
    let consent = Consent::default();
    let wanted = || Wanted::new(role, known);
    let ask = |device: &DeviceFacts| {
        decide_one(&Question {
            role,
            expected: Expected::Known(known),
            path: &known.path,
            device: Some(device),
            fit,
            consent: &consent,
            world,
        })
        .ours()
    };
    let candidates = candidates(known, machine);
    match candidates.as_slice() {
        [] => {
            let at_path = machine.iter().find(|device| device.path == known.path);
            Err(Refusal::NotThere { wanted: wanted(), found: at_path.map(DeviceFacts::to_string) })
        }
        [device] => ask(device),
        several => {
            // Umbra's marks may tell copies apart that the hardware cannot.
            let mut ours = several.iter().filter_map(|device| ask(device).ok());
            match (ours.next(), ours.next()) {
                (Some(one), None) if known.marks != Marks::Plain => Ok(one),
                _ => Err(Refusal::Ambiguous {
                    wanted: wanted(),
                    devices: several.iter().map(|device| device.path.display().to_string()).collect(),
                }),
            }
        }
    }
}

/// Whether the device has what the one on record is recognised by. A presented device has the content of its
/// master, partition UUIDs included, and is never a candidate.
fn may_be(device: &DeviceFacts, known: &Known) -> bool {
    if device.is_ublk() || device.below.iter().any(|layer| layer.name.starts_with("ublkb")) {
        return false;
    }
    let id = device.identity.stable_id();
    if known.identity.is_some() || id.is_some() && known.marks == Marks::Plain {
        return id == known.identity;
    }
    let content = match &device.contents {
        Contents::Read(content) => content,
        Contents::Unasked => return known.marks != Marks::Plain || device.path == known.path,
        Contents::Unread { .. } => return device.path == known.path,
    };
    match &known.marks {
        Marks::Plain => device.path == known.path,
        Marks::Label { set, shadow, .. } => {
            content.label.is_some_and(|label| label.set == *set && label.shadow == *shadow)
        }
        Marks::Superblock { set, .. } => match &content.superblock {
            Some(UmbraSuperblock::Readable(facts)) => facts.identity.set == *set,
            Some(UmbraSuperblock::Unusable(_)) | None => false,
        },
    }
}
