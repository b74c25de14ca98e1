//! How the kubelet finds the plugin.

use crate::world::{World, channel};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use umbra_csi::wire::registration::registration_client::RegistrationClient;
use umbra_csi::wire::registration::{InfoRequest, RegistrationStatus};

#[tokio::test]
async fn the_kubelet_is_told_where_the_plugin_is_for_as_long_as_it_is_there() {
    let world = World::new().await;
    for _ in 0..2 {
        let plugin = world.serve().await;
        let socket = world.path("kubelet/plugins_registry/imaging.umbra.dev-reg.sock");
        assert_eq!(fs::metadata(&socket).expect("bound").permissions().mode() & 0o777, 0o600);
        let mut registration = RegistrationClient::new(channel(&socket));
        let info = registration.get_info(InfoRequest {}).await.expect("an answer").into_inner();
        assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "imaging.umbra.dev"));
        assert_eq!(info.endpoint, world.text("kubelet/plugins/imaging.umbra.dev/csi.sock"));
        assert_eq!(info.supported_versions, ["1.0.0"]);
        for plugin_registered in [false, true] {
            let status = RegistrationStatus { plugin_registered, error: "no".into() };
            registration.notify_registration_status(status).await.expect("heard");
        }
        drop(registration);
        plugin.stop().await;
        assert!(!socket.exists(), "the kubelet is not told any more");
    }
}

/// A kubelet names the socket's path where a host belongs. Written by hand, since no library would send it.
#[tokio::test]
async fn a_kubelet_that_calls_the_path_a_host_is_answered() {
    let world = World::new().await;
    let plugin = world.serve().await;
    let socket = world.path("kubelet/plugins_registry/imaging.umbra.dev-reg.sock");
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let string = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    let headers = [
        // POST, http; then the path, the authority and the content type, each with its name from the table.
        vec![0x83, 0x86, 0x44],
        string("/pluginregistration.Registration/GetInfo"),
        vec![0x41],
        string("var%2Flib%2Fkubelet%2Fplugins_registry%2Fimaging.umbra.dev-reg.sock"),
        vec![0x5f],
        string("application/grpc"),
    ];
    let no_message = [0; 5];
    let request =
        [frame(4, 0, 0, &[]), frame(1, 4, 1, &headers.concat()), frame(0, 1, 1, &no_message)].concat();
    let mut stream = UnixStream::connect(socket).await.expect("it listens");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("taken");
    stream.write_all(&request).await.expect("taken");
    let mut answer = Vec::new();
    let named = |answer: &[u8]| String::from_utf8_lossy(answer).contains("CSIPlugin");
    while !named(&answer) {
        let count = stream.read_buf(&mut answer).await.expect("readable");
        assert!(count > 0, "it hung up: {}", String::from_utf8_lossy(&answer));
        // A refused stream is reset: a frame of type 3, four bytes long.
        assert!(!answer.windows(5).any(|bytes| bytes == [0, 0, 4, 3, 0]), "it was refused: {answer:?}");
    }
    drop(stream);
    plugin.stop().await;
}
