//! Which kernels may be used: parsing of release strings and the table of known faults.
//!
//! Pure: the release string and the facts about this process come in, a refusal or warnings go out.

use std::fmt;

/// A kernel release, as `/proc/sys/kernel/osrelease` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRelease {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number, 0 if there is none.
    pub patch: u32,
    /// The number after the first dash, where a distribution counts its builds.
    pub build: Option<u32>,
    /// Everything after the numbers of the version, for people and for matching of distributions.
    pub suffix: String,
}

/// The string is not a kernel release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{release:?} is not a kernel release like 6.12.95 or 6.8.0-31-generic")]
pub struct BadKernelRelease {
    /// What was given.
    pub release: String,
}

/// A kernel that works, with something to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelWarning {
    /// What may happen.
    pub fault: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

/// Why a kernel is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRefusal {
    /// What is wrong with it.
    pub fault: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

impl KernelRelease {
    /// Parses a release string.
    ///
    /// # Errors
    /// If it does not begin with two numbers.
    pub fn parse(release: &str) -> Result<KernelRelease, BadKernelRelease> {
        let bad = || BadKernelRelease { release: release.to_owned() };
        let (major, rest) = leading_number(release.trim()).ok_or_else(bad)?;
        let (minor, rest) = rest.strip_prefix('.').and_then(leading_number).ok_or_else(bad)?;
        let (patch, suffix) = rest.strip_prefix('.').and_then(leading_number).unwrap_or((0, rest));
        if suffix.starts_with(|first: char| first.is_alphanumeric()) {
            return Err(bad());
        }
        let build = suffix
            .split_once('-')
            .and_then(|(_, after)| leading_number(after))
            .filter(|(_, rest)| rest.is_empty() || rest.starts_with('-'))
            .map(|(number, _)| number);
        Ok(KernelRelease { major, minor, patch, build, suffix: suffix.to_owned() })
    }

    fn version(&self) -> (u32, u32, u32) {
        (self.major, self.minor, self.patch)
    }
}

impl fmt::Display for KernelRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}{}", self.major, self.minor, self.patch, self.suffix)
    }
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

type Version = (u32, u32, u32);

/// First kernel whose driver has USER_COPY and GET_FEATURES. Older ones also lack fixes of recovery.
const FLOOR: Version = (6, 5, 0);

/// A patch number above all.
const ANY: u32 = u32::MAX;

