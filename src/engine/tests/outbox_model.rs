//! A server that sends in every possible way to clients that read at random, and some of which
//! leave. The received stream must be valid and keep every promise of `SendOptions`.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{
    receiver::{Receiver, frame_len, numbered},
    world::{RandomWorld, run},
    *,
};
use crate::{
    Audience, CloseCode, LatestKey, Message, Outgoing, OverflowPolicy, Priority, SendError, SendOptions,
    outbox::{pending::Terms, prepared::Prepared},
    util::test_rng::Rng,
};

const SEEDS: u64 = 150;

/// Bytes of frames that are queued for a client.
fn framed(host: &Host, id: ClientId) -> usize {
    host.engine.get(id).map_or(0, |client| client.outbox.len() + host.engine.batch.held_for(client))
}

#[test]
fn in_calm_conditions_every_promise_is_kept_and_every_last_value_arrives() {
    run(0, SEEDS, |seed| World::new(seed).run());
}

#[test]
fn in_foul_conditions_no_value_is_stale_doubled_or_torn() {
    run(1, SEEDS, |seed| World::new(seed).run());
}

struct World {
    host: Host,
    rng: Rng,
    receivers: Vec<Receiver>,
    /// Bounds the actions of the application between two polls.
    busy: usize,
    calm: bool,
    max_buffered: usize,
    /// Some worlds have no pings, so that the buffer limit is exact.
    pings: bool,
    number: u32,
    queued: u64,
    dropped: u64,
    /// Hash of all events, which must be the same in each run of a seed.
    transcript: DefaultHasher,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let calm = seed.is_multiple_of(2);
        let config = Config {
            max_buffered: rng.pick(&[3_000, 20_000, 1 << 20]),
            overflow: rng.pick(&[
                OverflowPolicy::Disconnect,
                OverflowPolicy::DropNewest,
                OverflowPolicy::DropNewest,
            ]),
            time_budget: (seed % 3 == 2).then_some(Duration::ZERO),
            ping_interval: None,
            silence_timeout: None,
            // A slow reader must not run into a timeout.
            write_timeout: if calm { 600 * SEC } else { 10 * SEC },
            close_timeout: if calm { 600 * SEC } else { 10 * SEC },
            ..Config::default()
        };
        let max_buffered = config.max_buffered;
        let host = Host::with_chaos(config, Some(Rng::new(rng.next())));
        World {
            host,
            calm,
            max_buffered,
            pings: rng.one_in(2),
            rng,
            receivers: Vec::new(),
            busy: 0,
            number: 0,
            queued: 0,
            dropped: 0,
            transcript: DefaultHasher::new(),
        }
    }

    fn run(mut self) -> u64 {
        for _ in 0..2 + self.rng.below(4) {
            self.connect();
        }
        self.busy = self.rng.pick(&[2, 8, 30]);
        let rounds = 120 + self.rng.below(80);
        self.play(rounds)
    }

    fn connect(&mut self) {
        let mut peer = self.host.connect();
        let sizes = [200, 1_000, 10_000, 256 * 1024];
        peer.set_buffers(1_000, self.rng.pick(&sizes));
        peer.handshake();
        for _ in 0..10_000 {
            let tick = self.host.poll();
            drop(tick);
            assert_eq!(peer.frames(), []);
            if peer.status().is_some() {
                let id = self.host.engine.clients().find(|id| {
                    self.host.engine.remote_addr(*id).is_some_and(|addr| addr.port() == Some(peer.port))
                });
                self.receivers.push(Receiver::new(peer, id.expect("it is open")));
                return;
            }
        }
        panic!("no handshake");
    }

    fn check_caps(&mut self) {
        let slack = if self.pings { self.max_buffered / 2 + 300 } else { 127 };
        for (_, client) in &self.host.engine.clients {
            let pending = client.open().and_then(|open| open.pending.as_ref());
            let framed = client.outbox.frames_len() + self.host.engine.batch.held_for(client);
            let held = framed + pending.map_or(0, |pending| pending.cost());
            assert!(held <= self.max_buffered + slack, "{held} of {}", self.max_buffered);
        }
    }

    fn receiver_acts(&mut self) {
        let (who, calm) = (self.rng.below(self.receivers.len()), self.calm);
        let receiver = &mut self.receivers[who];
        if receiver.ended {
            return;
        }
        match self.rng.below(400) {
            0..100 => receiver.reads = !receiver.reads,
            100..200 if self.pings => receiver.ping(),
            200 => {
                receiver.peer.close(1000);
                receiver.ended = true;
            }
            // The receiver goes on reading.
            201 => {
                receiver.peer.fin();
                receiver.ended = true;
            }
            202 if !calm => {
                receiver.peer.reset(self.rng.one_in(2));
                (receiver.ended, receiver.socket_closed) = (true, true);
            }
            203 if !calm => {
                receiver.peer.close_socket();
                (receiver.ended, receiver.socket_closed) = (true, true);
            }
            _ => {}
        }
    }

    fn application_acts(&mut self) {
        let who = self.rng.below(self.receivers.len());
        let (id, now) = (self.receivers[who].id, self.host.now);
        let engine = &mut self.host.engine;
        match self.rng.below(300) {
            0..40 => self.broadcast(),
            40..50 if self.pings => _ = engine.ping(id, now),
            50 => _ = engine.close(id, CloseCode::from(4000), "enough", now),
            51 if !self.calm => {
                self.receivers[who].disconnected |= engine.disconnect(id).is_ok();
            }
            52 => {
                _ = engine.set_overflow(
                    id,
                    self.rng.pick(&[OverflowPolicy::DropNewest, OverflowPolicy::Disconnect]),
                )
            }
            53..55 => engine.flush(now),
            _ => self.send_one(who),
        }
        self.note_closing();
    }

    /// A numbered message of random size.
    fn message(&mut self) -> (u32, bool, Vec<u8>) {
        self.number += 1;
        let is_text = self.rng.one_in(2);
        let len = match self.rng.below(40) {
            0 => self.rng.below(20_000),
            1 => self.max_buffered - self.rng.below(100),
            2..5 => 1_010 + self.rng.below(20),
            5..10 => self.rng.below(1_500),
            _ => self.rng.below(60),
        };
        (self.number, is_text, numbered(self.number, is_text, len.min(30_000)))
    }

    fn key(&mut self) -> LatestKey {
        match self.rng.below(8) {
            number @ 0..5 => number.into(),
            number => ["a", "the long name of a value", ""][number - 5].into(),
        }
    }

    fn outgoing<'m>(&mut self, is_text: bool, payload: &'m [u8]) -> Outgoing<'m> {
        let message = match is_text {
            true => Message::Text(std::str::from_utf8(payload).unwrap()),
            false => Message::Binary(payload),
        };
        if self.rng.one_in(4) { Prepared::new(message).into() } else { message.into() }
    }

    /// Sends one message to one client, in a random way.
    fn send_one(&mut self, who: usize) {
        let (number, is_text, payload) = self.message();
        let id = self.receivers[who].id;
        let now = self.host.now;
        let mut options = SendOptions::default();
        match self.rng.below(10) {
            0..4 => {}
            4..6 => options.latest = Some(self.key()),
            _ => {
                options.priority = self.rng.pick(&[Priority::Normal, Priority::High]);
                options.expires_in = self
                    .rng
                    .pick(&[None, None, Some(0), Some(5), Some(60), Some(3_000)])
                    .map(|ms: u64| MS * ms as u32);
                options.latest = self.rng.one_in(2).then(|| self.key());
            }
        }
        let SendOptions { expires_in, priority, latest, .. } = options.clone();
        let terms =
            Terms { priority, expires: expires_in.map(|wait| now + wait), latest, uncompressed: false };
        let receiver = &self.receivers[who];
        let older = receiver.replaces(&self.host, payload.len(), &terms, self.max_buffered);
        let flushed = self.host.engine.now;
        let room = |expired| receiver.fits(&self.host, payload.len(), &terms, self.max_buffered, expired);
        let fits = room(None) || room(Some(flushed));

        let message = self.outgoing(is_text, &payload);
        let engine = &mut self.host.engine;
        let result = match &options {
            options if terms.is_plain() && self.rng.one_in(2) => {
                assert_eq!(*options, SendOptions::default());
                engine.send(id, message)
            }
            SendOptions { latest: Some(key), expires_in: None, priority: Priority::Normal, .. }
                if self.rng.one_in(2) =>
            {
                engine.send_latest(id, key.clone(), message)
            }
            _ => engine.send_with(id, message, &options, Some(now)),
        };
        let receiver = &mut self.receivers[who];
        match result {
            Ok(()) => {
                assert!(fits, "{} bytes have no room", payload.len());
                self.queued += 1;
                receiver.queued(number, is_text, &payload, &terms, older);
            }
            Err(SendError::TooLarge { len, max }) => {
                let cost = Receiver::cost(payload.len(), terms.latest.as_ref());
                assert_eq!(len, if terms.is_plain() { frame_len(payload.len()) } else { cost });
                assert!(len > max && max == self.max_buffered);
            }
            Err(SendError::Dropped(_)) => {
                assert!(!fits, "{} bytes fit", payload.len());
                self.dropped += 1;
            }
            Err(SendError::Overflow(_)) => {
                assert!(!fits, "{} bytes fit", payload.len());
                receiver.closing = true;
            }
            // Its end was reported in this tick, so only queued messages still leave.
            Err(SendError::Closing(_)) => assert!(receiver.closing || !fits),
            Err(SendError::NotConnected(_)) => assert!(self.host.engine.get(id).is_none()),
            Err(SendError::Connecting(_)) => panic!("nothing is outbound here"),
        }
    }

    /// Sends one message to all clients, perhaps as the latest value of a key.
    fn broadcast(&mut self) {
        let (number, is_text, payload) = self.message();
        let latest = self.rng.one_in(3).then(|| self.key());
        let terms = Terms { latest: latest.clone(), ..Terms::default() };
        let before: Vec<(usize, bool)> = self
            .receivers
            .iter()
            .map(|receiver| {
                let len = framed(&self.host, receiver.id);
                (len, receiver.replaces(&self.host, payload.len(), &terms, self.max_buffered))
            })
            .collect();
        let message = self.outgoing(is_text, &payload);
        let options = SendOptions { latest, ..SendOptions::new() };
        let delivery = self.host.engine.deliver(Audience::Everyone, message, &options, None);
        let mut queued = 0;
        for (receiver, (len, older)) in self.receivers.iter_mut().zip(before) {
            let Some(client) = self.host.engine.get(receiver.id) else { continue };
            let Some(open) = client.open().filter(|open| !open.reported) else { continue };
            let straight = framed(&self.host, receiver.id) == len + frame_len(payload.len());
            let waits =
                open.pending.as_ref().is_some_and(|pending| pending.waiting().any(|other| other == payload));
            if straight || waits {
                receiver.queued(number, is_text, &payload, &terms, older);
                queued += 1;
            }
        }
        assert_eq!(delivery.queued, queued, "{delivery:?}");
        self.queued += queued as u64;
        self.dropped += delivery.dropped as u64;
    }

    fn note_closing(&mut self) {
        for receiver in &mut self.receivers {
            let client = self.host.engine.get(receiver.id);
            let open = client.and_then(|client| client.open());
            receiver.closing |= open.is_none_or(|open| !open.connection.close_state().may_send_data());
        }
    }
}

