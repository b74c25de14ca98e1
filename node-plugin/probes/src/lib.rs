#![forbid(unsafe_code)]
//! Answers `GET /healthz`, `/readyz` and `/metrics` over HTTP/1.1, to whoever can connect.
//!
//! In `umbra-io` it shares the process with the I/O of every master, so everything that a client could hold is bounded:
//! connections, their life, the time and size of a head, the time of an answer. A connection that asks nothing keeps its
//! place only until another wants it, so that no number of slow clients keeps `/healthz` from answering.

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

/// Connections at a time. A scraper or two and a probe need one each. For one more, the oldest that waits for its
/// client is closed.
const CONNECTIONS_MAX: usize = 16;
/// Scrapes at a time, and as many looks at readiness; another is refused. Fewer than connections together, so that there is
/// always one that can be closed.
const LOOKS_MAX: usize = 4;
/// Time for the head of a request, counted from the answer before it.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Life of a connection: also one whose client does not read ends.
const CONNECTION_LIMIT: Duration = Duration::from_secs(600);
/// Head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Time for an answer to be had. Prometheus gives up after 10 s by default.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Rest after a connection could not be accepted, as when there are too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// Rest after an address could not be had.
const BIND_RETRY: Duration = Duration::from_secs(5);

/// What is to be told.
pub trait Told: Send + Sync + 'static {
    /// Whether calls can be answered now; else why not. By itself: whoever answers at all is ready.
    fn ready(&self) -> impl Future<Output = Result<(), String>> + Send {
        async { Ok(()) }
    }

    /// The metrics as text, or why there are none.
    fn metrics(&self) -> impl Future<Output = Result<String, String>> + Send;
}

/// Listens on the address, however often that must be tried: waiting I/O of a master is more urgent than to
/// know who else has the port.
pub async fn listen(address: SocketAddr) -> TcpListener {
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

/// Serves what `told` says, and `/healthz`, which says that the process answers, until it is dropped. Clients cannot make it
/// fail.
pub async fn serve<T: Told>(listener: TcpListener, told: T) {
    let told = Arc::new(told);
    let [scrapes, looks] = [(); 2].map(|()| Arc::new(Semaphore::new(LOOKS_MAX)));
    // Dropped with this function, and the connections with it.
    let mut connections = JoinSet::new();
    let mut places: VecDeque<Place> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                make_room(&mut places);
                let is_answering = Arc::new(AtomicBool::new(false));
                let client = Client {
                    told: Arc::clone(&told),
                    scrapes: Arc::clone(&scrapes),
                    looks: Arc::clone(&looks),
                    is_answering: Arc::clone(&is_answering),
                };
                let task = connections.spawn(client.serve(stream));
                places.push_back(Place { task, is_answering });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for probes and metrics could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// A connection, as the one who gives out places sees it.
struct Place {
    task: AbortHandle,
    is_answering: Arc<AtomicBool>,
}

/// Closes the oldest connection that waits for its client, if there is no place left.
fn make_room(places: &mut VecDeque<Place>) {
    places.retain(|place| !place.task.is_finished());
    if places.len() < CONNECTIONS_MAX {
        return;
    }
    let waits = |place: &Place| !place.is_answering.load(Ordering::Acquire);
    // Answers that take time are fewer than places.
    let oldest = places.iter().position(waits).unwrap_or_default();
    if let Some(place) = places.remove(oldest) {
        place.task.abort();
    }
}

/// What a connection's task has.
struct Client<T> {
    told: Arc<T>,
    scrapes: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    is_answering: Arc<AtomicBool>,
}

/// As [`Told`] says it, and in time.
async fn in_time<A>(
    places: &Semaphore,
    look: impl Future<Output = Result<A, String>>,
) -> Result<A, Response<String>> {
    let unavailable = |text: String| plain(StatusCode::SERVICE_UNAVAILABLE, text);
    let Ok(_one_of_few) = places.try_acquire() else {
        return Err(unavailable(format!("{LOOKS_MAX} such requests are being answered\n")));
    };
    match tokio::time::timeout(LOOK_LIMIT, look).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(problem)) => Err(unavailable(format!("{problem}\n"))),
        Err(_) => Err(unavailable(format!("there was no answer within {} s\n", LOOK_LIMIT.as_secs()))),
    }
}

