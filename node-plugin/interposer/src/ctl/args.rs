//! The arguments, and the calls that they stand for.

use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::str::FromStr;
use umbra_platform::call::{
    AcceptedImages, AttachMaster, Cadence, CopyKind, CopySets, Direction, EnableSet, Scope, SetTarget,
    SetTargets, WipeSignatures,
};
use umbra_platform::id::{CutId, DeviceIdentity, MasterRef, RequestId, SetName, SetRef};
use umbra_platform::status::{Deadlines, Mode, Unrecordable, UnrecordablePolicy};
use umbra_platform::time::{IoDeadline, Millis};
use umbra_platform::value::{
    ByteRate, ChunkSize, Columns, DevicePath, InFlight, InvalidValue, Label, QueueDepth, Signature, UblkId,
};

/// What the short forms of the arguments mean; the same for every verb.
const FORMS: &str = "\
A SET is a UUID, a name or namespace/name. Where a command changes a set, SET@EPOCH is refused unless the
set is in that epoch. Sizes: 1Ti, 64Ki, 4k (powers of 1024) or bytes. Times: 250ms, 5s, 2m, 1h.
Exit codes: 0 done, 1 refused or failed, 2 wrong usage.";

/// What a copy does, by direction.
const DIRECTIONS: &str = "\
to-shadow takes a new point in time of every set named, on one master or on several, all at the same instant:
what was acknowledged before another write was issued is in the image if the other one is. All are cut or none.

to-master restores: from that instant on the master is what the shadow is, and whatever was written to it since
the shadow's point in time is lost. It can be used at once, while chunks are copied back. Nothing may have the
master or the shadow open: stop what uses them and unmount them first. After an abort the same command goes on.
It asks before; without a terminal, --yes must be given.";

