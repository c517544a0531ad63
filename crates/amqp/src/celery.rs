//! Refill requests as messages: Celery protocol 2, so that a worker of the Python library could run them too, with
//! headers of ours that say which tick they are for.

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::quoted;
use super::transport::UNREADABLE;
use super::wire;
use bucket::{Origin, PROGRAM, REFILL_TASK, RefillRequest, Rejection};

const UID: &str = "x-token-bucket-uid";
const SINCE: &str = "x-token-bucket-since";
const TICK: &str = "x-token-bucket-tick";
const TICKS: &str = "x-token-bucket-ticks";

/// No queue has a longer name.
const LONGEST_NAME: usize = 255;

/// A request as a message.
pub(super) fn encode(request: &RefillRequest) -> (BasicProperties, Vec<u8>) {
    let id = id_of(request);
    let mut headers = FieldTable::default();
    let mut set = |name: &str, value: AMQPValue| {
        headers.insert(name.into(), value);
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    set("lang", text("rust"));
    set("task", text(REFILL_TASK));
    set("id", text(&id));
    set("root_id", text(&id));
    set("parent_id", AMQPValue::Void);
    set("group", AMQPValue::Void);
    set("eta", AMQPValue::Void);
    set("expires", AMQPValue::Void);
    set("retries", AMQPValue::LongInt(0));
    set(
        "timelimit",
        AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::Void, AMQPValue::Void])),
    );
    set("argsrepr", text("()"));
    set(
        "kwargsrepr",
        text(&json!({ "name": request.bucket }).to_string()),
    );
    set("origin", text(PROGRAM));
    set("ignore_result", AMQPValue::Boolean(true));
    if let Origin::Schedule {
        uid,
        since,
        tick,
        ticks,
    } = &request.origin
    {
        set(UID, text(uid));
        set(SINCE, text(&instant(since)));
        set(TICK, text(&instant(tick)));
        set(
            TICKS,
            AMQPValue::LongLongInt((*ticks).try_into().unwrap_or(i64::MAX)),
        );
    }
    let properties = wire::persistent()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_headers(headers);
    // Celery's own messages carry the id here as well; a longer one than AMQP allows is in the header only.
    let properties = match ShortString::try_new(id) {
        Ok(id) => properties.with_correlation_id(id),
        Err(_) => properties,
    };
    let embed = json!({ "callbacks": null, "errbacks": null, "chain": null, "chord": null });
    (
        properties,
        json!([[], { "name": request.bucket }, embed])
            .to_string()
            .into_bytes(),
    )
}

/// The id of the Celery task that the message of a request stands for.
pub(super) fn id_of(request: &RefillRequest) -> String {
    match &request.origin {
        Origin::Schedule { uid, tick, .. } => format!("{uid}@{}", instant(tick)),
        Origin::Foreign { id } => id.clone().unwrap_or_else(|| request.bucket.clone()),
    }
}

/// Reads a message.
pub(super) fn parse(properties: &BasicProperties, body: &[u8]) -> Result<RefillRequest, Rejection> {
    let headers = Headers(properties.headers().as_ref());
    if let Some(reason) = headers.text(UNREADABLE) {
        return Err(Rejection::Unreadable(shortened(&reason)));
    }
    let task = headers.text("task").ok_or(Rejection::NotCelery)?;
    if task != REFILL_TASK {
        return Err(Rejection::OtherTask(shortened(&task)));
    }
    let bucket = bucket_name(properties, body)?;
    let origin = if headers.get(UID).is_some() {
        Origin::Schedule {
            uid: headers.text(UID).ok_or(Rejection::BadHeader(UID))?,
            since: headers.instant(SINCE)?,
            tick: headers.instant(TICK)?,
            ticks: headers
                .get(TICKS)
                .and_then(wire::integer)
                .filter(|&n| n > 0)
                .ok_or(Rejection::BadHeader(TICKS))?,
        }
    } else {
        let property = |property: &Option<ShortString>| property.as_ref().map(ToString::to_string);
        let id = headers.text("id");
        Origin::Foreign {
            id: id
                .or_else(|| property(properties.correlation_id()))
                .or_else(|| property(properties.message_id())),
        }
    };
    Ok(RefillRequest { bucket, origin })
}

/// The id of the Celery task in a message.
pub(super) fn task_id(properties: &BasicProperties) -> Option<String> {
    Headers(properties.headers().as_ref()).text("id")
}

