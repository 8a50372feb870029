//! Random HTTP clients on a network that may be bad: plain requests, pipelines, bodies, and
//! deferred upgrades. Each response is compared with a simple model.
//!
//! Set `TICKWS_SIM_SEEDS=5000 cargo test --lib browsing` to try more; a failure names the seed that
//! repeats it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use http::HeaderMap;

use super::{
    web::*,
    world::{RandomWorld, run},
    *,
};
use crate::{
    CloseCode, Decision, ExchangeId, Message, Pressure, RateLimitPolicy, RespondError, UpgradeError,
    UpgradeId, engine::hooks::Hooks, util::test_rng::Rng,
};

/// The number of seeds for each kind of conditions.
const SEEDS: u64 = 130;

#[test]
fn in_calm_conditions_responses_come_whole_and_in_order() {
    run(0, SEEDS, |seed| World::new(seed).run());
}

#[test]
fn in_foul_conditions_no_response_is_doubled_or_mixed_up() {
    run(1, SEEDS, |seed| World::new(seed).run());
}

/// Seed 10358 had a user that happened to send no request before the shutdown. The model must
/// expect the 503 that such a user gets.
#[test]
fn a_user_without_a_request_gets_503_at_shutdown() {
    let mut world = World::new(0);
    world.connect();
    (0..3).for_each(|_| world.step());
    world.settle();
    world.shut_down();
    assert_eq!(world.users[0].expected.len(), 1);
    world.users[0].is_done = true;
    world.until("gone", |world| world.host.engine.connection_count() == 0);
    assert_eq!(world.users[0].expected.len(), 0, "the response did not come");
}

/// The expected response to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    status: u16,
    body: Vec<u8>,
    is_last: bool,
}

#[derive(Debug)]
struct User {
    web: Web,
    port: u16,
    requests: usize,
    /// Bytes of requests that were not written yet.
    draft: VecDeque<u8>,
    expected: VecDeque<Expected>,
    /// Paths of the requests that the application must get, in order.
    to_ask: VecDeque<String>,
    /// The user has asked for an upgrade, or sends no more requests.
    is_done: bool,
    /// Nothing is known about further responses: a request was rejected or invalid, or the user
    /// left.
    is_lost: bool,
    is_closed: bool,
    reads: bool,
    echoes: VecDeque<String>,
}

