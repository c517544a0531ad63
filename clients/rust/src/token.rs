//! What was taken.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::Error;

/// Where tokens come from, and can be given back to.
pub(crate) trait Origin: Send + Sync + 'static {
    /// The bucket's name.
    fn bucket(&self) -> &str;
    /// Gives tokens back.
    fn refund(&self, tokens: u32) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>>;
    /// Gives them back without anybody waiting for it.
    fn refund_in_background(&self, tokens: u32);
}

/// The right to so many calls. It is used up when it is dropped; [`Token::refund`] gives it back.
#[must_use = "a token is used up when it is dropped; give it back with `refund` if it was not needed"]
pub struct Token {
    parts: Vec<(Arc<dyn Origin>, u32)>,
}

impl Token {
    pub(crate) fn new(origin: Arc<dyn Origin>, tokens: u32) -> Self {
        Self::of(vec![(origin, tokens)])
    }

    pub(crate) fn of(parts: Vec<(Arc<dyn Origin>, u32)>) -> Self {
        Self { parts }
    }

    /// How many tokens it is, of all buckets together.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.parts.iter().map(|(_, tokens)| tokens).sum()
    }

    /// The buckets that it comes from, each with its number of tokens.
    pub fn buckets(&self) -> impl Iterator<Item = (&str, u32)> {
        self.parts
            .iter()
            .map(|(origin, tokens)| (origin.bucket(), *tokens))
    }

    /// Gives it back: the call was not made. Answers when the broker has confirmed it. A bucket that is full by then stays at its
    /// maximum.
    ///
    /// # Errors
    /// [`Error::RefundUnknown`] when the connection was lost in between: it may be there or not. [`Error::NoQueue`],
    /// [`Error::RefundRefused`], [`Error::AccessRefused`], [`Error::Unreachable`]: it is not. Of several buckets the first error
    /// counts; all are tried.
    pub async fn refund(self) -> Result<(), Error> {
        let mut refunded = Ok(());
        for (origin, tokens) in self.parts {
            let one = origin.refund(tokens).await;
            refunded = refunded.and(one);
        }
        refunded
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.buckets()).finish()
    }
}

/// A token on its way to a caller. When nobody is there any more it goes back into its bucket.
pub(crate) struct Handover(Option<Token>);

impl Handover {
    pub(crate) fn new(token: Token) -> Self {
        Self(Some(token))
    }

    pub(crate) fn accept(mut self) -> Token {
        self.0.take().unwrap_or_else(|| Token::of(Vec::new()))
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        for (origin, tokens) in self.0.take().into_iter().flat_map(|token| token.parts) {
            origin.refund_in_background(tokens);
        }
    }
}
