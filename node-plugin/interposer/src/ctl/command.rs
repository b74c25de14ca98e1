//! What the commands do. They return data; how it looks is decided elsewhere.

use super::args::{Copy, Ctl, Limits, Status as StatusArgs, Verb};
use super::{Screen, confirm, progress};
use serde::Serialize;
use std::io;
use std::time::Instant;
use thiserror::Error;
use tokio_stream::StreamExt;
use umbra_platform::call::{
    Abort, AcceptMaster, AcceptedImages, AttachedMaster, Copied, CopyKind, DetachMaster, DisableSet,
    EnabledSet, MapQuery, Reset, ResetDone, Scope, SetCopyLimits, Wait, Watch,
};
use umbra_platform::id::{RequestId, SetName, SetRef};
use umbra_platform::map::ChunkMap;
use umbra_platform::status::{CopyLimits, Listing, SetState, SetStatus, Status};
use umbra_platform::time::Millis;
use umbra_platform::value::{Columns, Detail, InvalidValue};
use umbra_platform::{CallDeadlines, Client, ClientError};

/// A result. Its serde form is the JSON that programs rely on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Output {
    Attached(AttachedMaster),
    Accepted {
        accepted: String,
        images: AcceptedImages,
    },
    Detached {
        detached: String,
    },
    Enabled(EnabledSet),
    Disabled {
        disabled: String,
    },
    Copied(CopyOutcome),
    Aborted {
        aborted: String,
    },
    Ended(WaitOutcome),
    Limits(LimitsOutcome),
    Reset(ResetOutcome),
    Status(Status),
    /// One set in full. As JSON it is a status like any other.
    Details(Status),
    Listing(Listing),
    Map(ChunkMap),
}

