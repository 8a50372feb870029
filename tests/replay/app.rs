//! An application that makes calls of every kind at random, and a recording in memory.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use tickws::{
    Audience, Bytes, ClientId, Connect, Decision, Event, OverflowPolicy, Prepared, Priority, Reconnect,
    SendOptions, Server, ServerBuilder, TimerId, WhileDown,
    http::{HeaderMap, HeaderValue, Response},
};

/// A recording in memory. Writes beyond `room` bytes fail.
#[derive(Clone)]
pub struct Memory {
    pub bytes: Arc<Mutex<Vec<u8>>>,
    pub room: usize,
}

impl Memory {
    pub fn new(room: usize) -> Self {
        Memory { bytes: Arc::default(), room }
    }

    pub fn take(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

impl Write for Memory {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut bytes = self.bytes.lock().unwrap();
        if bytes.len() + buf.len() > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        bytes.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub struct App {
    rng: fastrand::Rng,
    clients: Vec<ClientId>,
    timers: Vec<TimerId>,
    shared: Prepared,
    /// The events so far.
    pub seen: Vec<String>,
}

/// The text of an event; a long one is shortened, with its length at the end.
pub fn line(event: impl fmt::Debug) -> String {
    let mut line = format!("{event:?}");
    if line.len() > 400 {
        let len = line.len();
        line = format!("{}… {len}", line.chars().take(400).collect::<String>());
    }
    line
}

impl App {
    pub fn builder(seed: u64) -> ServerBuilder {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut asked = 0;
        let builder = Server::builder()
            .max_buffered(rng.usize(20_000..100_000))
            .overflow(if rng.bool() { OverflowPolicy::Disconnect } else { OverflowPolicy::DropNewest })
            .event_budget(rng.usize(2..50))
            .read_budget(rng.usize(500..50_000))
            // Every third server does one step of each kind per call.
            .time_budget((seed % 3 == 2).then_some(std::time::Duration::ZERO))
            .max_rooms(5)
            .subprotocols(["a", "b"])
            .on_upgrade(move |request, response| {
                asked += 1;
                response.header("x-number", &asked.to_string()).unwrap();
                match request.uri().query().map(str::len) {
                    Some(1) => Decision::Defer,
                    Some(2) => Decision::Reject(Response::builder().status(401).body("no".into()).unwrap()),
                    _ => Decision::Accept,
                }
            })
            .ping_interval(Duration::from_secs(2))
            .silence_timeout(Duration::from_secs(3));
        let builder = if rng.bool() { builder.max_messages_per_second(50) } else { builder };
        let mut checks = 0;
        let builder = builder.check_origin(move |_| {
            checks += 1;
            checks % 5 != 0
        });
        match rng.u8(..3) {
            0 => builder.http(true),
            1 => builder.on_http(|request| Response::new(Bytes::from(format!("{}", request.uri())))),
            _ => builder.metrics("/").health("/health"),
        }
    }

    pub fn new(seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed ^ 0xa5);
        let shared = Prepared::new("shared");
        App { rng, clients: Vec::new(), timers: Vec::new(), shared, seen: Vec::new() }
    }

    /// Connects to `url` and reconnects when the connection is lost.
    pub fn dial(&mut self, server: &mut Server, url: &str) {
        let connect = Connect::new(url)
            .header("x-a", "b")
            .reconnect(Reconnect::new().base(Duration::from_millis(50)).max_tries(3))
            .while_down(WhileDown::KeepLast(3))
            .before_attempt(|attempt| attempt.query(&format!("attempt={}", attempt.number())));
        self.clients.push(server.connect(connect).unwrap());
    }

    pub fn handle(&mut self, server: &mut Server, event: Event<'_>) {
        self.seen.push(line(event));
        match event {
            Event::Open { client, .. } => {
                self.clients.push(client);
                let _ = server.join(client, ["red", "green"][self.rng.usize(..2)]);
                let _ = server.set_user(client, ["ada", "bob"][self.rng.usize(..2)]);
            }
            Event::Message { client, message } => {
                let _ = match self.rng.u8(..4) {
                    0 => server.send(client, message),
                    1 => server.send(client, &self.shared),
                    2 => server.send_latest(client, self.rng.i8(..), message),
                    _ => server.send_latest(client, "name", message),
                };
            }
            Event::Upgrade { upgrade, .. } if self.rng.bool() => {
                let mut headers = HeaderMap::new();
                headers.insert("x-later", HeaderValue::from_static("yes"));
                let _ = server.accept_with(upgrade, headers);
            }
            Event::Upgrade { upgrade, .. } => {
                let _ = server.reject(upgrade, Response::builder().status(403).body("later").unwrap());
            }
            Event::Http { exchange, .. } => _ = server.respond(exchange, Response::new("answer")),
            Event::Reconnecting { client, .. } => self.clients.push(client),
            _ => {}
        }
    }

    /// Makes one random call.
    pub fn act(&mut self, server: &mut Server) {
        let rng = &mut self.rng;
        let Some(client) = rng.choice(&self.clients).copied() else { return };
        let room = ["red", "green", "blue"][rng.usize(..3)];
        let bytes = vec![7; if rng.u8(..10) == 0 { rng.usize(..40_000) } else { rng.usize(..200) }];
        let ms = Duration::from_millis(rng.u64(..300));
        match rng.u8(..30) {
            26 => _ = server.set_max_message_size(client, rng.usize(..200_000)),
            27 => {
                _ = server.deliver(&self.clients, &bytes, &SendOptions::new().except(client).uncompressed())
            }
            28 => {
                _ = server.deliver(client, &self.shared, &SendOptions::new().latest("state").expires_in(ms))
            }
            29 => {
                let audience = if rng.bool() { Audience::Everyone } else { Audience::User("ada") };
                let _ = server.deliver(audience, &bytes, &SendOptions::new().priority(Priority::High));
            }
            0 => _ = server.broadcast("to all"),
            1 => _ = server.broadcast_except(client, &bytes),
            2..5 => _ = server.publish(room, &bytes),
            5 => _ = server.publish_except(room, client, &self.shared),
            6 => _ = server.publish_latest(room, 7, "latest"),
            7 => _ = server.send_to_user("ada", &bytes),
            8 => _ = server.ping(client),
            9 if rng.u8(..4) == 0 => _ = server.close(client, 4000, "enough"),
            10 if rng.u8(..4) == 0 => _ = server.disconnect(client),
            11 => _ = server.set_overflow(client, OverflowPolicy::DropNewest),
            12 => _ = server.pause_reading(client),
            13..16 => _ = server.resume_reading(client),
            16 => self.timers.push(server.set_timer(ms)),
            17 => self.timers.push(server.set_interval(ms)),
            18 => _ = self.timers.pop().map(|timer| server.cancel_timer(timer)),
            19 => _ = server.join(client, room),
            20 => _ = server.leave(client, room),
            21 => _ = server.leave_all(client),
            22 => _ = server.clear_user(client),
            23 => {
                let Some(id) = server.room("red") else { return };
                let _ = server.publish(id, "by id");
                let _ = server.join(client, id);
            }
            _ => {
                let priority = if rng.bool() { Priority::High } else { Priority::Normal };
                let mut options = SendOptions::new().priority(priority).uncompressed();
                if rng.bool() {
                    options = options.expires_in(ms);
                }
                let _ = server.send_with(client, &bytes, &options);
            }
        }
    }
}
