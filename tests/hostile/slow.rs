//! Those that take their time.

use std::{thread, time::Duration};

use super::{
    ground::{Ground, echoes, end, frame, until, write, write_until_closed},
    support::raw::{self, End, Frame, Raw},
};

const PAUSE: Duration = Duration::from_millis(20);

/// Sends a head, a byte now and then, that never ends.
pub fn head(g: &mut Ground) -> u64 {
    const COUNT: usize = 50;
    let before = g.rejected("timeout");
    let mut raws: Vec<Raw> = (0..COUNT).map(|_| g.dial()).collect();
    let mut bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".iter().copied().chain(std::iter::repeat(b'x'));
    g.until("the deadline of the head", |g| {
        let byte = [bytes.next().unwrap()];
        for raw in &mut raws {
            // Those that are dropped take no more.
            let _ = raw.write_some(&byte);
        }
        thread::sleep(PAUSE);
        g.rejected("timeout") - before == COUNT as u64
    });
    for raw in &mut raws {
        end(raw);
        assert_eq!(raw.input(), b"", "silence is the answer");
    }
    COUNT as u64
}

/// Begins a frame, and says no more.
pub fn silent_in_a_frame(g: &mut Ground) -> u64 {
    const COUNT: usize = 50;
    let before = g.closed("silence");
    let mut raws = g.open_many(COUNT);
    let bytes = &raw::binary(&[7; 60_000])[..1_000];
    raws.iter_mut().for_each(|raw| write(raw, bytes));
    g.until("silence to be noticed", |g| g.closed("silence") - before == COUNT as u64);
    for raw in &mut raws {
        end(raw);
        let opcodes: Vec<u8> = raw.take_frames().iter().map(|frame| frame.opcode).collect();
        assert!(!opcodes.is_empty() && opcodes.iter().all(|opcode| *opcode == raw::PING), "{opcodes:?}");
    }
    COUNT as u64
}

/// A byte of a frame now and then: as slow as anyone may be.
pub fn a_byte_at_a_time(g: &mut Ground) -> u64 {
    const COUNT: usize = 20;
    let mut raws = g.open_many(COUNT);
    let ended = |g: &mut Ground| {
        g.stats().iter().filter(|(name, _)| name.starts_with("closed_")).map(|(_, n)| n).sum::<u64>()
    };
    let before = ended(g);
    // Half of them promise as much as is allowed.
    let (small, large) = (raw::text(&"slow ".repeat(20)), raw::binary(&vec![7; 1 << 20]));
    for at in 0..small.len() {
        for (i, raw) in raws.iter_mut().enumerate() {
            let bytes = if i % 2 == 0 { &small } else { &large };
            write(raw, &bytes[at..=at]);
        }
        thread::sleep(PAUSE);
    }
    let held = g.stat("buffered_bytes");
    assert!(held < 64 * 1024, "{held} bytes are held for {COUNT} times 100");
    for raw in raws.iter_mut().step_by(2) {
        assert_eq!(frame(raw).payload, "slow ".repeat(20).as_bytes());
    }
    assert_eq!(ended(g), before, "each byte is a sign of life");
    (COUNT * small.len()) as u64
}

/// Asks for more and more, and takes nothing.
pub fn never_reads(g: &mut Ground) -> u64 {
    const COUNT: usize = 4;
    let before = g.closed("overflow");
    let mut raws = g.open_many(COUNT);
    let message = raw::binary(&[7; 60_000]);
    let mut at = [0; COUNT];
    g.until("the outboxes to be full", |g| {
        for (raw, at) in raws.iter_mut().zip(&mut at) {
            for _ in 0..100 {
                match raw.write_some(&message[*at..]) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => *at = (*at + count) % message.len(),
                }
            }
        }
        g.closed("overflow") - before == COUNT as u64
    });
    let held = g.stat("buffered_bytes");
    // The cap is on what is queued; buffers are larger by some, and a message is on its way in.
    assert!(held <= (COUNT << 20) as u64 * 3 / 2, "{held} bytes are held");
    COUNT as u64
}