/// A cut, and how its copies ended where they were waited for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct CopyOutcome {
    #[serde(flatten)]
    pub(crate) copied: Copied,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<Vec<SetStatus>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct WaitOutcome {
    pub(crate) ended: Vec<SetStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LimitsOutcome {
    pub(crate) set: SetName,
    pub(crate) limits: CopyLimits,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ResetOutcome {
    pub(crate) set: String,
    pub(crate) reset: ResetDone,
}

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CtlError {
    /// The interposer or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The arguments together make no sense.
    #[error(transparent)]
    Argument(#[from] InvalidValue),
    /// A copy that was waited for did not end well.
    #[error("the copy of set {set} did not end: {state}{}", because(.reason.as_ref()))]
    NotEnded {
        /// The set.
        set: SetName,
        /// Its state.
        state: &'static str,
        /// Why, where that is known.
        reason: Option<Detail>,
    },
    /// A person said no.
    #[error("not done: nobody said yes")]
    Declined,
    /// The answer is not what was asked for.
    #[error("the interposer said nothing of set {0}")]
    SetMissing(SetRef),
    /// A watch ended by itself.
    #[error("the interposer ended the watch")]
    WatchEnded,
    /// The result could not be written, or the terminal not read.
    #[error("the terminal failed: {0}")]
    Output(#[source] io::Error),
}

fn because(reason: Option<&Detail>) -> String {
    reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
}

impl CtlError {
    /// Stable name for programs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Client(error) => error.reason(),
            Self::Argument(_) => "BAD_ARGUMENT",
            Self::NotEnded { .. } => "COPY_NOT_ENDED",
            Self::Declined => "DECLINED",
            Self::SetMissing(_) => "BAD_ANSWER",
            Self::WatchEnded => "CONNECTION_LOST",
            Self::Output(_) => "OUTPUT",
        }
    }

    /// What to do.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::Client(error) => error.remedy(),
            Self::Argument(error) => format!("correct the {}", error.what),
            Self::NotEnded { set, state: "offline", .. } => {
                format!("repair the volume, then umbra-io ctl reset {set}")
            }
            Self::NotEnded { set, state: "given-up", .. } => {
                format!("see to its volumes and start umbra-io again, then umbra-io ctl reset {set}")
            }
            Self::NotEnded { set, state: "blocked", .. } => {
                format!("umbra-io ctl status {set} says what it waits for; wait again when it is served")
            }
            Self::NotEnded { set, .. } => format!("issue the same copy of set {set} again and let it end"),
            Self::Declined => "say y, or give --yes".into(),
            Self::SetMissing(_) => "use the client that came with this interposer".into(),
            Self::WatchEnded => "look whether umbra-io is running, then watch again".into(),
            Self::Output(_) => "look at where the output goes".into(),
        }
    }

    /// The reader of the output has gone, as `head` does: no mistake of anybody.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Runs a command and shows its result.
pub(crate) async fn run(ctl: &Ctl, screen: &mut Screen) -> Result<(), CtlError> {
    let client = Client::connect(&ctl.socket, CallDeadlines::default()).await?;
    let request = ctl.request_id.unwrap_or_else(RequestId::random);
    let output = match ctl.verb.clone() {
        Verb::Attach(args) => Output::Attached(client.attach_master(args.call(request)).await?),
        Verb::Accept { master, images } => {
            let accepted = master.to_string();
            client.accept_master(AcceptMaster { request, master, images }).await?;
            Output::Accepted { accepted, images }
        }
        Verb::Detach { master } => {
            let detached = master.to_string();
            client.detach_master(DetachMaster { request, master }).await?;
            Output::Detached { detached }
        }
        Verb::Enable(args) => Output::Enabled(client.enable_set(args.call(request)?).await?),
        Verb::Disable { set } => {
            let disabled = set.0.set.to_string();
            client.disable_set(DisableSet { request, target: set.0 }).await?;
            Output::Disabled { disabled }
        }
        Verb::Copy(args) => copy(&client, &args, request, CopyKind::Full, screen).await?,
        Verb::Update(args) => copy(&client, &args, request, CopyKind::Update, screen).await?,
        Verb::Abort { set } => {
            let aborted = set.0.set.to_string();
            client.abort(Abort { request, target: set.0 }).await?;
            Output::Aborted { aborted }
        }
        Verb::Wait { sets, timeout } => {
            Output::Ended(WaitOutcome { ended: wait(&client, sets, timeout, screen).await? })
        }
        Verb::Limits(args) => limits(&client, &args, request).await?,
        Verb::Reset { set } => {
            let name = set.0.set.to_string();
            let reset = client.reset(Reset { request, target: set.0 }).await?;
            Output::Reset(ResetOutcome { set: name, reset })
        }
        Verb::Status(args) if args.watch => return watch(&client, &args, screen).await,
        Verb::Status(args) => shown(args.scope(), client.status(args.scope()).await?),
        Verb::List => Output::Listing(client.list().await?),
        Verb::Map { set, width } => Output::Map(map(&client, set, width).await?),
    };
    screen.show(&output)
}

async fn copy(
    client: &Client,
    args: &Copy,
    request: RequestId,
    kind: CopyKind,
    screen: &Screen,
) -> Result<Output, CtlError> {
    let call = args.call(request, kind)?;
    if confirm::needed(&call) && !args.yes {
        // Where nobody can be asked, nobody has said yes.
        if !console::user_attended() || !console::user_attended_stderr() {
            return Err(CtlError::Declined);
        }
        let question = confirm::question(&call, &client.status(Scope::All).await?);
        if !confirm::ask(&question, &mut io::stdin().lock(), &mut io::stderr().lock())
            .map_err(CtlError::Output)?
        {
            return Err(CtlError::Declined);
        }
    }
    let copied = client.copy(call).await?;
    if !args.wait {
        return Ok(Output::Copied(CopyOutcome { copied, ended: None }));
    }
    let sets = copied.sets.iter().map(|set| SetRef::Id(set.id)).collect();
    let ended = Some(wait(client, sets, args.timeout, screen).await?);
    Ok(Output::Copied(CopyOutcome { copied, ended }))
}

/// Waits for all of them, with bars where somebody looks.
async fn wait(
    client: &Client,
    sets: Vec<SetRef>,
    timeout: Millis,
    screen: &Screen,
) -> Result<Vec<SetStatus>, CtlError> {
    let waiting = wait_for_all(client, sets.clone(), timeout);
    if !screen.is_for_people() {
        return waiting.await;
    }
    let mut waiting = std::pin::pin!(waiting);
    tokio::select! {
        ended = &mut waiting => ended,
        // Bars are an ornament: without them, waiting goes on.
        () = progress::draw(client.clone(), sets) => waiting.await,
    }
}

async fn wait_for_all(
    client: &Client,
    sets: Vec<SetRef>,
    timeout: Millis,
) -> Result<Vec<SetStatus>, CtlError> {
    let begun = Instant::now();
    let mut ended = Vec::new();
    for set in sets {
        let spent = Millis::from(begun.elapsed());
        let left = Millis(timeout.0.saturating_sub(spent.0));
        ended.push(client.wait(Wait { set, timeout: left }).await?);
    }
    match ended.iter().find(|set| set.state != SetState::Idle) {
        None => Ok(ended),
        Some(set) => Err(not_ended(set)),
    }
}

fn not_ended(set: &SetStatus) -> CtlError {
    let reason = match &set.state {
        SetState::Offline { reason, .. } | SetState::GivenUp { reason } => Some(reason.clone()),
        SetState::Blocked(wait) => Some(wait.what.clone()),
        SetState::Idle
        | SetState::Copying(_)
        | SetState::CopyAborted(_)
        | SetState::Restoring(_)
        | SetState::RestoreAborted(_) => None,
    };
    CtlError::NotEnded { set: set.name.clone(), state: set.state.word(), reason }
}

/// Shows the limits; changes those that are given and leaves the others.
async fn limits(client: &Client, args: &Limits, request: RequestId) -> Result<Output, CtlError> {
    let target = args.set.0.clone();
    let status = client.status(Scope::Set(target.set.clone())).await?;
    let set = status.sets.into_iter().next().ok_or_else(|| CtlError::SetMissing(target.set.clone()))?;
    let limits = CopyLimits {
        bytes_per_second: args.rate.map_or(set.limits.bytes_per_second, |rate| rate.0),
        in_flight: args.in_flight.unwrap_or(set.limits.in_flight),
    };
    if args.rate.is_some() || args.in_flight.is_some() {
        client.set_copy_limits(SetCopyLimits { request, target, limits }).await?;
    }
    Ok(Output::Limits(LimitsOutcome { set: set.name, limits }))
}

async fn map(client: &Client, set: SetRef, width: Option<Columns>) -> Result<ChunkMap, CtlError> {
    let columns = match width {
        Some(width) => width,
        None => Columns::new(Screen::width().max(1).into()).unwrap_or_default(),
    };
    Ok(client.map(MapQuery { set, columns }).await?)
}

fn shown(scope: Scope, status: Status) -> Output {
    match scope {
        Scope::Set(_) => Output::Details(status),
        Scope::All | Scope::Master(_) => Output::Status(status),
    }
}

/// Shows statuses until somebody interrupts it.
async fn watch(client: &Client, args: &StatusArgs, screen: &mut Screen) -> Result<(), CtlError> {
    let mut statuses = client.watch(Watch { scope: args.scope(), cadence: args.cadence() }).await?;
    while let Some(status) = statuses.next().await {
        screen.refresh(&shown(args.scope(), status?))?;
    }
    Err(CtlError::WatchEnded)
}
