use proptest::prelude::*;

use super::*;

fn parts(uri: &str) -> (String, u16, String, String, String, bool) {
    let Endpoint(it) = Endpoint::parse(uri).unwrap();
    (
        it.host.clone(),
        it.port,
        it.vhost.clone(),
        it.username.clone(),
        it.password.clone(),
        it.tls.is_some(),
    )
}

#[test]
fn every_way_to_write_the_default_virtual_host_is_understood() {
    for uri in [
        "amqp://h",
        "amqp://h/",
        "amqp://h//",
        "amqp://h/%2f",
        "amqp://h/%2F",
        "amqp://h?heartbeat=5",
    ] {
        assert_eq!(Endpoint::parse(uri).unwrap().vhost(), "/", "{uri}");
    }
    assert_eq!(Endpoint::parse("amqp://h/shop").unwrap().vhost(), "shop");
    assert_eq!(Endpoint::parse("amqp://h/a%2Fb").unwrap().vhost(), "a/b");
}

#[test]
fn defaults_are_those_of_rabbitmq() {
    assert_eq!(
        parts("amqp://h"),
        (
            "h".into(),
            5672,
            "/".into(),
            "guest".into(),
            "guest".into(),
            false
        )
    );
    assert_eq!(
        parts("amqps://u:p@h/v"),
        ("h".into(), 5671, "v".into(), "u".into(), "p".into(), true)
    );
    assert_eq!(Endpoint::parse("amqp://h").unwrap().0.heartbeat, 10);
    // It is no other place.
    assert_eq!(
        Endpoint::parse("amqp://h?heartbeat=5"),
        Endpoint::parse("amqp://h")
    );
    assert_eq!(
        Endpoint::parse("amqp://h/v?x=1&heartbeat=3")
            .unwrap()
            .0
            .heartbeat,
        3
    );
}

#[test]
fn special_characters_are_unescaped_once() {
    let (.., username, password, _) = parts("amqp://us%40er:p%3A%2F%23%25@h:1/");
    assert_eq!((username.as_str(), password.as_str()), ("us@er", "p:/#%"));
    // These may stand in credentials as they are.
    assert_eq!(parts("amqp://u:p:ss;wo,rd@h:1/").4, "p:ss;wo,rd");
}

#[test]
fn a_trailing_newline_of_a_secret_is_not_part_of_the_virtual_host() {
    assert_eq!(Endpoint::parse("amqp://h/shop\n").unwrap().vhost(), "shop");
}

#[test]
fn an_ipv6_address_is_the_host() {
    assert_eq!(parts("amqp://[::1]:5/v").0, "::1");
    assert_eq!(
        Endpoint::parse("amqp://[::1]").unwrap().to_string(),
        "amqp://guest@[::1]:5672/"
    );
    assert_eq!(Endpoint::parse("amqp://[::1"), Err(EndpointError::Host));
    assert_eq!(Endpoint::parse("amqp://[::1]5"), Err(EndpointError::Port));
}

#[test]
fn what_is_no_uri_is_refused_without_repeating_it() {
    for (uri, error) in [
        ("", EndpointError::Scheme),
        ("s3cret", EndpointError::Scheme),
        ("http://u:s3cret@h", EndpointError::Scheme),
        ("u:s3cret@h:5672", EndpointError::Scheme),
        ("amqp://", EndpointError::Host),
        ("amqp://u:s3cret@", EndpointError::Host),
        ("amqp://u:s3cret@:5672/", EndpointError::Host),
        ("amqp://u:s3c/ret@h:5672/", EndpointError::Unescaped),
        ("amqp://u:1234/s3cret@h:5672/", EndpointError::Unescaped),
        ("amqp://u:1234?s3cret@h:5672/", EndpointError::Unescaped),
        ("amqp://u:s3c@1/ret@h:5672/", EndpointError::Unescaped),
        ("amqp://u:s3c@ret@h:5672/", EndpointError::Unescaped),
        ("amqp://u:2024/s3cret%40h", EndpointError::Unescaped),
        ("amqp://u:s3cret@h_\u{e9}/", EndpointError::Host),
        ("amqp://u:s3cret@[s3c]/", EndpointError::Host),
        ("amqp://u:s3cret@h:0", EndpointError::Port),
        ("amqp://u:s3cret@h:65536", EndpointError::Port),
        ("amqp://u:s3#cret@h", EndpointError::Fragment),
        ("amqp://u:s3cret%4@h", EndpointError::Escape),
        ("amqp://u:s3cret%+4@h", EndpointError::Escape),
        ("amqp://u:s3cret%ff@h", EndpointError::Escape),
        ("amqp://u:s3cret@h/?heartbeat=61", EndpointError::Heartbeat),
        ("amqp://s3cret@h", EndpointError::Password),
        ("amqp://s3cret@h:5672/v", EndpointError::Password),
        (
            "amqp://u:s3cret@h/?heartbeat=soon",
            EndpointError::Heartbeat,
        ),
    ] {
        assert_eq!(Endpoint::parse(uri), Err(error), "{uri}");
        assert!(!error.to_string().contains("s3c"), "{error}");
    }
}

