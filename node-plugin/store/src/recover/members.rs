//! Whether a cut over several sets is committed, from what its members say of it.

use umbra_engine::Id128;
use umbra_format::Superblock;

/// What a member of a cut over several sets says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberView {
    /// It is in doubt.
    InDoubt,
    /// It is committed.
    Committed,
    /// It never heard of it, or it is void.
    Void,
    /// Nobody can read its bitmap volume.
    Unreadable,
}

impl MemberView {
    /// What a superblock says of the cut `cut`.
    pub fn of(superblock: &Superblock, cut: Id128) -> Self {
        match &superblock.doubt {
            Some(doubt) if doubt.then.cut == cut => Self::InDoubt,
            Some(_) | None if superblock.header.cut == cut => Self::Committed,
            Some(_) | None => Self::Void,
        }
    }
}

/// Whether a cut over several sets is committed (E4): all members get the same, whichever of them is asked first.
///
/// A member is committed only after all were in doubt, and void only if the cut is: one of either decides. With
/// all in doubt nothing was let through anywhere, and the cut is as good as taken. Who cannot be read may be
/// committed only if the decision was recorded first.
pub fn decide(recorded: bool, members: &[MemberView]) -> bool {
    let any = |view| members.contains(&view);
    recorded || any(MemberView::Committed) || !any(MemberView::Void) && !any(MemberView::Unreadable)
}
