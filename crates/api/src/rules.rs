//! What the API server refuses beyond types and bounds: CEL rules, each with a message that says what to write instead.
//!
//! A pair is (rule, message). Rules about one string leave to each other what the other one reports, so that a user
//! reads one message per mistake. A rule must never refuse what the operator could carry out.

use kube::core::{Message, Rule};

/// `spec.name`
pub(crate) const NAME_SHAPE: (&str, &str) = (
    "self.matches('^[A-Za-z0-9_]+$')",
    "write letters, digits and _ only, for example my_api_client, or leave spec.name out to use metadata.name",
);

/// The queue of a bucket is named after it, so a bucket under another name would be another bucket.
pub(crate) fn name_is_immutable() -> Rule {
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
pub(crate) fn default_name_is_short() -> Rule {
    Rule::new("has(self.spec.name) || size(self.metadata.name) <= 200")
        .message("metadata.name has more than 200 characters: write a shorter spec.name, for example my_api_client")
        .field_path(".spec.name")
}

/// `spec.initialTokens` counts at the creation only: after that the maximum may be lower. A maximum that is out of bounds is
/// reported as such.
pub(crate) fn initial_tokens_fit() -> Rule {
    Rule::new(
        "self.spec.initialTokens <= self.spec.maximum || self.spec.maximum < 1 || \
         (has(self.status) && has(self.status.tokensIssued))",
    )
    .message("initialTokens must not be more than maximum: lower initialTokens or raise maximum")
    .field_path(".spec.initialTokens")
}

/// `spec.queueType`
pub(crate) const QUEUE_TYPE_IMMUTABLE: (&str, &str) = (
    "self == oldSelf",
    "queueType cannot be changed: create another TokenBucket with the other queueType and another name",
);

/// `spec.refillQueue`: with its suffix `.rejected` it has to fit into the 255 bytes of an AMQP name.
pub(crate) const REFILL_QUEUE_SHAPE: (&str, &str) = (
    "self.matches('^[!-~]+$')",
    "write a queue name of printable ASCII characters without spaces, for example token_buckets.refill",
);

/// `spec.refillQueue`: queues that have another use.
pub(crate) const REFILL_QUEUE_RESERVED: (&str, &str) = (
    "!(self == 'celery' || self.startsWith('token_bucket_') || self.startsWith('amq.') || self.endsWith('.rejected'))",
    "refillQueue needs a queue of its own, for example token_buckets.refill: token_bucket_* are buckets, amq.* belongs to the \
     broker, celery is Celery's default queue and *.rejected keeps rejected requests",
);

/// `spec.timeZone`
pub(crate) const TIME_ZONE_SHAPE: (&str, &str) = (
    "self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$') && self.lowerAscii() != 'local'",
    "write the IANA name of a time zone, for example Europe/Berlin or Etc/UTC",
);

/// `spec.connection`
pub(crate) const CONNECTION_NAMES_SOMETHING: (&str, &str) = (
    "has(self.secretRef) || has(self.vhost)",
    "write secretRef, vhost or both into connection, or leave connection out",
);

/// `spec.connection.vhost`
pub(crate) const VHOST_SHAPE: (&str, &str) = (
    "self.matches('^[^\\\\p{Cc}]+$')",
    "write the name of a virtual host as it is at the broker, nothing escaped, for example shop or /",
);

/// `spec.connection.secretRef.name`
pub(crate) const SECRET_NAME_SHAPE: (&str, &str) = (
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
    "write the name of a Secret in the same namespace: lower case letters, digits, - and ., for example rabbit-user",
);

/// `spec.schedule`: the shape of a cron expression. One rule whose message depends on the mistake, so that a user reads
/// one message. What a shape cannot tell (a range that runs backwards, a day that never comes) is left to the operator.
pub(crate) fn schedule_shape() -> Rule {
    let list = |value: &str| {
        let part = format!("([*?]|({value})(-({value}))?)(/[0-9]*[1-9][0-9]*)?");
        format!("{part}(,{part})*")
    };
    let minute = list("0*[0-5]?[0-9]");
    let hour = list("0*(1?[0-9]|2[0-3])");
    let day_of_month = list("0*([1-9]|[12][0-9]|3[01])");
    let month = list("0*([1-9]|1[0-2])|(?i:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)");
    let day_of_week = list("0*[0-6]|(?i:SUN|MON|TUE|WED|THU|FRI|SAT)");
    let fields = format!(
        r"({minute}\\s+)?{minute}\\s+{hour}\\s+{day_of_month}\\s+{month}\\s+[+]?{day_of_week}"
    );
    let macros = "@(yearly|annually|monthly|weekly|daily|midnight|hourly)";
    let every = r"@every\\s+[+]?(([0-9]+[.]?[0-9]*|[.][0-9]+)(h|m|s|ms|us|ns))+";

    Rule::new(format!(
        r"self.matches('^\\s*({fields}|{macros}|{every})\\s*$')"
    ))
    .message(Message::Expression(SCHEDULE_MESSAGE.trim().to_owned()))
}

const SCHEDULE_MESSAGE: &str = r"
self.contains('TZ=')
? 'write the time zone into spec.timeZone instead of the schedule, for example timeZone: Europe/Berlin'
: self.matches('^\\s*@')
? 'write @hourly, @daily, @weekly, @monthly, @yearly or @every with a duration in h, m and s, for example @every 90s or @every 1h30m'
: !self.matches('^\\s*\\S+(\\s+\\S+){4,5}\\s*$')
? 'write 5 fields (minute, hour, day of month, month, day of week) or 6 with the second in front, for example 0 * * * * for every hour'
: !self.matches('^[0-9A-Za-z*?,/+\\s-]*$')
? 'write fields of numbers, names (JAN, MON), *, ranges (1-5), lists (1,15) and steps (*/10), for example */10 8-17 * * MON-FRI'
: self.matches('(^|[\\s,/-])[,/-]|[,/-](\\s|$)')
? 'a list, range or step has an empty part: write for example 1,15 or 1-5 or */10'
: self.matches('\\s[+]?(\\S*[,-])?0*7([,/-]\\S*)?\\s*$')
? 'days of the week are 0-6 from Sunday, or SUN-SAT: write 0 or SUN instead of 7'
: 'a field has a value that it cannot take: second and minute are 0-59, hour 0-23, day of month 1-31, month 1-12 or JAN-DEC, day of week 0-6 or SUN-SAT; a step is 1 or more; + stands in front of the day of week only'
";
