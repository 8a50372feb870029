//! Random users, an application that replies, and a network that may behave as badly as TCP allows.
//! Every event is compared with a model.
//!
//! Set `TICKWS_SIM_SEEDS=5000 cargo test --release --all-features --lib simulation` to try more; a
//! failure names the seed that repeats it.

mod clock;

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{
    actor::Actor,
    receiver::frame_len,
    world::{RandomWorld, run},
    *,
};
use crate::{
    CloseCode, Message, OverflowPolicy, Pressure, RateLimitPolicy, SendError, TimerId, net::sim::masked,
    util::test_rng::Rng,
};
use clock::{Moments, Timers, check_deadlines};

/// The number of seeds for each kind of conditions.
const SEEDS: u64 = 130;

#[test]
fn in_calm_conditions_an_orderly_end_loses_nothing() {
    run(0, SEEDS, |seed| World::new(seed).run());
}

#[test]
fn in_foul_conditions_nothing_is_doubled_reordered_or_stuck() {
    run(1, SEEDS, |seed| World::new(seed).run());
}

#[cfg(feature = "deflate")]
#[test]
fn compressed_in_calm_conditions() {
    run(0, SEEDS / 4, |seed| World::compressed(seed).run());
}

#[cfg(feature = "deflate")]
#[test]
fn compressed_in_foul_conditions() {
    run(1, SEEDS / 4, |seed| World::compressed(seed).run());
}

/// A broadcast for the others sheds a client that holds much: the payload of its close frame is as
/// long as that of the broadcast, 26 bytes, and the model must tell one from the other.
#[test]
fn a_close_frame_as_long_as_a_broadcast_is_not_taken_for_it() {
    let mut world = World::new(1);
    world.host = Host::new(Config::default());
    (world.event_budget, world.max_buffered) = (2048, 1 << 20);
    for _ in 0..2 {
        world.connect();
        world.actors.last_mut().expect("it has connected").act(&mut Rng::new(0), true);
        (0..3).for_each(|_| world.step());
    }
    // The beginning of a message.
    world.actors[1].peer.raw(&[masked(BINARY, false, &[7; 10_000], 1), vec![0x80]].concat());
    world.step();
    world.host.engine.config.max_total_buffered = Some(world.host.engine.total_buffered());
    // Every second broadcast leaves out the last client.
    world.broadcasts = 1;
    world.broadcast(Message::Text("twenty-six bytes, no more."));
    world.step();
    assert_eq!(world.actors[1].reason, Some(CloseReason::Shed));
    assert_eq!((world.actors[0].got, world.actors[1].got), (1, 0));
}

/// Seed 26750: a rate limit made the world wait for seconds, in which the close timeout of a peer
/// passed that had sent FIN and was still reading.
#[test]
fn a_peer_that_has_ended_is_read_to_its_end_before_time_jumps() {
    let mut world = World::new(0);
    world.host = Host::new(Config {
        max_messages_per_second: Some(1),
        rate_limit: RateLimitPolicy::Pause,
        ..Config::default()
    });
    (world.event_budget, world.max_buffered) = (2048, 1 << 20);
    for _ in 0..2 {
        world.connect();
        world.actors.last_mut().expect("it has connected").act(&mut Rng::new(0), true);
        (0..3).for_each(|_| world.step());
    }
    // The first peer takes 100 bytes at a time, and ends while most of a message is queued.
    world.actors[0].peer.set_buffers(1_000, 100);
    world.broadcast(Message::Binary(&[7; 50_000]));
    world.actors[0].finish();
    // The second one has to be throttled for half a minute.
    (0..30).for_each(|_| world.actors[1].message(&mut Rng::new(1)));
    (0..3).for_each(|_| world.step());
    world.settle();
    assert!(world.host.elapsed() > 20 * SEC, "nothing was throttled");
    assert_eq!((world.actors[0].got, world.actors[0].queued.len()), (1, 0));
    world.actors[0].check_closed(true);
}

struct World {
    host: Host,
    rng: Rng,
    /// The most actors.
    users: usize,
    actors: Vec<Actor>,
    /// The actor behind each client index.
    by_index: Vec<Option<usize>>,
    timers: Timers,
    /// The times of each actor.
    moments: Vec<Moments>,
    /// Calm conditions have no stalls, clock jumps or resets: an orderly end must lose nothing.
    calm: bool,
    transcript: DefaultHasher,
    event_budget: usize,
    max_buffered: usize,
    compresses: bool,
    messages_in: u64,
    messages_out: u64,
    dropped: u64,
    broadcasts: u64,
}

