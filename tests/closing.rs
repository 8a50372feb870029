//! The close handshake from either side, pings, and the shutdown of a server (RFC 6455 §5.5 and
//! §7).

mod support;

use std::{io::ErrorKind, net::TcpStream, time::Duration};

use support::{Deadline, Harness, Seen, dial, raw};
use tickws::{CloseCode, CloseError, CloseReason, Event, SendError, Server, TimeoutKind};
use tungstenite::{Error, Message, protocol::CloseFrame};

// ---- pings ----

#[test]
fn pings_inside_a_fragmented_message_are_answered() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    let long = [b'p'; 125];
    h.write(&mut raw, &raw::masked(true, raw::PING, b""));
    h.write(&mut raw, &raw::masked(false, raw::TEXT, b"one "));
    h.write(&mut raw, &raw::masked(true, raw::PING, b"between"));
    h.write(&mut raw, &raw::masked(true, raw::CONTINUE, b"two"));
    h.write(&mut raw, &raw::masked(true, raw::PING, &long));
    assert_eq!(h.frame(&mut raw), raw::Frame::new(raw::PONG, ""));
    assert_eq!(h.frame(&mut raw), raw::Frame::new(raw::PONG, "between"));
    assert_eq!(h.frame(&mut raw), raw::Frame::new(raw::PONG, long));
    assert_eq!(h.texts(id), ["one two"]);
}

#[test]
fn pings_that_arrive_together_are_all_answered_in_order() {
    let mut h = Harness::new();
    let (mut raw, _) = h.connect();
    let pings: Vec<u8> = (0..500).flat_map(|i: u32| raw::masked(true, raw::PING, &i.to_be_bytes())).collect();
    h.write(&mut raw, &pings);
    for i in 0..500u32 {
        assert_eq!(h.frame(&mut raw), raw::Frame::new(raw::PONG, i.to_be_bytes()));
    }
    h.settle();
    assert_eq!(raw.read_some(), 0, "one pong for each ping");
}

#[test]
fn pings_and_pongs_work_with_tungstenite() {
    let mut h = Harness::new();
    let mut rtt = None;
    let on_event = |server: &mut Server, event: Event<'_>| match event {
        Event::Open { client, .. } => server.ping(client).unwrap(),
        Event::Message { client, message } => {
            rtt = server.rtt(client);
            server.send(client, message).unwrap();
        }
        _ => {}
    };
    h.serve(on_event, |addr| {
        let mut socket = dial(addr, "/");
        assert!(matches!(socket.read().unwrap(), Message::Ping(_)));
        // tungstenite sends its pong with the next message.
        socket.send(Message::text("after the pong")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("after the pong"));
        socket.send(Message::Ping("payload".into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("payload".into()));
    });
    assert!(rtt.is_some(), "the pong gave a round trip");
    assert_eq!(h.server.stats().pings, 1);
}

#[test]
fn rtt_comes_only_from_a_pong_to_the_last_ping() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    h.write(&mut raw, &raw::masked(true, raw::PONG, b"unsolicited"));
    h.settle();
    assert_eq!(h.server.rtt(id), None);
    h.server.ping(id).unwrap();
    let ping = h.frame(&mut raw);
    assert_eq!(ping.opcode, raw::PING);
    h.write(&mut raw, &raw::masked(true, raw::PONG, b"wrong"));
    h.settle();
    assert_eq!(h.server.rtt(id), None);
    h.write(&mut raw, &raw::masked(true, raw::PONG, &ping.payload));
    h.until("a round trip", |h| h.server.rtt(id).is_some());
}

// ---- one connection ----

#[test]
fn the_peers_close_is_echoed_and_reported() {
    let cases = [(1000, "bye"), (1001, ""), (3000, "ünïcode"), (4999, "x")];
    let mut h = Harness::new();
    for (code, reason) in cases {
        let (mut raw, id) = h.connect();
        h.write(&mut raw, &raw::text("before"));
        h.write(&mut raw, &raw::close(code, reason));
        h.write(&mut raw, &raw::text("after"));
        assert_eq!(h.frame(&mut raw), raw::Frame::close(code, reason));
        assert_eq!(h.close_reason(id), CloseReason::Peer { code: code.into(), text: reason.into() });
        assert_eq!(h.texts(id), ["before"], "data after a close frame is ignored");
        // The server closes the TCP connection first (RFC 6455 §7.1.1).
        assert_eq!(h.read_to_end(&mut raw), b"");
    }
    let (mut raw, id) = h.connect();
    h.write(&mut raw, &raw::masked(true, raw::CLOSE, b""));
    assert_eq!(h.frame(&mut raw), raw::Frame::new(raw::CLOSE, ""));
    assert_eq!(
        h.close_reason(id),
        CloseReason::Peer { code: CloseCode::NO_STATUS_RECEIVED, text: String::new() }
    );
    assert_eq!(h.server.stats().closed.peer, 5);
}

