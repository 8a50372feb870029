//! Outbound connections under the simulated clock.

mod chaos;
mod races;
mod reconnect;

use std::{net::SocketAddr, time::Duration};

use tungstenite::handshake::derive_accept_key;

use super::{Host, MS, Peer, SEC, TEXT, closes, count, messages, text};
use crate::{
    ClientId, CloseReason, Connect, ConnectError, ConnectStep, Event, Reconnect, SendError, Tick, WhileDown,
    config::Config,
    net::sim::Outcome,
    proto::frame::{Header, write_frame},
};

const URL: &str = "ws://10.0.0.1:9001/chat?x=1";

fn addr(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 9001).into()
}

fn host() -> Host {
    let mut host = Host::new(Config::default());
    host.engine.seed_jitter(7);
    host
}

fn dial(host: &mut Host, connect: impl Into<Connect>) -> ClientId {
    let plan = connect.into().into_plan().unwrap();
    host.engine.connect(plan, host.now).unwrap()
}

/// The server's end: reads the request, and returns the response that accepts it.
fn accept_of(peer: &mut Peer) -> String {
    let request = String::from_utf8(peer.take_all()).unwrap();
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a request");
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// A frame as a server sends it.
fn plain(payload: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    write_frame(&mut frame, TEXT, payload.as_bytes(), None);
    frame
}

/// The payloads of a client's frames. Each frame must be masked with a key of its own.
fn unmask(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut at, mut frames, mut keys) = (0, Vec::new(), Vec::new());
    while let Some((header, size)) = Header::parse(&bytes[at..]).unwrap() {
        let key = header.mask.expect("a client masks");
        let payload = &bytes[at + size..][..header.len as usize];
        frames.push(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect());
        keys.push(key);
        at += size + payload.len();
    }
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count, "a key was used twice");
    frames
}

/// Opens an outbound connection.
fn open(host: &mut Host, connect: impl Into<Connect>) -> (ClientId, Peer) {
    let id = dial(host, connect);
    let peer = respond(host);
    assert!(host.engine.clients().any(|open| open == id));
    (id, peer)
}

/// Polls until the newest connection arrives at the server, and accepts it.
fn respond(host: &mut Host) -> Peer {
    host.settle();
    let mut peer = host.outbound.peers.pop().expect("a connection");
    let accept = accept_of(&mut peer);
    peer.raw(accept.as_bytes());
    let opened = host.poll();
    assert_eq!(count(&opened, |event| matches!(event, Event::Open { .. })), 1);
    peer
}

fn failures(tick: &Tick) -> Vec<(ClientId, ConnectError)> {
    let failed = |event: Event<'_>| match event {
        Event::ConnectFailed { client, error, .. } => Some((client, error.clone())),
        _ => None,
    };
    tick.iter().filter_map(failed).collect()
}

/// Advances to the next moment at which something happens.
fn pass(host: &mut Host) {
    if host.is_quiet() {
        let wait = host.engine.next_timeout(host.now).expect("something is due");
        host.advance(wait);
    }
}

/// Polls at each moment that the engine asks for, until an event is reported.
fn next_tick(host: &mut Host) -> Tick {
    for _ in 0..10_000 {
        let tick = host.poll();
        if !tick.is_empty() {
            return tick;
        }
        pass(host);
    }
    panic!("nothing ever happens");
}