#[test]
fn several_brokers_are_refused_as_such() {
    for uri in [
        "amqp://u:s3cret@a/v;amqp://u:s3cret@b/v",
        "amqp://u:s3cret@a:5672//, amqp://u:s3cret@b:5672//",
        "amqp://u:s3cret@a;PYAMQP://u:s3cret@b",
        "amqp://u:s3cret@a:5672,b:5672/v",
        "amqp://u:s3cret@a,b",
        "amqp://a;b",
    ] {
        assert_eq!(Endpoint::parse(uri), Err(EndpointError::Several), "{uri}");
    }
}

#[test]
fn schemes_are_understood_as_celery_writes_them() {
    for scheme in ["amqp", "AMQP", "pyamqp", "librabbitmq"] {
        let uri = format!("{scheme}://u:p@h/v");
        assert_eq!(Endpoint::parse(&uri), Endpoint::parse("amqp://u:p@h/v"));
    }
    assert!(Endpoint::parse("AMQPS://u:p@h/v").unwrap().is_tls());
}

#[test]
fn a_query_that_asks_for_tls_is_never_plain() {
    for query in [
        "ssl=true",
        "ssl=True",
        "ssl=",
        "ssl",
        "x=1&ssl=1",
        "ssl_cert_reqs=none",
        "tls=yes",
    ] {
        let uri = |scheme| format!("{scheme}://u:s3cret@h/v?{query}");
        assert_eq!(
            Endpoint::parse(&uri("amqp")),
            Err(EndpointError::Tls),
            "{query}"
        );
        assert_eq!(
            Endpoint::parse(&uri("amqps")),
            Endpoint::parse("amqps://u:s3cret@h/v")
        );
    }
    for query in ["ssl=false", "ssl=0", "heartbeat=5"] {
        assert!(
            Endpoint::parse(&format!("amqp://h?{query}")).is_ok(),
            "{query}"
        );
    }
}

#[test]
fn neither_debug_nor_display_shows_the_password() {
    let endpoint = Endpoint::from_parts("h", 5672, "", "user", "s3cret", true);
    assert_eq!(endpoint.to_string(), "amqps://user@h:5672/");
    assert!(!format!("{endpoint:?}").contains("s3cret"));
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "(amqps?://)?.{0,60}") {
        let _ = Endpoint::parse(&text);
    }

    #[test]
    fn no_piece_of_a_password_is_shown(
        password in "[αβγδ0-9@:/?#;,%\\[\\]]{3,20}",
        escapes in any::<bool>(),
        after in prop::sample::select(vec!["@host", "@host/vhost", "@[::]/", "/@host", "?@host", "@", "%40host", "@host/;amqp://u:p@host"]),
    ) {
        let escaped = password.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let written = if escapes { &escaped } else { &password };
        let shown = match Endpoint::parse(&format!("amqp://user:{written}{after}")) {
            Ok(endpoint) => format!("{endpoint} {endpoint:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        let characters: Vec<char> = password.chars().collect();
        // Port numbers and the texts of messages have digits too.
        for three in characters.windows(3).filter(|three| three.iter().any(|it| "αβγδ".contains(*it))) {
            let three: String = three.iter().collect();
            prop_assert!(!shown.contains(&three), "{}", shown);
        }
    }

    #[test]
    fn escaped_credentials_come_back(username in ".{1,20}", password in ".{0,20}") {
        let escape = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let uri = format!("amqp://{}:{}@h", escape(&username), escape(&password));
        let endpoint = Endpoint::parse(&uri).unwrap();
        prop_assert_eq!((&*endpoint.0.username, &*endpoint.0.password), (&*username, &*password));
    }
}
