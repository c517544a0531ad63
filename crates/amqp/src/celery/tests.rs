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
fn eta_and_expires_are_read_as_celery_reads_them() {
    let read = |time: &str| window(&celery(&[("eta", text(time))]));
    let noon = Utc.with_ymd_and_hms(2026, 11, 24, 12, 0, 0).unwrap();
    for time in [
        "2026-11-24T12:00:00+00:00",
        "2026-11-24T13:00:00.000000+01:00",
        "2026-11-24T12:00:00Z",
        "2026-11-24T12:00:00",
        "2026-11-24T12:00:00.000000",
        "2026-11-24 12:00:00",
    ] {
        assert_eq!(read(time).unwrap().not_before, Some(noon), "{time}");
    }
    for time in ["", "soon", "2026-11-24", "9999-12-31T23:59:59-00:01"] {
        assert_eq!(read(time), Err(Rejection::BadHeader("eta")), "{time}");
    }
    let none = [("eta", AMQPValue::Void), ("expires", AMQPValue::Void)];
    assert_eq!(window(&celery(&none)), Ok(Window::default()));
    let number = [("expires", AMQPValue::LongInt(5))];
    assert_eq!(
        window(&celery(&number)),
        Err(Rejection::BadHeader("expires"))
    );
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
