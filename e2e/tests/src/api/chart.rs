//! The chart: what it makes of values, and what its policies hold.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbra_lab::binaries;

use super::{Case, examples};
use crate::kubernetes::chart::{self, SYSTEM};
use crate::kubernetes::server::{NAMESPACE, Server};

/// The namespace of what runs on every node.
const NODES: &str = "umbra-node";

pub(crate) fn cases() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(binaries::workspace().join("charts/umbra/ci"))? {
        let values = entry?.path();
        let name = values.file_stem().unwrap_or_default().display().to_string();
        let about = name.trim_end_matches("-values").to_owned();
        cases.push(Case::new(format!("chart/{about}"), move |server| is_accepted(server, &values)).alone());
    }
    cases.push(Case::on_host("chart/a_wrong_value_is_refused", wrong_values_are_refused));
    cases.push(Case::on_host("chart/the_kinds_and_the_driver_are_there", the_kinds_and_the_driver_are_there));
    cases.push(Case::on_host("chart/the_data_plane_changes_alone", the_data_plane_changes_alone));
    cases.push(Case::on_host("chart/roles_give_what_is_asked_for", roles_give_what_is_asked_for));
    cases.push(Case::on_host("chart/what_is_watched_is_there", what_is_watched_is_there));
    cases.push(Case::new("chart/policies", policies).alone());
    Ok(cases)
}

/// Helm finds nothing against it, and the API server would take it all.
fn is_accepted(server: &Server, values: &Path) -> Result<()> {
    chart::lint(values)?;
    for namespace in [SYSTEM, NODES] {
        server.expect(&["create", "namespace", namespace])?;
    }
    let folder = tempfile::tempdir()?;
    let manifests = folder.path().join("manifests.yaml");
    fs::write(&manifests, chart::render(values, &[])?)?;
    let file = manifests.display().to_string();
    let dry = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename", &file];
    server.expect(&dry).map(drop)
}

/// What a template finds no file for is simply not there.
fn the_kinds_and_the_driver_are_there() -> Result<()> {
    let objects = chart::objects(&chart::values("default"), &[])?;
    let of_kind = |kind: &str| objects.iter().filter(|object| object["kind"] == kind).count();
    let kinds = fs::read_dir(binaries::workspace().join("crds/manifests"))?.count();
    let found = of_kind("CustomResourceDefinition");
    ensure!(found == kinds && kinds > 0, "the chart installs {found} kinds of {kinds}");
    ensure!(of_kind("CSIDriver") == 1, "the chart does not install the driver");
    ensure!(of_kind("StorageClass") == 1, "the chart does not install the class");
    Ok(())
}

/// The schema of the values knows what they may be.
fn wrong_values_are_refused() -> Result<()> {
    for wrong in [
        "clusterName=two words",
        "image.registry=",
        "image.pullPolicy=Sometimes",
        "tls.mode=none",
        "io.hangAfter=10",
        "io.colour=green",
        "node.port=0",
        "node.namespace=Umbra",
        "node.deviceAllow={sda}",
        "operator.replicas=0",
        "unknown=1",
    ] {
        let made = chart::render(&chart::values("default"), &[wrong]);
        ensure!(made.is_err(), "--set {wrong} is accepted");
    }
    Ok(())
}

fn template_of_io(set: &[&str]) -> Result<Value> {
    let objects = chart::objects(&chart::values("default"), set)?;
    let io = objects
        .iter()
        .find(|object| object["kind"] == "DaemonSet" && object["metadata"]["name"] == "umbra-io");
    Ok(io.context("the chart has no umbra-io")?["spec"]["template"].clone())
}

/// No value that is about something else replaces its pods; one that is about it does.
fn the_data_plane_changes_alone() -> Result<()> {
    let before = template_of_io(&[])?;
    for other in [
        "clusterName=east",
        "crds.keep=false",
        "tls.mode=external",
        "node.port=9000",
        "node.deviceAllow={/dev/disk/by-id/nvme-*}",
        "node.publishInterval=5",
        "node.nodeSelector.pool=a",
        "operator.replicas=3",
        "operator.resources.limits.memory=1Gi",
        "storageClass.create=false",
        "policies.enabled=false",
        "networkPolicy.enabled=false",
        "metrics.podMonitors=true",
        "metrics.rules=true",
    ] {
        ensure!(template_of_io(&[other])? == before, "{other} changes the pods of umbra-io");
    }
    ensure!(template_of_io(&["io.tag=next"])? != before, "another release of it changes nothing");
    let kept = template_of_io(&["io.tag=0.1.0"])?;
    ensure!(template_of_io(&["io.tag=0.1.0", "image.tag=next"])? == kept, "its release cannot be kept");
    Ok(())
}

