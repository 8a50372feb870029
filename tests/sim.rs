//! `tickws::sim` as a user has it: a small game, written without regard to the simulation, runs in
//! many network conditions.
#![cfg(feature = "sim")]

#[path = "sim/game.rs"]
mod game;

use std::{io::ErrorKind, time::Duration};

use game::{Game, Player};
use tickws::{
    Bytes, CloseReason, Event, OverflowPolicy, Server,
    http::{HeaderValue, Response},
    sim::{NetworkConditions, Received, Sim, SimClient, for_each_seed},
};

const MS: Duration = Duration::from_millis(1);
const FRAME: Duration = Duration::from_millis(16);

/// Polls until nothing is in flight, for a minute of simulated time at most.
fn settle(sim: &Sim, server: &mut Server, mut each: impl FnMut(&mut Server, Event<'_>)) {
    for _ in 0..60_000 {
        for event in &server.poll_once().unwrap() {
            each(server, event);
        }
        server.flush();
        if sim.is_quiet() && server.next_timeout() != Some(Duration::ZERO) {
            return;
        }
        sim.advance(MS);
    }
    panic!("never quiet");
}

fn open(sim: &Sim, server: &mut Server) -> SimClient {
    let client = sim.connect(server, "/");
    settle(sim, server, |_, _| {});
    assert_eq!(client.status(), Some(101));
    client
}

/// Plays a whole game: players come, talk, change rooms, stall, leave and reset. Then checks its
/// invariants.
fn play(seed: u64, conditions: NetworkConditions) -> (u64, u64) {
    let sim = Sim::with_conditions(seed, conditions);
    // Every third server does one step of each kind per call.
    let budget = (seed % 3 == 2).then_some(Duration::ZERO);
    let mut server = sim.server(Game::builder().time_budget(budget)).unwrap();
    let mut game = Game::default();
    game.late = FRAME + MS;
    let mut players: Vec<Player> = Vec::new();
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        if players.len() < 12 && rng.u8(..8) == 0 {
            let path = format!("/play?name=p{}", players.len() % 9);
            players.push(Player::new(sim.connect(&server, &path)));
        }
        if !players.is_empty() {
            let who = rng.usize(..players.len());
            players[who].act(&mut rng);
        }
        sim.advance(FRAME);
        game.now = sim.elapsed();
        game.frame(&mut server).unwrap();
        players.iter_mut().for_each(Player::listen);
    }
    players.iter_mut().for_each(Player::wake);
    settle(&sim, &mut server, |server, event| {
        game.now = sim.elapsed();
        game.handle(server, event);
    });
    players.iter_mut().for_each(Player::listen);
    game.check(&server, &players);
    drop(players);
    settle(&sim, &mut server, |server, event| {
        game.now = sim.elapsed();
        game.handle(server, event);
    });
    assert_eq!((server.client_count(), server.room_count(), server.stats().buffered), (0, 0, 0));
    assert_eq!(server.stats().opened, server.stats().closed.total());
    (sim.digest(), game.digest())
}

#[test]
fn queries_of_time_follow_the_virtual_clock() {
    let sim = Sim::new(2);
    let mut server = sim.server(Server::builder()).unwrap();
    let mut page = sim.connect(&server, "/");
    let start = server.now();
    assert_eq!(start, sim.now());
    let id = loop {
        let tick = server.poll_for(MS).unwrap();
        if let Some(Event::Open { client, .. }) = tick.iter().next() {
            break client;
        }
    };
    assert!(server.is_open(id));
    let opened = server.last_heard(id).unwrap();
    let later = server.now() + 500 * MS;
    while server.now() < later {
        assert!(server.poll_until(later).unwrap().is_empty(), "nothing happens before that time");
    }
    assert_eq!((server.now(), server.last_heard(id)), (later, Some(opened)));
    page.send("hello");
    assert_eq!(server.poll_for(MS).unwrap().len(), 1);
    assert!(server.last_heard(id).unwrap() >= later);
    page.reset();
    let closed = |tick: tickws::Tick| tick.iter().any(|event| matches!(event, Event::Close { .. }));
    while !closed(server.poll_for(MS).unwrap()) {}
    server.flush();
    assert!(!server.is_open(id) && server.last_heard(id).is_none());
}

