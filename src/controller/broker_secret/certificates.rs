//! The keys that cert-manager and `kubectl create secret tls` write: an authority, and a client certificate with its key.

use amqp::{Certificates, CertificatesError, Endpoint};

use super::{Data, SecretProblem};

const AUTHORITY: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// The endpoint with the certificates of its Secret, if there are any. They are for this connection alone; without an
/// authority among them those count that the operator trusts.
pub(super) fn add(endpoint: Endpoint, data: &Data) -> Result<Endpoint, SecretProblem> {
    // cert-manager leaves ca.crt empty where it does not know the authority.
    let value = |key| {
        let value = data.get(key).map(|value| &*value.0);
        value.filter(|value| !value.trim_ascii().is_empty())
    };
    let [authority, certificate, key] = [AUTHORITY, CERTIFICATE, KEY].map(value);
    let client = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some([certificate, key]),
        (Some(_), None) => return Err(SecretProblem::Half(CERTIFICATE, KEY)),
        (None, Some(_)) => return Err(SecretProblem::Half(KEY, CERTIFICATE)),
    };
    let first = match (authority, client) {
        (None, None) => return Ok(endpoint),
        (Some(_), _) => AUTHORITY,
        (None, Some(_)) => CERTIFICATE,
    };
    if !endpoint.is_tls() {
        return Err(SecretProblem::NoTls(first));
    }
    let certificates = Certificates::parse(authority, client).map_err(|error| match error {
        CertificatesError::Authorities => SecretProblem::Certificate(AUTHORITY),
        CertificatesError::Client => SecretProblem::Certificate(CERTIFICATE),
        CertificatesError::Key => SecretProblem::PrivateKey(KEY),
        CertificatesError::Pair => SecretProblem::Pair(CERTIFICATE, KEY),
    })?;
    Ok(endpoint.with_certificates(certificates))
}
