use amqp::BrokerError;

use super::*;

const SECRET: Whose<'static> = Whose {
    secret: Some("rabbit-user"),
    vhost: None,
};
const WHOSE: [Whose<'static>; 2] = [Whose::OPERATOR, SECRET];

/// Every error of a broker, with what must not be told in each place where it could be.
fn errors() -> Vec<BrokerError> {
    let odd = || "amqp://odd-user@odd-host:5999/odd-vhost odd words".to_owned();
    let queue = || "token_bucket_api".to_owned();
    vec![
        BrokerError::Unreachable {
            endpoint: odd(),
            reason: odd(),
        },
        BrokerError::CertificateRefused {
            endpoint: odd(),
            reason: odd(),
        },
        BrokerError::ClientCertificateRefused {
            endpoint: odd(),
            reason: odd(),
        },
        BrokerError::AuthenticationRefused { endpoint: odd() },
        BrokerError::VhostRefused {
            vhost: odd(),
            message: odd(),
        },
        BrokerError::AccessRefused {
            what: format!("declare a queue (configure access to queue '{}')", odd()),
        },
        BrokerError::InUse { queue: queue() },
        BrokerError::NoQueue { queue: odd() },
        BrokerError::OtherArguments {
            queue: queue(),
            message: format!("inequivalent arg 'x-max-length' {}", odd()),
        },
        BrokerError::UnsupportedVersion {
            broker: odd(),
            instead: "use classic",
        },
        BrokerError::Limit { message: odd() },
        BrokerError::PartlyRefused,
        BrokerError::MessageRefused { queue: queue() },
        BrokerError::Blocked,
        BrokerError::Timeout {
            doing: "count a queue",
        },
        BrokerError::ConnectionLost { reason: odd() },
        BrokerError::WornOut,
        BrokerError::ChannelClosed { reason: odd() },
        BrokerError::Protocol { message: odd() },
        BrokerError::Locked { queue: queue() },
        BrokerError::QueueUnavailable {
            queue: queue(),
            message: odd(),
        },
        BrokerError::Internal { message: odd() },
    ]
}

fn told(error: &BrokerError, whose: Whose<'_>) -> String {
    text(error.kind(), &error.to_string(), whose)
}

#[test]
fn no_error_tells_where_a_broker_is_or_what_it_said() {
    for error in errors() {
        // Its version is no secret of the operator's broker.
        let is_version = matches!(error, BrokerError::UnsupportedVersion { .. });
        for whose in WHOSE {
            let text = told(&error, whose);
            let own_version = is_version && whose == Whose::OPERATOR;
            assert!(own_version || !text.contains("odd"), "{whose:?}: {text}");
        }
    }
}

#[test]
fn whatever_is_wrong_with_an_address_is_told_in_the_same_words() {
    let unreachable = |reason: &str| BrokerError::Unreachable {
        endpoint: "amqp://h".into(),
        reason: reason.into(),
    };
    let lost = BrokerError::ConnectionLost {
        reason: "reset".into(),
    };
    for whose in WHOSE {
        let text = told(&unreachable("Connection refused (os error 111)"), whose);
        for reason in ["no answer within 10 s", "failed to lookup", "not AMQP"] {
            assert_eq!(told(&unreachable(reason), whose), text);
        }
        assert_eq!(told(&lost, whose), text);
    }
}

#[test]
fn people_are_told_what_to_do_and_where() {
    let of = |error: &BrokerError| told(error, SECRET);
    let errors = errors();
    for (error, words) in [
        (
            &errors[3],
            &["Secret rabbit-user", "user name or password"][..],
        ),
        (&errors[5], &["configure permission", "amq.default"]),
        (&errors[6], &["token_bucket_api", "in use"]),
        (&errors[8], &["queue token_bucket_api", "(x-max-length)"]),
        (&errors[9], &["RabbitMQ 3.13", "or use classic"]),
    ] {
        let text = of(error);
        for word in words {
            assert!(text.contains(word), "{text}");
        }
    }
    let whose = Whose {
        vhost: Some("shop"),
        ..SECRET
    };
    let vhost = told(&errors[4], whose);
    assert!(vhost.contains("virtual host shop"), "{vhost}");
    let own = told(&errors[0], Whose::OPERATOR);
    assert!(own.contains("--amqp-url"), "{own}");
}
