//! A replay repeats the events and bytes of a recorded server, and refuses input that is damaged,
//! outdated or no recording.
#![cfg(feature = "sim")]

#[path = "replay/app.rs"]
mod app;
mod support;

use std::{io, panic, time::Duration};

use app::{App, Memory, line};
use support::{
    Deadline,
    raw::{self, Raw},
};
use tickws::{
    BindError, Server, ServerBuilder,
    sim::{NetworkConditions, Recording, Replay, ReplayError, Sim, SimClient, for_each_seed},
};

const MS: Duration = Duration::from_millis(1);

/// Replays a whole recording.
fn replay(recording: &[u8]) -> Result<(Vec<String>, tickws::Stats), ReplayError> {
    let mut seen = Vec::new();
    let stats = Replay::new(io::Cursor::new(recording.to_vec()))?.run(|event, _| seen.push(line(event)))?;
    Ok((seen, stats))
}

fn path(rng: &mut fastrand::Rng) -> &'static str {
    ["/", "/?1", "/?22", "/?333"][rng.usize(..4)]
}

/// Simulates a server to which everything happens that may. Gives its recording, the events that
/// its application saw, and its counters.
fn simulated(seed: u64, steps: u32) -> (Vec<u8>, Vec<String>, tickws::Stats) {
    let memory = Memory::new(usize::MAX);
    let sim = Sim::with_conditions(seed, NetworkConditions::foul().resets((seed % 3) as u8));
    let mut server = sim.server(App::builder(seed).record(memory.clone())).unwrap();
    let mut other = sim.server(Server::builder()).unwrap();
    let (mut app, mut rng) = (App::new(seed), fastrand::Rng::with_seed(seed));
    sim.name("other.example", other.local_addrs()[0]);
    let mut clients: Vec<SimClient> = Vec::new();
    for step in 0..steps {
        if step == 20 {
            app.dial(&mut server, "ws://other.example/x");
            app.dial(&mut server, "ws://unknown.example/");
        }
        if clients.len() < 10 && rng.u8(..10) == 0 {
            clients.push(match rng.u8(..4) {
                0 => {
                    let mut curl = sim.open(&server);
                    curl.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
                    curl
                }
                1 => sim.connect_with(&server, "/?1", &[("Sec-WebSocket-Protocol", "b, a")]),
                _ => sim.connect(&server, path(&mut rng)),
            });
        }
        if !clients.is_empty() {
            let at = rng.usize(..clients.len());
            let client = &mut clients[at];
            match rng.u8(..30) {
                0 => client.close(1000, "bye"),
                1 => client.finish(),
                2 => client.raw(b"\x81\x01?"),
                3 => drop(clients.remove(at)),
                4 => client.stall(),
                5..8 => client.resume(),
                8 => client.ping(b"ping"),
                9 => client.send(vec![1; rng.usize(..100_000)]),
                _ => client.send("hello"),
            }
        }
        app.act(&mut server);
        for event in &server.poll_for(rng.u32(..40) * MS).unwrap() {
            app.handle(&mut server, event);
        }
        // The other server only has to go on; its events do not matter.
        drop(other.poll_once().unwrap());
        if rng.u8(..100) == 0 {
            sim.advance(Duration::from_secs(4));
        }
    }
    server.shutdown(1001, "", Duration::from_secs(1));
    while !server.is_drained() {
        for event in &server.poll_for(100 * MS).unwrap() {
            app.handle(&mut server, event);
        }
    }
    let stats = server.stats();
    assert!(matches!(server.recording(), Some(Recording::Running { .. })), "{:?}", server.recording());
    drop(server);
    (memory.take(), app.seen, stats)
}

#[test]
fn replay_gives_the_events_of_the_application() {
    for_each_seed(60, |seed| {
        let (recording, seen, stats) = simulated(seed, 300);
        let (again, stats_again) = replay(&recording).unwrap();
        assert_eq!(again, seen);
        assert_eq!(stats_again.to_string(), stats.to_string());
        assert!(seen.len() > 10, "{}", seen.len());
    });
}

/// This server has sockets of the kernel and the real clock.
#[test]
fn server_on_real_sockets_is_replayed() {
    for seed in 0..8 {
        replay_of_real_sockets(seed, |builder| builder.bind("127.0.0.1:0"));
    }
}

/// The recording holds plain text, so the replay has neither keys nor certificates.
#[cfg(feature = "tls")]
#[test]
fn server_with_tls_is_replayed_without_keys() {
    for seed in 0..8 {
        replay_of_real_sockets(seed, |builder| {
            let server = builder.tls(support::tls::server()).bind_tls("127.0.0.1:0")?;
            support::tls::note(server.local_addrs()[0]);
            Ok(server)
        });
    }
}

