//! Peers that send byte by byte, vanish, half-close, or send nothing.

mod support;

use std::time::{Duration, Instant};

use support::{Harness, Seen, raw};
use tickws::{CloseReason, SendError, Server, TimeoutKind};

#[test]
fn a_client_may_send_one_byte_at_a_time() {
    let mut h = Harness::new();
    let mut raw = h.dial();
    let write_slowly = |h: &mut Harness, raw: &mut raw::Raw, bytes: &[u8]| {
        for byte in bytes {
            let before = h.server.stats().bytes_in;
            h.write(raw, &[*byte]);
            h.until("the byte", |h| h.server.stats().bytes_in == before + 1);
        }
    };
    write_slowly(&mut h, &mut raw, raw::upgrade_request("/slow?lane=1", "").as_bytes());
    assert!(h.head(&mut raw).starts_with("HTTP/1.1 101 "));
    let Some(Seen::Open(id, uri)) = h.seen.first().cloned() else { panic!("{:?}", h.seen) };
    assert_eq!(uri, "/slow?lane=1");

    // U+1D11E is f0 9d 84 9e. Frame boundaries split it twice here, with a ping in between.
    write_slowly(&mut h, &mut raw, &raw::masked(false, raw::TEXT, b"clef: \xf0\x9d"));
    write_slowly(&mut h, &mut raw, &raw::masked(true, raw::PING, b"between"));
    write_slowly(&mut h, &mut raw, &raw::masked(false, raw::CONTINUE, b"\x84"));
    write_slowly(&mut h, &mut raw, &raw::masked(false, raw::CONTINUE, b""));
    write_slowly(&mut h, &mut raw, &raw::masked(true, raw::CONTINUE, b"\x9e!"));
    write_slowly(&mut h, &mut raw, &raw::binary(&[9; 300]));
    assert_eq!(h.take_seen()[1..], [Seen::Text(id, "clef: 𝄞!".into()), Seen::Binary(id, vec![9; 300])]);
    assert_eq!(h.frame(&mut raw), raw::Frame::new(raw::PONG, "between"));

    write_slowly(&mut h, &mut raw, &raw::close(1000, "done"));
    assert_eq!(h.frame(&mut raw), raw::Frame::close(1000, "done"));
    let reason = h.close_reason(id);
    assert_eq!(reason, CloseReason::Peer { code: tickws::CloseCode::NORMAL_CLOSURE, text: "done".into() });
}

#[test]
fn invalid_utf8_is_rejected_at_its_first_byte() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    // The frame announces 100 bytes, of which the third is invalid; the rest is never sent.
    let frame = raw::masked(true, raw::TEXT, &[b"ok\xff".as_slice(), &[b'x'; 97]].concat());
    h.write(&mut raw, &frame[..9]);
    let close = h.frame(&mut raw);
    assert_eq!((close.opcode, &close.payload[..2]), (raw::CLOSE, &1007u16.to_be_bytes()[..]));
    assert!(matches!(h.close_reason(id), CloseReason::Protocol(tickws::ProtocolError::InvalidUtf8)));
}

#[cfg(unix)]
#[test]
fn a_reset_within_a_frame_closes_one_connection_once() {
    let mut h = Harness::new();
    let (mut good, good_id) = h.connect();
    let mut reset = Vec::new();
    for cut in [1, 5, 20, 2000] {
        let (mut raw, id) = h.connect();
        h.write(&mut raw, &raw::text("whole"));
        h.until("the whole message", |h| h.texts(id) == ["whole"]);
        let before = h.server.stats().bytes_in;
        h.write(&mut raw, &raw::binary(&[1; 3000])[..cut]);
        h.until("the piece", |h| h.server.stats().bytes_in == before + cut as u64);
        // Data is on its way to the peer as well.
        h.server.send(id, "are you there?").unwrap();
        raw.reset();
        reset.push(id);
    }
    for id in &reset {
        assert!(matches!(h.close_reason(*id), CloseReason::Io(_)));
        assert_eq!(h.texts(*id), ["whole"]);
    }
    h.settle();
    for id in reset {
        assert_eq!(h.closes(id).count(), 1);
        assert_eq!(h.server.send(id, "x"), Err(SendError::NotConnected(id)));
    }
    h.write(&mut good, &raw::text("unharmed"));
    h.until("the other's message", |h| h.texts(good_id) == ["unharmed"]);
    assert_eq!((h.server.stats().open, h.server.stats().closed.total()), (1, 4));
}

#[cfg(unix)]
#[test]
fn a_reset_found_by_a_write_is_reported_while_paused() {
    let mut h = Harness::new();
    for paused in [false, true] {
        let (raw, id) = h.connect();
        if paused {
            h.server.pause_reading(id).unwrap();
        }
        raw.reset();
        let mut closed = false;
        h.until("the end", |h| {
            // The reset may take a moment to arrive.
            let _ = h.server.send(id, "are you there?");
            h.server.flush();
            closed |= h.closes(id).next().is_some();
            closed
        });
        assert!(matches!(h.close_reason(id), CloseReason::Io(_)), "paused: {paused}");
    }
    assert_eq!(h.server.stats().closed.io, 2);
}

