//! What keeps a node from serving devices: a judgement over facts, with what to do about each.

use umbra_facade::node::{Finding, FindingReason};
use umbra_ublk::{KernelRefusal, KernelRelease, judge_kernel};

/// Least memory that the data plane must be able to lock, where it may not lock without limit: its program, and the buffers
/// of a dozen devices of 32 MiB.
const MEMLOCK_BYTES_MIN: u64 = 512 << 20;

/// What is known about a node. What could not be found out is not held against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// `/proc/sys/kernel/osrelease`.
    pub(crate) kernel_release: Option<String>,
    /// Whether processes are numbered apart from the host's.
    pub(crate) is_in_private_pid_namespace: bool,
    /// Whether the driver's control node is there and has a driver.
    pub(crate) has_ublk: bool,
    /// `kernel.io_uring_disabled`; kernels without that switch have it on.
    pub(crate) io_uring_disabled: Option<u32>,
    /// `CAP_SYS_ADMIN`, for which 1 of that switch means nothing.
    pub(crate) may_administer: bool,
    /// `CAP_IPC_LOCK`, for which the limit means nothing.
    pub(crate) may_lock_all: bool,
    /// The limit of locked memory; none: there is none.
    pub(crate) memlock_bytes: Option<u64>,
}

/// What somebody must see to. Nothing for a node that can serve.
pub(crate) fn judge(facts: &Facts) -> Vec<Finding> {
    [kernel(facts), ublk(facts), io_uring(facts), memlock(facts)].into_iter().flatten().collect()
}

fn finding(reason: FindingReason, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { reason, what: what.into(), remedy: remedy.into() }
}

fn kernel(facts: &Facts) -> Option<Finding> {
    let release = KernelRelease::parse(facts.kernel_release.as_deref()?).ok()?;
    let KernelRefusal { fault, remedy } = judge_kernel(&release, facts.is_in_private_pid_namespace).err()?;
    Some(finding(FindingReason::KernelKnownBad, format!("kernel {release} cannot be used: {fault}"), remedy))
}

fn ublk(facts: &Facts) -> Option<Finding> {
    (!facts.has_ublk).then(|| {
        finding(
            FindingReason::UblkMissing,
            "there is no /dev/ublk-control with a driver behind it",
            "load the driver with `modprobe ublk_drv`, and at every boot by a file in /etc/modules-load.d; Talos: list ublk_drv \
             in machine.kernel.modules; where the kernel has no such module, as on Amazon Linux, use another image",
        )
    })
}

fn io_uring(facts: &Facts) -> Option<Finding> {
    let setting = facts.io_uring_disabled?;
    let is_off = setting >= 2 || (setting == 1 && !facts.may_administer);
    is_off.then(|| {
        finding(
            FindingReason::IoUringDisabled,
            format!("io_uring is switched off: kernel.io_uring_disabled = {setting}"),
            "run `sysctl -w kernel.io_uring_disabled=0`, and keep it by a file in /etc/sysctl.d: RHEL 9 and 10 begin with 2; \
             OpenShift: by a Tuned profile",
        )
    })
}

fn memlock(facts: &Facts) -> Option<Finding> {
    let limit = facts.memlock_bytes.filter(|limit| *limit < MEMLOCK_BYTES_MIN && !facts.may_lock_all)?;
    Some(finding(
        FindingReason::MemlockTooLow,
        format!("only {limit} bytes of memory may be locked, {MEMLOCK_BYTES_MIN} are needed"),
        "give the container CAP_IPC_LOCK, or raise LimitMEMLOCK of the container runtime's unit to infinity and restart it",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            kernel_release: Some("6.12.95".into()),
            is_in_private_pid_namespace: false,
            has_ublk: true,
            io_uring_disabled: Some(0),
            may_administer: true,
            may_lock_all: true,
            memlock_bytes: Some(64 << 10),
        }
    }

    #[test]
    fn each_fact_is_found_alone_and_says_what_to_do() {
        use FindingReason::{IoUringDisabled, KernelKnownBad, MemlockTooLow, UblkMissing};
        let nothing = Facts {
            kernel_release: None,
            io_uring_disabled: None,
            memlock_bytes: None,
            may_lock_all: false,
            may_administer: false,
            ..good()
        };
        for (facts, reason, remedy) in [
            (good(), None, ""),
            (nothing, None, ""),
            (Facts { kernel_release: Some("no release".into()), ..good() }, None, ""),
            (Facts { kernel_release: Some("5.14.0-503.el9".into()), ..good() }, Some(KernelKnownBad), "6.12"),
            (Facts { has_ublk: false, ..good() }, Some(UblkMissing), "modprobe ublk_drv"),
            (Facts { io_uring_disabled: Some(1), ..good() }, None, ""),
            (
                Facts { io_uring_disabled: Some(1), may_administer: false, ..good() },
                Some(IoUringDisabled),
                "sysctl -w kernel.io_uring_disabled=0",
            ),
            (Facts { io_uring_disabled: Some(2), ..good() }, Some(IoUringDisabled), "/etc/sysctl.d"),
            (Facts { may_lock_all: false, ..good() }, Some(MemlockTooLow), "CAP_IPC_LOCK"),
            (Facts { may_lock_all: false, memlock_bytes: Some(MEMLOCK_BYTES_MIN), ..good() }, None, ""),
        ] {
            let findings = judge(&facts);
            assert_eq!(findings.first().map(|finding| finding.reason), reason, "{facts:?}");
            assert!(findings.len() <= 1, "{facts:?}: {findings:?}");
            assert!(findings.iter().all(|finding| finding.remedy.contains(remedy)), "{findings:?}");
        }
    }

    #[test]
    fn all_is_told_at_once() {
        let facts = Facts {
            kernel_release: Some("4.18.0".into()),
            has_ublk: false,
            io_uring_disabled: Some(2),
            may_lock_all: false,
            ..good()
        };
        assert_eq!(judge(&facts).len(), 4);
    }
}