/// The bucket that the arguments of the task name.
fn bucket_name(properties: &BasicProperties, body: &[u8]) -> Result<String, Rejection> {
    #[derive(Deserialize)]
    struct Body(
        Vec<Value>,
        serde_json::Map<String, Value>,
        #[expect(dead_code, reason = "part of the protocol")] Value,
    );

    if let Some(kind) = properties.content_type()
        && kind.as_str() != "application/json"
    {
        return Err(Rejection::UnreadableBody(format!(
            "content type {}",
            shortened(kind.as_str())
        )));
    }
    if Headers(properties.headers().as_ref())
        .get("compression")
        .is_some_and(|value| *value != AMQPValue::Void)
    {
        return Err(Rejection::UnreadableBody("compressed".to_owned()));
    }
    let Body(args, mut kwargs, _) = serde_json::from_slice(body)
        .map_err(|error| Rejection::UnreadableBody(shortened(&error.to_string())))?;
    match args.into_iter().next().or_else(|| kwargs.remove("name")) {
        Some(Value::String(name)) if !name.is_empty() && name.len() <= LONGEST_NAME => Ok(name),
        _ => Err(Rejection::NoBucketName),
    }
}

struct Headers<'a>(Option<&'a FieldTable>);

impl<'a> Headers<'a> {
    fn get(&self, name: &str) -> Option<&'a AMQPValue> {
        self.0.and_then(|headers| headers.inner().get(name))
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            _ => None,
        }
    }

    fn instant(&self, name: &'static str) -> Result<DateTime<Utc>, Rejection> {
        let text = self.text(name).ok_or(Rejection::BadHeader(name))?;
        DateTime::parse_from_rfc3339(&text)
            .map(|instant| instant.to_utc())
            .ok()
            // An offset leads out of the years that can be written.
            .filter(|instant| (0..=9999).contains(&instant.year()))
            .ok_or(Rejection::BadHeader(name))
    }
}