impl World {
    /// A world in which most users offer compression.
    #[cfg(feature = "deflate")]
    fn compressed(seed: u64) -> Self {
        use crate::config::compression::{Deflate, DeflateMode};
        let mut rng = Rng::new(seed);
        let deflate = Deflate::new(rng.pick(&[DeflateMode::Shared, DeflateMode::Dedicated]))
            .threshold(rng.pick(&[1, 30, 1_000]))
            .level(1 + rng.below(9) as u32)
            .server_max_window_bits(rng.pick(&[9, 11, 15]))
            .client_max_window_bits(rng.pick(&[9, 11, 15]));
        World::with(seed, Config { deflate: Some(deflate), ..Config::default() })
    }

    fn new(seed: u64) -> Self {
        World::with(seed, Config::default())
    }

    fn with(seed: u64, config: Config) -> Self {
        let mut rng = Rng::new(seed);
        let calm = seed.is_multiple_of(2);
        let event_budget = rng.pick(&[1, 2, 3, 5, 50, 16 * 1024]);
        let config = Config {
            event_budget,
            time_budget: (seed % 3 == 2).then_some(Duration::ZERO),
            read_budget: rng.pick(&[60, 1_000, 20_000, 256 * 1024]),
            max_buffered: rng.pick(&[3_000, 50_000, 1 << 20]),
            overflow: rng.pick(&[OverflowPolicy::Disconnect, OverflowPolicy::DropNewest]),
            max_connections: rng.pick(&[None, None, Some(15)]).filter(|_| !calm),
            max_lifetime: rng.pick(&[None, None, Some(90 * SEC)]).filter(|_| !calm),
            max_message_size: 200_000,
            max_total_buffered: rng.pick(&[None, Some(100_000), Some(1 << 20)]).filter(|_| !calm),
            max_messages_per_second: rng.pick(&[None, None, Some(3), Some(20), Some(200)]),
            max_bytes_per_second: rng.pick(&[None, None, Some(1_000), Some(20_000), Some(200_000)]),
            rate_limit: if calm {
                RateLimitPolicy::Pause
            } else {
                rng.pick(&[RateLimitPolicy::Close, RateLimitPolicy::Pause])
            },
            ..config
        };
        let max_buffered = config.max_buffered;
        let compresses = config.compresses();
        let host = Host::with_chaos(config, Some(Rng::new(rng.next())));
        World {
            host,
            rng,
            users: 0,
            actors: Vec::new(),
            by_index: Vec::new(),
            timers: Timers::default(),
            moments: Vec::new(),
            calm,
            transcript: DefaultHasher::new(),
            event_budget,
            max_buffered,
            compresses,
            messages_in: 0,
            messages_out: 0,
            dropped: 0,
            broadcasts: 0,
        }
    }

    fn run(mut self) -> u64 {
        self.users = 10 + self.rng.below(30);
        let rounds = 150 + self.rng.below(100);
        self.play(rounds)
    }

    fn connect(&mut self) {
        let mut peer = self.host.connect();
        peer.offers = self.compresses && !self.rng.one_in(4);
        let sizes = [1_000, 20_000, 256 * 1024];
        peer.set_buffers(self.rng.pick(&[100, 5_000, 256 * 1024]), self.rng.pick(&sizes));
        self.actors.push(Actor::new(peer));
        self.moments.push(Moments::new(self.host.now));
    }

    /// Checks that no user exceeded its rate limits since its `Open`, despite pauses of host or
    /// client.
    fn check_rates(&self) {
        let config = self.host.engine.config();
        for actor in self.actors.iter().filter(|actor| !actor.socket_closed && !actor.closing) {
            let Some(since) = actor.since else { continue };
            let time = (self.host.now - since + SEC).as_nanos();
            let allowed = |rate: u64| u128::from(rate) * time / 1_000_000_000;
            if let Some(rate) = config.max_messages_per_second {
                assert!(actor.delivered as u128 <= allowed(rate.into()), "too many messages: {actor:?}");
            }
            if let Some(rate) = config.max_bytes_per_second.filter(|_| actor.reason.is_none()) {
                // The byte that proves the excess is read as well.
                let read = u128::from(actor.peer.traffic().0) - actor.peer.request().len() as u128;
                assert!(read <= allowed(rate as u64) + 1, "too many bytes: {actor:?}");
            }
        }
    }

    /// Checks that no deadline is overdue, and that no user got more than its read budget.
    fn check_clock(&mut self) {
        let (now, engine) = (self.host.now, &self.host.engine);
        for (actor, moments) in self.actors.iter().zip(&mut self.moments) {
            moments.note(actor, engine.config().read_budget, now);
        }
        if !engine.timers_left {
            self.timers.check(now);
            for (_, client) in &engine.clients {
                check_deadlines(client, engine.config(), now);
            }
        }
    }