impl User {
    /// Queues a request; several in a row make a pipeline.
    fn send_request(&mut self, rng: &mut Rng, calm: bool) {
        self.requests += 1;
        let tag = format!("{}/{}", self.port, self.requests);
        let closes = rng.one_in(15);
        let extra = if closes { "Connection: close\r\n" } else { "" };
        let mut expected = Expected { status: 200, body: Vec::new(), is_last: closes };
        let mut is_asked = false;
        let request = match rng.below(if calm { 15 } else { 18 }) {
            0..5 => {
                is_asked = true;
                let path = if rng.one_in(6) { format!("/{tag}/big") } else { format!("/{tag}") };
                expected.body = response_to("GET", &path, b"");
                self.to_ask.push_back(path.clone());
                format!("GET {path} HTTP/1.1\r\nHost: a\r\n{extra}\r\n").into_bytes()
            }
            5 => {
                is_asked = true;
                self.to_ask.push_back(format!("/{tag}"));
                format!("HEAD /{tag} HTTP/1.1\r\nHost: a\r\n{extra}\r\n").into_bytes()
            }
            6..10 => {
                is_asked = true;
                let len = rng.pick(&[0, 1, 10, 3_000]);
                let (path, body) = (format!("/{tag}"), rng.bytes(len));
                expected.body = response_to("POST", &path, &body);
                self.to_ask.push_back(path.clone());
                let extra =
                    if rng.one_in(3) { extra.to_owned() + "Expect: 100-continue\r\n" } else { extra.into() };
                let head = format!(
                    "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n{extra}\r\n",
                    body.len()
                );
                [head.into_bytes(), body].concat()
            }
            10 | 11 => {
                expected.body = vec![b's'; STATIC];
                format!("GET /static HTTP/1.1\r\nHost: a\r\n{extra}\r\n").into_bytes()
            }
            12 => {
                expected = Expected { status: 413, body: Vec::new(), is_last: true };
                format!("POST /{tag} HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n").into_bytes()
            }
            13 => {
                expected = Expected { status: 400, body: Vec::new(), is_last: true };
                b"GET /\r\nHost: a\r\n\r\n".to_vec()
            }
            14 => {
                let (what, status) = rng.pick(&[("now", 101), ("later", 101), ("no", 401), ("laterno", 401)]);
                expected = Expected { status, body: Vec::new(), is_last: status != 101 };
                // RFC 6455 §4.1: the client waits for the response.
                self.is_done = true;
                Peer::REQUEST.replace("/chat?room=1", &format!("/{what}/{tag}")).into_bytes()
            }
            15 => {
                expected = Expected { status: 503, body: Vec::new(), is_last: true };
                self.is_done = true;
                Peer::REQUEST.replace("/chat?room=1", &format!("/laternever/{tag}")).into_bytes()
            }
            16 => {
                self.to_ask.push_back(format!("/{tag}/never"));
                expected = Expected { status: 503, body: Vec::new(), is_last: true };
                format!("GET /{tag}/never HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
            }
            _ => {
                // The client sends a frame before the response.
                (self.is_done, self.is_lost) = (true, true);
                [Peer::REQUEST.replace("/chat?room=1", &format!("/later/{tag}")).as_bytes(), b"\x81\x80abcd"]
                    .concat()
            }
        };
        // The response to further requests would depend on how the bytes are split.
        self.is_done |= expected.is_last || is_asked && closes;
        self.web.note(&request);
        self.draft.extend(request);
        self.expected.push_back(expected);
    }

    fn act(&mut self, rng: &mut Rng, calm: bool) {
        if self.is_closed {
            return;
        }
        match rng.below(if calm { 40 } else { 50 }) {
            0..10 if self.web.peer.status() == Some(101) => {
                let line = format!("{}:{}", self.port, self.requests);
                self.requests += 1;
                self.web.peer.text(&line);
                self.echoes.push_back(line);
            }
            0..10 if !self.is_done && self.requests < 12 => {
                for _ in 0..rng.pick(&[1, 1, 2, 5]) {
                    if !self.is_done {
                        self.send_request(rng, calm);
                    }
                }
            }
            10..40 => {
                let most = rng.pick(&[1, 7, 100, 10_000]);
                self.write(most);
            }
            40..46 => self.reads = !self.reads,
            46 => {
                self.web.peer.fin();
                self.is_done = true;
                self.is_lost = true;
            }
            47 if rng.one_in(2) => {
                self.web.peer.reset(rng.one_in(2));
                (self.is_closed, self.is_lost, self.is_done) = (true, true, true);
            }
            _ => {}
        }
    }

    fn write(&mut self, most: usize) {
        let count = self.draft.len().min(most);
        let piece: Vec<u8> = self.draft.drain(..count).collect();
        self.web.peer.raw(&piece);
    }

    /// Reads responses and compares them with the model.
    fn read(&mut self, most: usize, calm: bool, transcript: &mut DefaultHasher) {
        if self.is_closed {
            return;
        }
        if self.reads {
            self.web.peer.read(most);
        }
        for response in self.web.parse() {
            response.hash(transcript);
            let expected = self.expected.pop_front();
            // Deadlines and the limits on connections and memory may cause a 503, and a slow body a
            // 408.
            if !calm && matches!(response.status, 408 | 503) && response.is_last() {
                (self.is_lost, self.is_done) = (true, true);
                self.expected.clear();
                continue;
            }
            let expected = expected.unwrap_or_else(|| panic!("a response to nothing: {response:?}"));
            if self.is_lost && self.expected.is_empty() && matches!(response.status, 400 | 101) {
                continue;
            }
            assert_eq!(response.status, expected.status, "{response:?}");
            assert_eq!(response.is_last(), expected.is_last, "{response:?}");
            if response.status == 200 {
                assert!(
                    response.body == expected.body,
                    "the response to another request: {:?}",
                    response.text()
                );
            }
            if expected.is_last {
                self.expected.clear();
            }
        }
        if self.web.peer.status() == Some(101) {
            for frame in self.web.peer.parse() {
                frame.hash(transcript);
                match frame {
                    Frame::Text(line) => assert!(self.is_lost || self.echoes.pop_front() == Some(line)),
                    Frame::Close(code, _) => {
                        (self.is_lost, self.is_done) = (true, true);
                        self.web.peer.close(code);
                    }
                    Frame::Ping(body) => self.web.peer.pong(&body),
                    other => panic!("{other:?}"),
                }
            }
        }
        if self.web.peer.at_end() {
            // The server closes behind the last response, or because the user was given up.
            assert!(!calm || self.is_done, "hung up on {self:?}");
            self.web.peer.fin();
        }
    }
}

const STATIC: usize = 30_000;

/// The body with which the application responds to a request.
fn response_to(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let text = format!("{method} {path} {} {sum}", body.len());
    let times = if path.ends_with("/big") { 1_000 } else { 1 };
    if method == "HEAD" { Vec::new() } else { text.repeat(times).into_bytes() }
}

struct World {
    host: Host,
    rng: Rng,
    users: Vec<User>,
    /// The most users at a time.
    most: usize,
    calm: bool,
    /// A closure responds to plain requests, so that the application gets none.
    is_closure: bool,
    transcript: DefaultHasher,
    /// Requests that wait for the application, the user's port, and the response body.
    waiting: Vec<(ExchangeId, u16, Vec<u8>)>,
    /// Deferred upgrades, and whether they will be accepted; `None`: never decided.
    pending: HashMap<UpgradeId, Option<bool>>,
    asked: HashSet<UpgradeId>,
    opens: u64,
    closes: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let calm = seed.is_multiple_of(2);
        let is_closure = calm && rng.one_in(3);
        let patience = if calm { 1_000 * SEC } else { 10 * SEC };
        let config = Config {
            time_budget: (seed % 3 == 2).then_some(Duration::ZERO),
            http: true,
            event_budget: rng.pick(&[1, 2, 5, 50, 16 * 1024]),
            read_budget: rng.pick(&[60, 1_000, 256 * 1024]),
            max_body_size: 4_000,
            handshake_timeout: patience,
            keep_alive_timeout: rng.pick(&[patience / 10, patience, 10 * patience]),
            max_connections: rng.pick(&[None, None, Some(10)]).filter(|_| !calm),
            max_total_buffered: rng.pick(&[None, Some(60_000), Some(1 << 20)]).filter(|_| !calm),
            rate_limit: RateLimitPolicy::Pause,
            ..Config::default()
        };
        let mut hooks = Hooks {
            on_upgrade: Some(Box::new(|request, _| match &request.uri().path()[..3] {
                "/no" if request.uri().path().starts_with("/now/") => Decision::Accept,
                "/no" => Decision::Reject(status(401, "no")),
                _ => Decision::Defer,
            })),
            ..Hooks::default()
        };
        if is_closure {
            hooks.on_http = Some(Box::new(|request| {
                ok(response_to(request.method().as_str(), request.uri().path(), request.body()))
            }));
        }
        hooks.static_files.serve_bytes("/static", "text/plain", vec![b's'; STATIC]).unwrap();
        let host = Host::with_hooks(config, hooks, Some(Rng::new(rng.next())));
        World {
            host,
            rng,
            users: Vec::new(),
            most: 0,
            calm,
            is_closure,
            transcript: DefaultHasher::new(),
            waiting: Vec::new(),
            pending: HashMap::new(),
            asked: HashSet::new(),
            opens: 0,
            closes: 0,
        }
    }