#[test]
fn outbound_connection_opens_exchanges_messages_and_closes() {
    let mut host = host();
    let id = dial(&mut host, URL);
    assert_eq!(host.engine.send(id, "early".into()), Err(SendError::Connecting(id)));
    assert_eq!((host.engine.client_count(), host.engine.remote_addr(id)), (0, None));
    host.settle();
    let mut peer = host.outbound.peers.pop().unwrap();
    assert_eq!(host.outbound.log, [(Duration::ZERO, addr(1))]);
    let accept = accept_of(&mut peer);
    // Frames in the same segment as the 101 response, the last one incomplete.
    let frames = [plain("one"), plain("two"), plain("three")].concat();
    peer.raw(&[accept.as_bytes(), &frames[..frames.len() - 2]].concat());
    let tick = host.poll();
    let Some(Event::Open { client, request }) = tick.iter().next() else { panic!("{tick:?}") };
    assert_eq!((client, request.uri().to_string()), (id, URL.to_owned()));
    assert_eq!(messages(&tick), [(id, b"one".to_vec()), (id, b"two".to_vec())]);
    peer.raw(&frames[frames.len() - 2..]);
    assert_eq!(messages(&host.poll()), [(id, b"three".to_vec())]);
    assert_eq!(host.engine.remote_addr(id), Some(addr(1).into()));
    assert_eq!(host.engine.response(id).unwrap().headers()["upgrade"], "websocket");

    // An outbound connection gets broadcasts and joins rooms like any client.
    let (mut other, _) = host.open();
    host.engine.join(id, "room".into()).unwrap();
    let large = "x".repeat(3000);
    let _ = host.engine.broadcast((&large).into(), None);
    host.engine.send(id, "mine".into()).unwrap();
    host.settle();
    assert_eq!(unmask(&peer.take_all()), [large.clone().into_bytes(), b"mine".to_vec()]);
    assert_eq!(other.frames(), [text(&large)]);

    host.engine.close(id, 1000.into(), "bye", host.now).unwrap();
    host.settle();
    assert_eq!(unmask(&peer.take_all()), [b"\x03\xe8bye".to_vec()]);
    peer.raw(b"\x88\x02\x03\xe8");
    let tick = host.poll();
    assert_eq!(closes(&tick), [(id, CloseReason::Local { code: 1000.into(), text: "bye".into() })]);
    host.settle();
    assert!(!peer.at_end(), "the server hangs up first");
    peer.fin();
    host.settle();
    assert!(peer.is_dropped());
    assert_eq!((host.engine.client_count(), host.engine.connection_count()), (1, 1));
    let stats = host.engine.stats();
    assert_eq!((stats.dialed, stats.dial_failed, stats.opened), (1, 0, 2));
}

#[test]
fn outbound_connections_have_pings_and_silence_timeout() {
    let mut host = host();
    let (id, mut peer) = open(&mut host, URL);
    let _ = host.poll_after(54 * SEC);
    host.settle();
    assert_eq!(unmask(&peer.take_all()).len(), 1, "a ping");
    let tick = next_tick(&mut host);
    let silence = CloseReason::Timeout(crate::TimeoutKind::Silence);
    assert_eq!(closes(&tick), [(id, silence)]);
}

#[test]
fn masked_frame_from_a_server_is_a_violation() {
    let mut host = host();
    let (id, mut peer) = open(&mut host, URL);
    peer.text("masked");
    let tick = host.poll();
    assert_eq!(closes(&tick), [(id, CloseReason::Protocol(crate::ProtocolError::MaskedFrame))]);
    host.settle();
    assert!(unmask(&peer.take_all())[0].starts_with(&1002u16.to_be_bytes()));
}

#[test]
fn addresses_are_tried_in_turn_without_waiting_for_a_silent_one() {
    use Outcome::{Connects, Refused, Silence, Unreachable};
    let mut host = host();
    let outcomes = [(1, Silence), (2, Refused), (3, Unreachable), (4, Silence), (5, Connects)];
    host.outbound.outcomes = outcomes.into_iter().map(|(last, outcome)| (addr(last), outcome)).collect();
    host.outbound.names.insert("a.example".into(), (1..=5).map(addr).collect());
    let id = dial(&mut host, "ws://a.example:9001/");
    while host.outbound.peers.is_empty() {
        assert!(host.poll().is_empty());
        pass(&mut host);
    }
    // An address that does not respond within 250 ms is not waited for.
    let times: Vec<_> = host.outbound.log.iter().map(|(at, addr)| (at.as_millis(), addr.ip())).collect();
    let expected = [(0, 1), (250, 2), (250, 3), (250, 4), (500, 5)];
    assert_eq!(times, expected.map(|(at, last)| (at, addr(last).ip())));
    // The handshake has the rest of the 10 s.
    host.settle();
    let _ = host.poll_after(9499 * MS);
    assert!(host.engine.link(id).is_some());
    let tick = host.poll_after(2 * MS);
    assert_eq!(failures(&tick), [(id, ConnectError::Timeout(ConnectStep::Handshake))]);
    assert_eq!((host.engine.connection_count(), host.engine.link(id)), (0, None));
    assert_eq!(host.engine.send(id, "late".into()), Err(SendError::NotConnected(id)));
}

