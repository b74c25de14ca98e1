//! Answers `GET /healthz`, `/readyz` and `/metrics` over HTTP/1.1, to whoever can connect.

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at a time: a scraper or two and the kubelet's probes need one each.
const CONNECTIONS_MAX: usize = 16;
/// Time for the head of a request, counted from the answer before it.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Life of a connection, also of one whose client does not read.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// Head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Rest after a connection could not be accepted, as when there are too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// What is to be told.
pub(crate) trait Told: Send + Sync + 'static {
    /// Whether calls can be answered now; else why not.
    fn ready(&self) -> impl Future<Output = Result<(), String>> + Send;

    /// The metrics as text, or why there are none.
    fn metrics(&self) -> impl Future<Output = Result<String, String>> + Send;
}

/// Serves until it is dropped. Clients cannot make it fail, nor hold more than a bounded part of it.
pub(crate) async fn serve<T: Told>(listener: TcpListener, told: T) {
    let (told, places) = (Arc::new(told), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    // Dropped with this function, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        // Waits for a place before it takes a connection: those that have one lose it in time.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                let told = Arc::clone(&told);
                connections.spawn(async move {
                    serve_one(stream, &*told).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for probes and metrics could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve_one(stream: TcpStream, told: &impl Told) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request, told).await) });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(HEAD_BYTES_MAX);
    let serving = server.serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_LIMIT, serving).await {
        tracing::debug!(%error, "a client of probes or metrics was cut off");
    }
}

async fn answer(request: &Request<Incoming>, told: &impl Told) -> Response<String> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match told.ready().await {
            Ok(()) => text(StatusCode::OK, "ok\n".into()),
            Err(problem) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
        },
        "/metrics" => match told.metrics().await {
            Ok(metrics) => {
                let mut response = text(StatusCode::OK, metrics);
                let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, format);
                response
            }
            Err(problem) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".into()),
    }
}

fn text(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let format = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, format);
    response
}
