//! Bad networks: two network namespaces with a link between them. Needs root and `ip`; delay and
//! loss also need the kernel's netem (`tc`), or Python and TUN devices. Without them a test says
//! what is missing and is skipped, or fails if `TICKWS_REQUIRE_NETEM=1`.
#![cfg(target_os = "linux")]

mod support;

#[path = "netem/line.rs"]
mod line;

use std::time::{Duration, Instant};

use line::{Line, SERVER};
use support::{Harness, Seen, raw, raw::Raw};
use tickws::{ClientId, CloseReason, Server, ServerBuilder, TimeoutKind};

const MS: Duration = Duration::from_millis(1);

fn line(delay: u32, loss: u32) -> Option<Line> {
    match Line::new(delay, loss) {
        Ok(line) => Some(line),
        Err(missing) => {
            let required = std::env::var_os("TICKWS_REQUIRE_NETEM").is_some_and(|value| value == "1");
            assert!(!required, "TICKWS_REQUIRE_NETEM=1, and {missing}");
            eprintln!("SKIPPED: no network namespaces: {missing}");
            None
        }
    }
}

fn harness(line: &Line, builder: ServerBuilder) -> Harness {
    let server = line.at_server(|| builder.bind((SERVER, 0))).expect("binds");
    let addr = server.local_addrs()[0];
    Harness { server, addr, seen: Vec::new() }
}

fn open(h: &mut Harness, line: &Line) -> (Raw, ClientId) {
    let mut raw = Raw::from_stream(line.connect(h.addr));
    let id = h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    (raw, id)
}

/// Every client sends numbered messages, checks the echoes, and answers pings meanwhile.
fn talk(h: &mut Harness, clients: &mut [(Raw, ClientId)], count: usize) {
    let text = |who: usize, i: usize| format!("{who}: {i} {}", "x".repeat(i * 37 % 1_500));
    let sent: Vec<Vec<String>> =
        (0..clients.len()).map(|who| (0..count).map(|i| text(who, i)).collect()).collect();
    let mut out: Vec<Vec<u8>> =
        sent.iter().map(|texts| texts.iter().flat_map(|text| raw::text(text)).collect()).collect();
    let mut received = vec![Vec::new(); clients.len()];
    h.until("all echoes", |h| {
        for (who, (raw, _)) in clients.iter_mut().enumerate() {
            let written = raw.write_some(&out[who]).expect("the server reads");
            out[who].drain(..written);
            raw.read_some();
            for frame in raw.take_frames() {
                match frame.opcode {
                    raw::PING => out[who].extend(raw::masked(true, raw::PONG, &frame.payload)),
                    _ => received[who].push(String::from_utf8(frame.payload).unwrap()),
                }
            }
            assert_eq!(raw.end, None, "no client is dropped");
        }
        for seen in h.take_seen() {
            match seen {
                Seen::Text(client, text) => h.server.send(client, &text).unwrap(),
                Seen::Open(..) => {}
                other => panic!("{other:?}"),
            }
        }
        received.iter().all(|texts| texts.len() >= count) && out.iter().all(Vec::is_empty)
    });
    assert!(received == sent, "all, whole, once and in order");
}

/// Generous deadlines: TCP waits longer after each loss of the same segment.
fn long_deadlines() -> ServerBuilder {
    Server::builder()
        .ping_interval(300 * MS)
        .silence_timeout(support::PATIENCE)
        .write_timeout(support::PATIENCE)
}

#[test]
fn a_delay_of_200_ms_shows_in_rtt_and_loses_nothing() {
    let Some(line) = line(100, 0) else { return };
    let mut h = harness(&line, long_deadlines());
    let mut clients: Vec<_> = (0..5).map(|_| open(&mut h, &line)).collect();
    talk(&mut h, &mut clients, 100);
    // Talk until a ping and its pong have made a round trip.
    while clients.iter().any(|(_, id)| h.server.rtt(*id).is_none()) {
        talk(&mut h, &mut clients, 1);
    }
    for (_, id) in &clients {
        let rtt = h.server.rtt(*id).unwrap();
        assert!(rtt >= 200 * MS, "{rtt:?}");
    }
    assert_eq!((h.server.stats().open, h.server.stats().closed.total()), (5, 0));
}