    /// The actor with this id; panics after its `Close`.
    fn who(&self, client: ClientId) -> usize {
        let who = self.by_index.get(client.index()).copied().flatten();
        let who = who.unwrap_or_else(|| panic!("an event of {client}, which is not open"));
        assert_eq!(self.actors[who].id, Some(client), "an event for another one's slot");
        who
    }

    fn application_acts(&mut self) {
        if self.actors.is_empty() {
            return;
        }
        let who = self.rng.below(self.actors.len());
        let text = "s".repeat(20 + self.rng.below(40));
        let large = vec![7; 1_000 + self.rng.below(30_000)];
        let now = self.host.now;
        match self.rng.below(40) {
            0..8 => self.broadcast(Message::Text(&text)),
            8 => self.broadcast(Message::Binary(&large)),
            9..14 => self.send(who, Message::Text(&text)),
            14 => self.send(who, Message::Binary(&large)),
            15 if !self.calm => {
                let timer = self.host.engine.set_timer(300 * MS, true, now);
                self.timers.set(timer, now + 300 * MS, Some(300 * MS));
            }
            15 | 16 => {
                let timer = self.host.engine.set_timer(20 * MS, false, now);
                self.timers.set(timer, now + 20 * MS, None);
            }
            17 => {
                if let Some(timer) = self.timers.take() {
                    assert!(self.host.engine.cancel_timer(timer));
                }
            }
            _ => self.handle(who),
        }
        self.note_closing();
    }

    /// Makes a random call for one client, which may be gone.
    fn handle(&mut self, who: usize) {
        let (actor, now) = (&mut self.actors[who], self.host.now);
        let Some(id) = actor.id else { return };
        let engine = &mut self.host.engine;
        let known = engine.get(id).is_some();
        let live = engine.get(id).is_some_and(|client| client.is_live());
        match self.rng.below(30) {
            0..5 => {
                assert_eq!(engine.pause_reading(id).is_ok(), known);
                actor.paused = known && engine.clients[id.index()].paused;
            }
            5..12 => {
                assert_eq!(engine.resume_reading(id, now).is_ok(), known);
                actor.paused = false;
            }
            12..15 => assert!(engine.ping(id, now).is_ok() || !live || actor.closing),
            15 => {
                let closed = engine.close(id, CloseCode::from(4000), "enough", now);
                assert_eq!(closed.is_ok(), live && !actor.closing);
                actor.closing |= closed.is_ok();
            }
            16 => {
                assert_eq!(engine.disconnect(id).is_ok(), known);
                actor.disconnected |= live;
            }
            17 => _ = engine.set_overflow(id, OverflowPolicy::DropNewest),
            _ => {}
        }
    }

    fn send(&mut self, who: usize, message: Message<'_>) {
        let actor = &mut self.actors[who];
        let Some(id) = actor.id else { return };
        match self.host.engine.send(id, message.into()) {
            Ok(()) => {
                assert!(!actor.closing, "queued behind a close frame");
                self.messages_out += 1;
                actor.queued.push_back((message.as_text().is_some(), message.as_bytes().to_vec()));
            }
            Err(SendError::NotConnected(_)) => assert!(self.host.engine.get(id).is_none()),
            Err(SendError::Connecting(_)) => panic!("nothing is outbound here"),
            Err(SendError::Dropped(_)) => self.dropped += 1,
            Err(SendError::TooLarge { len, max }) => assert!(len > max && max == self.max_buffered),
            Err(SendError::Closing(_) | SendError::Overflow(_)) => {}
        }
        self.note_closing();
    }