/// Word for word, so that a right more is a decision.
fn roles_give_what_is_asked_for() -> Result<()> {
    let objects = chart::objects(&chart::values("default"), &[])?;
    let of_programs = |object: &&Value| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        matches!(object["kind"].as_str(), Some("Role" | "ClusterRole"))
            && !["umbra-view", "umbra-edit", "umbra-admin"].contains(&name)
    };
    let role = |object: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rules = object["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rule = |rule: &Value| {
            let words = |of: &str| {
                let words = rule[of].as_array().map(Vec::as_slice).unwrap_or_default();
                words.iter().map(text).collect::<Vec<_>>().join(",")
            };
            let names = words("resourceNames");
            let of_names = if names.is_empty() { names } else { format!(" ({names})") };
            format!("{}/{}{of_names}: {}", words("apiGroups"), words("resources"), words("verbs"))
        };
        let name = format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
        (name, rules.iter().map(rule).collect::<Vec<_>>())
    };
    let mut found: Vec<(String, Vec<String>)> = objects.iter().filter(of_programs).map(role).collect();
    found.sort();
    let expected: Vec<(String, Vec<String>)> = EXPECTED
        .iter()
        .map(|(name, rules)| ((*name).to_owned(), rules.iter().map(|&rule| rule.to_owned()).collect()))
        .collect();
    ensure!(found == expected, "the roles are {found:#?}");
    // Who a pod is: no other subject, and nobody but the programs.
    let subjects = objects
        .iter()
        .filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding")));
    for binding in subjects {
        let role = binding["roleRef"]["name"].as_str().unwrap_or_default();
        let whom =
            if matches!(role, "umbra-node" | "umbra-authorities") { "umbra-node" } else { "umbra-operator" };
        ensure!(
            binding["subjects"].as_array().is_some_and(|all| all.len() == 1 && all[0]["name"] == whom),
            "{role} is bound to {}",
            binding["subjects"]
        );
    }
    Ok(())
}

const EXPECTED: &[(&str, &[&str])] = &[
    (
        "ClusterRole umbra-node",
        &[
            "imaging.umbra.dev/imagingnodes: get,create",
            "imaging.umbra.dev/imagingnodes/status: update",
            "/nodes: get",
            "certificates.k8s.io/certificatesigningrequests: get,create",
        ],
    ),
    (
        "ClusterRole umbra-operator",
        &[
            "imaging.umbra.dev/mastervolumes,volumesets,setgroups,imagingoperations,devicegrants,imagingnodes: get,list,watch",
            "imaging.umbra.dev/mastervolumes/status,volumesets/status,setgroups/status,imagingoperations/status,devicegrants/status: update",
            "imaging.umbra.dev/mastervolumes,volumesets: update",
            "imaging.umbra.dev/imagingoperations: delete",
            "/persistentvolumes,persistentvolumeclaims: get,list,create,delete",
            "/persistentvolumes: update",
            "/nodes,namespaces,pods: get,list",
            "events.k8s.io/events: create,patch",
        ],
    ),
    (
        "ClusterRole umbra-signer",
        &[
            "certificates.k8s.io/certificatesigningrequests: get,list,watch",
            "certificates.k8s.io/certificatesigningrequests/approval,certificatesigningrequests/status: update",
            "certificates.k8s.io/signers (imaging.umbra.dev/facade): approve,sign",
        ],
    ),
    ("Role umbra-authorities", &["/configmaps (umbra-authorities): get"]),
    (
        "Role umbra-operator",
        &[
            "coordination.k8s.io/leases: create",
            "coordination.k8s.io/leases (umbra-operator): get,update",
            "/configmaps: create",
            "/configmaps (umbra-fence,umbra-authorities): get,update",
            "/secrets: create",
            "/secrets (umbra-authority): get,update",
        ],
    ),
];

