//! The settings of containerd, of the network of pods and of the kubelet, which are the same on every machine.

/// Files of the root image of machines that run pods, by their paths below its root.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("etc/containerd/config.toml", CONTAINERD),
    ("etc/cni/net.d/10-pods.conflist", NETWORK),
    ("etc/kubernetes/kubelet.yaml", KUBELET),
];

const CONTAINERD: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "lab.invalid/pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
"#;

const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
"#;

/// Who comes with the certificate of the API server may do everything, and nobody else anything.
const KUBELET: &str = r"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: /etc/kubernetes/client.crt}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failSwapOn: false
resolvConf: ''
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image;

    #[test]
    fn containerd_is_told_the_image_that_is_there() {
        assert!(CONTAINERD.contains(image::PAUSE));
    }
}