fn replay_of_real_sockets(seed: u64, bind: impl FnOnce(ServerBuilder) -> Result<Server, BindError>) {
    let memory = Memory::new(usize::MAX);
    let mut server = bind(App::builder(seed).record(memory.clone())).unwrap();
    let (mut app, mut rng) = (App::new(seed), fastrand::Rng::with_seed(seed));
    let addr = server.local_addrs()[0];
    app.dial(&mut server, &format!("ws://{addr}/self"));
    app.dial(&mut server, "ws://127.0.0.1:9/");
    let mut raws: Vec<Raw> = Vec::new();
    for _ in 0..400 {
        if raws.len() < 8 {
            let mut client = Raw::connect(addr);
            let _ = client.write_some(raw::upgrade_request(path(&mut rng), "").as_bytes());
            let deadline = Deadline::new();
            while !client.is_flushed() {
                deadline.check("the TLS handshake");
                for event in &server.poll_for(MS).unwrap() {
                    app.handle(&mut server, event);
                }
            }
            raws.push(client);
        }
        let at = rng.usize(..raws.len());
        match rng.u8(..20) {
            0 => drop(raws.remove(at)),
            1 => _ = raws[at].write_some(&raw::close(1000, "bye")),
            2 => _ = raws[at].write_some(&raw::binary(&vec![3; rng.usize(..20_000)])),
            3 => _ = raws[at].write_some(b"\x81\x01?"),
            4 => _ = raws[at].read_some(),
            _ => _ = raws[at].write_some(&raw::text("hello")),
        }
        app.act(&mut server);
        for event in &server.poll_for(MS).unwrap() {
            app.handle(&mut server, event);
        }
    }
    drop(raws);
    server.shutdown(1001, "", Duration::from_secs(1));
    let deadline = Deadline::new();
    while !server.is_drained() {
        deadline.check("drained");
        for event in &server.poll_for(10 * MS).unwrap() {
            app.handle(&mut server, event);
        }
    }
    drop(server);
    let (again, _) = replay(&memory.take()).unwrap();
    assert_eq!(again, app.seen, "seed {seed}");
    assert!(app.seen.len() > 15, "{}", app.seen.len());
}

#[test]
fn damaged_or_truncated_recording_is_an_error_at_every_byte() {
    let (recording, ..) = simulated(3, 12);
    assert!(recording.len() < 40_000, "{}", recording.len());
    let mut rng = fastrand::Rng::with_seed(1);
    for at in 0..recording.len() {
        let short = replay(&recording[..at]).unwrap_err();
        match at {
            0..11 => assert!(matches!(short, ReplayError::Foreign), "{at}: {short}"),
            _ => assert!(
                matches!(short, ReplayError::Truncated { byte } if byte == at as u64),
                "{at}: {short}"
            ),
        }
        let mut damaged = recording.clone();
        damaged[at] ^= rng.u8(1..);
        let error = replay(&damaged).unwrap_err();
        match at {
            0..11 => assert!(matches!(error, ReplayError::Foreign), "{error}"),
            11 => assert!(matches!(error, ReplayError::Version(_)), "{error}"),
            _ => assert!(
                matches!(error, ReplayError::Corrupt { .. } | ReplayError::Truncated { .. }),
                "{at}: {error}"
            ),
        }
    }
    for foreign in [&b""[..], b"\x7fELF", b"tickws", &[0; 100]] {
        assert!(matches!(replay(foreign), Err(ReplayError::Foreign)));
    }
    assert!(matches!(Replay::open("/nowhere/at/all"), Err(ReplayError::Io(_))));
}

/// The fixture is the beginning of a recording that the library made before format version 2:
/// magic, version and the block with the header.
#[test]
fn recording_in_an_old_format_is_refused_with_both_versions() {
    let error = replay(include_bytes!("replay/format_1.recording")).unwrap_err();
    assert!(matches!(error, ReplayError::Version(1)), "{error:?}");
    let expected = "the recording has format version 1, but this version of tickws reads version 6 only";
    assert_eq!(error.to_string(), expected);
}

