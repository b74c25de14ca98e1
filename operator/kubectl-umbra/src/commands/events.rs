//! `events`: what was reported about a set and the operations on it, or about everything of Umbra.

use clap::Args;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use serde::Serialize;
use umbra_actions::{age, operation, written};
use umbra_crds::{ImagingOperation, Target, TargetKind};

use super::requests;
use crate::cluster::{self, Cluster};
use crate::error::Failure;
use crate::output::{Answer, table};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The set, or group:GROUP; left out, everything of Umbra.
    #[arg(value_name = "SET|group:GROUP", value_parser = written::target)]
    target: Option<Target>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EventLine {
    age_seconds: i64,
    r#type: String,
    reason: String,
    object: String,
    count: i32,
    message: String,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Events(Vec<EventLine>);

pub(crate) async fn run(cluster: &Cluster, options: &Options) -> Result<Events, Failure> {
    let events = match &options.target {
        Some(target) => about(cluster, target).await?,
        None => {
            let ours = format!("involvedObject.apiVersion={}", ImagingOperation::api_version(&()));
            cluster::select(&cluster.kind::<Event>()?, &ours).await?
        }
    };
    let now = requests::now();
    let mut lines: Vec<EventLine> = events.into_iter().map(|event| line(event, &now)).collect();
    // The latest last, where the eye is.
    lines.sort_by_key(|line| -line.age_seconds);
    Ok(Events(lines))
}

/// Events of a set or group, and of the operations on it.
async fn about(cluster: &Cluster, target: &Target) -> Result<Vec<Event>, Failure> {
    let kind = match target.kind {
        TargetKind::SetGroup => "SetGroup",
        TargetKind::VolumeSet | TargetKind::ShadowExport => "VolumeSet",
    };
    let api = cluster.kind::<Event>()?;
    let of_target = format!("involvedObject.kind={kind},involvedObject.name={}", target.name);
    let (mut events, of_operations, operations) = tokio::try_join!(
        cluster::select(&api, &of_target),
        cluster::select(&api, "involvedObject.kind=ImagingOperation"),
        cluster.namespaced::<ImagingOperation>(),
    )?;
    let target = operation::written(target);
    let on_target = |event: &Event| {
        operations.iter().any(|operation| {
            operation::written(&operation.spec.target) == target
                && operation.metadata.name == event.involved_object.name
        })
    };
    events.extend(of_operations.into_iter().filter(on_target));
    Ok(events)
}

/// Reporters of both generations of the API write other fields.
fn line(event: Event, now: &Time) -> EventLine {
    let observed = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let second = observed
        .map(|time| time.0)
        .or(event.last_timestamp.as_ref().map(|time| time.0))
        .or(event.event_time.as_ref().map(|time| time.0))
        .or(event.metadata.creation_timestamp.as_ref().map(|time| time.0))
        .map_or_else(|| now.0.as_second(), |time| time.as_second());
    let kind = event.involved_object.kind.unwrap_or_default().to_lowercase();
    EventLine {
        age_seconds: now.0.as_second().saturating_sub(second),
        r#type: event.type_.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        object: format!("{kind}/{}", event.involved_object.name.unwrap_or_default()),
        count: event.series.and_then(|series| series.count).or(event.count).unwrap_or(1),
        message: event.message.unwrap_or_default(),
    }
}

impl Answer for Events {
    fn table(&self, headings: bool, wide: bool) -> String {
        let heads = ["LAST", "TYPE", "REASON", "OBJECT", "TIMES", "MESSAGE"];
        let rows = self.0.iter().map(|line| {
            let message = line.message.lines().next().unwrap_or_default();
            [
                age(line.age_seconds),
                line.r#type.clone(),
                line.reason.clone(),
                line.object.clone(),
                line.count.to_string(),
                if wide { line.message.replace('\n', " ") } else { message.to_owned() },
            ]
        });
        if self.0.is_empty() && headings {
            return "no events\n".to_owned();
        }
        table(headings.then_some(heads), rows)
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|line| line.object.clone()).collect())
    }
}
