//! Attacks that are slow, or end early.

use std::{thread, time::Duration};

use super::{
    server_process::{ServerProcess, assert_echoes, end, frame, until, write, write_until_closed},
    support::raw::{self, End, Frame, Raw},
};

const PAUSE: Duration = Duration::from_millis(20);

/// Sends an endless request head, a byte now and then.
pub fn head(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 50;
    let before = server.rejected("timeout");
    let mut raws: Vec<Raw> = (0..COUNT).map(|_| server.dial()).collect();
    let mut bytes =
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ".iter().copied().chain(std::iter::repeat(b'x'));
    server.until("the deadline of the head", |server| {
        let byte = [bytes.next().unwrap()];
        for raw in &mut raws {
            // A connection that the server has dropped takes no more bytes.
            let _ = raw.write_some(&byte);
        }
        thread::sleep(PAUSE);
        server.rejected("timeout") - before == COUNT as u64
    });
    for raw in &mut raws {
        end(raw);
        assert_eq!(raw.input(), b"", "the server sends nothing");
    }
    COUNT as u64
}

/// Begins a frame and sends no more.
pub fn silent_in_a_frame(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 50;
    let before = server.closed("silence");
    let mut raws = server.open_many(COUNT);
    let bytes = &raw::binary(&[7; 60_000])[..1_000];
    raws.iter_mut().for_each(|raw| write(raw, bytes));
    server.until("the silence timeouts", |server| server.closed("silence") - before == COUNT as u64);
    for raw in &mut raws {
        end(raw);
        let opcodes: Vec<u8> = raw.take_frames().iter().map(|frame| frame.opcode).collect();
        assert!(!opcodes.is_empty() && opcodes.iter().all(|opcode| *opcode == raw::PING), "{opcodes:?}");
    }
    COUNT as u64
}

/// Sends a byte of a frame now and then, which is legal.
pub fn a_byte_at_a_time(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 20;
    let mut raws = server.open_many(COUNT);
    let ended = |server: &mut ServerProcess| {
        server.stats().iter().filter(|(name, _)| name.starts_with("closed_")).map(|(_, n)| n).sum::<u64>()
    };
    let before = ended(server);
    // Half of the clients send a header of the largest allowed frame.
    let (small, large) = (raw::text(&"slow ".repeat(20)), raw::binary(&vec![7; 1 << 20]));
    for at in 0..small.len() {
        for (i, raw) in raws.iter_mut().enumerate() {
            let bytes = if i % 2 == 0 { &small } else { &large };
            write(raw, &bytes[at..=at]);
        }
        thread::sleep(PAUSE);
    }
    let held = server.stat("buffered_bytes");
    assert!(held < 64 * 1024, "{held} bytes are held for {COUNT} times 100");
    for raw in raws.iter_mut().step_by(2) {
        assert_eq!(frame(raw).payload, "slow ".repeat(20).as_bytes());
    }
    assert_eq!(ended(server), before, "each byte shows that the peer is alive");
    (COUNT * small.len()) as u64
}

/// Requests more and more echoes and reads none.
pub fn never_reads(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 4;
    let before = server.closed("overflow");
    let mut raws = server.open_many(COUNT);
    let message = raw::binary(&[7; 60_000]);
    let mut at = [0; COUNT];
    server.until("the outboxes to be full", |server| {
        for (raw, at) in raws.iter_mut().zip(&mut at) {
            for _ in 0..100 {
                match raw.write_some(&message[*at..]) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => *at = (*at + count) % message.len(),
                }
            }
        }
        server.closed("overflow") - before == COUNT as u64
    });
    let held = server.stat("buffered_bytes");
    // The cap counts queued bytes. Buffers are somewhat larger, and another message is being
    // received.
    assert!(held <= (COUNT << 20) as u64 * 3 / 2, "{held} bytes are held");
    COUNT as u64
}

/// Requests one echo of 1 MiB and does not read it.
pub fn takes_nothing(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 4;
    let before = server.closed("write_timeout");
    let mut raws = server.open_many(COUNT);
    let message = raw::binary(&vec![7; 1 << 20]);
    for raw in &mut raws {
        write(raw, &message);
    }
    server.until("the write timeouts", |server| server.closed("write_timeout") - before == COUNT as u64);
    COUNT as u64
}

/// Reads byte by byte with a small receive buffer, so that many of the server's writes are partial.
pub fn reads_a_byte_at_a_time(server: &mut ServerProcess) -> u64 {
    let mut bytes = 0;
    let sent: Vec<String> = (0..80).map(|i| format!("number {i} {}", "x".repeat(5_000))).collect();
    for mut raw in server.open_many(2) {
        rustix::net::sockopt::set_socket_recv_buffer_size(raw.stream(), 64 * 1024).unwrap();
        for text in &sent {
            write(&mut raw, &raw::text(text));
        }
        let mut received = Vec::new();
        until("all of it", || {
            for _ in 0..5_000 {
                bytes += raw.read_up_to(1);
            }
            received.extend(raw::texts(raw.take_frames()));
            assert_eq!(raw.end, None);
            received.len() == sent.len()
        });
        assert!(received == sent, "whole and in order");
    }
    bytes as u64
}

/// Sends messages, half-closes, and goes on reading.
pub fn half_closes(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 50;
    let before = server.closed("eof");
    let mut raws = server.open_many(COUNT);
    let sent: Vec<String> = (0..20).map(|i| format!("question {i}")).collect();
    let bytes: Vec<u8> = sent.iter().flat_map(|text| raw::text(text)).collect();
    for raw in &mut raws {
        write(raw, &bytes);
        raw.half_close();
    }
    for raw in &mut raws {
        assert_eq!(end(raw), End::Fin);
        assert_eq!(raw::texts(raw.take_frames()), sent, "a half-closed client is served");
    }
    server.until("the ends", |server| server.closed("eof") - before == COUNT as u64);
    COUNT as u64
}

/// Sends a close frame and messages after it.
pub fn sends_after_close(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 50;
    let before = server.stats();
    for mut raw in server.open_many(COUNT) {
        write(&mut raw, &raw::close(4000, "bye"));
        write_until_closed(&mut raw, &raw::text("one more thing").repeat(1_000));
        assert_eq!(frame(&mut raw), Frame::close(4000, "bye"));
        assert_eq!(end(&mut raw), End::Fin);
        assert_eq!(raw.input(), b"");
    }
    let after = server.stats();
    let name = "closed_total{cause=\"peer\"}";
    assert_eq!(after[name] - before[name], COUNT as u64);
    COUNT as u64
}

/// Resets the connection in the middle of a message.
pub fn resets_in_a_message(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 50;
    let (before, bytes) = (server.closed("io"), raw::binary(&[7; 60_000]));
    let mut raws = server.open_many(COUNT);
    for (i, raw) in raws.iter_mut().enumerate() {
        write(raw, &bytes[..1 + i * 1_000]);
        assert_no_input(raw);
    }
    raws.into_iter().for_each(Raw::reset);
    server.until("the resets", |server| server.closed("io") - before == COUNT as u64);
    assert_echoes(&mut server.open(), "the next one is served");
    COUNT as u64
}

/// Checks that the server has sent nothing. Unread bytes would change the reset.
fn assert_no_input(raw: &mut Raw) {
    raw.read_some();
    assert_eq!(raw.input(), b"");
}
