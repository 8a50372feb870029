//! Rate limits over real sockets: a flooder is closed, or slowed down by TCP, and other clients are
//! not affected.

mod support;

use support::{Harness, Seen, raw};
use tickws::{ClientId, CloseReason, RateLimitPolicy, Server};

/// A binary message whose first 4 bytes are its number.
fn numbered(number: u32, len: usize) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(len, number as u8);
    raw::binary(&body)
}

/// The numbers of the messages received from `client`.
fn numbers(h: &Harness, client: ClientId) -> Vec<u32> {
    let number = |seen: &Seen| match seen {
        Seen::Binary(id, bytes) if *id == client => Some(u32::from_be_bytes(bytes[..4].try_into().unwrap())),
        _ => None,
    };
    h.seen.iter().filter_map(number).collect()
}

#[test]
fn a_flooder_is_closed_with_1008_and_others_are_served() {
    let limits = [
        (Server::builder().max_messages_per_second(10), "too many messages per second"),
        (Server::builder().max_bytes_per_second(1_000), "too many bytes per second"),
    ];
    for (builder, text) in limits {
        let mut h = Harness::with(builder);
        let (mut flooder, flooder_id) = h.connect();
        let (mut neighbour, neighbour_id) = h.connect();
        // More than a thousand seconds' worth of the limit.
        let flood: Vec<u8> = (0..12_000).flat_map(|number| numbered(number, 94)).collect();
        let mut at = 0;
        for round in 0..5 {
            at += flooder.write_some(&flood[at..]).unwrap_or(0);
            h.write(&mut neighbour, &raw::text("hello"));
            h.until("the neighbour's message", |h| h.texts(neighbour_id).len() == round + 1);
            h.server.send(neighbour_id, "hello yourself").unwrap();
            assert_eq!(h.frame(&mut neighbour), raw::Frame::new(raw::TEXT, "hello yourself"));
        }
        assert_eq!(h.close_reason(flooder_id), CloseReason::RateLimited);
        assert_eq!(h.frame(&mut flooder), raw::Frame::close(1008, text));
        let received = numbers(&h, flooder_id);
        assert!(
            received.len() >= 10 && received.iter().copied().eq(0..received.len() as u32),
            "{received:?}"
        );
        let stats = h.server.stats();
        assert_eq!((stats.closed.rate_limited, stats.throttled, stats.open), (1, 0, 1), "{stats}");
    }
}

#[test]
fn a_paused_flooder_is_held_back_and_loses_nothing() {
    const LEN: usize = 1_000;
    // Both limits amount to about 4 MB a second.
    let limits =
        [Server::builder().max_messages_per_second(4_000), Server::builder().max_bytes_per_second(4_000_000)];
    for builder in limits {
        let mut h = Harness::with(builder.rate_limit(RateLimitPolicy::Pause));
        let (mut flooder, flooder_id) = h.connect();
        // A small send buffer limits the bytes that are in flight.
        socket2::SockRef::from(flooder.stream()).set_send_buffer_size(64 * 1024).unwrap();
        let (mut neighbour, neighbour_id) = h.connect();
        let (mut sent, mut left, mut written, mut stalls) = (0, Vec::new(), 0, 0);
        // Writes as much as possible until, twenty times, the socket would block while the server
        // reads nothing either.
        h.until("the flooder stalls", |h| {
            loop {
                if left.is_empty() {
                    left = numbered(sent, LEN);
                    sent += 1;
                }
                let count = flooder.write_some(&left).unwrap();
                written += count as u64;
                left.drain(..count);
                if count == 0 {
                    break;
                }
            }
            let before = h.server.stats();
            h.step();
            let idle = h.server.stats().bytes_in == before.bytes_in;
            stalls += u32::from(idle && before.throttled > 0);
            stalls == 20
        });
        assert!(numbers(&h, flooder_id).len() < sent as usize);
        assert!(written > h.server.stats().bytes_in, "the last bytes wait in the kernel");
        h.write(&mut neighbour, &raw::text("hello"));
        h.until("the neighbour's message", |h| h.texts(neighbour_id).len() == 1);
        // The flooder sends no more, and all of its messages arrive.
        h.write(&mut flooder, &left);
        h.until("all messages", |h| numbers(h, flooder_id).len() == sent as usize);
        assert!(numbers(&h, flooder_id).into_iter().eq(0..sent), "each once and in order");
        h.write(&mut flooder, &raw::close(1000, ""));
        assert!(matches!(h.close_reason(flooder_id), CloseReason::Peer { .. }));
        let stats = h.server.stats();
        assert!(stats.throttled > 0 && stats.closed.rate_limited == 0, "{stats}");
    }
}

#[test]
fn a_rate_limit_of_zero_is_an_error() {
    for (builder, name) in [
        (Server::builder().max_messages_per_second(0), "max_messages_per_second"),
        (Server::builder().max_bytes_per_second(0), "max_bytes_per_second"),
    ] {
        let error = builder.bind("127.0.0.1:0").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(name), "{error}");
    }
    Server::builder().max_bytes_per_second(None).max_messages_per_second(None).bind("127.0.0.1:0").unwrap();
}
