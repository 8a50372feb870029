//! Digests of what a replay must reproduce, over bytes that this module lays down.
//!
//! Nothing here depends on the `Debug` or `Display` text of a type, or on the width of `usize`:
//! a renamed field and another machine give the same digest. The matches are exhaustive, so a new
//! variant does not compile before it has a number. Numbers are never used again.

use http::Version;

use super::codec::{Decode, Encode, codec_fieldless};
use crate::{
    error::{ConnectError, ConnectStep, HeaderError, ProtocolError, Refusal},
    event::{
        Event,
        close_reason::{CloseReason, TimeoutKind},
        pressure::Pressure,
        tick::Tick,
    },
    http1::request::Request,
    id::ClientId,
    message::Message,
    util::fnv::Fnv,
};

codec_fieldless!(Pressure { 0 Low, 1 Refusing, 2 NotReading });
codec_fieldless!(TimeoutKind { 0 Silence, 1 Write, 2 Close, 3 Lifetime });
codec_fieldless!(ConnectStep { 0 Resolve, 1 Connect, 2 Handshake });

/// The digest of a tick: its events with all that they hold, and when the next poll is due.
pub(crate) fn digest_of_tick(tick: &Tick) -> u32 {
    let (mut digest, mut bytes) = (Fnv::new(), Vec::new());
    tick.more().put(&mut bytes);
    tick.next_timeout().put(&mut bytes);
    digest.add(&bytes);
    for event in tick {
        bytes.clear();
        put_event(event, &mut bytes);
        digest.add(&bytes);
        // The payload of a message may be long, so it is not copied first.
        if let Event::Message { message, .. } = event {
            digest.add(message.as_bytes());
        }
    }
    digest.folded()
}

/// The digest of the first `len` bytes of a vectored write.
pub(crate) fn digest_of_written(parts: &[&[u8]], mut len: usize) -> u32 {
    let mut digest = Fnv::new();
    for part in parts {
        let (taken, _) = part.split_at(part.len().min(len));
        digest.add(taken);
        len -= taken.len();
    }
    digest.folded()
}

/// Encodes an event. A message is encoded without its payload, which ends it.
fn put_event(event: Event<'_>, out: &mut Vec<u8>) {
    match event {
        Event::Open { client, request } => {
            out.push(0);
            client.put(out);
            put_request(request, out);
        }
        Event::ConnectFailed { client, link, error } => {
            out.push(1);
            client.put(out);
            link.serial().put(out);
            put_connect_error(error, out);
        }
        Event::Reconnecting { client, link, attempt, delay, error } => {
            out.push(2);
            client.put(out);
            link.serial().put(out);
            attempt.put(out);
            delay.put(out);
            error.is_some().put(out);
            error.iter().for_each(|error| put_connect_error(error, out));
        }
        Event::Message { client, message } => put_message_head(client, message, out),
        Event::Close { client, reason } => {
            out.push(4);
            client.put(out);
            put_close_reason(reason, out);
        }
        Event::Drained { client } => {
            out.push(5);
            client.put(out);
        }
        Event::Pressure { pressure } => {
            out.push(6);
            pressure.put(out);
        }
        Event::Upgrade { upgrade, request } => {
            out.push(7);
            upgrade.put(out);
            put_request(request, out);
        }
        Event::UpgradeGone { upgrade } => {
            out.push(8);
            upgrade.put(out);
        }
        Event::Http { exchange, request } => {
            out.push(9);
            exchange.put(out);
            put_request(request, out);
        }
        Event::Timer { timer, missed } => {
            out.push(10);
            timer.put(out);
            missed.put(out);
        }
    }
}

fn put_message_head(client: ClientId, message: Message<'_>, out: &mut Vec<u8>) {
    out.push(3);
    client.put(out);
    message.kind().put(out);
    message.len().put(out);
}

fn put_request(request: Request<'_>, out: &mut Vec<u8>) {
    let uri = request.uri();
    request.method().as_str().put(out);
    uri.scheme_str().put(out);
    uri.authority().map(|authority| authority.as_str()).put(out);
    uri.path_and_query().map(|path| path.as_str()).put(out);
    out.push(match request.head().version() {
        Version::HTTP_09 => 9,
        Version::HTTP_10 => 10,
        Version::HTTP_11 => 11,
        Version::HTTP_2 => 20,
        Version::HTTP_3 => 30,
        _ => 0,
    });
    request.headers().put(out);
    request.body().put(out);
    (request.remote_addr(), request.peer_addr()).put(out);
    request.is_secure().put(out);
}

