//! The ceilings that an administrator sets for every TokenBucket. No client required.

use std::num::NonZeroU32;
use std::time::Duration;

use bucket::Bucket;
use engine::Phase;

/// What no TokenBucket may go beyond; None: no such ceiling.
#[derive(Clone, Debug, Default)]
pub struct Ceilings {
    /// Tokens that a bucket can hold.
    pub max_tokens_per_bucket: Option<NonZeroU32>,
    /// TokenBuckets in force in a namespace: the oldest ones.
    pub max_buckets_per_namespace: Option<NonZeroU32>,
    /// Time between two ticks of a schedule.
    pub min_refill_interval: Option<Duration>,
}

/// A ceiling that a resource goes beyond.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exceeded {
    /// The bucket is too large.
    #[error(
        "spec.maximum: {maximum} is more than the operator's --max-tokens-per-bucket allows: write at most {most}"
    )]
    Maximum {
        /// As specified.
        maximum: u64,
        /// The ceiling.
        most: NonZeroU32,
    },
    /// Refills come too often.
    #[error(
        "spec.schedule: two refills are due within {} s, and the operator's --min-refill-interval allows one in {} s: write a \
         schedule with more time between any two, and an amount that makes up for it", .closest.as_secs_f64(), .least.as_secs_f64()
    )]
    Schedule {
        /// Between the closest two ticks.
        closest: Duration,
        /// The ceiling.
        least: Duration,
    },
    /// There are older resources in the namespace, as many as may be.
    #[error(
        "the operator's --max-buckets-per-namespace allows {0} TokenBuckets in a namespace, and there are as many older ones: \
         delete one that nobody needs, and this one takes its place, or have the limit raised"
    )]
    Buckets(NonZeroU32),
}

impl Ceilings {
    /// Holds a bucket against the ceilings that concern it alone.
    ///
    /// # Errors
    /// The ceiling that it goes beyond.
    pub(super) fn check(&self, bucket: &Bucket) -> Result<(), Exceeded> {
        let maximum = bucket.maximum;
        if let Some(most) = self.max_tokens_per_bucket
            && maximum > u64::from(most.get())
        {
            return Err(Exceeded::Maximum { maximum, most });
        }
        if let Some(least) = self.min_refill_interval
            && let Some(closest) = bucket.timetable.closer_than(least)
        {
            return Err(Exceeded::Schedule { closest, least });
        }
        Ok(())
    }
}

impl Exceeded {
    /// The reason of the condition, the event and the metric.
    #[must_use]
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Maximum { .. } => "MaximumTooLarge",
            Self::Schedule { .. } => "ScheduleTooFrequent",
            Self::Buckets(_) => "TooManyBuckets",
        }
    }

    /// What it means for the bucket.
    #[must_use]
    pub(super) fn phase(&self) -> Phase {
        Phase::stalled(self.reason(), self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::super::validate::validate;
    use super::*;

    fn judged(ceilings: &Ceilings, schedule: &str, maximum: u32) -> Option<Exceeded> {
        let yaml = format!(
            "{{apiVersion: tokenbucket.dev/v1alpha1, kind: TokenBucket, metadata: {{name: a, namespace: shop, uid: u1}},
               spec: {{amount: 1, maximum: {maximum}, schedule: '{schedule}', timeZone: Europe/Berlin}}}}"
        );
        let now = DateTime::from_timestamp(1_795_600_000, 0).unwrap();
        let bucket = validate(&serde_yaml::from_str(&yaml).unwrap(), now).unwrap();
        ceilings.check(&bucket).err()
    }

    #[test]
    fn without_ceilings_everything_goes() {
        assert_eq!(
            judged(&Ceilings::default(), "* * * * * *", 10_000_000),
            None
        );
    }

    #[test]
    fn a_bucket_has_so_many_tokens_and_no_more() {
        let ceilings = Ceilings {
            max_tokens_per_bucket: NonZeroU32::new(1000),
            ..Ceilings::default()
        };
        assert_eq!(judged(&ceilings, "@hourly", 1000), None);
        let refused = judged(&ceilings, "@hourly", 1001).unwrap();
        assert_eq!(refused.reason(), "MaximumTooLarge");
        let text = refused.to_string();
        for word in ["1001", "at most 1000", "--max-tokens-per-bucket"] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_schedule_is_judged_by_its_closest_ticks() {
        let ceilings = Ceilings {
            min_refill_interval: Some(Duration::from_secs(3600)),
            ..Ceilings::default()
        };
        for schedule in ["0 * * * *", "0 0 * * * *", "@every 1h"] {
            assert_eq!(judged(&ceilings, schedule, 1), None, "{schedule}");
        }
        for schedule in ["0,1 * * * *", "0,1 0 * * * *", "@every 5s"] {
            let reason = judged(&ceilings, schedule, 1).map(|refused| refused.reason());
            assert_eq!(reason, Some("ScheduleTooFrequent"), "{schedule}");
        }
        let text = judged(&ceilings, "0,1 * * * *", 1).unwrap().to_string();
        for word in ["within 60 s", "one in 3600 s", "--min-refill-interval"] {
            assert!(text.contains(word), "{text}");
        }
    }
}
