//! Which devices a grant covers, for people: whoever writes a pattern sees what it means on the nodes as they are.
//!
//! Nothing is decided by what is written here. Whether a device may be used is [checked](super::check) when it is.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use umbra_crds::conditions::GrantReady;
use umbra_crds::{DeviceGrant, GrantMatch, ImagingNode, NodeDevice, NodeName};
use umbra_facade::ClientError;

use super::{covers, is_on};
use crate::cluster::ClusterError;
use crate::reconcile::{AT_REST, Failure, Plan, Reconciled, World};
use crate::report::{Outlook, Report};

/// Devices that a status names.
const MATCHES_MAX: usize = 128;
/// Devices that a message names.
const NAMED_MAX: usize = 4;

/// What is known of a grant.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    grant: DeviceGrant,
    now: Time,
    /// The devices of each node whose labels are granted, in order of the nodes' names.
    nodes: Vec<(NodeName, Vec<NodeDevice>)>,
}

/// A grant is only looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {}

impl Reconciled for DeviceGrant {
    type View = View;
    type Effect = Effect;

    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }

    async fn observe(self, world: &impl World, now: Time) -> Result<View, ClusterError> {
        let labels: BTreeMap<String, BTreeMap<String, String>> = world
            .list::<Node>(None)
            .await?
            .into_iter()
            .map(|node| (node.name_any(), node.metadata.labels.unwrap_or_default()))
            .collect();
        let mut nodes: Vec<(NodeName, Vec<NodeDevice>)> = world
            .list::<ImagingNode>(None)
            .await?
            .into_iter()
            .filter(|node| is_on(&self, labels.get(&node.name_any())))
            .map(|node| (NodeName::new(node.name_any()), node.status.unwrap_or_default().devices))
            .collect();
        nodes.sort_by(|one, other| one.0.as_str().cmp(other.0.as_str()));
        Ok(View { grant: self, now, nodes })
    }

    fn plan(view: &View, _: Option<&ClientError>) -> Plan<Self, Effect> {
        let mut object = view.grant.clone();
        let generation = object.metadata.generation.unwrap_or_default();
        let mut status = object.status.take().unwrap_or_default();
        status.observed_generation = Some(generation);
        let (kept, given): (Vec<Covered<'_>>, Vec<Covered<'_>>) =
            covered(view).partition(|covered| covered.device.denied.is_some());
        status.matches = given.iter().take(MATCHES_MAX).map(Covered::named).collect();
        let (reason, message, outlook) = if !kept.is_empty() {
            let message = format!("never given away by their nodes: {}", some_of(&kept));
            (GrantReady::OverlapsDenyList, message, Outlook::Stalled)
        } else if given.is_empty() {
            let message = "no node that it selects has a device that it covers".to_owned();
            (GrantReady::NoMatch, message, Outlook::Progressing)
        } else {
            let beyond = given.len().saturating_sub(MATCHES_MAX);
            let message = if beyond == 0 { String::new() } else { format!("and {beyond} devices more") };
            (GrantReady::Matching, message, Outlook::Settled)
        };
        Report::new(&mut status.conditions, generation, &view.now).ready(&reason, &message, outlook);
        object.status = Some(status);
        Plan { object, effect: None, again: AT_REST }
    }

    fn observed(view: &View) -> &Self {
        &view.grant
    }

    async fn act(self, _: &impl World, effect: Effect) -> Result<(), Failure> {
        match effect {}
    }
}

/// A device that a grant covers.
struct Covered<'a> {
    node: &'a NodeName,
    device: &'a NodeDevice,
}

impl Covered<'_> {
    fn named(&self) -> GrantMatch {
        let NodeDevice { id, role, used_by, .. } = self.device.clone();
        GrantMatch { node: self.node.clone(), id, role, used_by }
    }
}

fn covered(view: &View) -> impl Iterator<Item = Covered<'_>> {
    let matchers = &view.grant.spec.devices;
    let is_covered =
        move |device: &NodeDevice| matchers.iter().any(|matcher| covers(matcher, &device.id, Some(device)));
    view.nodes.iter().flat_map(move |(node, devices)| {
        devices.iter().filter(move |device| is_covered(device)).map(move |device| Covered { node, device })
    })
}

/// The first of them with the reasons why they are kept.
fn some_of(kept: &[Covered<'_>]) -> String {
    let named = kept.iter().take(NAMED_MAX).filter_map(|covered| {
        let Covered { node, device } = covered;
        device.denied.as_ref().map(|why| format!("{} of {node} ({why})", device.id))
    });
    let named: Vec<String> = named.collect();
    match kept.len() - named.len() {
        0 => named.join(", "),
        more => format!("{}, and {more} more", named.join(", ")),
    }
}