/// What is asked, of whom, and how the answer is to look.
#[derive(Clone, Debug, Args)]
#[command(after_help = FORMS)]
pub(crate) struct Ctl {
    /// Socket of the interposer.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/umbra/io.sock")]
    pub(crate) socket: PathBuf,
    /// Print JSON for programs, one document per line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Id of this request. The same id sent again has no second effect and gets the first answer.
    #[arg(long, global = true, value_name = "UUID")]
    pub(crate) request_id: Option<RequestId>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Put the interposer between a device and its users. The device's content is not touched. Nothing may have
    /// the device open; what uses it opens the presented one from then on.
    Attach(Attach),
    /// Take a master that was written while nobody watched it as it is now, so that it is served again. Nothing
    /// needs to be closed.
    Accept {
        /// UUID or name.
        master: MasterRef,
        /// lost: its images are given up, and reset begins new ones. changed: every chunk counts as changed; what
        /// an image does not hold itself is lost.
        #[arg(long, value_name = "lost|changed")]
        images: AcceptedImages,
    },
    /// Take the interposer out again. Sets are kept and come back with the next attach. Nothing may have the
    /// master or a shadow open.
    Detach {
        /// UUID or name.
        master: MasterRef,
    },
    /// Make a volume set on a master, and take its first cut. The master may be open and under load; nothing may
    /// have the shadow and the bitmap volume open.
    Enable(Enable),
    /// End a set. Only an independent set without pending chunks leaves a usable image. Nothing may have the
    /// shadow open; the master may be open and under load.
    Disable {
        /// The set.
        set: SetAt,
    },
    /// Cut one or several sets at one instant and copy every chunk. Nothing may have the shadows open; to-master
    /// needs the masters closed, too.
    #[command(after_help = DIRECTIONS)]
    Copy(Copy),
    /// Cut one or several sets at one instant and copy only what may differ. Nothing may have the shadows open;
    /// to-master needs the masters closed, too.
    #[command(after_help = DIRECTIONS)]
    Update(Copy),
    /// Stop a copy. What is pending stays pending, and is still read from where it is. Nothing needs to be closed.
    Abort {
        /// The set.
        set: SetAt,
    },
    /// Wait until no copy of the sets runs. Fails if one did not end well. Nothing needs to be closed.
    Wait {
        /// The sets.
        #[arg(required = true)]
        sets: Vec<SetRef>,
        /// Give up waiting after this time; the copies go on.
        #[arg(long, default_value = "24h")]
        timeout: Millis,
    },
    /// Show or change how fast a set's copier may go. Nothing needs to be closed.
    Limits(Limits),
    /// Bring an offline set back: a new point in time. Nothing may have the shadow open; the master may be open and
    /// under load.
    Reset {
        /// The set.
        set: SetAt,
    },
    /// Show what is going on, also with masters and sets that are not served yet. Nothing needs to be closed.
    Status(Status),
    /// List masters and sets. Nothing needs to be closed.
    List,
    /// Draw a set's bitmap, one character per run of chunks. Nothing needs to be closed.
    Map {
        /// The set.
        set: SetRef,
        /// Characters to draw; without it, as many as fit a line of the terminal.
        #[arg(long)]
        width: Option<Columns>,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Attach {
    /// The device with the live data.
    device: DevicePath,
    /// Name for the master.
    #[arg(long)]
    name: Label,
    /// What the device must be recognised by, for example serial:S4EWNX0R.
    #[arg(long, value_name = "KIND:VALUE")]
    expect_identity: Option<DeviceIdentity>,
    /// Take the device although nothing about it is unique.
    #[arg(long)]
    accept_weak_identity: bool,
    /// Number of the ublk device; without it the kernel chooses.
    #[arg(long, value_name = "N")]
    ublk_id: Option<UblkId>,
    /// Requests in flight, 1 to 128.
    #[arg(long, value_name = "N", default_value_t)]
    queue_depth: QueueDepth,
}

impl Attach {
    pub(crate) fn call(self, request: RequestId) -> AttachMaster {
        AttachMaster {
            request,
            device: self.device,
            name: self.name,
            expected_identity: self.expect_identity,
            accept_weak_identity: self.accept_weak_identity,
            ublk: self.ublk_id,
            queue_depth: self.queue_depth,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Enable {
    /// Name for the set.
    name: Label,
    /// UUID or name of the master.
    #[arg(long)]
    master: MasterRef,
    /// independent (a full copy in the background) or dependent (copy-on-write).
    #[arg(long)]
    mode: Mode,
    /// The shadow volume.
    #[arg(long, value_name = "DEVICE")]
    shadow: DevicePath,
    /// The bitmap volume.
    #[arg(long, value_name = "DEVICE")]
    bitmap: DevicePath,
    /// Unit of tracking and copying, a power of two from 4Ki to 4Mi; 64Ki for a master's first set if it is left
    /// out. The first set chooses it for all sets of its master.
    #[arg(long, value_name = "SIZE")]
    chunk: Option<ChunkSize>,
    /// What may be overwritten on the shadow or the bitmap volume, exactly as a refusal names it. May be given
    /// several times.
    #[arg(long, value_name = "TYPE:UUID")]
    wipe_signature: Vec<Signature>,
    /// Namespace of the set's object.
    #[arg(long)]
    namespace: Option<Label>,
    /// Cluster that owns the set.
    #[arg(long)]
    cluster: Option<Label>,
    /// How long a master write may wait for the shadow before that is given up.
    #[arg(long, value_name = "TIME", default_value_t)]
    shadow_deadline: IoDeadline,
    /// How long a master write may wait for the bitmap volume before that is given up.
    #[arg(long, value_name = "TIME", default_value_t)]
    bitmap_deadline: IoDeadline,
    /// What becomes of a master write when nothing can be recorded: block or fail-write.
    #[arg(long, value_name = "POLICY", default_value = "block")]
    unrecordable: UnrecordablePolicy,
    /// How long such a write waits first.
    #[arg(long, value_name = "TIME", default_value_t)]
    unrecordable_timeout: IoDeadline,
    /// Refuse whatever would replace the image.
    #[arg(long)]
    protect: bool,
}

impl Enable {
    pub(crate) fn call(self, request: RequestId) -> Result<EnableSet, InvalidValue> {
        Ok(EnableSet {
            request,
            master: self.master,
            name: SetName { cluster: self.cluster, namespace: self.namespace, name: self.name },
            mode: self.mode,
            shadow: self.shadow,
            bitmap: self.bitmap,
            chunk: self.chunk,
            deadlines: Deadlines { shadow: self.shadow_deadline, bitmap: self.bitmap_deadline },
            unrecordable: Unrecordable { timeout: self.unrecordable_timeout, then: self.unrecordable },
            protected: self.protect,
            wipe: WipeSignatures::new(self.wipe_signature)?,
        })
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Copy {
    /// to-shadow (a new point in time) or to-master (a restore).
    direction: Direction,
    /// The sets; all are cut at one instant, or none.
    #[arg(required = true, value_name = "SET[@EPOCH]")]
    sets: Vec<SetAt>,
    /// Id for the cut.
    #[arg(long, value_name = "UUID")]
    cut: Option<CutId>,
    /// Wait until the copies have ended.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after this time; the copies go on.
    #[arg(long, default_value = "24h", requires = "wait")]
    pub(crate) timeout: Millis,
    /// Do not ask before a master is overwritten.
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

impl Copy {
    pub(crate) fn call(&self, request: RequestId, kind: CopyKind) -> Result<CopySets, InvalidValue> {
        let sets = SetTargets::new(self.sets.iter().map(|at| at.0.clone()).collect())?;
        Ok(CopySets { request, sets, direction: self.direction, kind, cut: self.cut })
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Limits {
    /// The set.
    pub(crate) set: SetAt,
    /// Bytes per second, or none for as fast as the devices are.
    #[arg(long, value_name = "SIZE|none")]
    pub(crate) rate: Option<Rate>,
    /// Copies in flight.
    #[arg(long, value_name = "N")]
    pub(crate) in_flight: Option<InFlight>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Status {
    /// Show this set in full.
    #[arg(conflicts_with = "master")]
    set: Option<SetRef>,
    /// Show this master and its sets.
    #[arg(long)]
    master: Option<MasterRef>,
    /// Show it again whenever it changes.
    #[arg(long, short = 'w')]
    pub(crate) watch: bool,
    /// Show it again at this interval, changed or not.
    #[arg(long, value_name = "TIME", requires = "watch")]
    interval: Option<Millis>,
}

impl Status {
    pub(crate) fn scope(&self) -> Scope {
        match (&self.set, &self.master) {
            (Some(set), _) => Scope::Set(set.clone()),
            (None, Some(master)) => Scope::Master(master.clone()),
            (None, None) => Scope::All,
        }
    }

    pub(crate) fn cadence(&self) -> Cadence {
        self.interval.map_or(Cadence::OnChange, Cadence::Every)
    }
}

/// `SET` or `SET@EPOCH`. No name holds an `@`.
#[derive(Clone, Debug)]
pub(crate) struct SetAt(pub(crate) SetTarget);

impl FromStr for SetAt {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let target = match text.split_once('@') {
            Some((set, epoch)) => SetTarget { set: set.parse()?, expected_epoch: Some(epoch.parse()?) },
            None => SetTarget::from(text.parse::<SetRef>()?),
        };
        Ok(Self(target))
    }
}

/// A rate, or `none`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate(pub(crate) Option<ByteRate>);

impl FromStr for Rate {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(Some).map(Self) }
    }
}