    fn run(mut self) -> u64 {
        self.most = 5 + self.rng.below(20);
        self.play(250)
    }

    fn shut_down(&mut self) {
        self.host.engine.shutdown(CloseCode::GOING_AWAY, "", 60 * SEC, self.host.now);
        // A connection on which no request was sent gets a response all the same.
        let silent = |user: &&mut User| user.requests == 0 && !user.is_closed;
        for user in self.users.iter_mut().filter(silent) {
            user.expected.push_back(Expected { status: 503, body: Vec::new(), is_last: true });
        }
    }

    fn connect(&mut self) {
        let web = Web::new(&mut self.host);
        web.peer.set_buffers(
            self.rng.pick(&[100, 5_000, 256 * 1024]),
            self.rng.pick(&[1_000, 20_000, 256 * 1024]),
        );
        self.users.push(User {
            port: web.peer.port,
            web,
            requests: 0,
            draft: VecDeque::new(),
            expected: VecDeque::new(),
            to_ask: VecDeque::new(),
            is_done: false,
            is_lost: false,
            is_closed: false,
            reads: true,
            echoes: VecDeque::new(),
        });
    }

    /// Responds to some of the waiting requests, in random order.
    fn application_acts(&mut self) {
        let now = self.host.now;
        for _ in 0..self.rng.below(4).min(self.waiting.len()) {
            let who = self.rng.below(self.waiting.len());
            // Under bad conditions some requests get no response, and may be gone later.
            if !self.calm
                && self.users.iter().any(|user| user.port == self.waiting[who].1 && user.requests % 5 == 4)
            {
                continue;
            }
            let (id, _, body) = self.waiting.swap_remove(who);
            self.respond(id, body);
        }
        let mut ids: Vec<_> = self.pending.keys().copied().collect();
        ids.sort();
        for id in ids {
            if !self.rng.one_in(4) {
                continue;
            }
            match self.pending[&id] {
                None => continue,
                Some(true) => {
                    self.host.engine.accept_upgrade(id, HeaderMap::new(), now).expect("it waits");
                }
                Some(false) => {
                    self.host.engine.reject_upgrade(id, &status(401, "no"), now).expect("it waits")
                }
            }
            self.pending.remove(&id);
            let again = self.host.engine.accept_upgrade(id, HeaderMap::new(), now);
            assert_eq!(again, Err(UpgradeError::Gone(id)));
        }
    }

