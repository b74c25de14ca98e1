//! The server describes itself to those who may read: reflection and health.

use crate::authority::NOW;
use crate::node::{CONSOLE, NODE, Node};
use crate::raw;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const SERVICE: &str = "umbra.facade.v1alpha1.Facade";

#[tokio::test]
async fn reflection_knows_the_service_and_the_messages_of_the_platform() {
    let node = Node::start().await;
    let channel = raw::channel(&node, node.caller_files(&[CONSOLE], NOW)).await;
    let mut reflection = ServerReflectionClient::new(channel);
    for symbol in [SERVICE, "umbra.platform.v1alpha1.SetStatus"] {
        let ask = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol(symbol.into())),
        };
        let answer = reflection.server_reflection_info(tokio_stream::once(ask)).await.expect("reflection");
        let answer = answer.into_inner().message().await.expect("an answer").expect("one");
        let found = matches!(answer.message_response, Some(MessageResponse::FileDescriptorResponse(_)));
        assert!(found, "{symbol}: {answer:?}");
    }
    drop(reflection);
    node.stop().await;
}

#[tokio::test]
async fn health_says_serving_and_nothing_to_strangers() {
    let node = Node::start().await;
    let check = || HealthCheckRequest { service: SERVICE.into() };
    let mut health = HealthClient::new(raw::channel(&node, node.caller_files(&[CONSOLE], NOW)).await);
    let answer = health.check(check()).await.expect("an answer");
    assert_eq!(answer.into_inner().status, i32::from(ServingStatus::Serving));
    let stranger = raw::channel(&node, node.caller_files(&[NODE], NOW)).await;
    let refused = HealthClient::new(stranger).check(check()).await.expect_err("another node");
    assert_eq!(refused.code(), Code::PermissionDenied);
    drop(health);
    node.stop().await;
}
