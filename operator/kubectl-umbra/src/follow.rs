//! Waiting until something is done, and showing how far it is.

use std::fmt::Debug;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};
use umbra_actions::Standing;

use crate::error::Failure;
use crate::writing::named;

/// How often is looked. A watch would be told sooner, but has to be begun anew whenever the API server ends it.
const INTERVAL: Duration = Duration::from_millis(500);
/// Between two steps of what moves on the screen.
const TICK: Duration = Duration::from_millis(120);

#[derive(Debug, Args)]
pub(crate) struct Waiting {
    /// Wait until it is done.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_name = "BOOL")]
    wait: bool,
    #[command(flatten)]
    patience: Patience,
}

impl Waiting {
    pub(crate) fn patience(&self) -> Option<&Patience> {
        self.wait.then_some(&self.patience)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Patience {
    /// How long to wait, for example 90s or 2h.
    #[arg(long, default_value = "10m", value_parser = length, value_name = "TIME")]
    timeout: Duration,
}

fn length(text: &str) -> Result<Duration, umbra_crds::InvalidValue> {
    umbra_crds::Duration::new(text).length()
}

/// Waits until an object is done, and returns it as it then is.
pub(crate) async fn follow<K>(
    api: &Api<K>,
    name: &str,
    patience: &Patience,
    standing: impl Fn(&K) -> Standing,
) -> Result<K, Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let kind = K::kind(&()).to_lowercase();
    let missing = || Failure::Failed(format!("there is no {kind} {name}, or no longer"));
    look(api, name, patience, standing).await?.ok_or_else(missing)
}

/// Waits until an object that is being deleted is gone.
pub(crate) async fn follow_out<K>(
    api: &Api<K>,
    name: &str,
    patience: &Patience,
    standing: impl Fn(&K) -> Standing,
) -> Result<(), Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    look(api, name, patience, standing).await.map(drop)
}

/// Looks until an object is done, or there is none.
async fn look<K>(
    api: &Api<K>,
    name: &str,
    patience: &Patience,
    standing: impl Fn(&K) -> Standing,
) -> Result<Option<K>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let kind = K::kind(&()).to_lowercase();
    let deadline = Instant::now() + patience.timeout;
    let bar = Bar::new(&format!("{kind}/{name}"));
    let mut last = "it was not seen".to_owned();
    loop {
        match timeout_at(deadline, api.get(name)).await {
            Ok(Ok(object)) => match standing(&object) {
                Standing::Done { .. } => return Ok(Some(object)),
                Standing::Failed { reason, message, by_guard } => {
                    let text = format!("{} failed: {reason}: {message}", named(&object));
                    return Err(if by_guard { Failure::Refused(text) } else { Failure::Failed(text) });
                }
                going_on => {
                    last = told(&going_on);
                    bar.show(&going_on);
                }
            },
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(None),
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                return Err(Failure::Failed(format!("{kind} {name}: {}", status.message)));
            }
            // An API server that is away for a while takes nothing back of what was asked for.
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => {}
        }
        if Instant::now() + INTERVAL >= deadline {
            return Err(Failure::TimedOut(format!("{kind}/{name} is not done in time, and goes on: {last}")));
        }
        sleep(INTERVAL).await;
    }
}

fn told(standing: &Standing) -> String {
    match standing {
        Standing::Running { what, percent: Some(percent) } => format!("{what}, {percent}%"),
        Standing::Running { what, percent: None } => what.clone(),
        _ => "nobody has begun with it: is umbra-operator running?".to_owned(),
    }
}

/// What moves on a terminal; nothing where there is none.
struct Bar(ProgressBar);

impl Bar {
    fn new(object: &str) -> Self {
        let bar = ProgressBar::new(100).with_prefix(object.to_owned());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    fn show(&self, standing: &Standing) {
        let (template, what, percent) = match standing {
            Standing::Running { what, percent: Some(percent) } => {
                ("{prefix}  [{bar:30}] {pos:>3}%  {msg}  {elapsed}", what.clone(), *percent)
            }
            other => ("{spinner} {prefix}  {msg}  {elapsed}", told(other), 0),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style.progress_chars("=> "));
        }
        self.0.set_message(what);
        self.0.set_position(u64::try_from(percent).unwrap_or_default());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