#[test]
fn a_game_loses_nothing_in_any_conditions() {
    for_each_seed(100, |seed| {
        play(seed, NetworkConditions::calm());
        play(seed, NetworkConditions::foul());
        play(seed, NetworkConditions::foul().buffer(500).partial_writes(60).short_reads(70));
    });
}

#[test]
fn a_game_survives_resets() {
    for_each_seed(100, |seed| _ = play(seed, NetworkConditions::foul().resets(2)));
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_events() {
    for_each_seed(30, |seed| {
        let conditions = NetworkConditions::foul().resets((seed % 2) as u8);
        assert_eq!(play(seed, conditions.clone()), play(seed, conditions.clone()));
        assert_ne!(play(seed, conditions.clone()), play(seed + 1, conditions));
    });
}

#[test]
fn a_sleeping_server_jumps_to_the_next_event() {
    let sim = Sim::with_conditions(1, NetworkConditions::calm().latency(30 * MS..=30 * MS));
    let mut server = sim.server(Server::builder()).unwrap();
    let client = sim.connect(&server, "/");
    // The connection exists at once, but its request takes 30 ms.
    assert!(server.poll_wait(None).unwrap().is_empty());
    assert_eq!(sim.elapsed(), Duration::ZERO);
    let next = |server: &mut Server| loop {
        let tick = server.poll_wait(None).unwrap();
        if !tick.is_empty() {
            break tick;
        }
    };
    assert_eq!(next(&mut server).len(), 1);
    assert_eq!(sim.elapsed(), 30 * MS);
    let timer = server.set_timer(Duration::from_secs(20));
    while client.status().is_none() {
        assert!(server.poll_for(10 * MS).unwrap().is_empty());
    }
    assert_eq!(sim.elapsed(), 60 * MS);
    let tick = next(&mut server);
    assert!(matches!(tick.iter().next(), Some(Event::Timer { timer: fired, .. }) if fired == timer));
    let late = sim.elapsed() - (Duration::from_secs(20) + 30 * MS);
    assert!(late <= MS, "{late:?}");
}

#[test]
fn a_sleep_without_an_end_is_an_error() {
    let sim = Sim::new(1);
    let mut server = sim.server(Server::builder()).unwrap();
    assert_eq!(server.poll_wait(None).unwrap_err().kind(), ErrorKind::Deadlock);
    assert_eq!(server.run(|_, _| {}).unwrap_err().kind(), ErrorKind::Deadlock);
    assert!(server.poll_for(MS).unwrap().is_empty());
    assert_eq!(sim.elapsed(), MS);
}

#[test]
fn a_stalled_client_catches_up_or_is_dropped() {
    let sim = Sim::with_conditions(3, NetworkConditions::calm().buffer(1000));
    let builder = Server::builder().max_buffered(10_000).overflow(OverflowPolicy::Disconnect);
    let mut server = sim.server(builder.write_timeout(Duration::from_secs(5))).unwrap();
    let mut client = open(&sim, &mut server);
    let id = server.clients().next().unwrap();
    client.stall();
    for _ in 0..5 {
        server.send(id, [7u8; 1000]).unwrap();
    }
    settle(&sim, &mut server, |_, _| {});
    assert_eq!(client.received(), []);
    assert!(server.buffered(id) > 3500);
    client.resume();
    let mut drained = 0;
    settle(&sim, &mut server, |_, event| drained += usize::from(matches!(event, Event::Drained { .. })));
    assert_eq!((client.received().len(), server.buffered(id), drained), (5, 0, 1));
    client.stall();
    server.send(id, [7u8; 5000]).unwrap();
    server.flush();
    let mut reason = None;
    for _ in 0..70 {
        for event in &server.poll_for(100 * MS).unwrap() {
            if let Event::Close { reason: why, .. } = event {
                reason = Some((why.clone(), sim.elapsed()));
            }
        }
    }
    let (reason, at) = reason.expect("the stalled client is closed");
    assert!(matches!(reason, CloseReason::Timeout(_)), "{reason}");
    assert!(at >= Duration::from_secs(5), "{at:?}");
}

#[test]
fn a_silent_client_is_pinged_and_answers_as_time_jumps() {
    let sim = Sim::new(4);
    let mut server = sim.server(Server::builder()).unwrap();
    let mut client = open(&sim, &mut server);
    while sim.elapsed() < Duration::from_secs(1000) {
        assert!(server.poll_for(Duration::from_secs(10)).unwrap().is_empty());
    }
    assert!((16..=18).contains(&server.stats().pings), "{:?}", server.stats());
    // As after a laptop was closed for a day: input that arrived meanwhile is read before a silent
    // client is closed.
    client.ping(b"still here");
    sim.advance(Duration::from_secs(86_400));
    settle(&sim, &mut server, |_, event| panic!("{event:?}"));
    assert_eq!(client.received(), [Received::Pong(b"still here".to_vec())]);
}

#[test]
fn two_servers_of_one_network_exchange_messages() {
    let sim = Sim::with_conditions(5, NetworkConditions::foul());
    let mut hub = sim.server(Server::builder()).unwrap();
    let mut edge = sim.server(Server::builder()).unwrap();
    sim.name("hub.example", hub.local_addrs()[0]);
    let upstream = edge.connect("ws://hub.example/feed").unwrap();
    let unreachable = edge.connect("ws://10.9.9.9/").unwrap();
    let unknown = edge.connect("ws://who.example/").unwrap();
    let (mut received, mut failed) = (Vec::new(), Vec::new());
    for _ in 0..400 {
        for event in &hub.poll_for(MS).unwrap() {
            if let Event::Message { client, message } = event {
                hub.send(client, message).unwrap();
            }
        }
        for event in &edge.poll_for(MS).unwrap() {
            match event {
                Event::Open { client, .. } => edge.send(client, "over the wire").unwrap(),
                Event::Message { message, .. } => received.push(message.as_text().unwrap().to_owned()),
                Event::ConnectFailed { client, error, .. } => failed.push((client, error.to_string())),
                event => panic!("{event:?}"),
            }
        }
    }
    assert_eq!(received, ["over the wire"]);
    failed.sort();
    assert_eq!(failed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [unreachable, unknown]);
    assert!(failed[1].1.contains("no such name"), "{failed:?}");
    assert!(edge.link(upstream).is_some());
}

#[test]
fn plain_http_wrong_origins_and_other_networks() {
    let sim = Sim::new(6);
    let mut server = sim.server(Server::builder().health("/health")).unwrap();
    let mut curl = sim.open(&server);
    curl.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let page = sim.connect_with(&server, "/", &[("Origin", "https://evil.example")]);
    let other = Sim::new(6).server(Server::builder()).unwrap();
    let mut lost = sim.connect(&other, "/");
    settle(&sim, &mut server, |_, event| panic!("{event:?}"));
    assert_eq!((curl.status(), page.status(), lost.status()), (Some(200), Some(403), None));
    assert!(curl.response_head().contains("application/json"));
    assert!(curl.body().starts_with(b"{\"status\":\"ok\""));
    assert_eq!((lost.received(), lost.is_over()), (vec![Received::Reset], true));
}

#[test]
fn after_a_shutdown_no_client_is_accepted() {
    let sim = Sim::with_conditions(7, NetworkConditions::foul());
    let mut server = sim.server(Server::builder()).unwrap();
    let mut client = open(&sim, &mut server);
    server.shutdown(1001, "", Duration::from_secs(5));
    let mut late = sim.connect(&server, "/");
    server.run(|_, _| {}).unwrap();
    assert!(server.is_drained());
    sim.advance(Duration::from_secs(1));
    assert_eq!(client.received(), [Received::Close { code: 1001, reason: String::new() }, Received::End]);
    assert_eq!(late.received(), [Received::Reset]);
}

/// Like a socket that is closed with unread input, so that the client learns that it was not
/// served.
#[test]
fn unaccepted_connections_are_reset_with_the_server() {
    let sim = Sim::new(8);
    let server = sim.server(Server::builder()).unwrap();
    let (mut early, mut asked) = (sim.open(&server), sim.connect(&server, "/"));
    sim.advance(MS);
    drop(server);
    sim.advance(MS);
    assert_eq!((early.received(), asked.received()), (vec![Received::Reset], vec![Received::Reset]));
}

#[test]
fn a_client_without_an_upgrade_sends_no_frames() {
    let sim = Sim::new(9);
    let mut server = sim.server(Server::builder().on_http(|_| latin())).unwrap();
    let request = || {
        let mut client = sim.open(&server);
        client.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client
    };
    let (mut early, mut late) = (request(), request());
    // `send` waits for a 101, which never comes. `finish` sends FIN all the same.
    early.send("before");
    early.finish();
    settle(&sim, &mut server, |_, event| panic!("{event:?}"));
    assert_eq!((early.status(), late.status()), (Some(200), Some(200)));
    assert!(late.response_head().contains("X-Room: caf\u{fffd}"), "{}", late.response_head());
    assert_eq!((early.is_over(), late.is_over(), late.body()), (true, false, b"hello".to_vec()));
    late.send("after");
    late.ping(b"after");
    settle(&sim, &mut server, |_, event| panic!("{event:?}"));
    assert_eq!((server.stats().rejected.total(), late.body(), late.is_over()), (0, vec![], false));
}

/// A header value may hold any byte from 0x80 on (RFC 9110 §5.5, obs-text).
fn latin() -> Response<Bytes> {
    let room = HeaderValue::from_bytes(b"caf\xe9").unwrap();
    Response::builder().header("x-room", room).body("hello".into()).unwrap()
}

/// The client's close frame is answered with a reset, as by a router that lost the connection.
#[test]
fn nothing_is_received_after_a_reset() {
    let sim = Sim::with_conditions(10, NetworkConditions::calm().latency(MS..=MS));
    let mut server = sim.server(Server::builder()).unwrap();
    let mut client = open(&sim, &mut server);
    let _ = server.broadcast("before");
    server.shutdown(1001, "", Duration::from_secs(5));
    let _ = server.poll_once().unwrap();
    sim.set_conditions(NetworkConditions::calm().resets(100));
    sim.advance(2 * MS);
    let received = client.received();
    assert!(
        matches!(&received[..], [Received::Text(_), Received::Close { .. }, Received::Reset]),
        "{received:?}"
    );
}

/// Time jumps further than an `Instant` can represent.
#[test]
fn time_may_jump_by_any_duration() {
    for by in [Duration::from_secs(1 << 40), Duration::MAX] {
        let sim = Sim::with_conditions(11, NetworkConditions::foul());
        let mut server = sim.server(Server::builder()).unwrap();
        let mut client = open(&sim, &mut server);
        server.set_interval(MS);
        client.send("before");
        sim.advance(by);
        sim.advance(by);
        let mut received = 0;
        for _ in 0..20 {
            received += server.poll_for(FRAME).unwrap().len();
        }
        assert!(received < 100, "{received}");
        let mut late = sim.connect(&server, "/");
        client.send("after");
        sim.advance(by);
        for _ in 0..20 {
            drop(server.poll_for(by).unwrap());
        }
        server.shutdown(1001, "", Duration::MAX);
        drop(server.poll_for(MS).unwrap());
        drop(late.received());
        assert!(sim.elapsed() >= Duration::from_secs(100 * 365 * 24 * 60 * 60));
    }
}

/// Each part may be dropped first, and the others go on.
#[test]
fn simulation_parts_may_be_dropped_in_any_order() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let sim = Sim::with_conditions(12, NetworkConditions::foul());
        let mut one = Some(sim.server(Server::builder()).unwrap());
        let mut two = Some(sim.server(Server::builder()).unwrap());
        let addr = two.as_ref().unwrap().local_addrs()[0];
        one.as_mut().unwrap().connect(format!("ws://{addr}/")).unwrap();
        two.as_mut().unwrap().connect(format!("ws://{addr}/self")).unwrap();
        let mut client = Some(sim.connect(two.as_ref().unwrap(), "/"));
        let mut world = Some(sim);
        for part in order {
            for _ in 0..40 {
                for server in [&mut one, &mut two].into_iter().flatten() {
                    drop(server.poll_for(MS).unwrap());
                    let _ = server.broadcast("x");
                }
                client.iter_mut().for_each(|client| client.send("y"));
            }
            match part {
                0 => drop(one.take()),
                1 => drop(two.take()),
                2 => drop(client.take()),
                _ => drop(world.take()),
            }
        }
    }
}