impl RandomWorld for World {
    const PATIENCE: usize = 100_000;

    fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    fn act(&mut self) {
        for _ in 0..self.rng.below(self.busy) {
            self.application_acts();
            self.check_caps();
        }
        for _ in 0..self.rng.below(3) {
            self.receiver_acts();
        }
    }

    /// One poll, after which the receivers read.
    fn step(&mut self) {
        let now = self.host.now;
        self.receivers.iter_mut().for_each(|receiver| receiver.before_flush(now));
        let tick = self.host.poll();
        self.host.check();
        self.note_closing();
        for event in &tick {
            match event {
                Event::Close { client, reason } => {
                    let who =
                        self.receivers.iter().position(|receiver| receiver.id == client).expect("known");
                    // Messages queued before the next flush still leave.
                    if self.rng.one_in(2) {
                        self.send_one(who);
                    }
                    let receiver = &mut self.receivers[who];
                    assert_eq!(receiver.reason.replace(reason.clone()), None, "closed twice");
                    ("close", client, reason.to_string()).hash(&mut self.transcript);
                }
                Event::Drained { client } => ("drained", client).hash(&mut self.transcript),
                other => panic!("{other:?}"),
            }
        }
        drop(tick);
        for receiver in &mut self.receivers {
            receiver.after_poll(&self.host);
            let most = self.rng.pick(&[1, 50, 400, 10_000, usize::MAX]);
            let frames = receiver.read(most);
            frames.hash(&mut self.transcript);
        }
        self.note_closing();
        let stats = self.host.engine.stats();
        assert_eq!((stats.messages_out, stats.dropped), (self.queued, self.dropped));
        let replaced: u64 = self.receivers.iter().map(|receiver| receiver.tally().0).sum();
        assert_eq!(stats.replaced, replaced);
    }