#[test]
fn each_connect_failure_has_its_error_and_ends_the_id() {
    let cases: [(&str, Outcome, ConnectError); 4] = [
        (
            URL,
            Outcome::Silence,
            ConnectError::Io { addr: addr(1).into(), error: std::io::ErrorKind::TimedOut },
        ),
        (
            URL,
            Outcome::Refused,
            ConnectError::Io { addr: addr(1).into(), error: std::io::ErrorKind::ConnectionRefused },
        ),
        (
            URL,
            Outcome::Unreachable,
            ConnectError::Io { addr: addr(1).into(), error: std::io::ErrorKind::NetworkUnreachable },
        ),
        (
            "ws://b.example/",
            Outcome::Connects,
            ConnectError::Resolve { host: "b.example".into(), error: "unknown".into() },
        ),
    ];
    for (url, outcome, mut expected) in cases {
        let mut host = host();
        host.outbound.outcomes.insert(addr(1), outcome);
        let id = dial(&mut host, url);
        if outcome == Outcome::Silence {
            // A single address has the whole time.
            expected = ConnectError::Timeout(ConnectStep::Connect);
        }
        let tick = next_tick(&mut host);
        assert_eq!(failures(&tick), [(id, expected)]);
        assert_eq!((tick.len(), host.settle()), (1, 0));
        assert_eq!(host.engine.connection_count(), 0);
        assert_eq!(host.engine.stats().dial_failed, 1);
    }
}

/// Each kind of failure, at each byte of a good response.
#[test]
fn stall_fin_or_reset_at_any_byte_fails_the_attempt() {
    let whole = {
        let mut host = host();
        dial(&mut host, URL);
        host.settle();
        let mut peer = host.outbound.peers.pop().unwrap();
        accept_of(&mut peer).len()
    };
    for end in 0..whole {
        for how in 0..3 {
            let mut host = host();
            let id = dial(&mut host, URL);
            host.settle();
            let mut peer = host.outbound.peers.pop().unwrap();
            let accept = accept_of(&mut peer);
            peer.raw(&accept.as_bytes()[..end]);
            assert_eq!(host.settle(), 0);
            let expected = match how {
                0 => ConnectError::Timeout(ConnectStep::Handshake),
                1 => {
                    peer.fin();
                    ConnectError::HungUp
                }
                _ => {
                    peer.reset(false);
                    ConnectError::Io { addr: addr(1).into(), error: std::io::ErrorKind::ConnectionReset }
                }
            };
            let tick = next_tick(&mut host);
            assert_eq!(failures(&tick), [(id, expected)], "{end}");
            assert_eq!(host.elapsed() >= 10 * SEC, how == 0);
            assert_eq!((host.engine.connection_count(), host.engine.total_buffered()), (0, 0));
        }
    }
}

