//! Answers `GET /metrics` and `GET /healthz` over HTTP/1.1, to whoever can connect.
//!
//! It shares its process with the I/O of every master, so everything that a client could hold is bounded:
//! connections, their life, the time and size of a head, the time of an answer.

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at a time; others wait in the kernel. A scraper or two and a probe need one each.
const CONNECTIONS_MAX: usize = 16;
/// Time for the head of a request, counted from the answer before it.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Life of a connection: also one whose client does not read ends.
const CONNECTION_LIMIT: Duration = Duration::from_secs(600);
/// Head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Time for the masters to say how they are. Prometheus gives up after 10 s by default.
const SCRAPE_LIMIT: Duration = Duration::from_secs(5);
/// Rest after a connection could not be accepted, as when there are too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// Rest after an address could not be had.
const BIND_RETRY: Duration = Duration::from_secs(5);

/// Listens on the address, however often that must be tried: waiting I/O of a master is more urgent than to
/// know who else has the port.
pub(crate) async fn listen(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "metrics are served");
                return listener;
            }
            Err(error) => {
                tracing::error!(%address, %error, "metrics cannot be served there; it is tried again");
                tokio::time::sleep(BIND_RETRY).await;
            }
        }
    }
}

/// Serves `/metrics`, whose text `scrape` makes, and `/healthz`, which says that the process answers, until it is
/// dropped. Clients cannot make it fail.
pub(crate) async fn serve<F, Fut, E>(listener: TcpListener, scrape: F)
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<String, E>> + Send,
    E: Display + Send,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this function, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        match listener.accept().await {
            Ok((stream, _)) => {
                let scrape = scrape.clone();
                connections.spawn(async move {
                    connection(stream, scrape).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection<F, Fut, E>(stream: TcpStream, scrape: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<String, E>>,
    E: Display,
{
    let service = service_fn(|request: Request<Incoming>| async {
        let response = answer(&request, &scrape).await;
        drop(request);
        Ok::<_, Infallible>(response)
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(HEAD_BYTES_MAX);
    let serving = server.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_LIMIT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client of the metrics was cut off"),
        Err(_) => tracing::debug!("a client of the metrics stayed too long"),
    }
}

async fn answer<F, Fut, E>(request: &Request<Incoming>, scrape: &F) -> Response<String>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<String, E>>,
    E: Display,
{
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz") {
        return plain(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if path == "/healthz" {
        return plain(StatusCode::OK, "ok\n".to_owned());
    }
    match tokio::time::timeout(SCRAPE_LIMIT, scrape()).await {
        Ok(Ok(text)) => {
            let mut response = plain(StatusCode::OK, text);
            let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, format);
            response
        }
        Ok(Err(error)) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        Err(_) => {
            let text = format!("the masters did not answer within {} s\n", SCRAPE_LIMIT.as_secs());
            plain(StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

fn plain(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let format = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, format);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Long enough for any answer, on a busy machine too, and behind silent clients.
    const SOON: Duration = Duration::from_secs(120);

    struct Served {
        address: SocketAddr,
    }

    async fn served<F, Fut>(scrape: F) -> Served
    where
        F: Fn() -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<String, &'static str>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, scrape));
        Served { address }
    }

    impl Served {
        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        /// Sends text, and reads until the other side closes.
        async fn exchange(&self, text: &str) -> String {
            let mut stream = self.connect().await;
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
            String::from_utf8(answer).unwrap()
        }

        async fn get(&self, method: &str, path: &str) -> (String, String) {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let answer = self.exchange(&request).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head.to_lowercase(), body.to_owned())
        }
    }

    #[tokio::test]
    async fn metrics_and_health_are_served_and_nothing_else() {
        let served = served(|| async { Ok("umbra_x 1\n".to_owned()) }).await;
        let (head, body) = served.get("GET", "/metrics?x=y").await;
        assert!(head.starts_with("http/1.1 200") && head.contains("version=0.0.4"), "{head}");
        assert_eq!(body, "umbra_x 1\n");
        let (head, body) = served.get("HEAD", "/metrics").await;
        assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 10"), "{head}");
        assert_eq!(body, "");
        assert_eq!(served.get("GET", "/healthz").await.1, "ok\n");
        assert!(served.get("GET", "/").await.0.starts_with("http/1.1 404"));
        let (head, _) = served.get("POST", "/metrics").await;
        assert!(head.starts_with("http/1.1 405") && head.contains("allow: get, head"), "{head}");
    }

    #[tokio::test]
    async fn garbage_and_huge_heads_are_cut_off_and_the_next_client_is_served() {
        let served = served(|| async { Ok("fine\n".to_owned()) }).await;
        let garbage = served.exchange("\u{1}\u{2}\r\n\r\n").await;
        assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"), "{garbage}");
        let mut stream = served.connect().await;
        let header = format!("x: {}\r\n", "y".repeat(1000));
        let mut written = stream.write_all(b"GET /metrics HTTP/1.1\r\n").await;
        for _ in 0..1000 {
            if written.is_ok() {
                written = stream.write_all(header.as_bytes()).await;
            }
        }
        let mut answer = Vec::new();
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
        let refused = answer.starts_with(b"HTTP/1.1 431");
        assert!(refused || written.is_err() || read.is_err(), "{}", String::from_utf8_lossy(&answer));
        assert_eq!(served.get("GET", "/metrics").await.1, "fine\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_another_has_is_taken_when_it_is_free() {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = other.local_addr().unwrap();
        let ours = tokio::spawn(listen(address));
        tokio::time::sleep(BIND_RETRY).await;
        assert!(!ours.is_finished());
        drop(other);
        assert_eq!(ours.await.unwrap().local_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn a_scrape_that_fails_says_why() {
        let served = served(|| async { Err("the master's thread has ended") }).await;
        let (head, body) = served.get("GET", "/metrics").await;
        assert!(head.starts_with("http/1.1 503"), "{head}");
        assert_eq!(body, "the master's thread has ended\n");
    }

    #[tokio::test(start_paused = true)]
    async fn masters_that_do_not_answer_cost_a_scrape_and_silent_clients_their_place() {
        let served = served(std::future::pending).await;
        // More silent clients than there are places: they are cut off, then others have their turn.
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(served.connect().await);
        }
        let (head, body) = served.get("GET", "/metrics").await;
        assert!(head.starts_with("http/1.1 503"), "{head}");
        assert!(body.contains("did not answer within 5 s"), "{body}");
        for mut stream in silent {
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"));
        }
    }
}
