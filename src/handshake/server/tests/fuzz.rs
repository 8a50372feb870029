//! Fuzz target: the head of a request.

use tungstenite::handshake::derive_accept_key;

use super::*;

/// The first two bytes choose the limits and the places of the cuts; the rest is the head.
pub(crate) fn target(data: &[u8]) {
    let [bytes, headers, head @ ..] = data else { return };
    let limits =
        HeadLimits { max_bytes: 40 + 16 * usize::from(*bytes), max_headers: 1 + usize::from(headers % 32) };
    let mut cuts = Rng::new(u64::from(*bytes) << 8 | u64::from(*headers));
    let Outcome::Accepted(response) = one_outcome(head, limits, &mut cuts) else { return };
    // An independent parse of an accepted head finds all that RFC 6455 §4.2.1 requires.
    assert!(head.len() <= limits.max_bytes);
    let mut slots = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut slots);
    assert_eq!(request.parse(head), Ok(httparse::Status::Complete(head.len())));
    assert_eq!((request.method, request.version), (Some("GET"), Some(1)));
    assert!(request.headers.len() <= limits.max_headers);
    let keys = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("sec-websocket-key"));
    let [key] = keys.map(|field| field.value).collect::<Vec<_>>()[..] else { panic!("not one key") };
    let accept = format!("\r\nsec-websocket-accept: {}\r\n", derive_accept_key(key)).to_lowercase();
    assert!(response.starts_with(SWITCHING) && response.ends_with("\r\n\r\n"));
    assert!(response.to_lowercase().contains(&accept), "{response}");
}