#[test]
fn close_sends_queued_messages_then_code_and_reason() {
    let mut h = Harness::new();
    let on_event = |server: &mut Server, event: Event<'_>| {
        if let Event::Message { client, .. } = event {
            server.send(client, "one").unwrap();
            server.send(client, "two").unwrap();
            server.close(client, 4001, "kicked").unwrap();
            assert_eq!(server.send(client, "three"), Err(SendError::Closing(client)));
            assert_eq!(server.close(client, 4002, ""), Err(CloseError::Closing(client)));
        }
    };
    h.serve(on_event, |addr| {
        let mut socket = dial(addr, "/");
        socket.send(Message::text("kick me")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("one"));
        assert_eq!(socket.read().unwrap(), Message::text("two"));
        let expected = CloseFrame { code: 4001.into(), reason: "kicked".into() };
        assert_eq!(socket.read().unwrap(), Message::Close(Some(expected)));
        assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
    });
    let Some(Seen::Open(id, _)) = h.seen.first().cloned() else { panic!("{:?}", h.seen) };
    assert_eq!(h.close_reason(id), CloseReason::Local { code: 4001.into(), text: "kicked".into() });
}

#[test]
fn input_after_a_local_close_is_dropped() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    h.server.close(id, 1000, "").unwrap();
    assert_eq!(h.frame(&mut raw), raw::Frame::close(1000, ""));
    h.write(&mut raw, &[raw::text("too late"), raw::masked(true, raw::PING, b"x")].concat());
    h.settle();
    assert_eq!(h.closes(id).next(), None, "the peer has not answered yet");
    h.write(&mut raw, &raw::close(1000, ""));
    assert_eq!(
        h.close_reason(id),
        CloseReason::Local { code: CloseCode::NORMAL_CLOSURE, text: String::new() }
    );
    assert_eq!(h.read_to_end(&mut raw), b"", "no pong and no second close frame");
    assert_eq!(h.texts(id), [""; 0]);
}

#[test]
fn eof_after_a_local_close_is_reported_as_local() {
    let mut h = Harness::new();
    let (raw, id) = h.connect();
    h.server.close(id, 1000, "").unwrap();
    drop(raw);
    assert_eq!(
        h.close_reason(id),
        CloseReason::Local { code: CloseCode::NORMAL_CLOSURE, text: String::new() }
    );
}

#[test]
fn an_unanswered_close_is_dropped_at_close_timeout() {
    let mut h = Harness::with(Server::builder().close_timeout(Duration::from_millis(50)));
    let (mut raw, id) = h.connect();
    h.server.close(id, 1000, "").unwrap();
    assert_eq!(h.close_reason(id), CloseReason::Timeout(TimeoutKind::Close));
    assert_eq!(h.frame(&mut raw), raw::Frame::close(1000, ""));
    assert_eq!(h.read_to_end(&mut raw), b"");
    assert_eq!(h.server.stats().closed.close_timeout, 1);
}

#[test]
fn invalid_close_codes_and_reasons_are_errors() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        assert_eq!(h.server.close(id, code, ""), Err(CloseError::InvalidCode(code.into())));
    }
    assert_eq!(h.server.close(id, 1000, &"x".repeat(124)), Err(CloseError::ReasonTooLong(124)));
    h.server.send(id, "still open").unwrap();
    assert_eq!(h.frame(&mut raw).payload, b"still open");
    let longest = "x".repeat(123);
    h.server.close(id, 3999, &longest).unwrap();
    assert_eq!(h.frame(&mut raw), raw::Frame::close(3999, &longest));
}

#[test]
fn disconnect_sends_no_close_frame() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    h.server.disconnect(id).unwrap();
    assert_eq!(h.server.next_timeout(), Some(Duration::ZERO), "the Close event is pending");
    assert_eq!(h.close_reason(id), CloseReason::Disconnected);
    assert_eq!(h.server.send(id, "x"), Err(SendError::NotConnected(id)));
    h.until("the end", |_| {
        raw.read_some();
        raw.end.is_some()
    });
    assert_eq!(raw.take_all(), b"");
}

// ---- the whole server ----

