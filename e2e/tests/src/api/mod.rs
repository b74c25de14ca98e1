//! The tier of the API: what a real API server makes of the kinds, and csi-sanity of a node's plugin.
//!
//! One control plane serves all cases, which differ by the names of their objects; but where an operator runs, each case has its
//! own. Cases are made from what is there, one for
//! each manifest, example and field, so that nothing new goes untested.

mod certificates;
mod changes;
mod chart;
mod columns;
mod commands;
mod csi_sanity;
mod examples;
mod explain;
mod inventory;
mod manifests;
mod operator;
mod plugin;
mod status;

use std::time::Instant;

use anyhow::{Context, Result};
use umbra_crds::{Definition, definitions};

use crate::kubernetes::server::Server;
use crate::kubernetes::{installation, plugin as program};

type OnServer = Box<dyn Fn(&Server) -> Result<()>>;

/// What a case does.
enum Run {
    /// Something with an API server.
    OnServer(OnServer),
    /// Something that needs none.
    OnHost(fn() -> Result<()>),
}

/// A case and its name.
pub(crate) struct Case {
    name: String,
    run: Run,
    /// It has a control plane to itself.
    alone: bool,
}

impl Case {
    fn new(name: impl Into<String>, run: impl Fn(&Server) -> Result<()> + 'static) -> Self {
        Self { name: name.into(), run: Run::OnServer(Box::new(run)), alone: false }
    }

    /// One that needs no API server.
    fn on_host(name: impl Into<String>, run: fn() -> Result<()>) -> Self {
        Self { name: name.into(), run: Run::OnHost(run), alone: false }
    }

    /// With a control plane to itself.
    fn alone(self) -> Self {
        Self { alone: true, ..self }
    }
}

/// Makes a case of each kind.
fn of_each_kind(about: &str, run: impl Fn(&Server, &Definition) -> Result<()> + Copy + 'static) -> Vec<Case> {
    let case = |definition: Definition| {
        Case::new(format!("{about}/{}", definition.plural()), move |server| run(server, &definition))
    };
    definitions().into_iter().map(case).collect()
}

fn all() -> Result<Vec<Case>> {
    let mut cases = manifests::cases();
    cases.extend(examples::cases()?);
    cases.extend(changes::cases());
    cases.extend(status::cases());
    cases.extend(columns::cases());
    cases.extend(explain::cases());
    cases.extend(plugin::cases());
    cases.extend(commands::cases());
    cases.extend(inventory::cases());
    cases.extend(operator::cases());
    cases.extend(certificates::cases());
    cases.extend(csi_sanity::cases());
    cases.extend(chart::cases()?);
    Ok(cases)
}

/// The names of the cases that have `filter` in theirs.
///
/// # Errors
/// Where the examples cannot be read.
pub fn names(filter: &str) -> Result<Vec<String>> {
    Ok(all()?.into_iter().map(|case| case.name).filter(|name| name.contains(filter)).collect())
}

/// Runs the cases that have `filter` in their name. Returns how many passed and failed.
///
/// # Errors
/// Where there is no API server to run them against.
pub fn run(filter: &str) -> Result<(u64, u64)> {
    let cases: Vec<Case> = all()?.into_iter().filter(|case| case.name.contains(filter)).collect();
    if cases.is_empty() {
        return Ok((0, 0));
    }
    if cases.iter().any(|case| case.name.starts_with("plugin/")) {
        program::build()?;
    }
    if cases.iter().any(|case| case.name.starts_with("inventory/")) {
        inventory::build()?;
    }
    if cases.iter().any(|case| case.name.starts_with("operator/")) {
        installation::build()?;
    }
    if cases.iter().any(|case| case.name.starts_with("csi_sanity/")) {
        csi_sanity::build()?;
    }
    let (on_host, cases): (Vec<Case>, Vec<Case>) =
        cases.into_iter().partition(|case| matches!(case.run, Run::OnHost(_)));
    let (alone, together): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(|case| case.alone);
    let mut tally = (0, 0);
    on_host.iter().for_each(|case| count(case, None, &mut tally));
    for group in std::iter::once(together).chain(alone.into_iter().map(|case| vec![case])) {
        if group.is_empty() {
            continue;
        }
        let server = Server::start().context("no API server to test against")?;
        let failed = tally.1;
        group.iter().for_each(|case| count(case, Some(&server), &mut tally));
        if tally.1 == failed {
            server.finish();
        }
    }
    Ok(tally)
}

/// Runs a case and counts it among those that passed or failed.
fn count(case: &Case, server: Option<&Server>, (passed, failed): &mut (u64, u64)) {
    let begin = Instant::now();
    let done = match &case.run {
        Run::OnServer(run) => server.context("no API server").and_then(run),
        Run::OnHost(run) => run(),
    };
    match done {
        Ok(()) => {
            *passed += 1;
            println!("case {} ... ok, {:.1} s", case.name, begin.elapsed().as_secs_f64());
        }
        Err(error) => {
            *failed += 1;
            println!("case {} ... FAILED: {error:#}", case.name);
        }
    }
}
