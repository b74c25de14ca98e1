//! Keeps a certificate that serves, for as long as the process lives.

use super::issuing::{Answer, Cluster, Issuing, IssuingError};
use super::report::{Report, Standing};
use crate::retry;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use thiserror::Error;
use tokio::time::{Instant, sleep};
use umbra_facade::folder::{CredentialFolder, KeepError};
use umbra_facade::request::{RequestError, SigningRequest};

/// Time between two looks at the authorities: the operator signs with a new one only when every node had the time for several.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Time between two looks for an answer.
const ANSWER_EVERY: Duration = Duration::from_secs(2);
/// After this time without an answer the request is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// The first pause after a look that failed; each further one is twice as long, up to the time between looks.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// The longest pause between two requests: each is an object that the API server keeps for some time.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(600);

/// Why there is no new certificate.
#[derive(Debug, Error)]
enum LookError {
    #[error(transparent)]
    Issuing(#[from] IssuingError),
    #[error("what is published as authorities is not taken: {0}")]
    Authorities(KeepError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("CertificateSigningRequest {name} was not answered within {} s; look whether an operator with --tls-builtin leads", ANSWER_LIMIT.as_secs())]
    Unanswered { name: String },
    #[error("CertificateSigningRequest {name}: {how}, {reason}: {message}")]
    Refused { name: String, how: String, reason: String, message: String },
    #[error("what was issued for CertificateSigningRequest {name} is not taken: {problem}")]
    NotTaken { name: String, problem: KeepError },
}

/// The folder, who issues, and what was said of it.
pub(crate) struct Keeper<I = Cluster> {
    folder: CredentialFolder,
    issuing: I,
    report: Report,
    trouble: Option<String>,
    /// Requests in a row that came to nothing, and when the next may be made.
    refused: u32,
    ask_after: Instant,
}

impl Keeper {
    /// Asks the operator in this namespace for certificates of this node.
    pub(crate) fn new(
        folder: CredentialFolder,
        kubeconfig: Option<PathBuf>,
        namespace: String,
        node: String,
    ) -> Self {
        Self::of(folder, Cluster::new(kubeconfig, namespace, node))
    }
}

impl<I: Issuing> Keeper<I> {
    fn of(folder: CredentialFolder, issuing: I) -> Self {
        let keeper = Self {
            folder,
            issuing,
            report: Report::new(),
            trouble: None,
            refused: 0,
            ask_after: Instant::now(),
        };
        // One that lies there serves at once, whatever the cluster does.
        keeper.stand();
        keeper
    }

    /// How it stands, as it changes.
    pub(crate) fn report(&self) -> Report {
        self.report.clone()
    }

    fn stand(&self) {
        self.report.stands(match (self.folder.held(SystemTime::now()), &self.trouble) {
            (Ok(life), _) => Standing::Held(life),
            (Err(_), Some(trouble)) => Standing::Waits(trouble.clone()),
            (Err(error), None) => Standing::Waits(error.to_string()),
        });
    }

    /// Takes the authorities as they are now, and a new certificate where one is due.
    async fn look(&mut self) -> Result<(), LookError> {
        self.take_authorities().await?;
        self.stand();
        let held = self.folder.held(SystemTime::now());
        let is_fresh = held.is_ok_and(|life| SystemTime::now() < life.renew_at());
        if is_fresh || Instant::now() < self.ask_after {
            return Ok(());
        }
        match self.renew().await {
            Ok(()) => {
                self.refused = 0;
                Ok(())
            }
            Err(error) => {
                self.refused = self.refused.saturating_add(1);
                self.ask_after = Instant::now() + pause_after(self.refused, ASK_AGAIN_MAX);
                Err(error)
            }
        }
    }

    async fn take_authorities(&mut self) -> Result<(), LookError> {
        let bundle = self.issuing.authorities().await?;
        if self.folder.keep_authorities(&bundle).map_err(LookError::Authorities)? {
            tracing::info!("new authorities are trusted");
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), LookError> {
        let request = SigningRequest::new(self.folder.identity())?;
        let name = self.issuing.ask(&request.pem).await?;
        tracing::info!(name, "a certificate is asked for");
        let certificate = self.issued(&name).await?;
        // The one that has signed may be new.
        self.take_authorities().await?;
        let kept = self.folder.keep(&certificate, &request.key, SystemTime::now());
        kept.map_err(|problem| LookError::NotTaken { name: name.clone(), problem })?;
        tracing::info!(name, "a new certificate serves");
        Ok(())
    }

    async fn issued(&mut self, name: &str) -> Result<String, LookError> {
        let until = Instant::now() + ANSWER_LIMIT;
        loop {
            match self.issuing.answer(name).await {
                Ok(Answer::Issued(certificate)) => return Ok(certificate),
                Ok(Answer::Refused { how, reason, message }) => {
                    return Err(LookError::Refused { name: name.to_owned(), how, reason, message });
                }
                Ok(Answer::Pending) => {}
                Err(gone @ IssuingError::Gone(_)) => return Err(gone.into()),
                // The request is there all the same.
                Err(error) => {
                    tracing::debug!(name, error = retry::chain(&error), "the answer could not be asked for")
                }
            }
            if Instant::now() >= until {
                return Err(LookError::Unanswered { name: name.to_owned() });
            }
            sleep(ANSWER_EVERY).await;
        }
    }

    /// What was said in the log, so that it is said once.
    fn say(&mut self, trouble: Option<String>) {
        if self.trouble != trouble {
            match &trouble {
                Some(what) => tracing::warn!("there is no new certificate yet; it is tried again: {what}"),
                None => tracing::info!("the certificate is kept up to date again"),
            }
        }
        self.trouble = trouble;
    }
}

/// Keeps a certificate that serves, for as long as the process lives.
pub(crate) async fn keep<I: Issuing>(mut keeper: Keeper<I>) {
    let mut failures = 0_u32;
    loop {
        let looked = keeper.look().await;
        failures = if looked.is_ok() { 0 } else { failures.saturating_add(1) };
        match looked {
            Err(error) => keeper.say(Some(retry::chain(&error))),
            // Between two requests the reason stays that of the last.
            Ok(()) if keeper.refused > 0 => {}
            Ok(()) => keeper.say(None),
        }
        keeper.stand();
        let until_asked = match keeper.refused {
            0 => LOOK_EVERY,
            _ => keeper.ask_after.saturating_duration_since(Instant::now()),
        };
        sleep(pause_after(failures, LOOK_EVERY).min(until_asked.max(RETRY_FIRST))).await;
    }
}

/// How long to wait after so many failures in a row.
fn pause_after(failures: u32, longest: Duration) -> Duration {
    retry::pause(failures, RETRY_FIRST, longest).unwrap_or(longest)
}

#[cfg(test)]
mod tests;
