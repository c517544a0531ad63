//! Field tables as they come from a broker (AMQP 0-9-1, §4.2.5.5, with the types that RabbitMQ has of them). The client
//! library parses what is nested in them by recursion, as deep as the sender likes; here nothing is.

/// Tables and lists within each other. RabbitMQ's own have three.
const MOST_NESTED: usize = 32;
/// Values in one table and all that is nested in it: each takes the client library fifty octets and more, and the sender
/// five.
const MOST_VALUES: usize = 256;

/// What follows the table that `octets` begin with. None: it is cut off, is nested too deeply, has too many values, or has one
/// that is unknown.
pub(super) fn after_table(octets: &[u8]) -> Option<&[u8]> {
    let (mut inner, after) = long(octets)?;
    // In a table each value has a name.
    let mut named = true;
    let mut around: Vec<(&[u8], bool)> = Vec::new();
    let mut values = 0;
    loop {
        if inner.is_empty() {
            match around.pop() {
                Some(outer) => (inner, named) = outer,
                None => return Some(after),
            }
            continue;
        }
        if named {
            (_, inner) = short(inner)?;
        }
        let (kind, value) = inner.split_first()?;
        values += 1;
        if values > MOST_VALUES {
            return None;
        }
        inner = match kind {
            b'F' | b'A' if around.len() < MOST_NESTED => {
                let (nested, rest) = long(value)?;
                around.push((rest, named));
                named = *kind == b'F';
                nested
            }
            b'F' | b'A' => return None,
            _ => after_value(inner)?,
        };
    }
}

/// What follows the value that `octets` begin with, whatever is nested in it.
pub(crate) fn after_value(octets: &[u8]) -> Option<&[u8]> {
    let (kind, value) = octets.split_first()?;
    match kind {
        b'V' => Some(value),
        b't' | b'b' | b'B' => value.get(1..),
        b's' | b'U' | b'u' => value.get(2..),
        b'I' | b'i' | b'f' => value.get(4..),
        b'D' => value.get(5..),
        b'L' | b'l' | b'd' | b'T' => value.get(8..),
        b'S' | b'x' | b'F' | b'A' => Some(long(value)?.1),
        _ => None,
    }
}

/// A part whose length comes first, in one octet; and what follows it.
pub(crate) fn short(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = octets.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// The same with a length of four octets.
pub(crate) fn long(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = octets.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use lapin::types::parsing::parse_field_table;
    use proptest::prelude::*;

    use super::*;

    fn table(content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length, content].concat()
    }

    /// A table with lists within each other.
    fn nested(depth: usize) -> Vec<u8> {
        let mut lists = Vec::new();
        for _ in 0..depth {
            lists = [b"A", &table(&lists)[..]].concat();
        }
        table(&[b"\x01n", &lists[..]].concat())
    }

    #[test]
    fn tables_are_accepted_up_to_a_depth_and_a_number_of_values() {
        assert_eq!(after_table(&nested(MOST_NESTED)), Some(&b""[..]));
        assert_eq!(after_table(&nested(MOST_NESTED + 1)), None);
        assert_eq!(after_table(&nested(20_000)), None);
        let values = |count| table(&[&b"\x01nA"[..], &table(&b"V".repeat(count))].concat());
        assert_eq!(after_table(&values(MOST_VALUES - 1)), Some(&b""[..]));
        assert_eq!(after_table(&values(MOST_VALUES)), None);
    }

    #[test]
    fn what_follows_a_table_is_told() {
        assert_eq!(after_table(b"\0\0\0\0rest"), Some(&b"rest"[..]));
        let value = table(b"\x01aS\0\0\0\x03xyz\x01bt\x01");
        assert_eq!(
            after_table(&[&value[..], b"rest"].concat()),
            Some(&b"rest"[..])
        );
    }

    /// Octets that are likely to be tables.
    fn likely() -> impl Strategy<Value = Vec<u8>> {
        let value = prop_oneof![
            prop::sample::select(&b"tbBsUuIilLfdDSxTVz"[..])
                .prop_flat_map(|kind| prop::collection::vec(any::<u8>(), 0..10)
                    .prop_map(move |rest| [&[kind], &rest[..]].concat())),
            Just(b"S\0\0\0\x02ab".to_vec()),
            Just(b"I\0\0\0\x02".to_vec()),
        ];
        let value = value.prop_recursive(6, 40, 4, |inner| {
            prop::collection::vec(inner, 0..4).prop_flat_map(|parts| {
                let list = [b"A", &table(&parts.concat())[..]].concat();
                let named = parts.iter().map(|part| [b"\x01k", &part[..]].concat());
                let fields = [b"F", &table(&named.collect::<Vec<_>>().concat())[..]].concat();
                prop::sample::select(vec![list, fields])
            })
        });
        prop::collection::vec(value, 0..4).prop_map(|values| {
            let named = values.iter().map(|value| [b"\x01k", &value[..]].concat());
            table(&named.collect::<Vec<_>>().concat())
        })
    }

    proptest! {
        #[test]
        fn what_the_client_library_takes_is_accepted_and_ends_where_it_says(octets in likely()) {
            if let Ok((rest, _)) = parse_field_table(&octets[..]) {
                prop_assert_eq!(after_table(&octets), Some(rest));
            }
        }

        #[test]
        fn nothing_overflows_or_panics(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            after_table(&octets);
        }
    }
}
