//! Certificates of one's own for a connection: whom it trusts, and as whom it shows itself.

use std::io;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};

/// What comes with a connection, in PEM. Without `Debug`, as a private key is in it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Certificates {
    /// Only certificates that these have signed are trusted; None: those of the system, or of `SSL_CERT_FILE`.
    authorities: Option<Box<[u8]>>,
    /// The client's certificate, with what is between it and its authority, and its key.
    client: Option<[Box<[u8]>; 2]>,
}

/// What is wrong with certificates. Never says what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificatesError {
    /// Those of the authorities.
    #[error("the authorities' certificates cannot be read as PEM")]
    Authorities,
    /// The client's.
    #[error("the client's certificate cannot be read as PEM")]
    Client,
    /// Its key.
    #[error("the client's private key cannot be read as PEM, or is encrypted")]
    Key,
    /// The key is that of another certificate.
    #[error("the private key is not that of the client's certificate")]
    Pair,
}

impl Certificates {
    /// From PEM: the authorities' certificates, and the client's certificate and its key.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn parse(
        authorities: Option<&[u8]>,
        client: Option<[&[u8]; 2]>,
    ) -> Result<Self, CertificatesError> {
        if let Some(pem) = authorities {
            let certificates = read(pem).ok_or(CertificatesError::Authorities)?;
            let (good, _) = RootCertStore::empty().add_parsable_certificates(certificates);
            if good == 0 {
                return Err(CertificatesError::Authorities);
            }
        }
        if let Some([certificate, key]) = client {
            let chain = read(certificate).ok_or(CertificatesError::Client)?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificatesError::Key)?;
            let pair = CertifiedKey::from_der(chain, key, &default_provider());
            pair.map_err(|error| match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => CertificatesError::Pair,
                Error::InvalidCertificate(_) => CertificatesError::Client,
                _ => CertificatesError::Key,
            })?;
        }
        Ok(Self {
            authorities: authorities.map(Box::from),
            client: client.map(|pair| pair.map(Box::from)),
        })
    }

    /// Whether only authorities of its own are trusted.
    #[must_use]
    pub fn has_authorities(&self) -> bool {
        self.authorities.is_some()
    }

    /// Whether the client shows a certificate.
    #[must_use]
    pub fn has_client(&self) -> bool {
        self.client.is_some()
    }

    /// What makes TLS connections with them. One for each connection: what it remembers of a session is for nobody else.
    ///
    /// # Errors
    /// When the certificates of the system cannot be read.
    pub fn connector(&self) -> io::Result<RustlsConnector> {
        let unreadable = || io::Error::from(io::ErrorKind::InvalidData);
        let config = match &self.authorities {
            Some(pem) => RustlsConnectorConfig::default()
                .with_parsable_certificates(read(pem).ok_or_else(unreadable)?),
            None => RustlsConnectorConfig::new_with_native_certs()?,
        };
        match &self.client {
            Some([certificate, key]) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| unreadable())?;
                let chain = read(certificate).ok_or_else(unreadable)?;
                config.connector_with_single_cert(chain, key)
            }
            None => config.connector_with_no_client_auth(),
        }
    }
}

/// The certificates in this PEM; None: there are none, or not all can be read.
fn read(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|it| !it.is_empty())
}