/// Alerts and the dashboard ask for metrics that the programs have.
fn what_is_watched_is_there() -> Result<()> {
    let read =
        |path: &str| fs::read_to_string(binaries::workspace().join(path)).with_context(|| path.to_owned());
    let mut known = String::new();
    for source in [
        "node-plugin/interposer/src/metrics.rs",
        "node-plugin/node/src/metrics.rs",
        "operator/controller/src/run.rs",
    ] {
        known += &read(source)?;
    }
    let on = ["metrics.podMonitors=true", "metrics.rules=true", "metrics.dashboard=true"];
    let made = chart::objects(&chart::values("default"), &on)?;
    let alerts = made.iter().find(|object| object["kind"] == "PrometheusRule").context("no alerts")?;
    let alerts: Vec<String> = alerts["spec"]["groups"][0]["rules"]
        .as_array()
        .context("no rules")?
        .iter()
        .map(|rule| rule["expr"].as_str().unwrap_or_default().to_owned())
        .collect();
    let dashboard = made.iter().find(|object| object["metadata"]["name"] == "umbra-dashboard");
    let dashboard =
        dashboard.and_then(|object| object["data"]["umbra.json"].as_str()).context("no dashboard")?;
    let dashboard: Value = serde_json::from_str(dashboard)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let shown = panels.iter().filter_map(|panel| panel["targets"][0]["expr"].as_str().map(str::to_owned));
    let asked: Vec<String> = alerts.into_iter().chain(shown).collect();
    ensure!(asked.len() > 20, "there are {asked:?}");
    for expression in asked {
        let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let metrics: Vec<&str> = words.filter(|word| word.starts_with("umbra_")).collect();
        ensure!(!metrics.is_empty(), "{expression} asks for nothing");
        for metric in metrics {
            let is_known =
                known.contains(&format!("\"{metric}\"")) || known.contains(&format!("HELP {metric} "));
            ensure!(is_known, "nothing has {metric}, which {expression} asks for");
        }
    }
    Ok(())
}

/// A server with the chart's roles and policies, and without its programs.
struct Guarded<'a> {
    server: &'a Server,
    folder: tempfile::TempDir,
}

impl Guarded<'_> {
    /// Applies an object as somebody, who may be more precisely somebody of a node.
    fn apply_as(&self, who: &[&str], object: &Value) -> Result<Result<(), String>> {
        let file = self.folder.path().join("object.json");
        fs::write(&file, object.to_string())?;
        let file = file.display().to_string();
        let answer =
            self.server.kubectl(&[&["apply", "--server-side", "--filename", &file], who].concat())?;
        Ok(if answer.success { Ok(()) } else { Err(answer.stderr) })
    }

    fn accepted(&self, who: &[&str], object: &Value) -> Result<()> {
        let answer = self.apply_as(who, object)?;
        answer.map_err(|said| anyhow::anyhow!("{who:?} was refused {}: {said}", object["metadata"]["name"]))
    }

    fn refused(&self, who: &[&str], object: &Value, words: &str) -> Result<()> {
        let said =
            self.apply_as(who, object)?.err().with_context(|| format!("{who:?} was let do {object}"))?;
        ensure!(said.contains(words), "it was refused with {said}, and not with {words}");
        Ok(())
    }

    /// Gives somebody a right to one object.
    fn allow(&self, user: &str, verb: &str, resource: &str, name: &str) -> Result<()> {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "rules": [
            {"apiGroups": ["imaging.umbra.dev"], "resources": [resource], "resourceNames": [name], "verbs": [verb]}]});
        let role_name = format!("{user}-{verb}-{name}");
        self.server.applied_as(&role_name, &role)?;
        let (role, user) = (format!("--clusterrole={role_name}"), format!("--user={user}"));
        self.server.expect(&["create", "clusterrolebinding", &role_name, &role, &user]).map(drop)
    }
}