    fn respond(&mut self, id: ExchangeId, body: Vec<u8>) {
        let now = self.host.now;
        let mut response = ok(body);
        if self.rng.one_in(20) {
            response.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
            let refused = self.host.engine.respond(id, response.clone(), now);
            assert!(refused.is_err());
            response.headers_mut().clear();
        }
        match self.host.engine.respond(id, response, now) {
            Ok(()) => {}
            Err(RespondError::Gone(_)) => assert!(!self.calm),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(self.host.engine.respond(id, ok("again"), now), Err(RespondError::Gone(id)));
    }
}

impl RandomWorld for World {
    fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    fn act(&mut self) {
        for _ in 0..1 + self.rng.below(8) {
            if self.users.len() < self.most && self.rng.one_in(3) {
                self.connect();
            }
            if !self.users.is_empty() {
                let who = self.rng.below(self.users.len());
                self.users[who].act(&mut self.rng, self.calm);
            }
        }
        if self.rng.one_in(2) {
            self.application_acts();
        }
    }

    fn step(&mut self) {
        let tick = self.host.poll();
        self.host.check();
        for event in &tick {
            match event {
                Event::Http { exchange, request } => {
                    let (method, path) = (request.method().as_str(), request.uri().path());
                    let port = request.remote_addr().port().expect("it is an IP address");
                    let user = self.users.iter_mut().find(|user| user.port == port).expect("known");
                    assert_eq!(
                        user.to_ask.pop_front().as_deref(),
                        Some(path),
                        "not the next request in order"
                    );
                    let known = self.waiting.iter().position(|(_, other, _)| *other == port);
                    if let Some(position) = known {
                        // A user's next request must not be passed on before the previous one has
                        // ended.
                        panic!("asked again before a response: {:?}", self.waiting[position]);
                    }
                    (exchange, path).hash(&mut self.transcript);
                    if !path.ends_with("/never") {
                        self.waiting.push((exchange, port, response_to(method, path, request.body())));
                    }
                }
                Event::Upgrade { upgrade, request } => {
                    assert!(self.asked.insert(upgrade), "asked twice");
                    let path = request.uri().path();
                    let accept = (!path.starts_with("/laternever/")).then(|| path.starts_with("/later/"));
                    self.pending.insert(upgrade, accept);
                }
                Event::UpgradeGone { upgrade } => {
                    assert!(self.pending.remove(&upgrade).is_some(), "gone, and it was answered");
                    assert!(!self.calm);
                    upgrade.hash(&mut self.transcript);
                }
                Event::Open { .. } => self.opens += 1,
                Event::Close { reason, .. } => {
                    assert!(!self.calm || matches!(reason, CloseReason::Eof | CloseReason::Shutdown));
                    self.closes += 1;
                }
                Event::Message { client, message: Message::Text(line) } => {
                    let sent = self.host.engine.send(client, Message::Text(line).into());
                    assert!(!self.calm || sent.is_ok());
                }
                Event::Drained { .. } | Event::Pressure { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        drop(tick);
        let most = self.rng.pick(&[1, 100, 10_000, usize::MAX]);
        for user in &mut self.users {
            user.read(most, self.calm, &mut self.transcript);
        }
        let stats = self.host.engine.stats();
        assert!(stats.opened >= self.opens && stats.closed.total() >= self.closes);
    }

    fn pause(&mut self) -> Duration {
        match self.rng.below(1_000) {
            0..4 if !self.calm => 30 * SEC,
            4..20 if !self.calm => 3 * SEC,
            20..600 => MS * self.rng.below(17) as u32,
            _ => Duration::ZERO,
        }
    }

    /// Sends everything that was begun, and reads everything.
    fn settle(&mut self) {
        for user in &mut self.users {
            user.reads = true;
            user.write(usize::MAX);
        }
        self.until("at rest", |world| {
            let has_read_all = |user: &User| user.is_closed || user.web.peer.unread() == 0;
            world.host.is_quiet()
                && world.waiting.is_empty()
                && world.pending.is_empty()
                && world.host.engine.pressure() < Pressure::NotReading
                && world.users.iter().all(has_read_all)
        });
        for user in self.users.iter().filter(|_| self.calm) {
            assert!(user.expected.is_empty(), "not answered: {user:?}");
            assert!(
                user.to_ask.is_empty() || self.is_closure || user.web.peer.at_end(),
                "not asked: {user:?}"
            );
            assert!(user.echoes.is_empty(), "not echoed: {user:?}");
        }
    }

    fn finish(&mut self) {
        let shutdown = self.rng.one_in(2);
        if shutdown {
            self.shut_down();
        } else {
            for user in &mut self.users {
                user.is_done = true;
                user.web.peer.fin();
            }
        }
        for user in &mut self.users {
            user.is_done = true;
        }
        self.until("gone", |world| {
            world.host.advance(if world.calm { MS } else { 100 * MS });
            world.host.engine.connection_count() == 0
        });
        self.step();
        self.host.check_empty();
        let stats = self.host.engine.stats();
        assert_eq!((stats.opened, stats.closed.total()), (self.opens, self.closes));
        assert!(self.pending.is_empty(), "neither answered nor reported gone");
    }

    fn digest(&self) -> u64 {
        self.transcript.finish()
    }

    fn wait(&mut self) {
        if !self.calm {
            self.host.advance(MS);
            // Requests that were given up get no response any more.
            if self.rng.one_in(50) {
                for (id, _, body) in std::mem::take(&mut self.waiting) {
                    self.respond(id, body);
                }
            }
        }
        self.application_acts();
    }
}
