//! Prometheus metrics of a node's facade: names and labels as those of the interposer.

use crate::publish::Ended;
use prometheus::{GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};
use umbra_facade::node::{Finding, SeenFence};

/// What is told.
pub(crate) struct Seen {
    /// Name of a call, how it ended, and how often.
    pub(crate) calls: Vec<(&'static str, &'static str, u64)>,
    /// The highest fence.
    pub(crate) fence: SeenFence,
    /// Whether the interposer answers.
    pub(crate) is_platform_up: bool,
    /// What keeps the node from serving devices.
    pub(crate) findings: Vec<Finding>,
    /// How looks at what is published ended; nothing where nothing is published.
    pub(crate) published: Vec<(Ended, u64)>,
}

/// One answer, made anew each time: what is gone must not be in the next.
pub(crate) fn render(seen: &Seen) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    let gauge = |name, help, labels: &[&str], values: Vec<(Vec<&str>, f64)>| {
        let family = GaugeVec::new(Opts::new(name, help), labels)?;
        for (labels, value) in values {
            family.get_metric_with_label_values(&labels)?.set(value);
        }
        registry.register(Box::new(family))
    };
    let version = vec![(vec![env!("CARGO_PKG_VERSION")], 1.0)];
    gauge("umbra_build_info", "The program.", &["version"], version)?;
    let up = vec![(vec![], f64::from(u8::from(seen.is_platform_up)))];
    gauge("umbra_platform_up", "Whether the interposer answers.", &[], up)?;
    let fence = match seen.fence {
        SeenFence::Never => vec![(vec![], 0.0)],
        // Exact up to 2^53 leaders.
        SeenFence::Highest(fence) => vec![(vec![], fence.to_string().parse().unwrap_or(f64::MAX))],
        SeenFence::Unreadable => Vec::new(),
    };
    gauge("umbra_facade_fence", "The highest fence seen; absent where it cannot be read.", &[], fence)?;
    let findings = seen.findings.iter().map(|finding| (vec![finding.reason.as_str()], 1.0)).collect();
    let help = "What keeps the node from serving devices; nothing where nothing does.";
    gauge("umbra_node_finding", help, &["reason"], findings)?;
    let help = "Calls that have ended, by OK or the reason of their refusal.";
    let calls = IntCounterVec::new(Opts::new("umbra_facade_calls_total", help), &["call", "ended"])?;
    for (call, ended, count) in &seen.calls {
        calls.get_metric_with_label_values(&[*call, *ended])?.inc_by(*count);
    }
    registry.register(Box::new(calls))?;
    let help = "Looks at what the cluster is told of this node, by how they ended.";
    let looks = IntCounterVec::new(Opts::new("umbra_node_published_total", help), &["ended"])?;
    for (ended, count) in &seen.published {
        looks.get_metric_with_label_values(&[ended.as_str()])?.inc_by(*count);
    }
    registry.register(Box::new(looks))?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbra_facade::Fence;
    use umbra_facade::node::FindingReason;

    #[test]
    fn what_is_seen_is_told() {
        let finding = Finding {
            reason: FindingReason::UblkMissing,
            what: "no driver".into(),
            remedy: "load it".into(),
        };
        let seen = Seen {
            calls: vec![("Copy", "OK", 3), ("Copy", "STALE_FENCE", 1)],
            fence: SeenFence::Highest(Fence::new(17).expect("above 0")),
            is_platform_up: false,
            findings: vec![finding],
            published: vec![(Ended::AtRest, 5), (Ended::Refused, 1)],
        };
        let text = render(&seen).expect("families that go together");
        for line in [
            "umbra_facade_calls_total{call=\"Copy\",ended=\"OK\"} 3",
            "umbra_facade_calls_total{call=\"Copy\",ended=\"STALE_FENCE\"} 1",
            "umbra_facade_fence 17",
            "umbra_platform_up 0",
            "umbra_node_published_total{ended=\"at-rest\"} 5",
            "umbra_node_published_total{ended=\"refused\"} 1",
            "umbra_node_finding{reason=\"UblkMissing\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let unreadable = Seen { fence: SeenFence::Unreadable, ..seen };
        assert!(!render(&unreadable).expect("families").contains("umbra_facade_fence "));
    }
}
