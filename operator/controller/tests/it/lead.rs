//! One process leads at a time, and each leader has a fence above all before it.

use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::Event;
use proptest::prelude::*;
use umbra_facade::Fence;
use umbra_operator::cluster::{Cluster, ClusterError, Key, Kind};
use umbra_operator::lead::{Candidate, LEASE_HOLDS, raise_fence};

use crate::bench::{Bench, Kill};
use crate::cluster::Objects;

/// The time of day, by the clock of the cluster: what is written at two times differs.
fn wall(cluster: &Slow) -> Time {
    let seconds = i64::try_from(cluster.now().as_secs()).expect("a short run");
    Time(Timestamp::from_second(1_800_000_000 + seconds).expect("a time"))
}

/// A cluster whose calls take time, and sometimes fail after they had their effect.
#[derive(Debug, Default)]
struct Slow {
    objects: Objects,
    clock: Mutex<Duration>,
    /// How long the next calls take, and whether their answers are lost.
    fates: Mutex<Vec<(u64, bool)>>,
}

impl Slow {
    fn now(&self) -> Duration {
        *self.clock.lock().expect("no panic")
    }

    fn pass(&self, seconds: u64) {
        *self.clock.lock().expect("no panic") += Duration::from_secs(seconds);
    }

    fn ask<T>(&self, call: impl FnOnce(&Objects) -> Result<T, ClusterError>) -> Result<T, ClusterError> {
        let (seconds, lost) = self.fates.lock().expect("no panic").pop().unwrap_or_default();
        // It takes effect at any time on its way.
        self.pass(seconds / 2);
        let answer = call(&self.objects);
        self.pass(seconds - seconds / 2);
        if lost {
            Err(ClusterError::Silent { object: "a lease".into(), problem: "lost".into() })
        } else {
            answer
        }
    }
}

impl Cluster for Slow {
    async fn get<K: Kind>(&self, key: &Key) -> Result<Option<K>, ClusterError> {
        self.ask(|objects| Ok(objects.get(key)))
    }

    async fn list<K: Kind>(&self, namespace: Option<&str>) -> Result<Vec<K>, ClusterError> {
        self.ask(|objects| Ok(objects.list(namespace)))
    }

    async fn list_where<K: Kind>(
        &self,
        namespace: &str,
        field: &'static str,
        value: &str,
    ) -> Result<Vec<K>, ClusterError> {
        self.ask(|objects| Ok(objects.list_where(namespace, field, value)))
    }

    async fn create<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        self.ask(|objects| objects.create(object))
    }

    async fn replace<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        self.ask(|objects| objects.replace(object, false))
    }

    async fn replace_status<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        self.ask(|objects| objects.replace(object, true))
    }

    async fn replace_approval(
        &self,
        request: &CertificateSigningRequest,
    ) -> Result<CertificateSigningRequest, ClusterError> {
        self.ask(|objects| objects.approve(request))
    }

    async fn delete<K: Kind>(&self, object: &K) -> Result<(), ClusterError> {
        self.ask(|objects| objects.delete::<K>(&Key::of(object)))
    }

    async fn announce(&self, _: ObjectReference, _: Event) {}
}

/// A candidate looks at the lease, unless it is paused.
#[derive(Debug, Clone)]
struct Turn {
    who: usize,
    pause: u64,
    fates: Vec<(u64, bool)>,
}

fn turn() -> impl Strategy<Value = Turn> {
    let fate = (prop_oneof![4 => 0..2_u64, 1 => 0..20_u64], prop::bool::weighted(0.1));
    let pause = prop_oneof![6 => 0..4_u64, 1 => 0..40_u64];
    (0..3_usize, pause, prop::collection::vec(fate, 2)).prop_map(|(who, pause, fates)| Turn {
        who,
        pause,
        fates,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn never_do_two_lead(turns in prop::collection::vec(turn(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let cluster = Slow::default();
        let mut candidates: Vec<Candidate> =
            ["x", "y", "z"].iter().map(|name| Candidate::new("umbra-system", name)).collect();
        for turn in turns {
            cluster.pass(turn.pause);
            *cluster.fates.lock().expect("no panic") = turn.fates;
            let now = cluster.now();
            let attended = runtime.block_on(candidates[turn.who].attend(&cluster, now, &wall(&cluster)));
            let refused = matches!(attended, Err(ClusterError::Refused { .. }));
            prop_assert!(!refused, "{attended:?}");
            let leading = candidates.iter().filter(|one| one.leads(cluster.now())).count();
            prop_assert!(leading <= 1, "{leading} lead at {:?}: {candidates:?}", cluster.now());
        }
    }
}

#[tokio::test]
async fn a_lease_that_nobody_renews_is_taken_and_a_leader_that_cannot_renew_steps_back_before() {
    let cluster = Slow::default();
    let mut first = Candidate::new("umbra-system", "first");
    let mut second = Candidate::new("umbra-system", "second");
    first.attend(&cluster, cluster.now(), &wall(&cluster)).await.unwrap();
    assert!(first.leads(cluster.now()));
    let (mut handed_over, mut stepped_back) = (None, None);
    for _ in 0..30 {
        second.attend(&cluster, cluster.now(), &wall(&cluster)).await.unwrap();
        if !first.leads(cluster.now()) {
            stepped_back.get_or_insert(cluster.now());
        }
        if second.leads(cluster.now()) {
            handed_over.get_or_insert(cluster.now());
        }
        cluster.pass(1);
    }
    assert_eq!(handed_over, Some(LEASE_HOLDS));
    assert!(stepped_back < handed_over, "{stepped_back:?}");
    // The first sees it at its next look.
    first.attend(&cluster, cluster.now(), &wall(&cluster)).await.unwrap();
    assert!(!first.leads(cluster.now()));
}

#[tokio::test]
async fn a_fence_is_above_all_that_are_on_record_or_were_seen() {
    let bench = Bench::new();
    let raise = async || raise_fence(&bench, "umbra-system").await;
    assert_eq!(raise().await, Ok(Fence::new(1).unwrap()));
    assert_eq!(raise().await, Ok(Fence::new(2).unwrap()));
    // The cluster is put back to an earlier state; the nodes remember.
    bench.objects.delete::<ConfigMap>(&Key::namespaced("umbra-system", "umbra-fence")).unwrap();
    assert_eq!(raise().await, Ok(Fence::new(3).unwrap()));
    // Nodes that do not answer keep nobody from leading.
    bench.silence(true);
    assert_eq!(raise().await, Ok(Fence::new(4).unwrap()));
    bench.silence(false);
    // Killed anywhere, the next is higher all the same.
    let mut last = 4;
    for call in 0..8 {
        bench.kill(Kill::After(bench.calls() + call));
        raise().await.ok();
        bench.revive();
        let fence = raise().await.unwrap().get();
        assert!(fence > last, "{fence} after {last}");
        last = fence;
    }
}
