//! The file with the URI of the operator's own broker. Kubernetes puts another one in its place when the Secret changes. It is
//! read again and again: a watch of the file would end with the file that was there at first.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::ops::Metrics;
use endpoint::{Endpoint, EndpointError};

/// The kubelet itself needs about a minute to put a changed Secret there.
const READ_EVERY: Duration = Duration::from_secs(5);
/// No URI is longer, in octets: a path of something else must not fill the memory.
const LONGEST: u64 = 64 * 1024;

/// The file that names the operator's own broker.
#[derive(Clone, Debug)]
pub struct BrokerFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether the operator works without it, until it is there.
    pub optional: bool,
    /// Whether its broker must be reached by TLS.
    pub require_tls: bool,
}

/// Why a file names no broker. What is in it is never repeated.
#[derive(Debug, thiserror::Error)]
pub enum BrokerFileError {
    /// There is none.
    #[error(
        "there is no file {}: mount the Secret with the broker's URI there, or correct the path", .0.display()
    )]
    Missing(PathBuf),
    /// It is there and cannot be read.
    #[error("cannot read file {}: {source}; make it a file that the operator's user may read", .path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing is in it.
    #[error(
        "file {} is empty: write the broker's URI into it, for example amqp://user:password@host:5672/vhost", .0.display()
    )]
    Empty(PathBuf),
    /// Something else is in it.
    #[error("file {} is no text in UTF-8 of at most {LONGEST} octets: write the broker's URI into it, and nothing else", .0.display())]
    NoText(PathBuf),
    /// It is no URI of a broker.
    #[error("file {}: {source}", .path.display())]
    Invalid {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        source: EndpointError,
    },
    /// The broker is reached without TLS.
    #[error(
        "file {} names a broker without TLS, and --require-tls=all (REQUIRE_TLS) asks for it: write amqps://, or \
         --require-tls=secrets to ask for it of the brokers of spec.connection alone", .0.display()
    )]
    WithoutTls(PathBuf),
}

impl BrokerFile {
    /// Its broker at the start; None: it is not there yet, and need not be.
    ///
    /// # Errors
    /// When the operator cannot start with it.
    pub fn read_first(&self) -> Result<Option<Endpoint>, BrokerFileError> {
        match self.read() {
            Err(BrokerFileError::Missing(_)) if self.optional => Ok(None),
            endpoint => endpoint.map(Some),
        }
    }

    /// Has `broker` be what the file says, for ever. When it says nothing that can be used, the broker before stays.
    pub async fn follow(&self, broker: &watch::Sender<Option<Endpoint>>, metrics: &Metrics) {
        let mut again = interval(READ_EVERY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            again.tick().await;
            let file = self.clone();
            // A folder on another machine may not answer.
            let Ok(read) = tokio::task::spawn_blocking(move || file.read()).await else {
                continue;
            };
            match read {
                Ok(endpoint) => {
                    metrics.broker_file(true);
                    told = None;
                    if replace(broker, &endpoint) {
                        info!(file = %self.path.display(), broker = %endpoint, "the file names another broker, user or password: using that");
                    }
                }
                Err(BrokerFileError::Missing(_)) if self.optional && broker.borrow().is_none() => {}
                Err(error) => {
                    metrics.broker_file(false);
                    let problem = error.to_string();
                    if told.as_ref() != Some(&problem) {
                        warn!("{problem}. The broker that it named before stays in use");
                        told = Some(problem);
                    }
                }
            }
        }
    }

    fn read(&self) -> Result<Endpoint, BrokerFileError> {
        let path = || self.path.clone();
        let octets = octets(&self.path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => BrokerFileError::Missing(path()),
            _ => BrokerFileError::Unreadable {
                path: path(),
                source,
            },
        })?;
        let text = String::from_utf8(octets)
            .ok()
            .filter(|text| text.len() as u64 <= LONGEST);
        let text = text.ok_or_else(|| BrokerFileError::NoText(path()))?;
        if text.trim().is_empty() {
            return Err(BrokerFileError::Empty(path()));
        }
        let endpoint = Endpoint::parse(&text).map_err(|source| BrokerFileError::Invalid {
            path: path(),
            source,
        })?;
        if self.require_tls && !endpoint.is_tls() {
            return Err(BrokerFileError::WithoutTls(path()));
        }
        Ok(endpoint)
    }
}

fn octets(path: &Path) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    File::open(path)?
        .take(LONGEST + 1)
        .read_to_end(&mut octets)?;
    Ok(octets)
}

fn replace(broker: &watch::Sender<Option<Endpoint>>, endpoint: &Endpoint) -> bool {
    broker.send_if_modified(|before| {
        let changed = before.as_ref() != Some(endpoint);
        if changed {
            *before = Some(endpoint.clone());
        }
        changed
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::{TempDir, tempdir};

    use super::*;

    fn file(content: Option<&[u8]>) -> (TempDir, BrokerFile) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("uri");
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let file = BrokerFile {
            path,
            optional: false,
            require_tls: false,
        };
        (folder, file)
    }

    #[test]
    fn a_file_has_the_uri_and_nothing_else() {
        let (_folder, file) = file(Some(b"amqp://u:p@h/v\n"));
        let endpoint = file.read_first().unwrap();
        assert_eq!(endpoint, Some(Endpoint::parse("amqp://u:p@h/v").unwrap()));
    }

    #[test]
    fn a_file_that_names_no_broker_is_told_by_its_path_and_never_by_what_is_in_it() {
        let long = "s3cret".repeat(20_000).into_bytes();
        let latin = b"amqp://u:s3cret\xff@h".to_vec();
        for (content, said) in [
            (None, "there is no file"),
            (Some(b"".to_vec()), "is empty"),
            (Some(b" \n".to_vec()), "is empty"),
            (Some(latin), "UTF-8"),
            (Some(long), "at most"),
            (Some(b"s3cret".to_vec()), "begin with amqp://"),
            (Some(b"amqp://u:s3c/ret@h".to_vec()), "escape"),
        ] {
            let (_folder, file) = file(content.as_deref());
            let error = file.read_first().unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(said), "{text}");
            assert!(text.contains(file.path.to_str().unwrap()), "{text}");
            assert!(!text.contains("s3c"), "{text}");
        }
        let (folder, file) = file(None);
        let path = folder.path().to_owned();
        let error = BrokerFile { path, ..file }.read_first().unwrap_err();
        assert!(error.to_string().contains("cannot read file"), "{error}");
    }

    #[test]
    fn a_broker_without_tls_is_refused_where_tls_is_asked_for() {
        for (uri, is_good) in [(&b"amqp://h"[..], false), (b"amqps://h", true)] {
            let (_folder, file) = file(Some(uri));
            let file = BrokerFile {
                require_tls: true,
                ..file
            };
            assert_eq!(file.read_first().is_ok(), is_good);
        }
    }

    #[test]
    fn only_a_file_that_is_optional_may_be_missing_and_it_may_be_nothing_else() {
        let optional = |content| {
            let (folder, file) = file(content);
            let optional = true;
            (folder, BrokerFile { optional, ..file })
        };
        assert_eq!(optional(None).1.read_first().unwrap(), None);
        let (_folder, empty) = optional(Some(b""));
        empty.read_first().unwrap_err();
    }
}
