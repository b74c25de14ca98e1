//! Mount options as words: some are flags of the system call, the others are for the file system.

use rustix::mount::MountFlags;

/// Words that set a flag, and words that clear it.
const FLAGS: &[(&str, &str, MountFlags)] = &[
    ("nosuid", "suid", MountFlags::NOSUID),
    ("nodev", "dev", MountFlags::NODEV),
    ("noexec", "exec", MountFlags::NOEXEC),
    ("noatime", "atime", MountFlags::NOATIME),
    ("nodiratime", "diratime", MountFlags::NODIRATIME),
    ("relatime", "norelatime", MountFlags::RELATIME),
    ("strictatime", "nostrictatime", MountFlags::STRICTATIME),
    ("lazytime", "nolazytime", MountFlags::LAZYTIME),
    ("sync", "async", MountFlags::SYNCHRONOUS),
    ("dirsync", "", MountFlags::DIRSYNC),
    ("silent", "loud", MountFlags::SILENT),
    ("nosymfollow", "symfollow", MountFlags::NOSYMFOLLOW),
];

/// The flags, and what is left for the file system. Words may stand together, parted by commas; the last one counts.
pub(super) fn parse(options: &[String]) -> (MountFlags, Option<String>) {
    let mut flags = MountFlags::empty();
    let mut others = Vec::new();
    for option in options.iter().flat_map(|option| option.split(',')).filter(|option| !option.is_empty()) {
        if option == "defaults" {
            continue;
        }
        match FLAGS.iter().find(|(set, clear, _)| [*set, *clear].contains(&option)) {
            Some((set, _, flag)) => flags.set(*flag, option == *set),
            None => others.push(option),
        }
    }
    (flags, (!others.is_empty()).then(|| others.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_flags_or_the_file_systems() {
        let options = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(parse(&[]), (MountFlags::empty(), None));
        let (flags, data) = parse(&options(&["noatime,data=ordered", "nodev", "dev", "nouuid", "defaults"]));
        assert_eq!((flags, data.as_deref()), (MountFlags::NOATIME, Some("data=ordered,nouuid")));
    }
}
