use std::process::Command;

use super::*;

fn of(pairs: &[(&str, &str)]) -> Result<Endpoint, SecretError> {
    endpoint(
        &pairs
            .iter()
            .map(|(key, value)| ((*key).into(), value.as_bytes().into()))
            .collect(),
    )
}

#[test]
fn the_secret_of_the_cluster_operator_is_read_by_its_separate_keys() {
    let endpoint = of(&[
        ("connection_string", "amqp://u:p@ss/word@rabbit:5672/"),
        ("host", "rabbit"),
        ("port", "5672"),
        ("username", "u"),
        ("password", "p@ss/word"),
        ("provider", "rabbitmq"),
        ("type", "rabbitmq"),
    ]);
    assert_eq!(
        endpoint,
        Ok(Endpoint::from_parts(
            "rabbit",
            5672,
            "/",
            "u",
            "p@ss/word",
            false
        ))
    );
}

#[test]
fn the_port_of_amqps_means_tls() {
    let endpoint = of(&[
        ("host", "h"),
        ("port", "5671"),
        ("username", "u"),
        ("password", "p"),
        ("vhost", "v"),
    ]);
    assert_eq!(
        endpoint,
        Ok(Endpoint::from_parts("h", 5671, "v", "u", "p", true))
    );
}

#[test]
fn a_uri_is_enough_and_may_end_with_a_newline() {
    assert_eq!(
        of(&[("uri", "amqp://u:p@h/v\n")]),
        Ok(Endpoint::from_parts("h", 5672, "v", "u", "p", false))
    );
}

#[test]
fn the_uri_of_the_management_interface_is_refused_without_repeating_it() {
    let problem = of(&[
        ("uri", "http://h:15672"),
        ("username", "u"),
        ("password", "hush"),
    ])
    .unwrap_err();
    let text = problem.to_string();
    assert!(
        text.contains("amqp://") && !text.contains("hush") && !text.contains("15672"),
        "{text}"
    );
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(of(&[]), Err(SecretError::Missing("host or uri")));
    assert_eq!(
        of(&[("host", "h"), ("password", "p")]),
        Err(SecretError::Missing("username"))
    );
    assert_eq!(
        of(&[("host", "h"), ("username", "u")]),
        Err(SecretError::Missing("password"))
    );
    assert_eq!(of(&[("host", "h"), ("port", "0")]), Err(SecretError::Port));
}

const PARTS: [(&str, &str); 3] = [("host", "h"), ("username", "u"), ("password", "p")];

fn with(more: &[(&str, &str)]) -> Result<Endpoint, SecretError> {
    of(&[PARTS.as_slice(), more].concat())
}

#[test]
fn the_virtual_host_has_the_keys_of_other_operators() {
    for key in VHOST_KEYS {
        let expected = Endpoint::from_parts("h", 5672, "v", "u", "p", false);
        assert_eq!(with(&[(key, "v")]), Ok(expected), "{key}");
    }
    assert_eq!(
        with(&[("vhost", "v"), ("virtual-host", "w")]),
        Err(SecretError::Contradiction("vhost", "virtual-host"))
    );
}

#[test]
fn tls_is_asked_for_at_any_port() {
    let at = |port, tls| Ok(Endpoint::from_parts("h", port, "", "u", "p", tls));
    assert_eq!(with(&[("tls", "true"), ("port", "5673")]), at(5673, true));
    assert_eq!(with(&[("ssl", "True")]), at(5671, true));
    assert_eq!(with(&[("tls", "false"), ("port", "5671")]), at(5671, false));
    assert_eq!(with(&[("tls", "yes")]), Err(SecretError::NotBoolean("tls")));
}