#[test]
fn shutdown_sends_its_reason_cut_to_what_a_close_frame_holds() {
    // 122 bytes and a character of two bytes: half of it would fit.
    let long = "x".repeat(122) + "ü and more";
    for (reason, sent) in [("until tomorrow", "until tomorrow"), (&long, &long[..122])] {
        let mut h = Harness::new();
        let (mut raw, id) = h.connect();
        h.server.shutdown(CloseCode::SERVICE_RESTART, reason, Duration::from_secs(60));
        assert_eq!(h.frame(&mut raw), raw::Frame::close(1012, sent));
        h.write(&mut raw, &raw::close(1012, ""));
        assert_eq!(h.close_reason(id), CloseReason::Shutdown);
    }
}

#[test]
fn shutdown_closes_all_with_1001_and_waits_for_them() {
    let mut h = Harness::new();
    let (mut first, first_id) = h.connect();
    let (mut second, second_id) = h.connect();
    let mut head = h.dial();
    h.write(&mut head, b"GET / HTTP/1.1\r\n");
    h.until("the piece of a head", |h| h.server.stats().accepted == 3);
    h.settle();

    h.server.send(first_id, "last words").unwrap();
    h.server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(60));
    assert_eq!(h.server.send(second_id, "x"), Err(SendError::Closing(second_id)));
    assert_eq!(h.frame(&mut first), raw::Frame::new(raw::TEXT, "last words"));
    assert_eq!(h.frame(&mut first), raw::Frame::close(1001, ""));
    assert_eq!(h.frame(&mut second), raw::Frame::close(1001, ""));
    let response = String::from_utf8(h.read_to_end(&mut head)).unwrap();
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    drop(head);
    assert!(!h.server.is_drained());
    let refused = TcpStream::connect(h.addr).map(|_| ()).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused));

    h.write(&mut first, &raw::close(1001, ""));
    h.write(&mut second, &raw::close(1001, ""));
    assert_eq!(h.close_reason(first_id), CloseReason::Shutdown);
    assert_eq!(h.close_reason(second_id), CloseReason::Shutdown);
    assert_eq!(h.read_to_end(&mut first), b"");
    assert_eq!(h.read_to_end(&mut second), b"");
    drop((first, second));
    h.until("is_drained", |h| h.server.is_drained());
    assert_eq!((h.server.stats().closed.shutdown, h.server.stats().open), (2, 0));
}

#[test]
fn shutdown_drops_unresponsive_clients_at_its_deadline() {
    // No other deadline can end the connections first.
    let never = 3 * support::PATIENCE;
    let mut h = Harness::with(Server::builder().close_timeout(never).handshake_timeout(never));
    let (mut silent, id) = h.connect();
    let _lingering = h.dial();
    h.server.shutdown(4000, "", Duration::from_millis(50));
    assert_eq!(h.close_reason(id), CloseReason::Shutdown);
    h.until("is_drained", |h| h.server.is_drained());
    assert_eq!(h.frame(&mut silent), raw::Frame::close(4000, ""));
}

#[test]
fn an_empty_shutdown_is_drained_and_invalid_codes_become_1001() {
    let mut h = Harness::new();
    assert!(!h.server.is_drained());
    h.server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(60));
    assert!(h.server.is_drained());

    let mut h = Harness::new();
    let (mut raw, _) = h.connect();
    h.server.shutdown(1005, "", Duration::from_secs(60));
    assert_eq!(h.frame(&mut raw), raw::Frame::close(1001, ""));
}

#[test]
fn run_returns_when_a_shutdown_is_complete() {
    let mut h = Harness::new();
    let addr = h.addr;
    let client = std::thread::spawn(move || {
        let mut socket = dial(addr, "/");
        socket.send(Message::text("stop")).unwrap();
        let close = socket.read().unwrap();
        assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
        close
    });
    let deadline = Deadline::new();
    let mut closes = 0;
    // The interval makes `run` return control, so that a failing test ends.
    h.server.set_interval(Duration::from_millis(100));
    h.server
        .run(|server, event| match event {
            Event::Message { .. } => server.shutdown(CloseCode::GOING_AWAY, "", support::PATIENCE),
            Event::Close { reason, .. } => {
                assert_eq!(*reason, CloseReason::Shutdown);
                closes += 1;
            }
            _ => deadline.check("the end of run"),
        })
        .unwrap();
    assert_eq!(closes, 1);
    let Message::Close(Some(close)) = client.join().unwrap() else { panic!("no close frame") };
    assert_eq!(u16::from(close.code), 1001);
}
