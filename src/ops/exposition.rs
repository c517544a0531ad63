//! The text of all metrics, encoded once for all who ask for it at about the same time.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// So long a text is given to whoever asks.
pub(super) const VALIDITY: Duration = Duration::from_secs(1);
/// Texts in memory, those included that slow readers hold: with 10,000 buckets one has 7 MB.
const TEXTS: usize = 3;

/// Gives out texts. `E` makes one.
pub(super) struct Exposition<E> {
    encode: E,
    validity: Duration,
    places: Arc<Semaphore>,
    newest: Arc<Mutex<Newest>>,
}

#[derive(Default)]
struct Newest {
    valid: Option<Arc<Text>>,
    /// The same, or an older one that somebody still reads.
    any: Weak<Text>,
}

struct Text {
    text: String,
    _place: OwnedSemaphorePermit,
}

/// What the bytes of an answer keep alive.
struct Reader(Arc<Text>);

impl AsRef<[u8]> for Reader {
    fn as_ref(&self) -> &[u8] {
        self.0.text.as_bytes()
    }
}

impl<E: Fn() -> Result<String, fmt::Error>> Exposition<E> {
    pub(super) fn new(encode: E, validity: Duration) -> Self {
        Self {
            encode,
            validity,
            places: Arc::new(Semaphore::new(TEXTS)),
            newest: Arc::default(),
        }
    }

    /// A text that is at most `validity` old. While slow readers hold as many texts as there may be, the newest of those.
    pub(super) async fn text(&self) -> Result<Bytes, fmt::Error> {
        // Held while a text is made: who asks meanwhile gets the same one.
        let mut newest = self.newest.lock().await;
        if let Some(text) = newest.valid.clone() {
            return Ok(Bytes::from_owner(Reader(text)));
        }
        if self.places.available_permits() == 0
            && let Some(text) = newest.any.upgrade()
        {
            return Ok(Bytes::from_owner(Reader(text)));
        }
        // Free already, or in a moment: when the last reader of the newest text is just letting go.
        let place = self.places.clone().acquire_owned().await;
        let text = self.make(&mut newest, place.map_err(|_| fmt::Error)?)?;
        Ok(Bytes::from_owner(Reader(text)))
    }

    fn make(
        &self,
        newest: &mut Newest,
        place: OwnedSemaphorePermit,
    ) -> Result<Arc<Text>, fmt::Error> {
        let text = Arc::new(Text {
            text: (self.encode)()?,
            _place: place,
        });
        newest.any = Arc::downgrade(&text);
        newest.valid = Some(text.clone());
        let (newest, validity) = (self.newest.clone(), self.validity);
        tokio::spawn(async move {
            sleep(validity).await;
            newest.lock().await.valid = None;
        });
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::try_join_all;

    use super::*;

    fn counting() -> Exposition<impl Fn() -> Result<String, fmt::Error>> {
        let made = AtomicUsize::new(0);
        let encode = move || Ok(made.fetch_add(1, Ordering::Relaxed).to_string());
        Exposition::new(encode, VALIDITY)
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_within_a_second_gets_the_same_text() {
        let exposition = counting();
        let texts = try_join_all((0..50).map(|_| exposition.text())).await;
        let texts = texts.unwrap();
        assert!(texts.iter().all(|text| text.as_ptr() == texts[0].as_ptr()));
        drop(texts);
        assert_eq!(exposition.text().await.unwrap(), "0");
        sleep(VALIDITY * 2).await;
        assert_eq!(exposition.text().await.unwrap(), "1");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_when_nobody_reads() {
        let exposition = counting();
        exposition.text().await.unwrap();
        sleep(VALIDITY * 2).await;
        assert_eq!(exposition.places.available_permits(), TEXTS);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_readers_hold_a_few_texts_and_no_more() {
        let exposition = counting();
        let mut held = Vec::new();
        for _ in 0..TEXTS + 2 {
            held.push(exposition.text().await.unwrap());
            sleep(VALIDITY * 2).await;
        }
        assert_eq!(held, ["0", "1", "2", "2", "2"]);
        held.remove(0);
        assert_eq!(exposition.text().await.unwrap(), "3");
    }
}
