//! Reads a machine's serial log for what no test may overlook: a kernel that complained about itself.

/// Lines that mean the kernel is broken, whatever the test asserted.
const BAD: &[&str] = &[
    "kernel BUG",
    "Oops",
    "Kernel panic",
    "BUG: kernel NULL pointer",
    "BUG: unable to handle",
    "general protection fault",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
];
const HUNG: &str = "blocked for more than";

/// The first line of the log that tells of a kernel failure.
#[must_use]
pub fn kernel_failure(log: &str, hung_tasks_allowed: bool) -> Option<&str> {
    log.lines().find(|line| {
        BAD.iter().any(|bad| line.contains(bad))
            || (!hung_tasks_allowed && line.contains("INFO: task") && line.contains(HUNG))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_seen_and_others_are_not() {
        let fine = "[    0.0] Linux version 6.12\n[    1.0] EXT4-fs (vda): mounted\n";
        assert_eq!(kernel_failure(fine, false), None);
        let oops = format!("{fine}[    2.0] Oops: 0000 [#1] SMP\n");
        assert_eq!(kernel_failure(&oops, true), Some("[    2.0] Oops: 0000 [#1] SMP"));
        let hung = format!("{fine}[  242.0] INFO: task fio:123 blocked for more than 120 seconds.\n");
        assert!(kernel_failure(&hung, false).is_some());
        assert_eq!(kernel_failure(&hung, true), None);
    }
}
