//! What is wrong between the two ends of a TLS connection.

use rustls::{AlertDescription, CertificateError, Error};

use super::{BrokerError, quoted};
use endpoint::Endpoint;

impl BrokerError {
    /// For what TLS says while connecting.
    pub(super) fn of_tls(endpoint: &Endpoint, error: &Error) -> Self {
        let shows_certificate = endpoint.certificates().is_some_and(|it| it.has_client());
        let unreachable = |reason: String| Self::Unreachable {
            endpoint: endpoint.to_string(),
            reason,
        };
        match error {
            Error::InvalidCertificate(error) => Self::CertificateRefused {
                endpoint: endpoint.to_string(),
                reason: certificate(endpoint, error),
            },
            Error::AlertReceived(alert) if shows_certificate && is_about_client(*alert) => {
                Self::ClientCertificateRefused {
                    endpoint: endpoint.to_string(),
                    reason: format!(
                        "it refuses the client certificate in the Secret ({alert:?}): is it in force, and of an authority that the broker trusts?"
                    ),
                }
            }
            Error::AlertReceived(AlertDescription::CertificateRequired) => {
                Self::ClientCertificateRefused {
                    endpoint: endpoint.to_string(),
                    reason: ASK_FOR_ONE.to_owned(),
                }
            }
            // A broker with TLS 1.2 that misses a certificate says no more than that.
            Error::AlertReceived(AlertDescription::HandshakeFailure) => unreachable(format!(
                "it breaks off the TLS handshake: perhaps {ASK_FOR_ONE}"
            )),
            Error::AlertReceived(AlertDescription::ProtocolVersion)
            | Error::PeerIncompatible(_) => unreachable(format!(
                "it speaks neither TLS 1.2 nor 1.3 in a way that is safe ({})",
                quoted(&error.to_string())
            )),
            Error::InvalidMessage(_) => unreachable(
                "what answers does not speak TLS: write amqp:// (5672), or the port of TLS (5671)"
                    .to_owned(),
            ),
            error => unreachable(quoted(&error.to_string())),
        }
    }
}

const ASK_FOR_ONE: &str = "it asks for a client certificate: write tls.crt and tls.key into the Secret that names the broker \
    (--amqp-url has none)";

/// Whether a broker says so of a client's certificate.
fn is_about_client(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
            | Alert::HandshakeFailure
    )
}

/// What is wrong with the broker's certificate, and what to do.
fn certificate(endpoint: &Endpoint, error: &CertificateError) -> String {
    use CertificateError as Wrong;
    let host = endpoint.host();
    match error {
        Wrong::Expired | Wrong::ExpiredContext { .. } => {
            "it has expired: renew it at the broker. Or is the clock of this machine wrong?".to_owned()
        }
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
            "it is not in force yet: is the clock of this machine wrong, or that of whoever has issued it?".to_owned()
        }
        Wrong::NotValidForName => not_for(host, "others"),
        Wrong::NotValidForNameContext { presented, .. } => {
            // They come as DnsName("host").
            let name = |it: &String| it.split_once('(').map_or(it.clone(), |(_, name)| {
                name.trim_matches([')', '"']).to_owned()
            });
            not_for(host, &presented.iter().map(name).collect::<Vec<_>>().join(", "))
        }
        Wrong::UnknownIssuer if endpoint.certificates().is_some_and(|it| it.has_authorities()) => {
            "none of the authorities in ca.crt of its Secret has signed it: write the certificate of the one that has".to_owned()
        }
        Wrong::UnknownIssuer => {
            "no authority that is trusted here has signed it: set SSL_CERT_FILE to a PEM file with the certificate of the one that \
             has (in the chart: broker.tls.caSecret), or write it into ca.crt of the Secret that names the broker"
                .to_owned()
        }
        Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => {
            "it is not for servers: issue one whose extendedKeyUsage has serverAuth".to_owned()
        }
        // The verifier's own error is in it.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "it is that of an authority (CA:TRUE), and such a one identifies no server: have one issued for the broker, or make the \
             self-signed one without CA:TRUE"
                .to_owned()
        }
        other => quoted(&format!("{other:?}")),
    }
}

fn not_for(host: &str, names: &str) -> String {
    quoted(&format!(
        "it is not for {host}, but for {names}: write one of its names as the host, or add this one to it (subjectAltName)"
    ))
}
