//! Starts a cluster with one node and runs a command in a pod of it: `cargo run -p umbra-lab --example pods -- 'ls /'`.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use umbra_lab::{ControlPlane, Kubelet, Vm, image, kubelet, progress};

fn run(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    if let Some(mut to) = child.stdin.take() {
        to.write_all(input.as_bytes())?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let script = if words.is_empty() { "ls /".to_owned() } else { words.join(" ") };
    let mut control_plane = ControlPlane::start("pods")?;
    control_plane.start_controllers()?;
    let kubectl =
        |arguments: &str, input: &str| run(control_plane.kubectl().args(arguments.split(' ')), input);
    kubectl("apply -f -", r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}"#)?;
    let patch = ["patch", "node", "a", "--subresource=status", "--type=merge", "-p", kubelet::ADDRESSES];
    run(control_plane.kubectl().args(patch), "")?;
    let (kubelet, machine) = Kubelet::plan(Vm::builder("pods"))?;
    let mut vm = machine.boot()?;
    progress::say(format_args!("up after {:.1} s", vm.boot_took().as_secs_f64()));
    vm.put_text("3d1219c7c4c5404aaa1f6d2a48adfda4\n", "/etc/machine-id", 0o444)?;
    let folder = tempfile::tempdir()?;
    kubelet.start(&mut vm, "a", &control_plane.node_access("a")?, &image::of_the_lab(folder.path())?)?;
    kubectl("wait --for=condition=Ready node/a --timeout=180s", "")?;
    let container = format!(
        r#"{{"name": "main", "image": "{}", "imagePullPolicy": "Never", "command": ["sleep", "inf"]}}"#,
        image::TOOLS
    );
    let pod = format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "pod"}}, "spec": {{"containers": [{container}]}}}}"#
    );
    kubectl("apply -f -", &pod)?;
    kubectl("wait --for=condition=Ready pod/pod --timeout=180s", "").or_else(|error| {
        kubectl("describe pod/pod", "")?;
        Err(error)
    })?;
    kubectl("get nodes,pods -A -o wide", "")?;
    run(control_plane.kubectl().args(["exec", "pod", "--", "sh", "-c", &script]), "")?;
    vm.finish()?;
    control_plane.finish();
    Ok(())
}