/// Changing the recording, with digests that match, has the effect of an engine that has changed.
#[test]
fn difference_is_reported_with_its_place() {
    let (recording, ..) = simulated(5, 100);
    let mut reported = 0;
    for number in 1..40 {
        let Some(changed) = change_block(&recording, number) else { break };
        match replay(&changed) {
            Err(ReplayError::Diverged(place)) => {
                assert!(place.entry > 0 && place.byte > 12 && !place.expected.is_empty(), "{place}");
                reported += 1;
            }
            // The change made an entry invalid.
            Err(ReplayError::Corrupt { .. } | ReplayError::Truncated { .. }) => {}
            other => panic!("block {number}: {other:?}"),
        }
    }
    assert!(reported > 3, "{reported}");
}

/// Changes the last byte of a block, which belongs to the digest of a tick.
fn change_block(recording: &[u8], number: usize) -> Option<Vec<u8>> {
    let mut blocks = blocks(recording);
    *blocks.get_mut(number)?.last_mut()? ^= 1;
    Some(file_of(&blocks))
}

/// The contents of the blocks of a file.
fn blocks(recording: &[u8]) -> Vec<Vec<u8>> {
    let (mut at, mut blocks) = (12, Vec::new());
    while at < recording.len() {
        let end = at + 12 + u32::from_le_bytes(recording[at..at + 4].try_into().unwrap()) as usize;
        blocks.push(recording[at + 12..end].to_vec());
        at = end;
    }
    blocks
}

/// A file of these blocks, with digests that match.
fn file_of(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"tickws\0tape\x06".to_vec();
    for block in blocks {
        let digest = block.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        file.extend((block.len() as u32).to_le_bytes());
        file.extend(digest.to_le_bytes());
        file.extend(block);
    }
    file
}

/// The recording with `to` in place of the first occurrence of `from`.
fn forge(recording: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut blocks = blocks(recording);
    let place = blocks.iter_mut().find_map(|block| {
        let at = block.windows(from.len()).position(|bytes| bytes == from)?;
        Some(&mut block[at..at + from.len()])
    });
    place.expect("these bytes").copy_from_slice(to);
    file_of(&blocks)
}

#[test]
fn failed_write_stops_the_recording_and_not_the_server() {
    for room in [0, 5, 100, 5_000] {
        let memory = Memory::new(room);
        let sim = Sim::new(1);
        let mut server = sim.server(Server::builder().record(memory.clone())).unwrap();
        let mut client = sim.connect(&server, "/");
        for number in 0..100 {
            client.send("x".repeat(number));
            for event in &server.poll_once().unwrap() {
                if let tickws::Event::Message { client, message } = event {
                    server.send(client, message).unwrap();
                }
            }
        }
        let _ = server.poll_once().unwrap();
        let heard = client.received().len();
        assert!(heard > 90, "{heard} {}", server.stats());
        let Some(Recording::Stopped { bytes, error, .. }) = server.recording() else {
            panic!("the recording goes on")
        };
        assert_eq!((bytes as usize <= room, error), (true, io::ErrorKind::StorageFull));
        drop(server);
        assert!(matches!(replay(&memory.take()), Err(ReplayError::Truncated { .. } | ReplayError::Foreign)));
    }
}

#[test]
fn serve_dir_cannot_be_recorded_and_a_panic_in_a_call_can() {
    let builder = Server::builder().serve_dir("/", "src").record(io::sink());
    assert_eq!(builder.build().unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let server = Server::builder().build().unwrap();
    assert_eq!(server.recording(), None);
    // A panic of a closure given to a handle leaves the recording whole.
    let memory = Memory::new(usize::MAX);
    let sim = Sim::new(1);
    let mut server = sim.server(Server::builder().record(memory.clone())).unwrap();
    let handle = server.handle();
    handle.call(|_| panic!("panic of the application")).unwrap();
    assert!(panic::catch_unwind(panic::AssertUnwindSafe(|| server.poll_once().map(drop))).is_err());
    let _ = server.poll_once().unwrap();
    let buffered = server.stats().buffered;
    drop(server);
    let (_, stats) = replay(&memory.take()).unwrap();
    assert_eq!(stats.buffered, buffered);
}

/// Received bytes go to the buffers of dropped ticks. Neither the recorded application nor that of
/// the replay may change the outcome by keeping its ticks.
#[test]
fn keeping_ticks_does_not_change_a_replay() {
    for (held, held_again) in [(false, true), (true, false)] {
        let memory = Memory::new(usize::MAX);
        let sim = Sim::new(1);
        let mut server = sim.server(Server::builder().record(memory.clone())).unwrap();
        let mut client = sim.connect(&server, "/");
        let mut ticks = Vec::new();
        for number in 0..60 {
            if number % 10 == 5 {
                client.send(vec![1; 900_000]);
            }
            ticks.push(server.poll_once().unwrap());
            if !held {
                ticks.clear();
            }
        }
        assert_eq!(server.stats().messages_in, 6);
        drop(server);
        let mut replay = Replay::new(io::Cursor::new(memory.take())).unwrap();
        let mut again = Vec::new();
        while let Some(tick) = replay.next_tick().unwrap() {
            again.push(tick);
            if !held_again {
                again.clear();
            }
        }
    }
}

#[test]
fn panic_in_on_upgrade_stops_the_recording_as_unsupported() {
    let memory = Memory::new(usize::MAX);
    let sim = Sim::new(1);
    let builder = Server::builder().on_upgrade(|_, _| panic!("panic of the application"));
    let mut server = sim.server(builder.record(memory.clone())).unwrap();
    let _client = sim.connect(&server, "/");
    drop(server.poll_once().unwrap());
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| server.poll_once().map(drop)));
    assert!(outcome.is_err());
    let recording = server.recording().unwrap();
    let unsupported = io::ErrorKind::Unsupported;
    assert!(matches!(recording, Recording::Stopped { error, .. } if error == unsupported), "{recording:?}");
    let _ = server.poll_once().unwrap();
    drop(server);
    assert!(matches!(replay(&memory.take()), Err(ReplayError::Truncated { .. })));
}

