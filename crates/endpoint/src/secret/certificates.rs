//! The keys that cert-manager and `kubectl create secret tls` write: an authority, and a client certificate with its key.

use crate::{Certificates, CertificatesError, Endpoint};

use super::{Data, SecretError};

const AUTHORITY: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// The endpoint with the certificates of its Secret, if there are any. They are for this connection alone; without an
/// authority among them those count that the operator trusts.
pub(super) fn add(endpoint: Endpoint, data: &Data) -> Result<Endpoint, SecretError> {
    // cert-manager leaves ca.crt empty where it does not know the authority.
    let value = |key| {
        let value = data.get(key).map(|value| &**value);
        value.filter(|value| !value.trim_ascii().is_empty())
    };
    let [authority, certificate, key] = [AUTHORITY, CERTIFICATE, KEY].map(value);
    let client = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some([certificate, key]),
        (Some(_), None) => return Err(SecretError::Half(CERTIFICATE, KEY)),
        (None, Some(_)) => return Err(SecretError::Half(KEY, CERTIFICATE)),
    };
    let first = match (authority, client) {
        (None, None) => return Ok(endpoint),
        (Some(_), _) => AUTHORITY,
        (None, Some(_)) => CERTIFICATE,
    };
    if !endpoint.is_tls() {
        return Err(SecretError::NoTls(first));
    }
    let certificates = Certificates::parse(authority, client).map_err(|error| match error {
        CertificatesError::Authorities => SecretError::Certificate(AUTHORITY),
        CertificatesError::Client => SecretError::Certificate(CERTIFICATE),
        CertificatesError::Key => SecretError::PrivateKey(KEY),
        CertificatesError::Pair => SecretError::Pair(CERTIFICATE, KEY),
    })?;
    Ok(endpoint.with_certificates(certificates))
}
