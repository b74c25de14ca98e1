//! The files of the state directory: written whole or not at all, on a disk that fills and hangs.

use super::machine::Stored;
use super::world::{Node, Stopped};
use std::time::Duration;
use umbra_lifecycle::files::{FileError, FileName, Files, Folder};

/// An operation that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct SimFiles(pub(super) Node);

impl SimFiles {
    async fn act<T: Send>(
        &self,
        action: &'static str,
        file: String,
        act: impl FnOnce(&mut super::machine::Machine) -> Result<T, &'static str> + Send,
    ) -> Result<T, FileError> {
        let error = |problem: &str| FileError { action, file: file.clone(), problem: problem.to_owned() };
        if self.0.with(|machine| machine.files_hang) {
            tokio::time::sleep(PATIENCE).await;
            if self.0.with(|machine| machine.files_hang) {
                return Err(error("the disk hangs"));
            }
        }
        match self.0.step(action, file.clone(), act).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(problem)) => Err(error(problem)),
            Err(Stopped) => Err(error("it failed on demand")),
        }
    }
}

impl Files for SimFiles {
    async fn read(&self, file: &FileName) -> Result<Option<Vec<u8>>, FileError> {
        let name = file.clone();
        self.act("read", file.to_string(), move |machine| {
            Ok(machine.files.get(&name).map(|stored| stored.bytes.clone()))
        })
        .await
    }

    async fn write(&self, file: &FileName, bytes: Vec<u8>) -> Result<(), FileError> {
        let name = file.clone();
        self.act("write", file.to_string(), move |machine| {
            if machine.disk_full {
                return Err("no space left on device");
            }
            let written = machine.token();
            machine.files.insert(name, Stored { bytes, written });
            Ok(())
        })
        .await
    }

    async fn remove(&self, file: &FileName) -> Result<(), FileError> {
        let name = file.clone();
        self.act("remove", file.to_string(), move |machine| {
            machine.files.remove(&name);
            Ok(())
        })
        .await
    }

    async fn list(&self, folder: Folder) -> Result<Vec<String>, FileError> {
        self.act("list", folder.name().to_owned(), move |machine| {
            let of = machine.files.iter().filter(|(file, _)| file.folder == folder);
            let mut names: Vec<(u64, String)> =
                of.map(|(file, stored)| (stored.written, file.name.clone())).collect();
            names.sort();
            Ok(names.into_iter().map(|(_, name)| name).collect())
        })
        .await
    }
}
