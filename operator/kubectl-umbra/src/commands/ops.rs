//! `ops`: what was asked for, and how it stands.

use clap::Args;
use serde::Serialize;
use umbra_actions::picture::{OperationLine, OperationState, operation_lines};
use umbra_actions::{age, operation, written};
use umbra_crds::Target;

use super::requests;
use crate::cluster::Cluster;
use crate::error::Failure;
use crate::output::{Answer, table};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only those on this set or group.
    #[arg(value_name = "SET|group:GROUP", value_parser = written::target)]
    target: Option<Target>,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Operations(Vec<OperationLine>);

pub(crate) async fn run(cluster: &Cluster, options: &Options) -> Result<Operations, Failure> {
    let operations = cluster.namespaced().await?;
    let mut lines = operation_lines(&operations, &requests::now());
    if let Some(target) = &options.target {
        let target = operation::written(target);
        lines.retain(|line| line.target == target);
    }
    Ok(Operations(lines))
}

pub(super) fn state(state: OperationState) -> &'static str {
    match state {
        OperationState::Waiting => "waiting",
        OperationState::Running => "running",
        OperationState::Complete => "complete",
        OperationState::Failed => "FAILED",
    }
}

impl Answer for Operations {
    fn table(&self, headings: bool, wide: bool) -> String {
        let heads = ["NAMESPACE", "NAME", "COMMAND", "TARGET", "STATE", "REASON", "CUT", "PROGRESS", "AGE"];
        let rows = self.0.iter().map(|line| {
            let cut = line.cut_id.map_or_else(String::new, |cut| cut.to_string());
            [
                line.namespace.clone(),
                line.name.clone(),
                line.command.to_string(),
                line.target.clone(),
                state(line.state).to_owned(),
                line.reason.clone().unwrap_or_default(),
                if wide { cut } else { cut.chars().take(6).collect() },
                line.percent.map_or_else(String::new, |percent| format!("{percent}%")),
                age(line.age_seconds),
            ]
        });
        table(headings.then_some(heads), rows)
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|line| format!("imagingoperation/{}", line.name)).collect())
    }
}
