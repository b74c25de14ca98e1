//! Calls that have their effect once, whatever is repeated (request ids).
//!
//! ```text
//!   begin: the request, and the name of what it will make ──> the effect, under that name ──> the answer
//! ```
//! The place of the answer is taken before the effect: where it cannot be, nothing happens. If the answer itself is
//! lost (a kill, a disk that fails), or there is none because a step failed half-way, the repetition does the same under
//! the same name, and what is there already is found by it: a cut by its id, a set or a master by its UUID. So a request
//! that was refused keeps its name: nobody can tell a refusal that has changed nothing from a failure that has.

use crate::files::Files;
use crate::state::State;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use umbra_platform::PlatformError;
use umbra_platform::call::{Answer, Outcome};
use umbra_platform::id::RequestId;
use uuid::Uuid;

/// Requests that are being carried out: a repetition that comes meanwhile waits for the answer.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<HashMap<RequestId, Arc<tokio::sync::Mutex<()>>>>);

impl Running {
    fn turn(&self, request: RequestId) -> Arc<tokio::sync::Mutex<()>> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(running.entry(request).or_default())
    }

    fn has(&self, request: RequestId) -> bool {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(&request).is_some_and(|turn| Arc::strong_count(turn) > 1)
    }

    /// What became of a request, from its record.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub(crate) async fn outcome<F: Files>(
        &self,
        state: &State<F>,
        request: RequestId,
    ) -> Result<Outcome, PlatformError> {
        // Looked at before the record: a request that ends in between is in the record then.
        let is_running = self.has(request);
        let begun = state.request(&request.to_string()).await.map_err(|error| broken(&error))?;
        match begun.map(|begun| begun.answer) {
            Some(Some(answer)) => {
                let [answer]: [Answer; 1] = serde_json::from_value(answer).map_err(|error| broken(&error))?;
                Ok(Outcome::Done(answer))
            }
            _ if is_running => Ok(Outcome::Running),
            Some(None) => Ok(Outcome::Unanswered),
            None => Ok(Outcome::NotSeen),
        }
    }

    /// Runs `call` unless its request was answered before; then gives that answer. `text` tells calls apart. `call` is
    /// given the name of what it makes or takes away: `named`, or what that was when the request was begun.
    ///
    /// # Errors
    /// The call's own, [`PlatformError::RequestReused`], or that the request cannot be recorded.
    pub(crate) async fn once<F, T, C>(
        &self,
        state: &State<F>,
        request: RequestId,
        text: &str,
        named: Uuid,
        call: impl FnOnce(Uuid) -> C,
    ) -> Result<T, PlatformError>
    where
        F: Files,
        T: Serialize + DeserializeOwned,
        C: Future<Output = Result<T, PlatformError>>,
    {
        let turn = self.turn(request);
        let _one_at_a_time = turn.lock().await;
        let fingerprint = umbra_format::data_hash(text.as_bytes());
        let name = request.to_string();
        let begun = state.begin_request(&name, fingerprint, named).await.map_err(|error| broken(&error))?;
        if begun.fingerprint != fingerprint {
            return Err(PlatformError::RequestReused { request });
        }
        if let Some(answer) = begun.answer {
            let [answer] = serde_json::from_value(answer).map_err(|error| broken(&error))?;
            return Ok(answer);
        }
        let answer = call(begun.makes).await?;
        // In a list: an answer that says no more than "done" would read as none.
        let kept = serde_json::to_value([&answer]).map_err(|error| broken(&error))?;
        if let Err(error) = state.answer_request(&name, &begun, kept).await {
            // A repetition finds what there is by its name.
            tracing::warn!(%error, request = %name, "the answer could not be kept");
        }
        Ok(answer)
    }
}

/// The record of a request cannot be had.
fn broken(error: &dyn std::fmt::Display) -> PlatformError {
    PlatformError::Io {
        device: crate::words::device_path(std::path::Path::new("/")),
        operation: "record of the request".into(),
        detail: error.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::Memory;

    #[tokio::test]
    async fn a_request_that_is_answered_with_no_more_than_done_has_its_effect_once() {
        let (state, running) = (State::new(Memory::default()), Running::default());
        let request = RequestId(Uuid::from_u128(5));
        for round in 0..2 {
            let fresh = Uuid::from_u128(9 + round);
            let call = |_| async move {
                if round == 0 { Ok(()) } else { Err(PlatformError::Stopping { cause: "again".into() }) }
            };
            assert_eq!(running.once(&state, request, "disable", fresh, call).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_request_that_failed_goes_on_under_the_name_that_it_had() {
        let (state, running) = (State::new(Memory::default()), Running::default());
        let request = RequestId(Uuid::from_u128(5));
        let failed = PlatformError::Stopping { cause: "half-way".into() };
        let mut names = Vec::new();
        for round in 0..3 {
            let (failed, names) = (failed.clone(), &mut names);
            let call = |name: Uuid| {
                names.push(name);
                async move { if round < 2 { Err(failed) } else { Ok(()) } }
            };
            let fresh = Uuid::from_u128(9 + round);
            assert_eq!(running.once(&state, request, "enable", fresh, call).await.is_ok(), round == 2);
        }
        assert_eq!(names, [Uuid::from_u128(9); 3]);
        let other = running.once(&state, request, "another", Uuid::from_u128(1), |_| async { Ok(()) }).await;
        assert_eq!(other, Err(PlatformError::RequestReused { request }));
    }

    /// An answer is read back as that of the call that gave it, whichever it was.
    #[tokio::test]
    async fn what_became_of_a_request_is_told_from_its_record() {
        use umbra_platform::call::{AttachedMaster, Copied, EnabledSet, ResetDone};
        use umbra_platform::id::{CutId, Epoch, MasterId, SetId};
        let (state, running) = (State::new(Memory::default()), Running::default());
        let device = || "/dev/umbra/by-id/x".parse().expect("a path");
        let (id, cut, epoch) = (Uuid::from_u128(7), CutId(Uuid::from_u128(8)), Epoch(3));
        let answers = [
            Answer::Done(()),
            Answer::Attached(AttachedMaster { id: MasterId(id), device: device() }),
            Answer::Enabled(EnabledSet { id: SetId(id), shadow_device: device(), cut, epoch }),
            Answer::Copied(Copied { cut, sets: Vec::new() }),
            Answer::Reset(ResetDone::NotNeeded),
            Answer::Reset(ResetDone::Cut { cut, epoch }),
        ];
        for (number, answer) in (1..).zip(answers) {
            let request = RequestId(Uuid::from_u128(number));
            assert_eq!(running.outcome(&state, request).await, Ok(Outcome::NotSeen));
            let refused = Err::<Answer, _>(PlatformError::Stopping { cause: "half-way".into() });
            let call = |_| async {
                assert_eq!(running.outcome(&state, request).await, Ok(Outcome::Running));
                refused
            };
            running.once(&state, request, "x", id, call).await.expect_err("refused");
            assert_eq!(running.outcome(&state, request).await, Ok(Outcome::Unanswered));
            let kept = answer.clone();
            running.once(&state, request, "x", id, |_| async { Ok(kept) }).await.expect("done");
            assert_eq!(running.outcome(&state, request).await, Ok(Outcome::Done(answer)));
        }
    }
}
