//! A place for a connection, which is made anew when it was lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use token_bucket_endpoint::Endpoint;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use crate::Error;
use crate::link::Link;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where the broker is.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Always the same.
    Endpoint(Endpoint),
    /// A Secret that is mounted as a folder. It is read for each connection, so that a new password is found.
    Folder(PathBuf),
}

impl Source {
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Error> {
        match self {
            Self::Endpoint(endpoint) => Ok(endpoint.clone()),
            Self::Folder(path) => {
                let data = read(path).map_err(|error| Error::UnreadableSecret {
                    path: path.clone(),
                    reason: error.to_string(),
                })?;
                token_bucket_endpoint::endpoint(&data).map_err(|source| Error::InvalidSecret {
                    path: path.clone(),
                    source,
                })
            }
        }
    }
}

/// The keys of a mounted Secret. Kubernetes keeps folders and links beside them that begin with a dot.
fn read(path: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut data = BTreeMap::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_file() {
            data.insert(name, std::fs::read(entry.path())?);
        }
    }
    Ok(data)
}

/// At most one connection.
#[derive(Debug)]
pub(crate) struct Slot {
    source: Source,
    name: String,
    link: Mutex<Option<Arc<Link>>>,
}

impl Slot {
    pub(crate) fn new(source: Source, name: String) -> Self {
        Self {
            source,
            name,
            link: Mutex::new(None),
        }
    }

    /// The connection, or a new one: tried with growing pauses until `until`.
    pub(crate) async fn link(&self, until: Instant) -> Result<Arc<Link>, Error> {
        let endpoint = || self.source.endpoint();
        let Ok(mut link) = timeout_at(until, self.link.lock()).await else {
            return Err(Error::Unreachable {
                endpoint: endpoint()?.to_string(),
                reason: "others have tried to connect for as long as may be waited".to_owned(),
            });
        };
        if let Some(link) = &*link
            && link.is_usable()
        {
            return Ok(link.clone());
        }
        *link = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match Link::connect(&endpoint()?, &self.name).await {
                Ok(connected) => {
                    debug!(broker = %endpoint()?, "connected");
                    return Ok(link.insert(Arc::new(connected)).clone());
                }
                Err(error) => error,
            };
            let next = Instant::now() + pause.mul_f64(0.5 + fastrand::f64());
            if next > until {
                return Err(error);
            }
            warn!(%error, "not connected; it is tried again");
            sleep(next - Instant::now()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Connects, or says at once what a person has to change.
    pub(crate) async fn first(&self, until: Instant) -> Result<(), Error> {
        match Link::connect(&self.source.endpoint()?, &self.name).await {
            Ok(connected) => *self.link.lock().await = Some(Arc::new(connected)),
            Err(Error::Unreachable { .. }) => drop(self.link(until).await?),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(crate) async fn close(&self) {
        if let Some(link) = self.link.lock().await.take() {
            link.close().await;
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}
