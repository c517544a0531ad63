//! Refill requests as messages: Celery protocol 2, so that a worker of the Python library could run them too, with
//! headers of ours that say which tick they are for.

use chrono::{DateTime, Datelike, NaiveDateTime, SecondsFormat, Utc};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::quoted;
use super::wire;
use bucket::{Origin, PROGRAM, REFILL_TASK, RefillRequest, Rejection, Window};

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

/// When the task in a message may be run.
pub(super) fn window(properties: &BasicProperties) -> Result<Window, Rejection> {
    let headers = Headers(properties.headers().as_ref());
    let time = |name| match headers.get(name) {
        None | Some(AMQPValue::Void) => Ok(None),
        Some(_) => {
            let text = headers.text(name).ok_or(Rejection::BadHeader(name))?;
            let time = iso8601(&text).filter(is_written);
            time.map(Some).ok_or(Rejection::BadHeader(name))
        }
    };
    Ok(Window {
        not_before: time("eta")?,
        expires: time("expires")?,
    })
}

/// As Celery writes and reads it: a time without an offset is UTC.
fn iso8601(text: &str) -> Option<DateTime<Utc>> {
    let with_offset = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    let without = || {
        let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
        let mut times = formats
            .iter()
            .filter_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
        times.next().map(|time| time.and_utc())
    };
    with_offset.ok().or_else(without)
}

/// An offset leads out of the years that can be written.
fn is_written(instant: &DateTime<Utc>) -> bool {
    (0..=9999).contains(&instant.year())
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
            .filter(is_written)
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
mod tests;