#[test]
fn packet_loss_of_ten_percent_loses_no_message() {
    let Some(line) = line(2, 10) else { return };
    let mut h = harness(&line, long_deadlines());
    let mut clients: Vec<_> = (0..4).map(|_| open(&mut h, &line)).collect();
    talk(&mut h, &mut clients, 60);
    assert_eq!((h.server.stats().open, h.server.stats().closed.total()), (4, 0));
}

#[test]
fn a_cut_link_ends_its_client_at_silence_timeout() {
    let Some(line) = line(0, 0) else { return };
    let builder = Server::builder().ping_interval(200 * MS).silence_timeout(600 * MS);
    let mut h = harness(&line, builder.write_timeout(support::PATIENCE));
    let mut near = Raw::from_stream(line.at_server(|| std::net::TcpStream::connect(h.addr)).unwrap());
    let near_id = h.upgrade(&mut near, &raw::upgrade_request("/", ""));
    let (mut far, far_id) = open(&mut h, &line);
    h.write(&mut far, &raw::text("hello"));
    h.until("a message", |h| h.texts(far_id) == ["hello"]);
    line.cut();
    let begin = Instant::now();
    let mut clients = [(near, near_id)];
    let mut ended = None;
    h.take_seen();
    h.until("the silence to be noticed", |h| {
        let (near, _) = &mut clients[0];
        near.read_some();
        let pings = near.take_frames();
        for ping in pings.iter().filter(|frame| frame.opcode == raw::PING) {
            assert!(near.write_some(&raw::masked(true, raw::PONG, &ping.payload)).unwrap() > 0);
        }
        ended = h.closes(far_id).next().map(|reason| (reason, begin.elapsed()));
        ended.is_some()
    });
    let (reason, after) = ended.unwrap();
    assert_eq!(reason, CloseReason::Timeout(TimeoutKind::Silence));
    eprintln!("after the link was cut, silence was noticed in {after:?}; silence_timeout is 600 ms");
    assert_eq!(h.server.stats().closed.silence, 1);
    // The peer behind the cut link has seen neither FIN nor RST.
    far.read_some();
    assert_eq!(far.end, None);
    h.take_seen();
    talk(&mut h, &mut clients, 20);
}

#[test]
fn a_cut_link_with_queued_data_ends_at_write_timeout() {
    let Some(line) = line(0, 0) else { return };
    let builder = Server::builder().ping_interval(None).silence_timeout(None).write_timeout(500 * MS);
    let mut h = harness(&line, builder.max_buffered(64 << 20).send_buffer(8192));
    let (_far, far_id) = open(&mut h, &line);
    line.cut();
    h.server.send(far_id, &vec![7u8; 16 << 20][..]).unwrap();
    assert_eq!(h.close_reason(far_id), CloseReason::Timeout(TimeoutKind::Write));
    assert_eq!((h.server.stats().buffered, h.server.stats().closed.write_timeout), (0, 1));
}

#[test]
fn a_reset_within_a_message_over_a_link() {
    let Some(line) = line(0, 0) else { return };
    let mut h = harness(&line, Server::builder());
    let (mut raw, id) = open(&mut h, &line);
    let mut others = [open(&mut h, &line)];
    let before = h.server.stats().bytes_in;
    h.write(&mut raw, &raw::binary(&[7; 50_000])[..30_000]);
    h.until("a piece", |h| h.server.stats().bytes_in == before + 30_000);
    raw.reset();
    assert!(matches!(h.close_reason(id), CloseReason::Io(_)));
    assert_eq!((h.server.stats().closed.io, h.server.stats().buffered), (1, 0));
    h.take_seen();
    talk(&mut h, &mut others, 20);
}
