//! The helper process, with this test as the program: what it says of a device that is not there needs no driver.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use umbra_ublk::{DeviceId, Error, reread_partitions, serve_helper};

/// No machine has so many.
const NO_SUCH_DEVICE: u32 = 4_000_000;

fn main() -> ExitCode {
    if let Some(code) = serve_helper() {
        return code;
    }
    the_helper_answers_for_the_kernel();
    a_helper_ends_with_its_caller();
    println!("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::SUCCESS
}

fn the_helper_answers_for_the_kernel() {
    let error = reread_partitions(DeviceId::new(NO_SUCH_DEVICE), Duration::from_secs(60));
    let error = error.expect_err("there is no such device");
    let Error::RereadPartitions { device, source } = error else { panic!("{error}") };
    assert_eq!(device.get(), NO_SUCH_DEVICE);
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound, "the helper looked for the device's node");
}

fn a_helper_ends_with_its_caller() {
    // It may need a moment; that one stays for ever would show here.
    let begin = Instant::now();
    while children() > 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "a helper has outlived the call that it was for");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Children of this process, also those that have ended and that nobody has waited for.
fn children() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("this process has threads");
    let list = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children"));
    let lists = tasks.map(|task| list(task.expect("a thread")).unwrap_or_default());
    lists.map(|list| list.split_whitespace().count()).sum()
}
