//! An application that uses every call there is, at random; and where it is recorded to.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use tickws::{
    Bytes, ClientId, Connect, Decision, Event, Overflow, Prepared, Priority, Reconnect, SendOptions, Server,
    ServerBuilder, TimerId, WhileDown,
    http::{HeaderMap, HeaderValue, Response},
};

/// A recording in memory, which may fail at some length.
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
    throws: fastrand::Rng,
    clients: Vec<ClientId>,
    timers: Vec<TimerId>,
    shared: Prepared,
    /// What it saw, and when by its number.
    pub seen: Vec<String>,
}

/// As long as what stands for it.
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
        let mut throws = fastrand::Rng::with_seed(seed);
        let mut asked = 0;
        let builder = Server::builder()
            .max_buffered(throws.usize(20_000..100_000))
            .overflow(if throws.bool() { Overflow::Disconnect } else { Overflow::DropNewest })
            .event_budget(throws.usize(2..50))
            .read_budget(throws.usize(500..50_000))
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
        let builder = if throws.bool() { builder.max_messages_per_second(50) } else { builder };
        match throws.u8(..3) {
            0 => builder.http(true),
            1 => builder.on_http(|request| Response::new(Bytes::from(format!("{}", request.uri())))),
            _ => builder.metrics("/").health("/health"),
        }
    }

    pub fn new(seed: u64) -> Self {
        let throws = fastrand::Rng::with_seed(seed ^ 0xa5);
        let shared = Prepared::new("shared");
        App { throws, clients: Vec::new(), timers: Vec::new(), shared, seen: Vec::new() }
    }

    /// Connects to `url`, over and over.
    pub fn dial(&mut self, server: &mut Server, url: &str) {
        let connect = Connect::new(url)
            .header("x-a", "b")
            .reconnect(Reconnect::new().base(Duration::from_millis(50)).max_tries(3))
            .while_down(WhileDown::KeepLast(3))
            .before_attempt(|attempt| attempt.query(&format!("attempt={}", attempt.number())));
        self.clients.push(server.connect_with(connect).unwrap());
    }

    pub fn handle(&mut self, server: &mut Server, event: Event<'_>) {
        self.seen.push(line(event));
        match event {
            Event::Open { client, .. } => {
                self.clients.push(client);
                let _ = server.join(client, ["red", "green"][self.throws.usize(..2)]);
                let _ = server.set_user(client, ["ada", "bob"][self.throws.usize(..2)]);
            }
            Event::Message { client, message } => {
                let _ = match self.throws.u8(..4) {
                    0 => server.send(client, message),
                    1 => server.send(client, &self.shared),
                    2 => server.send_latest(client, self.throws.i8(..), message),
                    _ => server.send_latest(client, "name", message),
                };
            }
            Event::Upgrade { upgrade, .. } if self.throws.bool() => {
                let mut headers = HeaderMap::new();
                headers.insert("x-later", HeaderValue::from_static("yes"));
                let _ = server.accept_with(upgrade, headers);
            }
            Event::Upgrade { upgrade, .. } => {
                let _ = server.reject(upgrade, Response::builder().status(403).body("later").unwrap());
            }
            Event::Http { request_id, .. } => _ = server.respond(request_id, Response::new("answer")),
            Event::Reconnecting { client, .. } => self.clients.push(client),
            _ => {}
        }
    }

    /// Says something, or does.
    pub fn act(&mut self, server: &mut Server) {
        let throws = &mut self.throws;
        let Some(client) = throws.choice(&self.clients).copied() else { return };
        let room = ["red", "green", "blue"][throws.usize(..3)];
        let bytes = vec![7; if throws.u8(..10) == 0 { throws.usize(..40_000) } else { throws.usize(..200) }];
        let ms = Duration::from_millis(throws.u64(..300));
        match throws.u8(..26) {
            0 => _ = server.broadcast("to all"),
            1 => _ = server.broadcast_except(client, &bytes),
            2..5 => _ = server.publish(room, &bytes),
            5 => _ = server.publish_except(room, client, &self.shared),
            6 => _ = server.publish_latest(room, 7, "latest"),
            7 => _ = server.send_to_user("ada", &bytes),
            8 => _ = server.ping(client),
            9 if throws.u8(..4) == 0 => _ = server.close(client, 4000, "enough"),
            10 if throws.u8(..4) == 0 => _ = server.disconnect(client),
            11 => _ = server.set_overflow(client, Overflow::DropNewest),
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
                server.publish(id, "by id");
                let _ = server.join(client, id);
            }
            _ => {
                let priority = if throws.bool() { Priority::High } else { Priority::Normal };
                let expires_in = throws.bool().then_some(ms);
                let options = SendOptions { expires_in, priority, ..SendOptions::default() };
                let _ = server.send_with(client, &bytes, options.uncompressed());
            }
        }
    }
}