#[test]
fn keys_that_contradict_the_uri_are_refused() {
    let uri = |uri| ("uri", uri);
    assert_eq!(
        of(&[uri("amqp://u:p@h"), ("virtual_host", "v")]),
        Err(SecretError::Contradiction("virtual_host", "uri"))
    );
    assert_eq!(
        of(&[uri("amqp://u:p@h"), ("ssl", "true")]),
        Err(SecretError::Contradiction("ssl", "uri"))
    );
    assert_eq!(
        with(&[uri("amqp://u:p@h/w"), ("vhost", "v")]),
        Err(SecretError::Contradiction("vhost", "uri"))
    );
    assert_eq!(
        with(&[uri("amqp://u:p@h/w")]),
        Err(SecretError::NoVhost("uri"))
    );
    assert!(with(&[uri("amqp://u:p@h/v"), ("vhost", "v")]).is_ok());
    assert!(with(&[uri("http://h:15672")]).is_ok());
}

#[test]
fn a_host_that_is_more_than_one_is_refused_without_repeating_it() {
    for host in [
        "amqps://h:5671",
        "h:5672",
        "u:hush@h",
        "h/v",
        "a,b",
        "[hush]",
        " h",
    ] {
        let problem = of(&[("host", host), ("username", "u"), ("password", "p")]);
        assert_eq!(problem, Err(SecretError::Host), "{host}");
    }
    let there = of(&[("host", "[::1]"), ("username", "u"), ("password", "p")]).unwrap();
    assert_eq!(there.host(), "::1");
}

#[test]
fn no_key_beside_the_uri_is_ignored() {
    let uri = ("uri", "amqp://u:p@h:5673/v");
    let said = Ok(Endpoint::from_parts("h", 5673, "v", "u", "p", false));
    for (key, same, other) in [
        ("host", "H", "g"),
        ("addresses", "h:5673", "h:5672"),
        ("port", "5673", "5672"),
        ("vhost", "v", "w"),
        ("tls", "false", "true"),
        ("username", "u", "w"),
        ("password", "p", "hush"),
    ] {
        let vhost = ("vhost", "v");
        assert_eq!(of(&[uri, vhost, (key, same)]), said, "{key}");
        let problem = of(&[uri, vhost, (key, other)]);
        assert_eq!(
            problem,
            Err(SecretError::Contradiction(key, "uri")),
            "{key}"
        );
    }
}

#[test]
fn what_a_uri_leaves_out_comes_from_the_other_keys() {
    let endpoint = of(&[
        ("uri", "amqps://h/v"),
        ("port", "5673"),
        ("username", "u"),
        ("password", "p@/"),
    ]);
    let expected = Endpoint::from_parts("h", 5673, "v", "u", "p@/", true);
    assert_eq!(endpoint, Ok(expected));
    assert_eq!(
        of(&[("uri", "amqp://h"), ("username", "u")]),
        Err(SecretError::Missing("password"))
    );
    assert_eq!(
        of(&[("uri", "amqp://h")]),
        Ok(Endpoint::parse("amqp://h").unwrap())
    );
}

#[test]
fn one_address_is_understood_and_several_are_refused() {
    let account = [("username", "u"), ("password", "p")];
    let at = |addresses| of(&[account.as_slice(), &[("addresses", addresses)]].concat());
    let there = |host, port, tls| Ok(Endpoint::from_parts(host, port, "", "u", "p", tls));
    assert_eq!(at("h:5673"), there("h", 5673, false));
    assert_eq!(at("h"), there("h", 5672, false));
    assert_eq!(at("[::1]:5671\n"), there("::1", 5671, true));
    assert_eq!(at("a:5672,b:5672"), Err(SecretError::Several));
    for addresses in ["amqp://u:hush@h", "u:hush@h:5672", "h:0", "h/v"] {
        assert_eq!(at(addresses), Err(SecretError::Addresses), "{addresses}");
    }
    assert_eq!(
        with(&[("addresses", "g:5672")]),
        Err(SecretError::Contradiction("host", "addresses"))
    );
}