    fn pause(&mut self) -> Duration {
        match self.rng.below(100) {
            0 if !self.calm => 4 * SEC,
            0..60 => MS * self.rng.below(17) as u32,
            _ => Duration::ZERO,
        }
    }

    /// Lets all receivers read everything, while nothing new is sent.
    fn settle(&mut self) {
        self.receivers.iter_mut().for_each(|receiver| receiver.reads = true);
        self.until("at rest", |world| {
            world.host.is_quiet() && world.receivers.iter().all(|r| r.socket_closed || r.peer.unread() == 0)
        });
        let mut gone = false;
        let mut expired = 0;
        for receiver in &self.receivers {
            expired += receiver.tally().1;
            gone |= receiver.reason.is_some();
            if receiver.reason.is_none() && !receiver.ended {
                receiver.check_complete();
                let client = self.host.engine.get(receiver.id).expect("it is open");
                assert!(!client.backed_up && client.open().unwrap().pending.is_none());
                assert_eq!(self.host.engine.buffered(receiver.id), 0);
            }
        }
        let stats = self.host.engine.stats();
        assert!(if gone { stats.expired <= expired } else { stats.expired == expired }, "{stats} {expired}");
        if self.receivers.iter().all(|receiver| receiver.reason.is_none()) {
            assert_eq!((self.host.engine.outbound.held(), self.host.engine.pending_pool.held()), (0, 0));
        }
    }

