//! A call that changes something, as the facade takes it.

use crate::fence::Fence;
use umbra_platform::call::{
    Abort, AcceptMaster, AttachMaster, Change, CopySets, DetachMaster, DisableSet, EnableSet, Reset,
    SetCopyLimits, SetTarget,
};
use umbra_platform::id::{MasterRef, SetRef};
use umbra_platform::value::{DevicePath, InvalidValue};

/// A call, and the fence of the leader that asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fenced<C> {
    /// The leader's.
    pub fence: Fence,
    /// The call.
    pub call: C,
}

/// A call that can be asked for from above the node.
pub trait FromAbove: Change {
    /// What of it the facade does not take, if there is something: names, which may mean another thing by now.
    ///
    /// # Errors
    /// What that is.
    fn check(&self) -> Result<(), InvalidValue>;

    /// The devices that it brings into use.
    fn devices(&self) -> Vec<&DevicePath>;
}

fn master_by_id(master: &MasterRef) -> Result<(), InvalidValue> {
    match master {
        MasterRef::Id(_) => Ok(()),
        MasterRef::Name(name) => Err(InvalidValue::new("master", format!("{name} is a name; give the UUID"))),
    }
}

fn set_by_id(target: &SetTarget) -> Result<(), InvalidValue> {
    match &target.set {
        SetRef::Id(_) => Ok(()),
        named @ SetRef::Name { .. } => {
            Err(InvalidValue::new("set", format!("{named} is a name; give the UUID")))
        }
    }
}

macro_rules! from_above {
    ($($call:ident $({ $($device:ident),+ })?: |$it:ident| $check:expr;)+) => {
        $(impl FromAbove for $call {
            fn check(&self) -> Result<(), InvalidValue> {
                let $it = self;
                $check
            }

            fn devices(&self) -> Vec<&DevicePath> {
                vec![$($(&self.$device),+)?]
            }
        })+
    };
}

from_above! {
    AttachMaster { device }: |call| match call.ublk {
        None => Ok(()),
        Some(_) => Err(InvalidValue::new("number of a ublk device", "the node chooses it")),
    };
    DetachMaster: |call| master_by_id(&call.master);
    AcceptMaster: |call| master_by_id(&call.master);
    EnableSet { shadow, bitmap }: |call| master_by_id(&call.master);
    DisableSet: |call| set_by_id(&call.target);
    CopySets: |call| call.sets.as_slice().iter().try_for_each(set_by_id);
    Abort: |call| set_by_id(&call.target);
    SetCopyLimits: |call| set_by_id(&call.target);
    Reset: |call| set_by_id(&call.target);
}
