//! Answers requests for certificates: judges, writes the judgement down, signs.
//!
//! ```text
//!   pending ──judge──> Denied                      1. the judgement, as a condition (subresource approval)
//!              └─────> Approved ──> certificate    2. the certificate (subresource status)
//! ```
//! A kill between the two leaves a request that is approved. It is judged again, as one is that somebody else has approved: an
//! approval alone gets nobody a certificate. Where a judgement cannot be written down as one, the request has failed.

use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use umbra_facade::request::SIGNER;

use super::judge::{Rules, judge, witness};
use super::secret::Authorities;
use super::{AuthorityError, Settings, secret_key};
use crate::cluster::{Cluster, Key};
use crate::reconcile::Again;

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
/// Until there is an authority that could sign.
const UNTIL_MADE: Again = Again::After(Duration::from_secs(2));

/// Answers one request.
///
/// # Errors
/// [`AuthorityError`]; then it is tried again.
pub async fn answer(
    cluster: &impl Cluster,
    settings: &Settings,
    key: &Key,
    now: SystemTime,
) -> Result<Again, AuthorityError> {
    let Some(request) = cluster.get::<CertificateSigningRequest>(key).await? else { return Ok(Again::Never) };
    if request.spec.signer_name != SIGNER || is_answered(&request) {
        return Ok(Again::Never);
    }
    let rules = Rules { cluster: &settings.cluster, node_namespace: &settings.node_namespace };
    let pod = match witness(&request.spec, rules) {
        Some(pod) => cluster.get::<Pod>(&pod).await?,
        None => None,
    };
    let is_approved = has(&request, APPROVED);
    let asked = match judge(&request.spec, rules, pod.as_ref()) {
        Ok(asked) => asked,
        Err(refusal) => {
            let user = request.spec.username.as_deref().unwrap_or_default();
            tracing::warn!(request = %key, user, reason = refusal.reason(), "a certificate is refused: {refusal}");
            let how = if is_approved { FAILED } else { DENIED };
            let judged = judged(request, how, refusal.reason(), refusal.to_string(), now);
            match is_approved {
                // The API server takes no denial after an approval.
                true => cluster.replace_status(&judged).await?,
                false => cluster.replace_approval(&judged).await?,
            };
            return Ok(Again::Never);
        }
    };
    let Some(secret) = cluster.get::<Secret>(&secret_key(settings)).await? else { return Ok(UNTIL_MADE) };
    let authorities = Authorities::read(&secret)?;
    let mut approved = match is_approved {
        true => request,
        false => {
            let why = format!("{} asks for itself", asked.identity);
            cluster.replace_approval(&judged(request, APPROVED, "AsksForItself", why, now)).await?
        }
    };
    let certificate = authorities.signing().issue(&asked.identity, &asked.key, asked.life, now)?;
    approved.status.get_or_insert_default().certificate = Some(ByteString(certificate.into_bytes()));
    cluster.replace_status(&approved).await?;
    tracing::info!(request = %key, identity = %asked.identity, "a certificate is signed");
    Ok(Again::Never)
}

/// Whether nothing more happens to it.
fn is_answered(request: &CertificateSigningRequest) -> bool {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    has(request, DENIED) || has(request, FAILED) || certificate.is_some_and(|bytes| !bytes.0.is_empty())
}

fn has(request: &CertificateSigningRequest, condition: &str) -> bool {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|found| found.type_ == condition)
}

/// The request with a judgement.
fn judged(
    mut request: CertificateSigningRequest,
    how: &str,
    reason: &str,
    message: String,
    now: SystemTime,
) -> CertificateSigningRequest {
    let now = Timestamp::try_from(now).ok().map(Time);
    let condition = CertificateSigningRequestCondition {
        type_: how.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: now.clone(),
        last_transition_time: now,
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    request
}