#[test]
fn a_server_may_be_polled_after_its_shutdown() {
    let sim = Sim::new(13);
    let mut server = sim.server(Server::builder()).unwrap();
    let mut client = open(&sim, &mut server);
    server.shutdown(1001, "", Duration::from_secs(1));
    server.run(|_, _| {}).unwrap();
    server.run(|_, event| panic!("{event:?}")).unwrap();
    for _ in 0..3 {
        assert!(server.poll_once().unwrap().is_empty());
        assert!(server.poll_for(MS).unwrap().is_empty());
        server.shutdown(1000, "", Duration::ZERO);
    }
    // The deadlines of the shutdowns may still end a sleep.
    let error = (0..10).find_map(|_| server.poll_wait(None).err());
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Deadlock));
    assert!(server.connect("ws://10.0.0.1/").is_err());
    client.send("late");
    let mut late = sim.connect(&server, "/");
    sim.advance(MS);
    assert_eq!(late.received(), [Received::Reset]);
    assert_eq!(client.received().last(), Some(&Received::End));
}

#[cfg(feature = "tls")]
mod tls {
    use super::*;
    use tickws::{CloseReason, Tls};

    /// Ed25519, whose signatures are all of one length.
    fn certificate() -> Tls {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Tls::from_pem(certificate.pem(), key.serialize_pem()).unwrap()
    }