/// Devices, restores and the objects of nodes are for those who may.
fn policies(server: &Server) -> Result<()> {
    let guarded = Guarded { server, folder: tempfile::tempdir()? };
    let kinds = [
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ClusterRole",
        "ClusterRoleBinding",
    ];
    for object in chart::objects(&chart::values("default"), &[])? {
        if object["kind"].as_str().is_some_and(|kind| kinds.contains(&kind)) {
            guarded.accepted(&[], &object)?;
        }
    }
    for user in ["tenant", "dba"] {
        let may =
            ["create", "clusterrolebinding", user, "--clusterrole=umbra-edit", &format!("--user={user}")];
        server.expect(&may)?;
        server.expect(
            &[
                &["create", "clusterrolebinding", &format!("{user}-view"), "--clusterrole=umbra-view"],
                &may[4..],
            ]
            .concat(),
        )?;
    }
    let (tenant, dba) = (["--as=tenant"], ["--as=dba"]);
    let master = examples::valid("mastervolume-device")?;
    let set = examples::valid("volumeset-independent")?;
    let grant = |object: &Value, at: &str| {
        let name = object.pointer(at).and_then(Value::as_str).map(str::to_owned);
        name.with_context(|| format!("no {at} in the example"))
    };
    let of_master = grant(&master, "/spec/source/device/grantRef/name")?;
    // A policy takes a moment to be in force.
    let forbidden = r#"ask for the verb "use" on it"#;
    crate::kubernetes::installation::until("the policies are in force", || {
        let mut probe = master.clone();
        probe["metadata"]["name"] = json!("probe");
        let answer = guarded.apply_as(&[&tenant[..], &["--dry-run=server"]].concat(), &probe)?;
        Ok(answer.is_err_and(|said| said.contains(forbidden)))
    })?;

    guarded.refused(&tenant, &master, forbidden)?;
    guarded.allow("dba", "use", "devicegrants", &of_master)?;
    guarded.accepted(&dba, &master)?;
    // What another was let name may be kept, and nothing else be named.
    let mut changed = master.clone();
    changed["metadata"]["labels"] = json!({"team": "tenant"});
    guarded.accepted(&[&tenant[..], &["--force-conflicts"]].concat(), &changed)?;
    let of_shadow = grant(&set, "/spec/shadow/source/device/grantRef/name")?;
    guarded.refused(&dba, &set, forbidden)?;
    guarded.allow("dba", "use", "devicegrants", &of_shadow)?;
    guarded.accepted(&dba, &set)?;
    guarded.accepted(&tenant, &examples::valid("volumeset-dependent")?)?;

    let restore = examples::valid("imagingoperation-restore")?;
    let cut = examples::valid("imagingoperation-cut")?;
    guarded.refused(&tenant, &restore, r#"ask for the verb "restore" on it"#)?;
    guarded.accepted(&tenant, &cut)?;
    let target = grant(&restore, "/spec/target/name")?;
    guarded.allow("dba", "restore", "volumesets", &target)?;
    guarded.accepted(&dba, &restore)?;

    nodes_speak_for_themselves(&guarded)?;
    let left = server.kubectl(&["get", "umaster,uset", "-n", NAMESPACE, "--output", "name"])?.stdout;
    ensure!(left.lines().count() == 3, "there are {left}");
    Ok(())
}

/// The plugin of one node writes the object of that node.
fn nodes_speak_for_themselves(guarded: &Guarded<'_>) -> Result<()> {
    let server = guarded.server;
    let node = |name: &str| json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "ImagingNode", "metadata": {"name": name}, "spec": {}});
    let account = format!("--as=system:serviceaccount:{NODES}:umbra-node");
    let of_a = [account.as_str(), "--as-user-extra=authentication.kubernetes.io/node-name=a"];
    // Nobody may patch there, which is how kubectl applies.
    let create = |who: &[&str], name: &str| {
        let file = guarded.folder.path().join("node.json");
        fs::write(&file, node(name).to_string())?;
        server.kubectl(&[&["create", "--filename", &file.display().to_string()], who].concat())
    };
    let own = create(&of_a, "a")?;
    ensure!(own.success, "a node may not make its own object: {}", own.stderr);
    let others = create(&of_a, "b")?;
    ensure!(others.stderr.contains("umbra-node of node a may not write ImagingNode b"), "{}", others.stderr);
    let nobodys = create(&[&account], "a")?;
    ensure!(nobodys.stderr.contains("may not write ImagingNode a"), "{}", nobodys.stderr);
    ensure!(server.kubectl(&["get", "imagingnode", "b"])?.stdout.is_empty(), "node b was made");
    Ok(())
}
