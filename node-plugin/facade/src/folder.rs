//! A private folder of memory with this process' certificate, where the process comes by it itself.
//!
//! ```text
//!   DIR        0700   made here, below what is mounted
//!     tls.pem  0600   the certificate, then its key, in one file: a rename replaces both, so that no reader, and nobody who
//!                     begins after a kill, finds the one without the other
//!     ca.crt   0600   the authorities
//! ```
//! What is written is looked at first: a certificate that is not this process' own, or that no authority vouches for, would
//! take the place of one that serves.

use crate::credentials::{CredentialFiles, CredentialsError, Texts, roots, uris};
use crate::identity::Identity;
use crate::life::{Life, NoCertificate};
use crate::request::PrivateKey;
use rustix::fs::statfs;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use thiserror::Error;

/// Types of file systems in memory: tmpfs and ramfs.
const OF_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// Why the folder cannot be used.
#[derive(Debug, Error)]
pub enum FolderError {
    /// A call of the system failed.
    #[error("{action} {path}: {source}; look at --tls-dir, and whether this process may write there", path = path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
    /// It is another user's, who could read the key.
    #[error("{path} is of user {owner}; remove it, or give this process a folder of its own with --tls-dir", path = path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
}

/// Why a certificate is not one to use.
#[derive(Debug, Error)]
pub enum NotUsable {
    /// The files do not go together.
    #[error(transparent)]
    Files(#[from] CredentialsError),
    /// It cannot be understood.
    #[error(transparent)]
    Unreadable(#[from] NoCertificate),
    /// No authority vouches for it now, or its key is another.
    #[error("the certificate cannot be used: {0}")]
    Refused(rustls::Error),
    /// It is somebody else's.
    #[error("the certificate is of {found:?} and not of {expected}")]
    OfAnother {
        /// Whose it should be.
        expected: Identity,
        /// Its names.
        found: Vec<String>,
    },
}

/// Why a certificate, or a bundle of authorities, was not taken.
#[derive(Debug, Error)]
pub enum KeepError {
    /// It is not one to use.
    #[error(transparent)]
    NotUsable(#[from] NotUsable),
    /// It cannot be written.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// The folder. One process at a time writes to it.
#[derive(Clone, Debug)]
pub struct CredentialFolder {
    path: PathBuf,
    identity: Identity,
}

impl CredentialFolder {
    /// The folder at this path, for certificates of this identity; made if it is not there.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open(path: &Path, identity: Identity) -> Result<Self, FolderError> {
        let failed = |action| move |source| FolderError::System { action, path: path.to_owned(), source };
        if let Some(above) = path.parent() {
            std::fs::create_dir_all(above).map_err(failed("make the folder above"))?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make")(error)),
        }
        // Not where a link leads: the folder's own owner decides what is in it.
        let found = std::fs::symlink_metadata(path).map_err(failed("look at"))?;
        if !found.is_dir() {
            return Err(failed("use as a folder")(io::ErrorKind::NotADirectory.into()));
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(FolderError::Foreign { path: path.to_owned(), owner: found.uid() });
        }
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(failed("keep others out of"))?;
        let of = statfs(path).map_err(|error| failed("look at")(error.into()))?.f_type;
        if !OF_MEMORY.iter().any(|memory| i64::from(*memory) == of) {
            tracing::warn!(folder = %path.display(), "the key lies on a disk; mount a file system of memory there");
        }
        Ok(Self { path: path.to_owned(), identity })
    }

    /// Whose certificates these are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The files, as connections read them.
    pub fn files(&self) -> CredentialFiles {
        let pair = self.path.join("tls.pem");
        CredentialFiles { certificate: pair.clone(), key: pair, authorities: self.path.join("ca.crt") }
    }

    /// When the certificate that is there is valid, if it can be used now.
    ///
    /// # Errors
    /// [`NotUsable`]: there is none, it is over, it is another's, or no authority that is there vouches for it.
    pub fn held(&self, now: SystemTime) -> Result<Life, NotUsable> {
        self.judge(&Texts::read(&self.files())?, now)
    }

    /// Takes these authorities from now on, if there are any. Returns whether they are new.
    ///
    /// # Errors
    /// [`KeepError`]; then those that were there stay.
    pub fn keep_authorities(&self, bundle: &str) -> Result<bool, KeepError> {
        let file = self.files().authorities;
        roots(bundle.as_bytes(), &file).map_err(NotUsable::from)?;
        if std::fs::read(&file).is_ok_and(|held| held == bundle.as_bytes()) {
            return Ok(false);
        }
        self.put(&file, bundle)?;
        Ok(true)
    }

    /// Takes a certificate and its key from now on, if they can be used.
    ///
    /// # Errors
    /// [`KeepError`]; then those that were there stay.
    pub fn keep(&self, certificate: &str, key: &PrivateKey, now: SystemTime) -> Result<Life, KeepError> {
        let files = self.files();
        let authorities = std::fs::read(&files.authorities).unwrap_or_default();
        let pair = format!("{}\n{}", certificate.trim_end(), key.pem());
        let texts = Texts { certificate: pair.clone().into(), key: pair.clone().into(), authorities };
        let life = self.judge(&texts, now)?;
        self.put(&files.certificate, &pair)?;
        Ok(life)
    }

    fn judge(&self, texts: &Texts, now: SystemTime) -> Result<Life, NotUsable> {
        let files = self.files();
        let material = texts.material(&files)?;
        material.verify(now).map_err(NotUsable::Refused)?;
        let [own, ..] = material.chain.as_slice() else {
            return Err(NotUsable::Refused(rustls::Error::NoCertificatesPresented));
        };
        let (life, found) = (Life::of(own)?, uris(own));
        if found != [self.identity.to_string()] {
            let found = found.into_iter().map(str::to_owned).collect();
            return Err(NotUsable::OfAnother { expected: self.identity.clone(), found });
        }
        material.check_pair().map_err(NotUsable::Refused)?;
        Ok(life)
    }

    /// Replaces a file whole.
    fn put(&self, file: &Path, text: &str) -> Result<(), FolderError> {
        let new = file.with_extension("new");
        let write = || {
            // One that a kill left may have another mode.
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut open: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            open.write_all(text.as_bytes())?;
            std::fs::rename(&new, file)
        };
        write().map_err(|source| FolderError::System { action: "write", path: file.to_owned(), source })
    }
}

#[cfg(test)]
mod tests;