#[test]
fn rejection_with_a_stalled_body_is_reported_as_rejection() {
    let mut host = host();
    let id = dial(&mut host, URL);
    host.settle();
    let peer = host.outbound.peers.pop().unwrap();
    peer.raw(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\nwho are");
    let tick = next_tick(&mut host);
    let [(failed, ConnectError::Refused(refusal))] = &failures(&tick)[..] else { panic!("{tick:?}") };
    assert_eq!((*failed, refusal.status.as_u16(), &refusal.body[..]), (id, 401, &b"who are"[..]));
}

#[test]
fn response_that_arrived_during_a_host_pause_is_in_time() {
    let mut host = host();
    let id = dial(&mut host, URL);
    host.settle();
    let mut peer = host.outbound.peers.pop().unwrap();
    let accept = accept_of(&mut peer);
    peer.raw(accept.as_bytes());
    let tick = host.poll_after(60 * SEC);
    assert!(matches!(tick.iter().next(), Some(Event::Open { client, .. }) if client == id), "{tick:?}");
    assert_eq!(host.settle(), 0);
    // Half a response is not enough, and the deadline is not extended again.
    let id = dial(&mut host, URL);
    host.settle();
    let mut peer = host.outbound.peers.pop().unwrap();
    let accept = accept_of(&mut peer);
    peer.raw(&accept.as_bytes()[..50]);
    assert!(host.poll_after(60 * SEC).is_empty());
    peer.raw(b"x");
    let tick = host.poll_after(SEC);
    assert_eq!(failures(&tick), [(id, ConnectError::Timeout(ConnectStep::Handshake))]);
}

#[test]
fn ending_an_unopened_connection_gives_one_event() {
    for how in 0..3 {
        for polls in 0..3 {
            let mut host = host();
            let id = dial(&mut host, Connect::new(URL).reconnect(Reconnect::new()));
            for _ in 0..polls {
                let _ = host.poll();
            }
            let expected = match how {
                0 => host
                    .engine
                    .close(id, 1000.into(), "", host.now)
                    .map(|()| ConnectError::Cancelled)
                    .unwrap(),
                1 => host.engine.disconnect(id).map(|()| ConnectError::Cancelled).unwrap(),
                _ => {
                    host.engine.shutdown(1001.into(), "", SEC, host.now);
                    ConnectError::ShuttingDown
                }
            };
            let tick = host.poll();
            assert_eq!(failures(&tick), [(id, expected)]);
            assert_eq!((host.settle(), host.engine.connection_count()), (0, 0));
            assert!(host.engine.close(id, 1000.into(), "", host.now).is_err());
        }
    }
    let mut host = host();
    host.engine.shutdown(1001.into(), "", SEC, host.now);
    let plan = Connect::new(URL).into_plan().unwrap();
    assert_eq!(host.engine.connect(plan, host.now), Err(ConnectError::ShuttingDown));
}

#[test]
fn outbound_connections_do_not_count_as_inbound() {
    let config = Config { max_connections: Some(1), max_connections_per_ip: Some(1), ..Config::default() };
    let mut host = Host::new(config);
    let (_, out) = open(&mut host, URL);
    let (_peer, _) = host.open();
    let (_, _out) = open(&mut host, URL);
    // The end of an outbound connection must not release the place of an inbound one.
    out.fin();
    host.settle();
    let mut refused = host.connect();
    refused.handshake();
    host.settle();
    assert_eq!((refused.frames(), refused.status()), (vec![], Some(503)));
}

#[test]
fn kept_messages_leave_first_and_the_oldest_are_dropped() {
    let mut host = host();
    let id = dial(&mut host, Connect::new(URL).while_down(WhileDown::KeepLast(2)));
    for message in ["one", "two", "three"] {
        host.engine.send(id, message.into()).unwrap();
    }
    let max = host.engine.config().max_buffered;
    for len in [2 * max, max] {
        let Err(SendError::TooLarge { len, max }) = host.engine.send(id, (&vec![0; len]).into()) else {
            panic!("{len} bytes were kept");
        };
        assert!(len > max, "{len} bytes do fit into {max}");
    }
    assert_eq!(host.engine.stats().dropped, 1);
    assert!(host.engine.total_buffered() > 0);
    let mut peer = respond(&mut host);
    host.engine.send(id, "four".into()).unwrap();
    host.settle();
    assert_eq!(unmask(&peer.take_all()), [&b"two"[..], b"three", b"four"]);
    assert_eq!(host.engine.total_buffered(), 0);
    // Kept messages count towards `max_buffered`.
    let half = vec![0; 500_000];
    let id = dial(&mut host, Connect::new(URL).while_down(WhileDown::KeepLast(9)));
    for _ in 0..3 {
        host.engine.send(id, (&half).into()).unwrap();
    }
    assert_eq!(host.engine.stats().dropped, 2);
    host.engine.disconnect(id).unwrap();
    assert_eq!((host.engine.stats().dropped, host.engine.total_buffered()), (4, 0));
}