    /// Echoes through a bad network. Returns what the clients got, and the digest of the lengths.
    fn run(seed: u64, tls: &Tls) -> (Vec<Vec<Received>>, u64) {
        let sim = Sim::with_conditions(seed, NetworkConditions::foul());
        let mut server = sim.server(Server::builder().tls(tls.clone())).unwrap();
        let mut clients: Vec<_> = (0..4).map(|_| sim.connect(&server, "/")).collect();
        let mut received = vec![Vec::new(); clients.len()];
        for (number, client) in clients.iter_mut().enumerate() {
            client.send("hello");
            client.send(vec![number as u8; 30_000 * number]);
            client.close(1000, "done");
        }
        let (mut opened, mut closed) = (0, 0);
        for _ in 0..5_000 {
            for event in &server.poll_for(Duration::from_millis(20)).unwrap() {
                match event {
                    Event::Open { request, .. } => {
                        assert!(request.is_secure());
                        opened += 1;
                    }
                    Event::Message { client, message } => server.send(client, message).unwrap(),
                    Event::Close { reason, .. } => {
                        assert!(matches!(reason, CloseReason::Peer { .. }), "seed {seed}: {reason}");
                        closed += 1;
                    }
                    _ => {}
                }
            }
            clients.iter_mut().zip(&mut received).for_each(|(client, got)| got.extend(client.received()));
            if clients.iter().all(SimClient::is_over) {
                break;
            }
        }
        assert_eq!((opened, closed), (4, 4), "seed {seed}: {:?}", server.stats());
        (received, sim.digest())
    }

    #[test]
    fn messages_pass_a_bad_network_encrypted_and_runs_repeat_in_plain_text() {
        let tls = certificate();
        for_each_seed(20, |seed| {
            let (received, digest) = run(seed, &tls);
            for (number, got) in received.iter().enumerate() {
                assert_eq!(got[0], Received::Text("hello".into()));
                assert_eq!(got[1], Received::Binary(vec![number as u8; 30_000 * number]));
                assert_eq!(got[2], Received::Close { code: 1000, reason: "done".into() });
                assert_eq!(got.last(), Some(&Received::End));
            }
            assert_eq!((received, digest), run(seed, &tls), "seed {seed}");
        });
    }
}