    fn broadcast(&mut self, message: Message<'_>) {
        self.broadcasts += 1;
        let engine = &mut self.host.engine;
        let of =
            |engine: &crate::engine::Engine<_>, actor: &Actor| actor.id.map_or(0, |id| engine.buffered(id));
        let before: Vec<usize> = self.actors.iter().map(|actor| of(engine, actor)).collect();
        let except =
            self.actors.iter().filter(|actor| actor.is_open()).filter_map(|actor| actor.id).next_back();
        let except = except.filter(|_| self.broadcasts.is_multiple_of(2));
        let live = engine.clients().filter(|id| Some(*id) != except);
        let reachable = live.filter(|id| {
            engine.get(*id).is_some_and(|client| client.open().unwrap().pending_reason.is_none())
        });
        let reachable = reachable.count();
        let shed = engine.stats().closed.shed;
        let delivery = engine.broadcast(message.into(), except);
        assert_eq!(delivery.queued + delivery.dropped + delivery.overflowed, reachable, "{delivery:?}");
        let len = frame_len(message.len());
        let mut queued = 0;
        for (actor, before) in self.actors.iter_mut().zip(before) {
            let after = of(engine, actor);
            // The close frame of an overflow, or of a client that was shed, may be as long.
            let takes = |id: ClientId| {
                let open = engine.get(id).and_then(|client| client.open());
                open.filter(|open| open.connection.close_state().may_send_data())
            };
            if let Some(open) = actor.id.and_then(takes).filter(|_| after > before) {
                // The length of a compressed message is not known.
                let deflates = open.connection.deflates();
                assert!(deflates || after == before + len, "{before} and {after} bytes");
                assert!(actor.id != except);
                actor.queued.push_back((message.as_text().is_some(), message.as_bytes().to_vec()));
                queued += 1;
            }
        }
        let shed = (engine.stats().closed.shed - shed) as usize;
        assert!(queued <= delivery.queued && delivery.queued <= queued + shed);
        self.messages_out += delivery.queued as u64;
        self.dropped += delivery.dropped as u64;
        self.note_closing();
    }

    /// Notes the users that the server is closing, for any reason.
    fn note_closing(&mut self) {
        for actor in &mut self.actors {
            let Some(id) = actor.id else { continue };
            let Some(open) = self.host.engine.get(id).and_then(|client| client.open()) else { continue };
            actor.closing |= !open.connection.close_state().may_send_data() && !open.reported;
        }
    }
}

impl RandomWorld for World {
    fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    fn act(&mut self) {
        for _ in 0..1 + self.rng.below(8) {
            if self.actors.len() < self.users && self.rng.one_in(3) {
                self.connect();
            }
            if !self.actors.is_empty() {
                let who = self.rng.below(self.actors.len());
                self.actors[who].act(&mut self.rng, self.calm);
            }
        }
        if self.rng.one_in(2) {
            self.application_acts();
        }
    }

    /// Runs one poll and the application's reactions, after which the users read.
    fn step(&mut self) {
        let paused: Vec<bool> = self.actors.iter().map(|actor| actor.paused).collect();
        let closing: Vec<bool> = self.actors.iter().map(|actor| actor.closing).collect();
        let tick = self.host.poll();
        self.host.check();
        let bulk = count(&tick, |event| matches!(event, Event::Open { .. } | Event::Message { .. }));
        assert!(bulk <= self.event_budget, "{bulk} events");
        // `Open` events are handled first: a broadcast also reaches clients whose `Open` comes
        // later in the tick.
        for event in &tick {
            if let Event::Open { client, request } = event {
                assert_eq!(request.uri(), "/chat?room=1");
                let port =
                    self.host.engine.remote_addr(client).expect("it is open").port().expect("an IP address");
                let who = self.actors.iter().position(|actor| actor.peer.port == port).expect("known");
                assert_eq!(self.actors[who].id.replace(client), None, "opened twice");
                self.actors[who].since = Some(self.host.now);
            }
        }
        for event in &tick {
            match event {
                Event::Open { client, .. } => {
                    let who = self.actors.iter().position(|actor| actor.id == Some(client)).expect("known");
                    let slots = self.by_index.len().max(client.index() + 1);
                    self.by_index.resize(slots, None);
                    self.by_index[client.index()] = Some(who);
                    ("open", client).hash(&mut self.transcript);
                }
                Event::Message { client, message } => {
                    let who = self.who(client);
                    let bytes = message.as_bytes();
                    // A failed write ends the pause, because received data is delivered before the
                    // end.
                    assert!(
                        !paused[who] || self.actors[who].socket_closed,
                        "a message of one that is paused"
                    );
                    assert!(!closing[who], "a message of one that we are closing");
                    self.actors[who].deliver(message.as_text().is_some(), bytes);
                    self.messages_in += 1;
                    ("message", client, bytes).hash(&mut self.transcript);
                    match self.rng.below(8) {
                        0..3 => self.send(who, message),
                        3 => self.broadcast(message),
                        _ => {}
                    }
                }
                Event::Close { client, reason } => {
                    let who = self.who(client);
                    if let CloseReason::Timeout(timeout) = reason {
                        let config = self.host.engine.config();
                        self.moments[who].check(*timeout, &self.actors[who], config, self.host.now);
                    }
                    // Messages queued in this tick still leave.
                    if self.rng.one_in(2) {
                        self.send(who, Message::Text("a late answer"));
                    }
                    self.actors[who].close(reason, self.calm);
                    self.by_index[client.index()] = None;
                    ("close", client, reason.to_string()).hash(&mut self.transcript);
                }
                Event::Drained { client } => {
                    self.who(client);
                    ("drained", client).hash(&mut self.transcript);
                }
                Event::Pressure { pressure } => ("pressure", pressure).hash(&mut self.transcript),
                Event::Upgrade { .. } | Event::UpgradeGone { .. } | Event::Http { .. } => panic!("{event:?}"),
                Event::Reconnecting { .. } | Event::ConnectFailed { .. } => panic!("{event:?}"),
                Event::Timer { timer, .. } => {
                    self.timers.fired(timer, self.host.now);
                    ("timer", timer).hash(&mut self.transcript);
                }
            }
        }
        drop(tick);
        self.note_closing();
        self.check_rates();
        self.check_clock();
        for actor in &mut self.actors {
            let most = self.rng.pick(&[1, 100, 10_000, usize::MAX]);
            let frames = actor.read(most);
            frames.hash(&mut self.transcript);
        }
        let stats = self.host.engine.stats();
        let counted = (stats.messages_in, stats.messages_out, stats.dropped);
        assert_eq!(counted, (self.messages_in, self.messages_out, self.dropped));
        let (mut read, mut written) = (0, 0);
        for actor in &self.actors {
            let (up, down) = actor.peer.traffic();
            (read, written) = (read + up, written + down);
        }
        assert_eq!(stats.bytes_in, read);
        // Bytes that left in the same call before a write failed are not counted.
        assert!(stats.bytes_out == written || !self.calm && stats.bytes_out < written, "{stats}");
    }

