//! Faults on demand, for tests: only in builds with the feature `faults`, which nobody is given to run.
//!
//! A file `panic` beside the socket names a master: its thread panics, and the file goes. Another is [`hold`](crate::files::hold).

use crate::world::Linux;
use std::path::Path;
use std::time::Duration;
use umbra_lifecycle::Service;

/// How often it is looked.
const PERIOD: Duration = Duration::from_millis(100);

/// Carries out what is asked for, until the process ends.
pub(crate) async fn serve(service: Service<Linux>, socket: impl AsRef<Path>) {
    let path = socket.as_ref().with_file_name("panic");
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        ticks.tick().await;
        let Ok(name) = std::fs::read_to_string(&path) else { continue };
        if let Some(reactor) = name.trim().parse().ok().and_then(|master| service.reactor(&master)) {
            reactor.panic();
            let _ = std::fs::remove_file(&path);
        }
    }
}
