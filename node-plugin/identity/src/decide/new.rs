//! May a device be taken for a role that it has not had?

use super::world::Owner;
use super::{Question, Refusal, Role, check_apart, check_fit, check_unused};
use crate::content::{Content, UmbraSuperblock};
use crate::edges::EDGE_BYTES;
use crate::facts::DeviceFacts;
use crate::signature::{Signature, SignatureId};
use umbra_engine::SetState;

/// The device is nobody's.
#[derive(Clone, Debug, PartialEq)]
pub struct Free {
    /// What lies on it and was confirmed to be wiped; empty for masters, whose content stays.
    pub wipe: Vec<Signature>,
}

pub(super) fn decide(question: &Question<'_>, owner: &Owner) -> Result<Free, Refusal> {
    let role = question.role;
    let Some(device) = question.device else {
        return Err(Refusal::Absent { role, path: question.path.to_owned() });
    };
    check_apart(question, device, owner, false)?;
    question.world.check_name(owner)?;
    check_unused(question, device)?;
    check_fit(question, device)?;
    let unread = |why: &str| Refusal::Unread { role, device: device.path.clone(), why: why.to_owned() };
    let content = device.contents.get().map_err(unread)?;
    check_not_live(question, device, content)?;
    let wipe = match role {
        Role::Master => {
            if device.identity.stable_id().is_none() && !question.consent.weak_identity {
                return Err(Refusal::WeakIdentity { device: device.to_string() });
            }
            refuse_wipe_of_master(question, device)?;
            Vec::new()
        }
        Role::Shadow | Role::Bitmap => confirmed(question, device, content)?,
    };
    Ok(Free { wipe })
}

/// A volume of a set on record is never taken for anything else, whatever was confirmed; and a shadow or bitmap
/// volume is never a master (E15).
fn check_not_live(question: &Question<'_>, device: &DeviceFacts, content: &Content) -> Result<(), Refusal> {
    let role = question.role;
    let superblock = content.superblock.as_ref().and_then(|superblock| match superblock {
        UmbraSuperblock::Readable(facts) if facts.state != SetState::Disabled => Some(facts.identity.set),
        UmbraSuperblock::Readable(_) | UmbraSuperblock::Unusable(_) => None,
    });
    let label = content.label.map(|label| label.set);
    for (has, set) in [(Role::Bitmap, superblock), (Role::Shadow, label)] {
        let owner = set.and_then(|set| question.world.owner(set));
        if let Some(owner) = owner {
            return Err(Refusal::VolumeOfSet { role, device: device.to_string(), has, owner: owner.clone() });
        }
    }
    if role == Role::Master && (content.superblock.is_some() || content.label.is_some()) {
        return Err(Refusal::NotAMaster { device: device.to_string(), path: device.path.clone() });
    }
    Ok(())
}

fn refuse_wipe_of_master(question: &Question<'_>, device: &DeviceFacts) -> Result<(), Refusal> {
    if question.consent.wipe.is_empty() {
        return Ok(());
    }
    Err(Refusal::MasterIsNotWiped { device: device.to_string() })
}

/// Everything on the device was confirmed, and nothing else.
fn confirmed(
    question: &Question<'_>,
    device: &DeviceFacts,
    content: &Content,
) -> Result<Vec<Signature>, Refusal> {
    let foreign: Vec<Signature> = content
        .signatures
        .iter()
        .filter(|signature| !is_left_over(question, device, content, signature))
        .cloned()
        .collect();
    let mut found: Vec<&SignatureId> = foreign.iter().map(|signature| &signature.id).collect();
    let mut asked: Vec<&SignatureId> = question.consent.wipe.iter().collect();
    for ids in [&mut found, &mut asked] {
        ids.sort();
        ids.dedup();
    }
    if found == asked {
        return Ok(foreign);
    }
    let owned = |ids: Vec<&SignatureId>| ids.into_iter().cloned().collect::<Vec<_>>();
    let (found, asked) = (owned(found), owned(asked));
    Err(Refusal::NeedsWipe { role: question.role, device: device.path.clone(), found, asked })
}

/// Left by a set that was disabled, or whose enable did not come to its end: there is no image, and nobody else has used the volume since, because the block that every other
/// user overwrites is intact. What lies in the last MiB then is a piece of that set's image.
fn is_left_over(
    question: &Question<'_>,
    device: &DeviceFacts,
    content: &Content,
    signature: &Signature,
) -> bool {
    let over = match &content.superblock {
        Some(UmbraSuperblock::Readable(facts)) => {
            matches!(facts.state, SetState::Disabled | SetState::Prepared) && facts.first_slot
        }
        Some(UmbraSuperblock::Unusable(_)) | None => false,
    };
    let retired = content.label.is_some_and(|label| question.world.retired.contains(&label.set));
    let at_the_end = signature.at >= EDGE_BYTES.max(device.capabilities.size.saturating_sub(EDGE_BYTES));
    (over || retired) && (signature.id.is_umbra() || at_the_end)
}
