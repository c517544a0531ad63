//! What the API server refuses beyond types and bounds: CEL rules, each with a message that says what to write instead.
//!
//! A pair is (rule, message). Rules about one string leave to each other what the other one reports, so that a user
//! reads one message per mistake. A rule must never refuse what the operator could carry out.

use kube::core::Rule;

/// `spec.name`
pub const NAME_SHAPE: (&str, &str) = (
    "self.matches('^[A-Za-z0-9_]+$')",
    "write letters, digits and _ only, for example my_api_client, or leave spec.name out to use metadata.name",
);

/// The queue of a bucket is named after it, so a bucket under another name would be another bucket.
pub fn name_is_immutable() -> Rule {
    let effective = |object: &str| {
        format!(
            "(has({object}.spec.name) ? {object}.spec.name : \
             {object}.metadata.name.replace('-', '_').replace('.', '_'))"
        )
    };
    Rule::new(format!("{} == {}", effective("self"), effective("oldSelf")))
        .message("spec.name cannot be changed (without it, metadata.name with - and . as _ is the name): create another TokenBucket")
        .field_path(".spec.name")
}

/// A default that comes from `metadata.name` has the limit of `spec.name`.
pub fn default_name_is_short() -> Rule {
    Rule::new("has(self.spec.name) || size(self.metadata.name) <= 200")
        .message("metadata.name has more than 200 characters: write a shorter spec.name, for example my_api_client")
        .field_path(".spec.name")
}

/// `spec.initialTokens`
pub fn initial_tokens_fit() -> Rule {
    Rule::new("self.initialTokens <= self.maximum")
        .message(
            "initialTokens must not be more than maximum: lower initialTokens or raise maximum",
        )
        .field_path(".initialTokens")
}

/// `spec.queueType`
pub const QUEUE_TYPE_IMMUTABLE: (&str, &str) = (
    "self == oldSelf",
    "queueType cannot be changed: create another TokenBucket with the other queueType and another name",
);

/// `spec.refillQueue`: with its suffix `.rejected` it has to fit into the 255 bytes of an AMQP name.
pub const REFILL_QUEUE_SHAPE: (&str, &str) = (
    "self.matches('^[!-~]+$')",
    "write a queue name of printable ASCII characters without spaces, for example token_buckets.refill",
);

/// `spec.refillQueue`: queues that have another use.
pub const REFILL_QUEUE_RESERVED: (&str, &str) = (
    "!(self == 'celery' || self.startsWith('token_bucket_') || self.startsWith('amq.') || self.endsWith('.rejected'))",
    "refillQueue needs a queue of its own, for example token_buckets.refill: token_bucket_* are buckets, amq.* belongs to the \
     broker, celery is Celery's default queue and *.rejected keeps rejected requests",
);

/// `spec.timeZone`
pub const TIME_ZONE_SHAPE: (&str, &str) = (
    "self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$') && self.lowerAscii() != 'local'",
    "write the IANA name of a time zone, for example Europe/Berlin or Etc/UTC",
);

/// `spec.connection.secretRef.name`
pub const SECRET_NAME_SHAPE: (&str, &str) = (
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
    "write the name of a Secret in the same namespace: lower case letters, digits, - and ., for example rabbit-user",
);

/// `spec.schedule`
pub const SCHEDULE_HAS_NO_ZONE: (&str, &str) = (
    "!self.contains('TZ=')",
    "write the time zone into spec.timeZone instead of the schedule, for example timeZone: Europe/Berlin",
);

/// `spec.schedule`
pub const SCHEDULE_MACRO: (&str, &str) = (
    r"!self.startsWith('@') || self in ['@yearly', '@annually', '@monthly', '@weekly', '@daily', '@midnight', '@hourly'] || self.matches('^@every \\S+$')",
    "write @hourly, @daily, @weekly, @monthly, @yearly or @every with a duration, for example @every 90s or @every 1h30m",
);

/// `spec.schedule`
pub const SCHEDULE_FIELD_COUNT: (&str, &str) = (
    r"self.startsWith('@') || self.contains('TZ=') || self.matches('^\\s*\\S+(\\s+\\S+){4,5}\\s*$')",
    "write 5 fields (minute, hour, day of month, month, day of week) or 6 with the second in front, for example 0 * * * * for every hour",
);

/// `spec.schedule`
pub const SCHEDULE_CHARACTERS: (&str, &str) = (
    r"self.startsWith('@') || self.contains('TZ=') || self.matches('^[0-9A-Za-z*?,/+\\s-]*$')",
    "write fields of numbers, names (JAN, MON), *, ranges (1-5), lists (1,15) and steps (*/10), for example */10 8-17 * * MON-FRI",
);

/// `spec.schedule`
pub const SCHEDULE_PARTS: (&str, &str) = (
    r"!self.matches('(^|[\\s,/-])[,/-]|,(\\s|$)')",
    "a list, range or step has an empty part: write for example 1,15 or 1-5 or */10",
);

/// `spec.schedule`
pub const SCHEDULE_SUNDAY: (&str, &str) = (
    r"self.startsWith('@') || !self.matches('\\s[+]?(\\S*[,-])?7([,/-]\\S*)?\\s*$')",
    "days of the week are 0-6 from Sunday, or SUN-SAT: write 0 or SUN instead of 7",
);