#[derive(Clone, Copy)]
enum Builds {
    /// Every build of the versions: the fault is in the upstream release.
    Upstream,
    /// Builds of one distribution, whose version numbers say nothing about upstream patches.
    Distribution { first: u32, last: u32, flavor: &'static str },
}

#[derive(Clone, Copy)]
enum Effect {
    Refuse,
    RefuseInPrivatePidNamespace,
    Warn,
}

struct KnownFault {
    first: Version,
    last: Version,
    builds: Builds,
    effect: Effect,
    fault: &'static str,
    remedy: &'static str,
}

const ADD_DEV_OOPS: &str = "ADD_DEV oopses in ublk_init_queues and never returns";
const WEDGE: &str =
    "one report of control commands that never run, under heavy making and deleting of devices";
const WEDGE_REMEDY: &str = "watch for wedged control commands; a restart of the node ends them";

const KNOWN_FAULTS: &[KnownFault] = &[
    KnownFault {
        first: (6, 18, 4),
        last: (6, 18, 5),
        builds: Builds::Upstream,
        effect: Effect::Refuse,
        fault: ADD_DEV_OOPS,
        remedy: "use 6.18.6 or newer",
    },
    KnownFault {
        first: (6, 17, 0),
        last: (6, 17, 0),
        builds: Builds::Distribution { first: 1015, last: 1018, flavor: "-azure" },
        effect: Effect::Refuse,
        fault: ADD_DEV_OOPS,
        remedy: "use a newer build of this kernel",
    },
    KnownFault {
        first: (6, 17, 0),
        last: (6, 17, 0),
        builds: Builds::Distribution { first: 1017, last: 1017, flavor: "-aws" },
        effect: Effect::Refuse,
        fault: ADD_DEV_OOPS,
        remedy: "use a newer build of this kernel",
    },
    KnownFault {
        first: (6, 7, 0),
        last: (6, 7, ANY),
        builds: Builds::Upstream,
        effect: Effect::Refuse,
        fault: "recovery oopses in ublk_quiesce_work_fn",
        remedy: "use kernel 6.12 or newer",
    },
    KnownFault {
        first: (6, 8, 0),
        last: (6, 8, 0),
        builds: Builds::Distribution { first: 1, last: ANY, flavor: "" },
        effect: Effect::Refuse,
        fault: "closing a device under load panics (CVE-2025-37906, not fixed in these builds)",
        remedy: "use kernel 6.12 or newer",
    },
    KnownFault {
        first: (6, 17, 0),
        last: (6, 18, 7),
        builds: Builds::Upstream,
        effect: Effect::RefuseInPrivatePidNamespace,
        fault: "START_DEV is refused (EINVAL) to a process in a private pid namespace",
        remedy: "run in the host's pid namespace (hostPID: true), or use kernel 7.0 or newer",
    },
    KnownFault {
        first: (6, 17, 0),
        last: (6, 17, 0),
        builds: Builds::Upstream,
        effect: Effect::Warn,
        fault: "a server killed with I/O in flight has left processes that no signal ends",
        remedy: "use 6.18.6 or newer",
    },
    KnownFault {
        first: (6, 18, 40),
        last: (6, 18, 40),
        builds: Builds::Upstream,
        effect: Effect::Warn,
        fault: WEDGE,
        remedy: WEDGE_REMEDY,
    },
    KnownFault {
        first: (7, 0, 0),
        last: (7, 0, 14),
        builds: Builds::Upstream,
        effect: Effect::Warn,
        fault: WEDGE,
        remedy: WEDGE_REMEDY,
    },
    KnownFault {
        first: (6, 5, 0),
        last: (6, 14, ANY),
        builds: Builds::Upstream,
        effect: Effect::Warn,
        fault: "the driver's parameter ublks_max (64) limits all devices of the node",
        remedy: "for more than 64 devices load ublk_drv with a larger ublks_max",
    },
];

impl KnownFault {
    fn concerns(&self, release: &KernelRelease) -> bool {
        let version = release.version();
        if version < self.first || version > self.last {
            return false;
        }
        match self.builds {
            Builds::Upstream => true,
            Builds::Distribution { first, last, flavor } => {
                release.build.is_some_and(|build| build >= first && build <= last)
                    && release.suffix.ends_with(flavor)
            }
        }
    }
}

/// Judges a kernel for a process that is, or is not, in a private pid namespace.
///
/// # Errors
/// If it is too old, or known to fail.
pub fn judge(
    release: &KernelRelease,
    private_pid_namespace: bool,
) -> Result<Vec<KernelWarning>, KernelRefusal> {
    if release.version() < FLOOR {
        return Err(KernelRefusal {
            fault: "its ublk driver has no USER_COPY",
            remedy: "use kernel 6.12 or newer",
        });
    }
    let mut warnings = Vec::new();
    for known in KNOWN_FAULTS.iter().filter(|known| known.concerns(release)) {
        match known.effect {
            Effect::RefuseInPrivatePidNamespace if !private_pid_namespace => {}
            Effect::Refuse | Effect::RefuseInPrivatePidNamespace => {
                return Err(KernelRefusal { fault: known.fault, remedy: known.remedy });
            }
            Effect::Warn => {
                warnings.push(KernelWarning { fault: known.fault, remedy: known.remedy });
            }
        }
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(release: &str) -> KernelRelease {
        KernelRelease::parse(release).expect("a release of the table")
    }

    #[test]
    fn release_strings_of_distributions_are_understood() {
        let table = [
            ("6.12.95+deb12-cloud-amd64", (6, 12, 95), None),
            ("6.17.0-1015-azure", (6, 17, 0), Some(1015)),
            ("6.8.0-31-generic", (6, 8, 0), Some(31)),
            ("6.18.4-arch1-1", (6, 18, 4), None),
            ("6.18.6", (6, 18, 6), None),
            ("7.2-rc3", (7, 2, 0), None),
            ("7.2.13+deb14-cloud-amd64\n", (7, 2, 13), None),
            ("5.14.0-503.el9.x86_64", (5, 14, 0), None),
            ("6.1", (6, 1, 0), None),
        ];
        for (text, version, build) in table {
            let release = parsed(text);
            assert_eq!(release.version(), version, "{text}");
            assert_eq!(release.build, build, "{text}");
        }
    }

    #[test]
    fn other_strings_are_refused() {
        for text in ["", "linux", "6", "6.", ".6.12", "six.twelve", "6.12a", "6.x", "99999999999.1", "-6.1"] {
            assert!(KernelRelease::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn known_bad_kernels_are_refused_and_their_neighbours_are_not() {
        let table = [
            ("5.10.0-30-amd64", Some("USER_COPY")),
            ("6.1.187", Some("USER_COPY")),
            ("6.4.16", Some("USER_COPY")),
            ("6.5.0", None),
            ("6.7.12", Some("ublk_quiesce_work_fn")),
            ("6.8.0-31-generic", Some("CVE-2025-37906")),
            ("6.8.12", None),
            ("6.12.95+deb12-cloud-amd64", None),
            ("6.17.0-1014-azure", None),
            ("6.17.0-1015-azure", Some("ublk_init_queues")),
            ("6.17.0-1018-azure", Some("ublk_init_queues")),
            ("6.17.0-1019-azure", None),
            ("6.17.0-1017-aws", Some("ublk_init_queues")),
            ("6.17.0-1017-gcp", None),
            ("6.18.3", None),
            ("6.18.4-arch1-1", Some("ublk_init_queues")),
            ("6.18.5", Some("ublk_init_queues")),
            ("6.18.6", None),
            ("7.2.13+deb14-cloud-amd64", None),
        ];
        for (text, refusal) in table {
            match (judge(&parsed(text), false), refusal) {
                (Err(found), Some(word)) => assert!(found.fault.contains(word), "{text}: {}", found.fault),
                (Ok(_), None) => {}
                (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_private_pid_namespace_is_refused_only_where_the_kernel_refuses_it() {
        for (text, refused) in [
            ("6.16.12", false),
            ("6.17.3", true),
            ("6.18.3", true),
            ("6.18.7", true),
            ("6.18.8", false),
            ("7.2.13", false),
        ] {
            assert_eq!(judge(&parsed(text), true).is_err(), refused, "{text}, private");
            assert!(judge(&parsed(text), false).is_ok(), "{text}, the host's");
        }
    }

    #[test]
    fn warnings_come_with_a_remedy() {
        for (text, count) in
            [("6.12.95", 1), ("6.14.11", 1), ("6.15.1", 0), ("6.18.40", 1), ("7.0.14", 1), ("7.0.15", 0)]
        {
            let warnings = judge(&parsed(text), false).expect("usable");
            assert_eq!(warnings.len(), count, "{text}: {warnings:?}");
            assert!(warnings.iter().all(|warning| !warning.remedy.is_empty()));
        }
    }
}