    /// Ends all connections, while messages are under way to them.
    fn finish(&mut self) {
        for _ in 0..20 {
            self.application_acts();
        }
        if self.rng.one_in(2) {
            self.host.engine.shutdown(CloseCode::GOING_AWAY, "", 600 * SEC, self.host.now);
        } else {
            for receiver in self.receivers.iter_mut().filter(|receiver| !receiver.ended) {
                receiver.peer.fin();
                receiver.ended = true;
            }
        }
        self.note_closing();
        self.until("gone", |world| {
            world.host.advance(if world.calm { MS } else { 100 * MS });
            world.host.engine.connection_count() == 0
        });
        self.step();
        self.host.check_empty();
        self.host.deliver_all();
        for receiver in &mut self.receivers {
            receiver.read(usize::MAX);
            let reason = receiver.reason.clone().expect("closed");
            let orderly = !matches!(reason, CloseReason::Io(_) | CloseReason::Timeout(_));
            if orderly && self.calm && !receiver.socket_closed && !receiver.disconnected {
                receiver.check_complete();
                assert!(
                    receiver.heard_close
                        || reason == CloseReason::Eof
                        || reason.code() == CloseCode::NORMAL_CLOSURE
                );
            }
        }
    }

    fn digest(&self) -> u64 {
        self.transcript.finish()
    }
}