    fn pause(&mut self) -> Duration {
        match self.rng.below(1_000) {
            0..2 if !self.calm => 30 * SEC,
            2..20 if !self.calm => SEC,
            20..600 => MS * self.rng.below(17) as u32,
            _ => Duration::ZERO,
        }
    }

    /// Lets all users complete what they have begun and read everything, but begin nothing new.
    fn settle(&mut self) {
        for who in 0..self.actors.len() {
            self.actors[who].rest();
            self.actors[who].paused = false;
            if let Some(id) = self.actors[who].id {
                let _ = self.host.engine.resume_reading(id, self.host.now);
            }
        }
        while let Some(timer) = self.timers.take() {
            assert!(self.host.engine.cancel_timer(timer));
        }
        self.until("at rest", |world| {
            // Time must not jump past the close timeout of a peer that has ended and still reads.
            let has_read_all = |actor: &Actor| actor.socket_closed || actor.peer.unread() == 0;
            let reading = world.host.engine.pressure() < Pressure::NotReading;
            let quiet = world.host.is_quiet() && reading && world.actors.iter().all(has_read_all);
            let throttled = world.host.engine.clients.iter().any(|(_, client)| client.resume_at().is_some());
            if quiet && throttled {
                let timeout = world.host.engine.next_timeout(world.host.now);
                world.host.advance(timeout.expect("an alarm for those that a limit holds back"));
            }
            quiet && !throttled
        });
        for actor in self
            .actors
            .iter()
            .filter(|actor| actor.is_open() && !actor.socket_closed && actor.ended.is_none())
        {
            actor.check_open();
        }
    }

    /// Ends all connections: the users leave, or the server shuts down.
    fn finish(&mut self) {
        let shutdown = self.rng.one_in(2);
        if shutdown {
            self.host.engine.shutdown(CloseCode::GOING_AWAY, "", 60 * SEC, self.host.now);
        } else {
            self.actors.iter_mut().for_each(Actor::finish);
        }
        self.note_closing();
        self.until("gone", |world| {
            world.host.advance(if world.calm { MS } else { 100 * MS });
            world.host.engine.connection_count() == 0
        });
        self.step();
        self.host.check_empty();
        assert_eq!(self.host.engine.is_drained(), shutdown);
        self.host.deliver_all();
        for actor in &mut self.actors {
            actor.read(usize::MAX);
            assert!(actor.id.is_none() || actor.reason.is_some(), "never closed: {:?}", actor.id);
            assert!(actor.peer.is_dropped());
            actor.check_closed(self.calm);
        }
    }

    fn digest(&self) -> u64 {
        self.transcript.finish()
    }

    fn wait(&mut self) {
        if self.host.engine.pressure() == Pressure::NotReading {
            // No client is read until the slow ones were closed at the end of the grace period.
            self.host.advance(MS);
        }
    }
}
