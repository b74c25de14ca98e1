//! The queue against a fake kernel: descriptors in a file, completions by hand.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use super::*;
use crate::uapi::IoDesc;

const DEPTH: u16 = 4;
const SLOT: RingSlot = RingSlot::new(9);

struct Setup {
    queue: Queue,
    descriptors: File,
}

fn config() -> QueueConfig {
    QueueConfig {
        queue: 2,
        depth: DEPTH,
        max_io_bytes: 64 << 10,
        capacity_sectors: 2048,
        file: RingFile::Fixed(5),
        slot: SLOT,
    }
}

/// A file without a name, which goes with its last user.
fn scratch(name: &str, bytes: u64) -> File {
    let path = std::env::temp_dir().join(format!("umbra-ublk-{}-{name}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    let file = file.expect("a scratch file");
    std::fs::remove_file(&path).expect("remove its name");
    file.set_len(bytes).expect("grow it");
    file
}

fn setup(name: &str) -> Setup {
    let descriptors = scratch(&format!("{name}-descriptors"), 4096);
    // Sparse, large enough for the highest position that the tests use.
    let device = CharDevice::for_test(DeviceId::new(1), scratch(&format!("{name}-char"), 1 << 43));
    let map = DescriptorMap::of_file(&descriptors, DEPTH);
    Setup { queue: Queue::with_descriptors(Arc::new(device), &config(), map), descriptors }
}

impl Setup {
    /// What the kernel does when a client asks for something.
    fn request(&mut self, tag: u16, op_flags: u32, start_sector: u64, nr_sectors: u32) -> QueueEvent {
        let descriptor = IoDesc { op_flags, nr_sectors, start_sector, addr: 0 };
        self.descriptors
            .write_all_at(bytemuck::bytes_of(&descriptor), u64::from(tag) * 24)
            .expect("write a descriptor");
        self.queue.on_cqe(SLOT.user_data(Tag::new(tag)), 0).expect("an armed tag")
    }

    fn submitted(&mut self) -> Vec<Submitted> {
        let mut entries = Vec::new();
        assert_eq!(self.queue.push_waiting(&mut entries), 0);
        entries.iter().map(Submitted::of).collect()
    }

    fn served(name: &str) -> Setup {
        let mut setup = setup(name);
        setup.queue.start_fetch();
        assert_eq!(setup.submitted().len(), usize::from(DEPTH));
        setup
    }
}

/// The parts of an entry that the driver looks at, from its bytes.
#[derive(Debug, PartialEq, Eq)]
struct Submitted {
    opcode: u32,
    fixed_file: Option<i32>,
    payload: IoCmd,
    user_data: u64,
}

impl Submitted {
    fn of(entry: &UblkSqe) -> Submitted {
        // SAFETY: an entry is 64 bytes without padding or references, by the kernel's definition.
        let bytes: [u8; 64] = unsafe { std::mem::transmute_copy(&entry.0) };
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!(bytes[0], 46, "IORING_OP_URING_CMD");
        Submitted {
            opcode: word(8),
            fixed_file: (bytes[1] & 1 == 1).then(|| word(4).cast_signed()),
            payload: bytemuck::pod_read_unaligned(&bytes[48..64]),
            user_data: entry.user_data(),
        }
    }
}

fn request_of(event: QueueEvent) -> Request {
    match event {
        QueueEvent::Request(request) => request,
        other => panic!("{other:?} is no request"),
    }
}

#[test]
fn every_tag_is_fetched_through_the_fixed_file_with_the_kernels_numbers() {
    let mut setup = setup("fetch");
    setup.queue.start_fetch();
    let expected: Vec<_> = (0..DEPTH)
        .map(|tag| Submitted {
            opcode: 0xc010_7520,
            fixed_file: Some(5),
            payload: IoCmd { q_id: 2, tag, result: 0, addr: 0 },
            user_data: 1 << 63 | 9 << 16 | u64::from(tag),
        })
        .collect();
    assert_eq!(setup.submitted(), expected);
    assert_eq!(setup.queue.tag_counts().armed, DEPTH);
}

#[test]
fn a_completed_request_commits_its_bytes_and_an_error_its_number() {
    let mut setup = Setup::served("complete");
    let table = [
        (1, 0, 8, Ok(()), 4096),
        (1, 16, 128, Ok(()), 65_536),
        (0, 0, 1, Ok(()), 512),
        (2, 0, 0, Ok(()), 0),
        (3, 0, 2048, Ok(()), 0),
        (5, 0, 8, Ok(()), 0),
        (1, 0, 8, Err(Errno::EIO), -5),
        (2, 0, 0, Err(Errno::ENOSPC), -28),
    ];
    for (op, start, sectors, outcome, result) in table {
        let request = request_of(setup.request(3, op, start, sectors));
        assert_eq!((request.tag().get(), request.start_sector(), request.sectors()), (3, start, sectors));
        setup.queue.complete(request, outcome);
        let commit = setup.submitted().pop().expect("a commit");
        assert_eq!(commit.opcode, 0xc010_7521, "op {op}");
        assert_eq!(commit.payload, IoCmd { q_id: 2, tag: 3, result, addr: 0 }, "op {op}");
    }
}

#[test]
fn a_bad_request_is_answered_by_the_queue_itself() {
    let mut setup = Setup::served("refuse");
    let table = [(15, 0, 8, -libc::EOPNOTSUPP), (1, 2048, 1, -libc::EINVAL), (1, 0, 129, -libc::EINVAL)];
    for (op, start, sectors, result) in table {
        let event = setup.request(0, op, start, sectors);
        assert!(matches!(event, QueueEvent::Refused { tag, .. } if tag.get() == 0), "{event:?}");
        assert_eq!(setup.submitted().pop().expect("a commit").payload.result, result);
    }
    assert_eq!(setup.queue.tag_counts().armed, DEPTH, "the tag serves on");
}

#[test]
fn nothing_is_lost_when_the_submission_queue_is_full() {
    struct OneAtATime(Vec<UblkSqe>);
    impl SqePush for OneAtATime {
        fn push_ublk(&mut self, entry: UblkSqe) -> Result<(), UblkSqe> {
            if self.0.is_empty() { self.0.push_ublk(entry) } else { Err(entry) }
        }
    }
    let mut setup = setup("full");
    setup.queue.start_fetch();
    let mut tags = Vec::new();
    for left in (0..DEPTH).rev() {
        let mut sq = OneAtATime(Vec::new());
        assert_eq!(setup.queue.push_waiting(&mut sq), usize::from(left));
        tags.extend(sq.0.iter().map(|entry| RingSlot::tag(entry.user_data()).get()));
    }
    assert_eq!(tags, [0, 1, 2, 3]);
}

#[test]
fn the_queue_may_leave_after_the_first_abort_with_nothing_in_hand() {
    let mut setup = Setup::served("leave");
    let request = request_of(setup.request(0, 1, 0, 8));
    assert!(!setup.queue.may_leave());
    let aborted = setup.queue.on_cqe(SLOT.user_data(Tag::new(1)), -libc::ENODEV);
    assert!(matches!(aborted, Some(QueueEvent::Aborted { tag }) if tag.get() == 1));
    assert!(!setup.queue.may_leave(), "a request is in hand");
    setup.queue.complete(request, Ok(()));
    assert!(!setup.queue.may_leave(), "its answer is not sent");
    assert_eq!(setup.submitted().len(), 1);
    assert!(setup.queue.may_leave(), "though tags 2 and 3 may never hear of it");
}

#[test]
fn a_refused_command_is_a_failure_and_ends_its_tag() {
    let mut setup = Setup::served("failed");
    for (tag, result, errno) in [(0, -16, Errno::EBUSY), (1, -22, Errno::EINVAL), (2, 1, Errno::EIO)] {
        let event = setup.queue.on_cqe(SLOT.user_data(Tag::new(tag)), result);
        assert!(
            matches!(event, Some(QueueEvent::Failed { errno: found, .. }) if found == errno),
            "{result}: {event:?}"
        );
    }
    assert_eq!(setup.queue.tag_counts().dead, 3);
}

#[test]
fn completions_of_others_are_left_alone_and_strays_are_counted() {
    let mut setup = Setup::served("strays");
    for user_data in [0, 7, (1 << 63) - 1, RingSlot::new(8).user_data(Tag::new(0))] {
        assert!(setup.queue.on_cqe(user_data, 0).is_none(), "{user_data:#x}");
    }
    assert_eq!(setup.queue.strays(), 0);
    assert!(setup.queue.on_cqe(SLOT.user_data(Tag::new(DEPTH)), 0).is_none(), "no such tag");
    let request = request_of(setup.request(1, 1, 0, 8));
    assert!(setup.queue.on_cqe(SLOT.user_data(Tag::new(1)), 0).is_none(), "completed twice");
    assert_eq!(setup.queue.strays(), 2);
    setup.queue.complete(request, Ok(()));
}

#[test]
fn data_moves_through_the_window_of_queue_and_tag() {
    let mut setup = Setup::served("data");
    let request = request_of(setup.request(3, 1, 0, 16));
    setup.queue.write_data(&request, 512, b"umbra").expect("write");
    let mut back = [0_u8; 7];
    setup.queue.read_data(&request, 511, &mut back).expect("read");
    assert_eq!(&back, b"\0umbra\0");
    let mut raw = [0_u8; 5];
    let window = 0x8000_0000 + (2 << 41) + (3 << 25) + 512;
    setup.queue.device().file_for_test().read_exact_at(&mut raw, window).expect("read");
    assert_eq!(&raw, b"umbra");
    setup.queue.complete(request, Ok(()));
}

#[test]
#[should_panic(expected = "bytes up to 4097 of Request(device 1 queue 2 tag 0: Write")]
fn data_beyond_the_request_is_a_bug_of_the_caller() {
    let mut setup = Setup::served("beyond");
    let request = request_of(setup.request(0, 1, 0, 8));
    drop(setup.queue.read_data(&request, 4095, &mut [0; 2]));
}

#[test]
#[should_panic(expected = "tag 0: Write fua true sectors 0 + 8) dropped without an answer")]
fn a_request_that_is_dropped_explodes() {
    let mut setup = Setup::served("dropped");
    drop(request_of(setup.request(0, 1 | 1 << 13, 0, 8)));
}

#[test]
#[should_panic(expected = "given to queue 2 of device 1")]
fn a_request_cannot_be_completed_elsewhere() {
    let mut setup = Setup::served("elsewhere");
    let mut request = request_of(setup.request(0, 1, 0, 8));
    request.queue = 3;
    setup.queue.complete(request, Ok(()));
}

#[test]
fn an_abandoned_request_gets_no_answer_and_counts_as_ended() {
    let mut setup = Setup::served("abandon");
    let request = request_of(setup.request(0, 1, 0, 8));
    setup.queue.abandon(request);
    assert!(setup.submitted().is_empty());
    assert!(setup.queue.may_leave());
}

#[test]
fn numbers_that_no_queue_has_are_refused_before_the_kernel_is_asked() {
    let table = [
        QueueConfig { depth: 0, ..config() },
        QueueConfig { depth: 4097, ..config() },
        QueueConfig { max_io_bytes: 511, ..config() },
        QueueConfig { max_io_bytes: (32 << 20) + 1, ..config() },
    ];
    for config in table {
        assert!(matches!(check(DeviceId::new(1), &config), Err(Error::BadQueue { .. })), "{config:?}");
    }
    assert!(check(DeviceId::new(1), &config()).is_ok());
}

#[test]
fn slots_route_completions_and_leave_the_lower_half_to_the_caller() {
    assert_eq!(RingSlot::of(SLOT.user_data(Tag::new(4095))), Some(SLOT));
    let highest = RingSlot::new(u16::MAX);
    assert_eq!(RingSlot::of(highest.user_data(Tag::new(3))), Some(highest));
    assert_eq!(RingSlot::tag(highest.user_data(Tag::new(3))).get(), 3);
    assert_eq!(RingSlot::of((1 << 63) - 1), None);
}