#[cfg(unix)]
#[test]
fn messages_before_a_reset_are_not_lost() {
    // The peer sends, closes and is gone before the server's data arrives. Its messages must still
    // be reported.
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    h.write(&mut raw, &[raw::text("last words"), raw::close(4000, "bye")].concat());
    drop(raw);
    h.server.send(id, "into the void").unwrap();
    h.server.flush();
    h.server.send(id, "once more").unwrap();
    h.server.flush();
    let reason = h.close_reason(id);
    assert_eq!(reason, CloseReason::Peer { code: 4000.into(), text: "bye".into() });
    assert_eq!(h.texts(id), ["last words"]);
}

#[test]
fn a_half_closed_client_is_read_and_gets_replies() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    let mut bytes = Vec::new();
    for i in 0..100 {
        bytes.extend(raw::text(&format!("question {i}")));
    }
    h.write(&mut raw, &bytes);
    raw.half_close();
    let deadline = support::Deadline::new();
    let mut closed = None;
    while closed.is_none() {
        let tick = h.server.poll_once().unwrap();
        for event in &tick {
            match event {
                tickws::Event::Message { client, message } => {
                    let answer = message.as_text().unwrap().replace("question", "answer");
                    h.server.send(client, &answer).expect("the client can still be answered");
                }
                tickws::Event::Close { client, reason } => closed = Some((client, reason.clone())),
                other => panic!("{other:?}"),
            }
        }
        deadline.check("the end");
    }
    assert_eq!(closed, Some((id, CloseReason::Eof)));
    let answers = h.read_to_end(&mut raw);
    let expected: Vec<u8> = (0..100)
        .flat_map(|i| {
            let text = format!("answer {i}");
            [vec![0x81, text.len() as u8], text.into_bytes()].concat()
        })
        .collect();
    assert!(answers == expected, "responses queued in the last tick arrive");
    assert_eq!(h.server.send(id, "late"), Err(SendError::NotConnected(id)));
}

#[test]
fn an_endless_handshake_is_dropped_and_counted() {
    let mut h = Harness::with(Server::builder().handshake_timeout(Duration::from_millis(50)));
    let mut silent = h.dial();
    let mut endless = h.dial();
    h.write(&mut endless, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Endless: ");
    let mut next = Instant::now();
    h.until("the deadline", |h| {
        // A byte now and then does not help: the deadline is for the whole head. A byte with each
        // poll would exceed the size limit of the head before the deadline.
        if Instant::now() >= next {
            let _ = endless.write_some(b"x");
            next = Instant::now() + Duration::from_millis(1);
        }
        h.server.stats().rejected.timeout == 2
    });
    for raw in [&mut silent, &mut endless] {
        h.until("the end", |_| {
            raw.read_some();
            raw.end.is_some()
        });
        assert_eq!(raw.take_all(), b"");
    }
    assert_eq!(h.seen, [], "the application gets no event");
    assert_eq!(h.server.stats().rejected.total(), 2);
    assert_eq!(h.server.next_timeout(), None, "no deadline is left");
}

#[test]
fn peers_that_leave_during_the_handshake_are_counted() {
    let mut h = Harness::new();
    drop(h.dial());
    let mut partial = h.dial();
    h.write(&mut partial, b"GET / HTT");
    h.until("the piece", |h| h.server.stats().bytes_in > 0);
    drop(partial);
    h.until("both to be gone", |h| h.server.stats().rejected.gone == 2);
    assert_eq!(h.seen, []);
}

#[test]
fn silence_and_lifetime_close_a_connection() {
    let builder = Server::builder()
        .ping_interval(Duration::from_millis(20))
        .silence_timeout(Duration::from_millis(60))
        .handshake_timeout(Duration::from_secs(60));
    let mut h = Harness::with(builder);
    let (mut silent, id) = h.connect();
    assert_eq!(h.close_reason(id), CloseReason::Timeout(TimeoutKind::Silence));
    silent.read_some();
    assert!(silent.take_frames().iter().any(|frame| frame.opcode == raw::PING), "the peer was pinged first");

    let mut h = Harness::with(Server::builder().max_lifetime(Duration::from_millis(20)));
    let (mut old, id) = h.connect();
    let close = h.frame(&mut old);
    assert_eq!((close.opcode, &close.payload[..2]), (raw::CLOSE, &1001u16.to_be_bytes()[..]));
    h.write(&mut old, &raw::close(1001, ""));
    assert_eq!(h.close_reason(id), CloseReason::Timeout(TimeoutKind::Lifetime));
}

/// On Linux a read stops at the urgent mark although the socket is not drained.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn data_after_urgent_data_is_read() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    for round in 1..=3 {
        h.write(&mut raw, &raw::text("before"));
        rustix::net::send(raw.stream(), b"!", rustix::net::SendFlags::OOB).unwrap();
        h.write(&mut raw, &raw::text("after"));
        h.until("both messages", |h| h.texts(id).len() == 2 * round);
    }
}
