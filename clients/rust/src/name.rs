//! Names of buckets and of their queues.

use std::fmt;
use std::sync::Arc;

use lapin::types::ShortString;

use crate::Error;
use crate::failure::Failure;

const PREFIX: &str = "token_bucket_";
/// What spec.name of a TokenBucket allows.
const LONGEST: usize = 200;

/// A bucket's name. Clones share it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(Arc<str>);

impl Name {
    pub(crate) fn parse(name: &str) -> Result<Self, Error> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if (1..=LONGEST).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(format!("{PREFIX}{name}").into()))
        } else {
            // Cut, as it may be anything.
            Err(Error::InvalidName(name.chars().take(LONGEST).collect()))
        }
    }

    pub(crate) fn bucket(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    pub(crate) fn queue(&self) -> &str {
        &self.0
    }

    pub(crate) fn wire(&self) -> ShortString {
        self.queue().into()
    }

    /// For who is told of a failure for good.
    pub(crate) fn error(&self, failure: Failure, action: Action, broker: &str) -> Error {
        let (bucket, queue) = (self.bucket().to_owned(), self.queue().to_owned());
        match failure {
            Failure::NoQueue => Error::NoQueue { bucket, queue },
            Failure::Unavailable(message) => Error::QueueUnavailable {
                bucket,
                queue,
                message,
            },
            Failure::Refused(message) => Error::AccessRefused {
                bucket,
                queue,
                doing: action.verb,
                needs: action.needs,
                message,
            },
            Failure::Lost(reason) => Error::Unreachable {
                endpoint: broker.to_owned(),
                reason,
            },
            Failure::Channel(reason) => Error::Protocol(reason),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.bucket())
    }
}

/// Something asked of the broker, for error messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Action {
    verb: &'static str,
    needs: &'static str,
}

pub(crate) const TAKE: Action = Action {
    verb: "take tokens",
    needs: "read permission on the queue",
};
pub(crate) const COUNT: Action = Action {
    verb: "count tokens",
    needs: "read permission on the queue, or from RabbitMQ 4.2 on configure",
};
pub(crate) const REFUND: Action = Action {
    verb: "give tokens back",
    needs: "write permission on the default exchange (amq.default)",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_a_token_bucket_can_have() {
        assert_eq!(Name::parse("a_1").unwrap().queue(), "token_bucket_a_1");
        assert_eq!(Name::parse("a_1").unwrap().bucket(), "a_1");
        for wrong in ["", "a-b", "a.b", "token bucket", "ü", &"a".repeat(201)] {
            let error = Name::parse(wrong).unwrap_err();
            assert!(error.to_string().contains("1 to 200 letters"), "{error}");
        }
        assert!(Name::parse(&"a".repeat(200)).is_ok());
    }
}
