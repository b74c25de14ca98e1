//! Faults on demand, for tests: only in builds with the feature `faults`, which nobody is given to run.
//!
//! A file `panic` beside the socket names a master: its thread panics, and the file goes. While a file `hold` lies in the
//! state directory, no record in a folder of it is replaced by a newer one.

use crate::world::Linux;
use std::path::Path;
use std::thread;
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

/// Waits for as long as the record at `path`, which is there and is to be replaced, is to be kept.
pub(crate) fn hold(path: &Path) {
    let asked = path.parent().map(|folder| folder.with_file_name("hold"));
    while path.exists() && asked.as_ref().is_some_and(|file| file.exists()) {
        thread::sleep(PERIOD);
    }
}
