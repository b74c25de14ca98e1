//! The server describes itself: reflection and health.

use crate::hostile::raw_channel;
use crate::node::Node;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const SERVICE: &str = "umbra.platform.v1alpha1.Platform";

#[tokio::test]
async fn reflection_lists_the_service() {
    let node = Node::start().await;
    let channel = raw_channel(&node.socket).await;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let answer = reflection.server_reflection_info(tokio_stream::once(ask)).await.expect("reflection");
    let answer = answer.into_inner().message().await.expect("an answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list: {answer:?}")
    };
    assert!(list.service.iter().any(|service| service.name == SERVICE), "{list:?}");
    drop(reflection);
    node.stop().await;
}

#[tokio::test]
async fn health_says_serving() {
    let node = Node::start().await;
    let mut health = HealthClient::new(raw_channel(&node.socket).await);
    let answer = health.check(HealthCheckRequest { service: SERVICE.into() }).await.expect("an answer");
    assert_eq!(answer.into_inner().status, i32::from(ServingStatus::Serving));
    drop(health);
    node.stop().await;
}
