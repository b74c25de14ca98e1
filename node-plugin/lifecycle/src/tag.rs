//! What a device of the driver is marked with: it tells ours from others, whatever their numbers.

use umbra_engine::Id128;
use uuid::Uuid;

/// Upper bits of the tags of Umbra's devices.
const TAG_MAGIC: u64 = 0x5542 << 48;

/// What the device of a master or set is marked with in the driver.
pub(crate) fn tag(node: Id128, id: Uuid) -> u64 {
    let mut name = [0; 32];
    name[..16].copy_from_slice(&node.0);
    name[16..].copy_from_slice(id.as_bytes());
    TAG_MAGIC | umbra_format::data_hash(&name) >> 16
}

/// Whether a device of the driver is Umbra's, of whatever node and set.
pub(crate) fn is_tagged(tag: u64) -> bool {
    tag & !(u64::MAX >> 16) == TAG_MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_tells_nodes_and_sets_apart_and_is_umbras() {
        let (node, other) = (Id128([1; 16]), Id128([2; 16]));
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let tags = [tag(node, a), tag(node, b), tag(other, a)];
        assert!(tags.iter().all(|tag| is_tagged(*tag)));
        assert!(tags[0] != tags[1] && tags[0] != tags[2] && tags[1] != tags[2]);
        assert!(!is_tagged(0) && !is_tagged(u64::MAX));
    }
}