fn put_close_reason(reason: &CloseReason, out: &mut Vec<u8>) {
    match reason {
        CloseReason::Peer { code, text } => {
            out.push(0);
            u16::from(*code).put(out);
            text.put(out);
        }
        CloseReason::Local { code, text } => {
            out.push(1);
            u16::from(*code).put(out);
            text.put(out);
        }
        CloseReason::Disconnected => out.push(2),
        CloseReason::Shutdown => out.push(3),
        CloseReason::Timeout(timeout) => {
            out.push(4);
            timeout.put(out);
        }
        CloseReason::Overflow => out.push(5),
        CloseReason::Shed => out.push(6),
        CloseReason::RateLimited => out.push(7),
        CloseReason::Protocol(violation) => {
            out.push(8);
            put_violation(*violation, out);
        }
        CloseReason::Eof => out.push(9),
        CloseReason::Truncated => out.push(11),
        CloseReason::Io(kind) => {
            out.push(10);
            kind.put(out);
        }
    }
}

fn put_violation(violation: ProtocolError, out: &mut Vec<u8>) {
    match violation {
        ProtocolError::UnmaskedFrame => out.push(0),
        ProtocolError::MaskedFrame => out.push(1),
        ProtocolError::ReservedBits => out.push(2),
        ProtocolError::ReservedOpcode(opcode) => {
            out.push(3);
            out.push(opcode);
        }
        ProtocolError::FragmentedControl => out.push(4),
        ProtocolError::ControlTooLong => out.push(5),
        ProtocolError::LengthNotMinimal => out.push(6),
        ProtocolError::LengthOverflow => out.push(7),
        ProtocolError::UnexpectedContinuation => out.push(8),
        ProtocolError::ExpectedContinuation => out.push(9),
        ProtocolError::InvalidUtf8 => out.push(10),
        ProtocolError::FrameTooBig { len, max } => {
            out.push(11);
            (len, max).put(out);
        }
        ProtocolError::MessageTooBig { len, max } => {
            out.push(12);
            (len, max).put(out);
        }
        ProtocolError::CorruptDeflate => out.push(13),
        ProtocolError::EmptyFragments => out.push(14),
        ProtocolError::CloseBodyTooShort => out.push(15),
        ProtocolError::InvalidCloseCode(code) => {
            out.push(16);
            code.put(out);
        }
        ProtocolError::InvalidCloseReason => out.push(17),
    }
}

/// Encodes the error without the explanations that this library words itself, which may be
/// worded differently in another version.
fn put_connect_error(error: &ConnectError, out: &mut Vec<u8>) {
    match error {
        ConnectError::Url(_) => out.push(0),
        ConnectError::Tls => out.push(1),
        ConnectError::Header(error) => {
            out.push(2);
            put_header_error(error, out);
        }
        ConnectError::Subprotocol(name) => {
            out.push(3);
            name.put(out);
        }
        ConnectError::NoRandom => out.push(4),
        ConnectError::Poller(kind) => {
            out.push(5);
            kind.put(out);
        }
        ConnectError::ShuttingDown => out.push(6),
        ConnectError::Resolve { host, error } => {
            out.push(7);
            host.put(out);
            error.put(out);
        }
        ConnectError::ResolverBusy => out.push(8),
        ConnectError::Io { addr, error } => {
            out.push(9);
            addr.put(out);
            error.put(out);
        }
        ConnectError::Timeout(step) => {
            out.push(10);
            step.put(out);
        }
        ConnectError::HungUp => out.push(11),
        ConnectError::Redirect { status, location } => {
            out.push(12);
            status.as_u16().put(out);
            location.put(out);
        }
        ConnectError::Refused(refusal) => {
            out.push(13);
            let Refusal { status, headers, body } = &**refusal;
            status.as_u16().put(out);
            headers.put(out);
            body.put(out);
        }
        ConnectError::BadResponse(_) => out.push(14),
        // The words are those of rustls.
        ConnectError::TlsHandshake(_) => out.push(20),
        ConnectError::GaveUp => out.push(15),
        ConnectError::Cancelled => out.push(16),
        ConnectError::Overloaded => out.push(17),
    }
}

