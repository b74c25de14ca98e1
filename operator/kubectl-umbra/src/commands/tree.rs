//! `tree`: what hangs on what.

use clap::Args;
use serde::Serialize;
use umbra_actions::tree::Branch;
use umbra_actions::{tree, written};
use umbra_crds::ObjectName;

use crate::cluster::Cluster;
use crate::error::Failure;
use crate::output::Answer;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this master.
    #[arg(value_parser = written::object_name)]
    master: Option<ObjectName>,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Trees(Vec<Branch>);

pub(crate) async fn run(cluster: &Cluster, options: &Options) -> Result<Trees, Failure> {
    let mut trees = tree::tree(&cluster.images().await?);
    if let Some(master) = &options.master {
        let wanted = format!("mastervolume/{master}");
        trees.retain(|branch| branch.object == wanted);
        if trees.is_empty() {
            return Err(Failure::Failed(format!(
                "there is no MasterVolume {master} here: look with -A, or name its namespace"
            )));
        }
    }
    Ok(Trees(trees))
}

impl Answer for Trees {
    fn table(&self, _: bool, wide: bool) -> String {
        let mut text = String::new();
        for root in &self.0 {
            let namespace = if wide { format!("{}/", root.namespace) } else { String::new() };
            text += &format!("{namespace}{}\n", root.object);
            draw(&mut text, "", &root.branches);
        }
        if text.is_empty() { "no masters, no sets\n".to_owned() } else { text }
    }

    fn names(&self) -> Option<Vec<String>> {
        let sets = |root: &Branch| {
            let sets = root.branches.iter().filter(|branch| branch.role.is_none());
            let sets: Vec<String> = sets.map(|branch| branch.object.clone()).collect();
            [vec![root.object.clone()], sets].concat()
        };
        Some(self.0.iter().flat_map(sets).collect())
    }
}

fn draw(text: &mut String, indent: &str, branches: &[Branch]) {
    for (index, branch) in branches.iter().enumerate() {
        let last = index + 1 == branches.len();
        let (mark, below) = if last { ("`- ", "   ") } else { ("|- ", "|  ") };
        let role = branch.role.map_or_else(String::new, |role| format!("{role} "));
        *text += &format!("{indent}{mark}{role}{}\n", branch.object);
        draw(text, &format!("{indent}{below}"), &branch.branches);
    }
}
