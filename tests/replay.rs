//! A recorded server, replayed: the same events and the same bytes; and recordings that are none.
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
    Server,
    sim::{Recording, Replay, ReplayError, Sim, SimClient, Weather, for_each_seed},
};

const MS: Duration = Duration::from_millis(1);

/// Replays all of it.
fn replay(tape: &[u8]) -> Result<(Vec<String>, tickws::Stats), ReplayError> {
    let mut seen = Vec::new();
    let stats = Replay::new(io::Cursor::new(tape.to_vec()))?.run(|event, _| seen.push(line(event)))?;
    Ok((seen, stats))
}

fn path(throws: &mut fastrand::Rng) -> &'static str {
    ["/", "/?1", "/?22", "/?333"][throws.usize(..4)]
}

/// One server in memory with everything that may happen to it, its tape, and what its application saw.
fn simulated(seed: u64, steps: u32) -> (Vec<u8>, Vec<String>, tickws::Stats) {
    let memory = Memory::new(usize::MAX);
    let sim = Sim::with_weather(seed, Weather::foul().resets((seed % 3) as u8));
    let mut server = sim.server(App::builder(seed).record(memory.clone())).unwrap();
    let mut other = sim.server(Server::builder()).unwrap();
    let (mut app, mut throws) = (App::new(seed), fastrand::Rng::with_seed(seed));
    sim.name("other.example", other.local_addrs()[0]);
    let mut clients: Vec<SimClient> = Vec::new();
    for step in 0..steps {
        if step == 20 {
            app.dial(&mut server, "ws://other.example/x");
            app.dial(&mut server, "ws://unknown.example/");
        }
        if clients.len() < 10 && throws.u8(..10) == 0 {
            clients.push(match throws.u8(..4) {
                0 => {
                    let mut curl = sim.open(&server);
                    curl.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                    curl
                }
                1 => sim.connect_with(&server, "/?1", &[("Sec-WebSocket-Protocol", "b, a")]),
                _ => sim.connect(&server, path(&mut throws)),
            });
        }
        if !clients.is_empty() {
            let at = throws.usize(..clients.len());
            let client = &mut clients[at];
            match throws.u8(..30) {
                0 => client.close(1000, "bye"),
                1 => client.finish(),
                2 => client.raw(b"\x81\x01?"),
                3 => drop(clients.remove(at)),
                4 => client.stall(),
                5..8 => client.resume(),
                8 => client.ping(b"ping"),
                9 => client.send(&vec![1; throws.usize(..100_000)]),
                _ => client.send("hello"),
            }
        }
        app.act(&mut server);
        for event in &server.poll_for(throws.u32(..40) * MS).unwrap() {
            app.handle(&mut server, event);
        }
        // A message of another one, or its end, is as good.
        drop(other.poll_once().unwrap());
        if throws.u8(..100) == 0 {
            sim.advance(Duration::from_secs(4));
        }
    }
    server.shutdown(1001, Duration::from_secs(1));
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
fn a_replay_sees_what_the_application_saw() {
    for_each_seed(60, |seed| {
        let (tape, seen, stats) = simulated(seed, 300);
        let (again, stats_again) = replay(&tape).unwrap();
        assert_eq!(again, seen);
        assert_eq!(stats_again.to_string(), stats.to_string());
        assert!(seen.len() > 30, "{}", seen.len());
    });
}

/// Sockets of the kernel, and the clock of the world.
#[test]
fn a_server_on_real_sockets_is_replayed() {
    for seed in 0..8 {
        let memory = Memory::new(usize::MAX);
        let mut server = App::builder(seed).record(memory.clone()).bind("127.0.0.1:0").unwrap();
        let (mut app, mut throws) = (App::new(seed), fastrand::Rng::with_seed(seed));
        let addr = server.local_addrs()[0];
        app.dial(&mut server, &format!("ws://{addr}/self"));
        app.dial(&mut server, "ws://127.0.0.1:9/");
        let mut raws: Vec<Raw> = Vec::new();
        for _ in 0..400 {
            if raws.len() < 8 {
                let mut client = Raw::connect(addr);
                let _ = client.write_some(raw::upgrade_request(path(&mut throws), "").as_bytes());
                raws.push(client);
            }
            let at = throws.usize(..raws.len());
            match throws.u8(..20) {
                0 => drop(raws.remove(at)),
                1 => _ = raws[at].write_some(&raw::close(1000, "bye")),
                2 => _ = raws[at].write_some(&raw::binary(&vec![3; throws.usize(..20_000)])),
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
        server.shutdown(1001, Duration::from_secs(1));
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
        assert!(app.seen.len() > 30);
    }
}

#[test]
fn a_damaged_or_short_recording_is_an_error_at_every_place() {
    let (tape, ..) = simulated(3, 12);
    assert!(tape.len() < 40_000, "{}", tape.len());
    let mut throws = fastrand::Rng::with_seed(1);
    for at in 0..tape.len() {
        let short = replay(&tape[..at]).unwrap_err();
        match at {
            0..11 => assert!(matches!(short, ReplayError::Foreign), "{at}: {short}"),
            _ => assert!(
                matches!(short, ReplayError::Truncated { byte } if byte == at as u64),
                "{at}: {short}"
            ),
        }
        let mut damaged = tape.clone();
        damaged[at] ^= throws.u8(1..);
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

/// The fixture is the beginning of a recording that the library made before format version 2: magic,
/// version and the block with the header.
#[test]
fn recording_in_an_old_format_is_refused_with_both_versions() {
    let error = replay(include_bytes!("replay/format_1.recording")).unwrap_err();
    assert!(matches!(error, ReplayError::Version(1)), "{error:?}");
    let expected = "the recording has format version 1, but this version of tickws reads version 2 only";
    assert_eq!(error.to_string(), expected);
}

/// As an engine would that had changed: the recording's own bytes are other ones, with digests that fit.
#[test]
fn a_difference_is_told_with_its_place() {
    let (tape, ..) = simulated(5, 100);
    let mut told = 0;
    for number in 1..40 {
        let Some(changed) = change_block(&tape, number) else { break };
        match replay(&changed) {
            Err(ReplayError::Diverged(place)) => {
                assert!(place.entry > 0 && place.byte > 12 && !place.expected.is_empty(), "{place}");
                told += 1;
            }
            // The change made nonsense of an entry.
            Err(ReplayError::Corrupt { .. } | ReplayError::Truncated { .. }) => {}
            other => panic!("block {number}: {other:?}"),
        }
    }
    assert!(told > 3, "{told}");
}

/// The last byte of a block is a digest's of what a tick held.
fn change_block(tape: &[u8], number: usize) -> Option<Vec<u8>> {
    let mut blocks = blocks(tape);
    *blocks.get_mut(number)?.last_mut()? ^= 1;
    Some(tape_of(&blocks))
}

fn blocks(tape: &[u8]) -> Vec<Vec<u8>> {
    let (mut at, mut blocks) = (12, Vec::new());
    while at < tape.len() {
        let end = at + 12 + u32::from_le_bytes(tape[at..at + 4].try_into().unwrap()) as usize;
        blocks.push(tape[at + 12..end].to_vec());
        at = end;
    }
    blocks
}

/// With digests that fit.
fn tape_of(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut tape = b"tickws\0tape\x02".to_vec();
    for block in blocks {
        let digest = block.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        tape.extend((block.len() as u32).to_le_bytes());
        tape.extend(digest.to_le_bytes());
        tape.extend(block);
    }
    tape
}

/// With other bytes in the one place where these stand first.
fn forge(tape: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut blocks = blocks(tape);
    let place = blocks.iter_mut().find_map(|block| {
        let at = block.windows(from.len()).position(|bytes| bytes == from)?;
        Some(&mut block[at..at + from.len()])
    });
    place.expect("these bytes").copy_from_slice(to);
    tape_of(&blocks)
}

#[test]
fn a_recording_that_cannot_be_written_stops_and_the_server_goes_on() {
    for room in [0, 5, 100, 5_000] {
        let memory = Memory::new(room);
        let sim = Sim::new(1);
        let mut server = sim.server(Server::builder().record(memory.clone())).unwrap();
        let mut client = sim.connect(&server, "/");
        for number in 0..100 {
            client.send(&"x".repeat(number));
            for event in &server.poll_once().unwrap() {
                if let tickws::Event::Message { client, message } = event {
                    server.send(client, message).unwrap();
                }
            }
        }
        server.poll_once().unwrap();
        let heard = client.received().len();
        assert!(heard > 90, "{heard} {}", server.stats());
        let Some(Recording::Stopped { bytes, error, .. }) = server.recording() else { panic!("it goes on") };
        assert_eq!((bytes as usize <= room, error), (true, io::ErrorKind::StorageFull));
        drop(server);
        assert!(matches!(replay(&memory.take()), Err(ReplayError::Truncated { .. } | ReplayError::Foreign)));
    }
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    let builder = Server::builder().serve_dir("/", "src").record(io::sink());
    assert_eq!(builder.build().unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let server = Server::builder().build().unwrap();
    assert_eq!(server.recording(), None);
    // A server whose closure panics still leaves a whole tape.
    let memory = Memory::new(usize::MAX);
    let sim = Sim::new(1);
    let mut server = sim.server(Server::builder().record(memory.clone())).unwrap();
    let handle = server.handle();
    handle.call(|_| panic!("by the application")).unwrap();
    assert!(panic::catch_unwind(panic::AssertUnwindSafe(|| server.poll_once().map(drop))).is_err());
    server.poll_once().unwrap();
    drop(server);
    replay(&memory.take()).unwrap();
}

/// What is received goes to buffers of earlier ticks: who holds on to those must not matter, here or there.
#[test]
fn ticks_may_be_held_as_long_as_one_likes() {
    for (held, held_again) in [(false, true), (true, false)] {
        let memory = Memory::new(usize::MAX);
        let sim = Sim::new(1);
        let mut server = sim.server(Server::builder().record(memory.clone())).unwrap();
        let mut client = sim.connect(&server, "/");
        let mut ticks = Vec::new();
        for number in 0..60 {
            if number % 10 == 5 {
                client.send(&vec![1; 900_000]);
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
fn a_closure_that_panics_ends_the_recording_with_a_word() {
    let memory = Memory::new(usize::MAX);
    let sim = Sim::new(1);
    let builder = Server::builder().on_upgrade(|_, _| panic!("by the application"));
    let mut server = sim.server(builder.record(memory.clone())).unwrap();
    let _client = sim.connect(&server, "/");
    drop(server.poll_once().unwrap());
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| server.poll_once().map(drop)));
    assert!(outcome.is_err());
    let recording = server.recording().unwrap();
    let unsupported = io::ErrorKind::Unsupported;
    assert!(matches!(recording, Recording::Stopped { error, .. } if error == unsupported), "{recording:?}");
    server.poll_once().unwrap();
    drop(server);
    assert!(matches!(replay(&memory.take()), Err(ReplayError::Truncated { .. })));
}

/// Two recordings in one file, say.
#[test]
fn what_stands_behind_the_end_is_not_passed_over_in_silence() {
    let (tape, ..) = simulated(7, 5);
    for more in [&tape[..], b"x"] {
        let twice = [&tape[..], more].concat();
        let error = replay(&twice).unwrap_err();
        assert!(matches!(error, ReplayError::Corrupt { byte } if byte == tape.len() as u64), "{error}");
    }
}

#[test]
fn after_an_error_a_replay_is_over() {
    let (tape, ..) = simulated(7, 50);
    for wrong in [change_block(&tape, 5).unwrap(), tape[..tape.len() / 2].to_vec(), {
        let mut damaged = tape.clone();
        damaged[tape.len() / 2] ^= 1;
        damaged
    }] {
        let mut replay = Replay::new(io::Cursor::new(wrong)).unwrap();
        while replay.next_tick().is_ok_and(|tick| tick.expect("an error comes first").len() < usize::MAX) {}
        for _ in 0..3 {
            assert!(replay.next_tick().unwrap().is_none());
        }
    }
}

/// Counts the calls.
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
fn a_poll_is_recorded_in_one_write() {
    let calls = std::sync::Arc::default();
    let sim = Sim::new(1);
    let mut server = sim.server(Server::builder().record(Calls(std::sync::Arc::clone(&calls)))).unwrap();
    server.poll_once().unwrap();
    let before = calls.load(std::sync::atomic::Ordering::Relaxed);
    for _ in 0..10 {
        server.poll_once().unwrap();
    }
    assert_eq!(calls.load(std::sync::atomic::Ordering::Relaxed) - before, 10);
}

/// A writer of the user's that panics once.
struct Panics(usize);

impl io::Write for Panics {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 += 1;
        assert!(self.0 != 5, "by the writer");
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_panics_has_stopped_the_recording() {
    let sim = Sim::new(1);
    let mut server = sim.server(Server::builder().record(Panics(0))).unwrap();
    while panic::catch_unwind(panic::AssertUnwindSafe(|| server.poll_once().map(drop))).is_ok() {}
    let recording = server.recording();
    assert!(matches!(recording, Some(Recording::Stopped { .. })), "{recording:?}");
    server.poll_once().unwrap();
}

/// What the host is asked to do is compared, too, not only what is read and written.
#[test]
fn another_address_or_another_deadline_is_a_difference() {
    let memory = Memory::new(usize::MAX);
    let sim = Sim::new(1);
    let mut server = sim.server(Server::builder().record(memory.clone())).unwrap();
    let mut other = sim.server(Server::builder()).unwrap();
    assert_eq!(other.local_addrs()[0].to_string(), "10.0.0.2:80");
    server.connect("ws://10.0.0.2/").unwrap();
    server.set_timer(Duration::from_secs(7));
    for _ in 0..5 {
        server.poll_once().unwrap();
        other.poll_once().unwrap();
    }
    assert_eq!(server.client_count(), 1);
    drop(server);
    let tape = memory.take();
    replay(&tape).unwrap();
    // Of `Connect`, and of `SetTimer`.
    let (addr, other_addr) = ([4, 10, 0, 0, 2, 80, 0], [4, 10, 0, 0, 3, 80, 0]);
    for (from, to) in [(&addr[..], &other_addr[..]), (&[29, 7, 0, 0], &[29, 6, 0, 0])] {
        let outcome = replay(&forge(&tape, from, to));
        assert!(matches!(outcome, Err(ReplayError::Diverged(_))), "{outcome:?}");
    }
}

#[test]
fn what_is_served_from_memory_is_served_again() {
    let memory = Memory::new(usize::MAX);
    let sim = Sim::new(1);
    let page = "é".repeat(100_000);
    let builder = Server::builder().serve_bytes("/", "text/html", page.clone());
    let builder = builder.serve_bytes("/a b", "image/svg+xml; charset=utf-8", "<svg/>").path("/ws");
    let mut server = sim.server(builder.record(memory.clone())).unwrap();
    let mut clients = ["/", "/a%20b", "/none"].map(|path| {
        let mut client = sim.open(&server);
        client.raw(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        client
    });
    for _ in 0..5 {
        server.poll_once().unwrap();
    }
    assert_eq!(clients.each_ref().map(SimClient::status), [Some(200), Some(200), Some(404)]);
    assert_eq!(clients[0].body(), page.as_bytes());
    drop(server);
    let tape = memory.take();
    let (_, stats) = replay(&tape).unwrap();
    assert!(stats.bytes_out > 200_000, "{stats}");
    // The bytes that are written come from the tape.
    let outcome = replay(&forge(&tape, b"<svg/>", b"<gvs/>"));
    assert!(matches!(outcome, Err(ReplayError::Diverged(_))), "{outcome:?}");
}

/// A message that is compressed once and sent often leaves the compressor to the others.
#[cfg(feature = "deflate")]
#[test]
fn a_prepared_message_is_compressed_as_often_as_it_was() {
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
    let mut throws = fastrand::Rng::with_seed(1);
    let mut words =
        || (0..300).map(|_| ["ab", "abc", "bcab", "cab", "xy"][throws.usize(..5)]).collect::<String>();
    let prepared = Prepared::new(words().as_str());
    for _ in 0..50 {
        server.send(clients[0], words().as_str()).unwrap();
        server.send(clients[1], &prepared).unwrap();
        drop(server.poll_for(MS).unwrap());
        raws.iter_mut().for_each(|client| _ = client.read_some());
    }
    drop(server);
    replay(&memory.take()).unwrap();
}