fn instant(instant: &DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Other people's text, for a log line or a header.
fn shortened(text: &str) -> String {
    quoted(text).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use proptest::prelude::*;

    use super::*;

    fn scheduled() -> RefillRequest {
        RefillRequest {
            bucket: "my_api".into(),
            origin: Origin::Schedule {
                uid: "3f0a".into(),
                since: Utc.timestamp_opt(1_790_000_000, 123_456_789).unwrap(),
                tick: Utc.timestamp_opt(1_790_000_060, 0).unwrap(),
                ticks: 3,
            },
        }
    }

    fn celery(headers: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        table.insert("task".into(), AMQPValue::LongString(REFILL_TASK.into()));
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default()
            .with_content_type("application/json".into())
            .with_headers(table)
    }

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    fn foreign(bucket: &str, id: Option<&str>) -> RefillRequest {
        RefillRequest {
            bucket: bucket.into(),
            origin: Origin::Foreign {
                id: id.map(Into::into),
            },
        }
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        for request in [scheduled(), foreign("x", Some("7"))] {
            let (properties, body) = encode(&request);
            assert_eq!(parse(&properties, &body), Ok(request));
        }
    }

    #[test]
    fn a_request_has_the_headers_that_celery_reads() {
        let (properties, body) = encode(&scheduled());
        let headers = Headers(properties.headers().as_ref());
        assert_eq!(headers.text("task").as_deref(), Some(REFILL_TASK));
        assert_eq!(
            headers.text("id").as_deref(),
            Some("3f0a@2026-09-21T14:14:20Z")
        );
        assert_eq!(headers.text("id"), headers.text("root_id"));
        assert_eq!(headers.get("eta"), Some(&AMQPValue::Void));
        assert_eq!(
            headers.text(SINCE).as_deref(),
            Some("2026-09-21T14:13:20.123456789Z")
        );
        assert_eq!(properties.delivery_mode(), &Some(2));
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body[0], json!([]));
        assert_eq!(body[1], json!({ "name": "my_api" }));
        assert!(body[2].is_object());
    }

    #[test]
    fn what_celery_apps_send_is_a_foreign_request() {
        let embed = r#"{"callbacks": null, "errbacks": null, "chain": null, "chord": null}"#;
        for arguments in [
            r#"[], {"name": "b"}"#,
            r#"["b"], {}"#,
            r#"["b", 1], {"more": [2]}"#,
        ] {
            let body = format!("[{arguments}, {embed}]");
            let parsed = parse(&celery(&[("id", text("42"))]), body.as_bytes());
            assert_eq!(parsed, Ok(foreign("b", Some("42"))), "{arguments}");
        }
    }

    #[test]
    fn the_id_is_taken_from_where_it_is() {
        let body = br#"[["b"], {}, {}]"#;
        let id = |properties: BasicProperties| parse(&properties, body).unwrap();
        assert_eq!(id(celery(&[])), foreign("b", None));
        assert_eq!(
            id(celery(&[]).with_message_id("m".into())),
            foreign("b", Some("m"))
        );
        let both = celery(&[])
            .with_message_id("m".into())
            .with_correlation_id("c".into());
        assert_eq!(id(both.clone()), foreign("b", Some("c")));
    }

    #[test]
    fn what_is_no_request_is_rejected_with_the_reason() {
        let good = r#"[["b"], {}, {}]"#;
        let kind = |properties: &BasicProperties, body: &str| {
            parse(properties, body.as_bytes()).unwrap_err().kind()
        };
        assert_eq!(kind(&BasicProperties::default(), good), "NotCelery");
        assert_eq!(
            kind(&celery(&[("task", AMQPValue::LongInt(1))]), good),
            "NotCelery"
        );
        assert_eq!(
            kind(&celery(&[("task", text("other.task"))]), good),
            "OtherTask"
        );
        for body in [
            "",
            "[",
            "{}",
            "[]",
            "[[], {}]",
            r#"[{}, [], {}]"#,
            r#"{"name": "b"}"#,
            "gASV",
            &"[".repeat(9_999),
        ] {
            assert_eq!(kind(&celery(&[]), body), "UnreadableBody", "{body:.20}");
        }
        assert_eq!(
            kind(
                &celery(&[]).with_content_type("application/x-python-serialize".into()),
                good
            ),
            "UnreadableBody"
        );
        assert_eq!(
            kind(
                &celery(&[("compression", text("application/x-gzip"))]),
                good
            ),
            "UnreadableBody"
        );
        for body in [
            "[[], {}, {}]",
            r#"[[1], {}, {}]"#,
            r#"[[], {"name": null}, {}]"#,
            r#"[[""], {}, {}]"#,
        ] {
            assert_eq!(kind(&celery(&[]), body), "NoBucketName", "{body}");
        }
    }

    #[test]
    fn headers_of_ours_are_all_there_and_understood_or_the_request_is_rejected() {
        let at = || text("2026-09-21T14:13:20Z");
        let all = |ticks: AMQPValue| {
            [
                (UID, text("u")),
                (SINCE, at()),
                (TICK, at()),
                (TICKS, ticks),
            ]
        };
        let parse = |headers: &[(&str, AMQPValue)]| parse(&celery(headers), br#"[["b"], {}, {}]"#);
        assert!(parse(&all(AMQPValue::ShortShortUInt(1))).is_ok());
        for ticks in [
            AMQPValue::LongInt(0),
            AMQPValue::LongLongInt(-1),
            text("1"),
            AMQPValue::Double(1.0),
        ] {
            assert_eq!(parse(&all(ticks)), Err(Rejection::BadHeader(TICKS)));
        }
        let headers = all(AMQPValue::LongInt(1));
        assert_eq!(parse(&headers[..3]), Err(Rejection::BadHeader(TICKS)));
        assert_eq!(parse(&headers[..2]), Err(Rejection::BadHeader(TICK)));
        assert_eq!(parse(&headers[..1]), Err(Rejection::BadHeader(SINCE)));
        let bad = [
            (UID, AMQPValue::Void),
            headers[1].clone(),
            headers[2].clone(),
            headers[3].clone(),
        ];
        assert_eq!(parse(&bad), Err(Rejection::BadHeader(UID)));
        for date in ["yesterday", "9999-12-31T23:59:59-00:01"] {
            let bad = [
                headers[0].clone(),
                (SINCE, text(date)),
                headers[2].clone(),
                headers[3].clone(),
            ];
            assert_eq!(parse(&bad), Err(Rejection::BadHeader(SINCE)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_rejected(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&celery(&[]), &body).is_err());
        }

        #[test]
        fn any_name_and_id_survive(bucket in ".{1,60}", uid in ".{0,300}", ticks in 1..u64::from(u32::MAX)) {
            let Origin::Schedule { since, tick, .. } = scheduled().origin else { unreachable!() };
            let request = RefillRequest { bucket, origin: Origin::Schedule { uid, since, tick, ticks } };
            let (properties, body) = encode(&request);
            prop_assert_eq!(parse(&properties, &body), Ok(request));
        }
    }
}