fn put_header_error(error: &HeaderError, out: &mut Vec<u8>) {
    match error {
        HeaderError::Invalid(name) => {
            out.push(0);
            name.put(out);
        }
        HeaderError::Reserved(name) => {
            out.push(1);
            name.as_str().put(out);
        }
        HeaderError::NotOffered(name) => {
            out.push(2);
            name.put(out);
        }
        HeaderError::TooMany(max) => {
            out.push(3);
            max.put(out);
        }
        HeaderError::SecondSubprotocol => out.push(4),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::Serial;
    use crate::id::{LinkId, TimerId};
    use crate::peer_addr::Endpoint;

    fn bytes(event: Event<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_event(event, &mut bytes);
        bytes
    }

    /// Holds the encoding to bytes written down by hand: if this fails, the format needs a new
    /// version.
    #[test]
    fn events_have_the_bytes_of_this_format_version() {
        let client = ClientId::new(3, Serial::new(300));
        let message = Message::Text("né");
        assert_eq!(bytes(Event::Message { client, message }), [3, 3, 0xac, 2, 1, 3]);
        let message = Message::Binary(&[1; 200]);
        assert_eq!(bytes(Event::Message { client, message }), [3, 3, 0xac, 2, 0, 0xc8, 1]);
        let reason = &CloseReason::Peer { code: 1000.into(), text: "bye".into() };
        assert_eq!(bytes(Event::Close { client, reason }), *b"\x04\x03\xac\x02\x00\xe8\x07\x03bye");
        let reason = &CloseReason::Protocol(ProtocolError::FrameTooBig { len: 5, max: 4 });
        assert_eq!(bytes(Event::Close { client, reason }), [4, 3, 0xac, 2, 8, 11, 5, 4]);
        assert_eq!(bytes(Event::Pressure { pressure: Pressure::NotReading }), [6, 2]);
        assert_eq!(bytes(Event::Timer { timer: TimerId::new(1, Serial::new(2)), missed: 3 }), [10, 1, 2, 3]);
        let (link, attempt, delay) = (LinkId::new(Serial::new(9)), 2, Duration::new(1, 5));
        let error = Some(&ConnectError::Timeout(ConnectStep::Handshake));
        let event = Event::Reconnecting { client, link, attempt, delay, error };
        assert_eq!(bytes(event), [2, 3, 0xac, 2, 9, 2, 1, 5, 1, 10, 2]);
        let head = http::Request::get("/a?b").header("Host", "c").body(()).unwrap();
        let addr = |last| std::net::SocketAddr::from(([1, 2, 3, last], 5)).into();
        let endpoint = Endpoint { remote: addr(4), peer: addr(9), secure: true };
        let request = Request::new(&head, b"x", endpoint);
        let expected =
            b"\x00\x03\xac\x02\x03GET\x00\x00\x01\x04/a?b\x0b\x01\x04host\x01c\x01x\x04\x01\x02\x03\x04\x05\x00\x04\x01\x02\x03\x09\x05\x00\x01";
        assert_eq!(bytes(Event::Open { client, request }), *expected);
    }

    /// The library may word its own explanations differently without making recordings useless.
    #[test]
    fn own_explanations_are_not_part_of_the_digest() {
        let client = ClientId::new(0, Serial::new(1));
        let link = LinkId::new(Serial::new(1));
        let failed = |error: &ConnectError| bytes(Event::ConnectFailed { client, link, error });
        let [one, other] = ["one", "other"].map(|text| failed(&ConnectError::BadResponse(text)));
        assert_eq!(one, other);
        let subprotocol = |name: &str| failed(&ConnectError::Subprotocol(name.to_owned()));
        assert_ne!(subprotocol("one"), subprotocol("other"));
    }

    #[test]
    fn digest_of_a_write_covers_the_accepted_bytes() {
        let parts = [&b"foo"[..], b"bar"];
        assert_eq!(digest_of_written(&parts, 4), digest_of_written(&[b"foob"], 4));
        assert_ne!(digest_of_written(&parts, 4), digest_of_written(&parts, 5));
        assert_eq!(digest_of_written(&parts, 0), digest_of_written(&[], 0));
    }
}