#[test]
fn credentials_that_may_not_be_escaped_are_not_compared() {
    let parts = [("host", "h"), ("username", "u"), ("password", "p%41")];
    let string = ("connection_string", "amqp://u:p%41@h:5672/");
    let expected = Ok(Endpoint::from_parts("h", 5672, "/", "u", "p%41", false));
    assert_eq!(of(&[parts.as_slice(), &[string]].concat()), expected);
    let elsewhere = ("connection_string", "amqp://u:p%41@g:5672/");
    assert_eq!(
        of(&[parts.as_slice(), &[elsewhere]].concat()),
        Err(SecretError::Contradiction("host", "connection_string"))
    );
}

/// A new key and a certificate that it has signed itself, in one text of PEM.
fn pair() -> String {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a -days 2 -keyout - -out -";
    let output = Command::new("openssl").args(arguments.split(' ')).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

const BY_TLS: [(&str, &str); 4] = [
    ("host", "h"),
    ("username", "u"),
    ("password", "p"),
    ("tls", "true"),
];

fn by_tls(more: &[(&str, &str)]) -> Result<Endpoint, SecretError> {
    of(&[BY_TLS.as_slice(), more].concat())
}

fn client(pem: &str) -> [(&str, &str); 2] {
    [("tls.crt", pem), ("tls.key", pem)]
}

#[test]
fn each_authority_and_each_client_certificate_is_a_connection_of_its_own() {
    let (one, other) = (pair(), pair());
    let endpoints = [
        by_tls(&[]),
        by_tls(&[("ca.crt", &one)]),
        by_tls(&[("ca.crt", &other)]),
        by_tls(&client(&one)),
        by_tls(&client(&other)),
        by_tls(&[client(&one).as_slice(), &[("ca.crt", &other)]].concat()),
    ];
    for (number, endpoint) in endpoints.iter().enumerate() {
        assert!(endpoint.as_ref().is_ok_and(Endpoint::is_tls), "{number}");
        let equal = endpoints.iter().filter(|other| *other == endpoint).count();
        assert_eq!(equal, 1, "{number}");
    }
    assert_eq!(by_tls(&[("ca.crt", &one)]), endpoints[1]);
    assert_eq!(by_tls(&[("ca.crt", "\n")]), endpoints[0]);
}

#[test]
fn certificates_that_cannot_be_used_are_refused_without_repeating_them() {
    let (one, other) = (pair(), pair());
    let cut = one.replace("-----END CERT", "hush");
    let encrypted = one.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE");
    let encrypted = encrypted.replace("END PRIVATE", "END ENCRYPTED PRIVATE");
    for (keys, problem) in [
        (vec![("ca.crt", "hush")], SecretError::Certificate("ca.crt")),
        (vec![("ca.crt", &*cut)], SecretError::Certificate("ca.crt")),
        (
            vec![("tls.crt", "hush"), ("tls.key", &*one)],
            SecretError::Certificate("tls.crt"),
        ),
        (
            vec![("tls.crt", &*one), ("tls.key", "hush")],
            SecretError::PrivateKey("tls.key"),
        ),
        (
            vec![("tls.crt", &*one), ("tls.key", &*encrypted)],
            SecretError::PrivateKey("tls.key"),
        ),
        (
            vec![("tls.crt", &*one), ("tls.key", &*other)],
            SecretError::Pair("tls.crt", "tls.key"),
        ),
        (
            vec![("tls.crt", &*one)],
            SecretError::Half("tls.crt", "tls.key"),
        ),
        (
            vec![("tls.key", &*one)],
            SecretError::Half("tls.key", "tls.crt"),
        ),
    ] {
        let said = by_tls(&keys).unwrap_err();
        assert_eq!(said, problem);
        assert!(!format!("{said} {said:?}").contains("hush"), "{said}");
    }
}

#[test]
fn certificates_without_tls_are_refused() {
    let pem = pair();
    assert_eq!(with(&[("ca.crt", &pem)]), Err(SecretError::NoTls("ca.crt")));
    assert_eq!(
        of(&[
            ("uri", "amqp://u:p@h"),
            ("tls.crt", &pem),
            ("tls.key", &pem)
        ]),
        Err(SecretError::NoTls("tls.crt"))
    );
}