/// Asks for little, and takes nothing of it.
pub fn takes_nothing(g: &mut Ground) -> u64 {
    const COUNT: usize = 4;
    let before = g.closed("write_timeout");
    let mut raws = g.open_many(COUNT);
    let message = raw::binary(&vec![7; 1 << 20]);
    for raw in &mut raws {
        write(raw, &message);
    }
    g.until("the deadline of writing", |g| g.closed("write_timeout") - before == COUNT as u64);
    COUNT as u64
}

/// Takes what it is sent, byte by byte, and has room for little: the server's writes are cut short again and again.
pub fn reads_a_byte_at_a_time(g: &mut Ground) -> u64 {
    let mut bytes = 0;
    let said: Vec<String> = (0..80).map(|i| format!("number {i} {}", "x".repeat(5_000))).collect();
    for mut raw in g.open_many(2) {
        rustix::net::sockopt::set_socket_recv_buffer_size(raw.stream(), 64 * 1024).unwrap();
        for text in &said {
            write(&mut raw, &raw::text(text));
        }
        let mut heard = Vec::new();
        until("all of it", || {
            for _ in 0..5_000 {
                bytes += raw.read_up_to(1);
            }
            heard.extend(raw::texts(raw.take_frames()));
            assert_eq!(raw.end, None);
            heard.len() == said.len()
        });
        assert!(heard == said, "whole and in order");
    }
    bytes as u64
}

/// Speaks, says that it will say no more, and listens.
pub fn half_closes(g: &mut Ground) -> u64 {
    const COUNT: usize = 50;
    let before = g.closed("eof");
    let mut raws = g.open_many(COUNT);
    let said: Vec<String> = (0..20).map(|i| format!("question {i}")).collect();
    let bytes: Vec<u8> = said.iter().flat_map(|text| raw::text(text)).collect();
    for raw in &mut raws {
        write(raw, &bytes);
        raw.half_close();
    }
    for raw in &mut raws {
        assert_eq!(end(raw), End::Fin);
        assert_eq!(raw::texts(raw.take_frames()), said, "who only listens is answered");
    }
    g.until("the ends", |g| g.closed("eof") - before == COUNT as u64);
    COUNT as u64
}

/// Says goodbye, and goes on talking.
pub fn talks_after_close(g: &mut Ground) -> u64 {
    const COUNT: usize = 50;
    let before = g.stats();
    for mut raw in g.open_many(COUNT) {
        write(&mut raw, &raw::close(4000, "bye"));
        write_until_closed(&mut raw, &raw::text("one more thing").repeat(1_000));
        assert_eq!(frame(&mut raw), Frame::close(4000, "bye"));
        assert_eq!(end(&mut raw), End::Fin);
        assert_eq!(raw.input(), b"");
    }
    let after = g.stats();
    let name = "closed_total{cause=\"peer\"}";
    assert_eq!(after[name] - before[name], COUNT as u64);
    COUNT as u64
}

/// Breaks off in the middle of a message, with a reset.
pub fn resets_in_a_message(g: &mut Ground) -> u64 {
    const COUNT: usize = 50;
    let (before, bytes) = (g.closed("io"), raw::binary(&[7; 60_000]));
    let mut raws = g.open_many(COUNT);
    for (i, raw) in raws.iter_mut().enumerate() {
        write(raw, &bytes[..1 + i * 1_000]);
        echo_free(raw);
    }
    raws.into_iter().for_each(Raw::reset);
    g.until("the resets", |g| g.closed("io") - before == COUNT as u64);
    echoes(&mut g.open(), "the next one is served");
    COUNT as u64
}

/// It has been sent nothing.
fn echo_free(raw: &mut Raw) {
    raw.read_some();
    assert_eq!(raw.input(), b"");
}