impl<T: Told> Client<T> {
    async fn serve(self, stream: TcpStream) {
        let service = service_fn(|request: Request<Incoming>| async {
            self.is_answering.store(true, Ordering::Release);
            let response = self.answer(&request).await;
            drop(request);
            self.is_answering.store(false, Ordering::Release);
            Ok::<_, Infallible>(response)
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(HEAD_BYTES_MAX);
        let serving = server.serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(CONNECTION_LIMIT, serving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a client of probes or metrics was cut off"),
            Err(_) => tracing::debug!("a client of probes or metrics stayed too long"),
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return plain(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".to_owned());
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let ok = || plain(StatusCode::OK, "ok\n".to_owned());
        match path {
            "/healthz" => ok(),
            "/readyz" => {
                in_time(&self.looks, self.told.ready()).await.map_or_else(|refused| refused, |()| ok())
            }
            _ => in_time(&self.scrapes, self.told.metrics()).await.map_or_else(|refused| refused, metrics),
        }
    }
}

fn metrics(text: String) -> Response<String> {
    let mut response = plain(StatusCode::OK, text);
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, format);
    response
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

    /// Says the same of everything.
    enum Puppet {
        Fine,
        Failed,
        Hangs,
    }

    impl Puppet {
        async fn look<A>(&self, fine: A) -> Result<A, String> {
            match self {
                Self::Fine => Ok(fine),
                Self::Failed => Err("the master's thread has ended".to_owned()),
                Self::Hangs => std::future::pending().await,
            }
        }
    }

    impl Told for Puppet {
        async fn ready(&self) -> Result<(), String> {
            self.look(()).await
        }

        async fn metrics(&self) -> Result<String, String> {
            self.look("umbra_x 1\n".to_owned()).await
        }
    }

    async fn served(told: Puppet) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, told));
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
        let served = served(Puppet::Fine).await;
        let (head, body) = served.get("GET", "/metrics?x=y").await;
        assert!(head.starts_with("http/1.1 200") && head.contains("version=0.0.4"), "{head}");
        assert_eq!(body, "umbra_x 1\n");
        let (head, body) = served.get("HEAD", "/metrics").await;
        assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 10"), "{head}");
        assert_eq!(body, "");
        assert_eq!(served.get("GET", "/healthz").await.1, "ok\n");
        assert_eq!(served.get("GET", "/readyz").await.1, "ok\n");
        assert!(served.get("GET", "/").await.0.starts_with("http/1.1 404"));
        let (head, _) = served.get("POST", "/metrics").await;
        assert!(head.starts_with("http/1.1 405") && head.contains("allow: get, head"), "{head}");
    }

    #[tokio::test]
    async fn garbage_and_huge_heads_are_cut_off_and_the_next_client_is_served() {
        let served = served(Puppet::Fine).await;
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
        assert_eq!(served.get("GET", "/metrics").await.1, "umbra_x 1\n");
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
    async fn what_fails_says_why() {
        let served = served(Puppet::Failed).await;
        for path in ["/metrics", "/readyz"] {
            let (head, body) = served.get("GET", path).await;
            assert!(head.starts_with("http/1.1 503"), "{path}: {head}");
            assert_eq!(body, "the master's thread has ended\n");
        }
        assert_eq!(served.get("GET", "/healthz").await.1, "ok\n");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_answer_costs_a_look() {
        let served = served(Puppet::Hangs).await;
        for path in ["/metrics", "/readyz"] {
            let (head, body) = served.get("GET", path).await;
            assert!(head.starts_with("http/1.1 503"), "{path}: {head}");
            assert!(body.contains("no answer within 5 s"), "{body}");
        }
    }

    /// The oldest silent client loses its place, and nobody else: with a limit in time alone, health would wait for
    /// it, and all sixteen would lose theirs.
    #[tokio::test]
    async fn silent_clients_do_not_keep_health_from_answering() {
        let served = served(Puppet::Fine).await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = served.connect().await;
            stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
            silent.push(stream);
        }
        assert_eq!(served.get("GET", "/healthz").await.1, "ok\n");
        let mut silent = silent.into_iter();
        let mut answer = Vec::new();
        // A reset is as good an end as any.
        drop(silent.next().unwrap().read_to_end(&mut answer).await);
        assert_eq!(answer, b"");
        for mut stream in silent {
            stream.write_all(b"Host: x\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        }
    }

    /// Scrapes that take their time are few, so health has a place beside them.
    #[tokio::test]
    async fn hanging_scrapes_are_limited_and_health_answers() {
        let served = served(Puppet::Hangs).await;
        let mut hanging = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = served.connect().await;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            hanging.push(stream);
        }
        let mut refused = [0; 12];
        hanging[CONNECTIONS_MAX - 1].read_exact(&mut refused).await.unwrap();
        assert_eq!(&refused, b"HTTP/1.1 503");
        assert_eq!(served.get("GET", "/healthz").await.1, "ok\n");
    }
}