/// The file may hold two recordings, for example.
#[test]
fn bytes_after_the_end_are_an_error() {
    let (recording, ..) = simulated(7, 5);
    for more in [&recording[..], b"x"] {
        let twice = [&recording[..], more].concat();
        let error = replay(&twice).unwrap_err();
        assert!(matches!(error, ReplayError::Corrupt { byte } if byte == recording.len() as u64), "{error}");
    }
}

#[test]
fn error_ends_a_replay() {
    let (recording, ..) = simulated(7, 50);
    for wrong in [change_block(&recording, 5).unwrap(), recording[..recording.len() / 2].to_vec(), {
        let mut damaged = recording.clone();
        damaged[recording.len() / 2] ^= 1;
        damaged
    }] {
        let mut replay = Replay::new(io::Cursor::new(wrong)).unwrap();
        while replay.next_tick().is_ok_and(|tick| tick.expect("an error comes first").len() < usize::MAX) {}
        for _ in 0..3 {
            assert!(replay.next_tick().unwrap().is_none());
        }
    }
}

/// Counts the calls of `write`.
struct Calls(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl io::Write for Calls {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn poll_is_recorded_in_one_write() {
    let calls = std::sync::Arc::default();
    let sim = Sim::new(1);
    let mut server = sim.server(Server::builder().record(Calls(std::sync::Arc::clone(&calls)))).unwrap();
    let _ = server.poll_once().unwrap();
    let before = calls.load(std::sync::atomic::Ordering::Relaxed);
    for _ in 0..10 {
        let _ = server.poll_once().unwrap();
    }
    assert_eq!(calls.load(std::sync::atomic::Ordering::Relaxed) - before, 10);
}

/// A writer that panics once.
struct Panics(usize);

impl io::Write for Panics {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 += 1;
        assert!(self.0 != 5, "panic of the writer");
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn panic_of_the_writer_stops_the_recording() {
    let sim = Sim::new(1);
    let mut server = sim.server(Server::builder().record(Panics(0))).unwrap();
    while panic::catch_unwind(panic::AssertUnwindSafe(|| server.poll_once().map(drop))).is_ok() {}
    let recording = server.recording();
    assert!(matches!(recording, Some(Recording::Stopped { .. })), "{recording:?}");
    let _ = server.poll_once().unwrap();
}

/// A replay compares the work asked of the host as well as reads and writes.
#[test]
fn different_address_or_deadline_is_a_difference() {
    let memory = Memory::new(usize::MAX);
    let sim = Sim::new(1);
    let mut server = sim.server(Server::builder().record(memory.clone())).unwrap();
    let mut other = sim.server(Server::builder()).unwrap();
    assert_eq!(other.local_addrs()[0].to_string(), "10.0.0.2:80");
    server.connect("ws://10.0.0.2/").unwrap();
    server.set_timer(Duration::from_secs(7));
    for _ in 0..5 {
        let _ = server.poll_once().unwrap();
        let _ = other.poll_once().unwrap();
    }
    assert_eq!(server.client_count(), 1);
    drop(server);
    let recording = memory.take();
    replay(&recording).unwrap();
    // The address is from the entry `Connect`, the delay from `SetTimer`.
    let (addr, other_addr) = ([4, 10, 0, 0, 2, 80, 0], [4, 10, 0, 0, 3, 80, 0]);
    for (from, to) in [(&addr[..], &other_addr[..]), (&[29, 7, 0, 0], &[29, 6, 0, 0])] {
        let outcome = replay(&forge(&recording, from, to));
        assert!(matches!(outcome, Err(ReplayError::Diverged(_))), "{outcome:?}");
    }
}

#[test]
fn content_served_from_memory_is_in_the_recording() {
    let memory = Memory::new(usize::MAX);
    let sim = Sim::new(1);
    let page = "é".repeat(100_000);
    let builder = Server::builder().serve_bytes("/", "text/html", page.clone());
    let builder = builder.serve_bytes("/a b", "image/svg+xml; charset=utf-8", "<svg/>").path("/ws");
    let mut server = sim.server(builder.record(memory.clone())).unwrap();
    let mut clients = ["/", "/a%20b", "/none"].map(|path| {
        let mut client = sim.open(&server);
        client.raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        client
    });
    for _ in 0..5 {
        let _ = server.poll_once().unwrap();
    }
    assert_eq!(clients.each_ref().map(SimClient::status), [Some(200), Some(200), Some(404)]);
    assert_eq!(clients[0].body(), page.as_bytes());
    drop(server);
    let recording = memory.take();
    let (_, stats) = replay(&recording).unwrap();
    assert!(stats.bytes_out > 200_000, "{stats}");
    // The replay serves the content of the recording, so changing it changes the written bytes.
    let outcome = replay(&forge(&recording, b"<svg/>", b"<gvs/>"));
    assert!(matches!(outcome, Err(ReplayError::Diverged(_))), "{outcome:?}");
}

/// The memory that buffers hold decides who is closed under pressure, and is on the metrics page. A
/// message grows an outbox by its own length or by a little more, depending on the way that it
/// takes.
#[test]
fn buffers_of_a_replay_grow_as_those_of_the_recording() {
    let memory = Memory::new(usize::MAX);
    let sim = Sim::with_conditions(1, NetworkConditions::calm().buffer(100));
    let mut server = sim.server(Server::builder().record(memory.clone())).unwrap();
    // An outbox that is blocked keeps what is queued after it.
    let mut clients = [(); 6].map(|()| sim.connect(&server, "/"));
    let mut open = Vec::new();
    while open.len() < clients.len() {
        for event in &server.poll_for(MS).unwrap() {
            if let tickws::Event::Open { client, .. } = event {
                open.push(client);
            }
        }
    }
    clients.iter_mut().for_each(SimClient::stall);
    for length in 0..200 {
        let client = open[length % open.len()];
        server.send(client, vec![7; length % 9 * 300]).unwrap();
        if length % 7 == 0 {
            server.flush();
        }
    }
    let buffered = server.stats().buffered;
    drop(server);
    let (_, stats) = replay(&memory.take()).unwrap();
    assert_eq!(stats.buffered, buffered);
}

/// A `Prepared` is compressed once, so later sends of it leave the state of the compressor alone. A
/// replay that compressed each send would write other bytes.
#[cfg(feature = "deflate")]
#[test]
fn prepared_message_is_compressed_once_in_a_replay() {
    use tickws::{Deflate, DeflateMode, Prepared};
    let memory = Memory::new(usize::MAX);
    let deflate = Deflate::new(DeflateMode::Dedicated).level(2).threshold(0).server_max_window_bits(15);
    let builder = Server::builder().deflate(deflate).record(memory.clone());
    let mut server = builder.bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0];
    let mut raws = ["permessage-deflate", "permessage-deflate; server_no_context_takeover"].map(|offer| {
        let mut client = Raw::connect(addr);
        let header = format!("Sec-WebSocket-Extensions: {offer}\r\n");
        client.write_some(raw::upgrade_request("/", &header).as_bytes()).unwrap();
        client
    });
    let deadline = Deadline::new();
    while server.client_count() < 2 {
        deadline.check("two clients");
        drop(server.poll_for(MS).unwrap());
    }
    let clients: Vec<_> = server.clients().collect();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut words =
        || (0..300).map(|_| ["ab", "abc", "bcab", "cab", "xy"][rng.usize(..5)]).collect::<String>();
    let prepared = Prepared::new(words().as_str());
    for _ in 0..50 {
        server.send(clients[0], words().as_str()).unwrap();
        server.send(clients[1], &prepared).unwrap();
        drop(server.poll_for(MS).unwrap());
        raws.iter_mut().for_each(|client| _ = client.read_some());
    }
    let buffered = server.stats().buffered;
    drop(server);
    let (_, stats) = replay(&memory.take()).unwrap();
    assert_eq!(stats.buffered, buffered);
}
