//! Shared by the tests over real sockets: a server polled on the test's own thread, and its peers.
//!
//! Nothing here sleeps for a fixed time. A test polls until what it expects has happened. After
//! [`PATIENCE`] it fails, and says what it waited for.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod blocking;
pub mod c;
pub mod peers;
pub mod raw;
pub mod threads;
#[cfg(feature = "tls")]
pub mod tls;
pub mod web;

use std::{
    cell::Cell,
    io,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tickws::{ClientId, CloseReason, ConnectError, Event, Message, Server, ServerBuilder, Tick, TimerId};
use tungstenite::WebSocket;

use blocking::Blocking;
use raw::{Frame, Raw};

/// Far above the time that any step here takes, so that a loaded machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Panics when [`PATIENCE`] is used up. A pause between two checks counts as one second at most: a
/// process that was stopped, or got no processor, did not wait.
#[derive(Debug)]
pub struct Deadline {
    left: Cell<Duration>,
    looked: Cell<Instant>,
}

impl Deadline {
    pub fn new() -> Self {
        Deadline { left: Cell::new(PATIENCE), looked: Cell::new(Instant::now()) }
    }

    #[track_caller]
    pub fn check(&self, what: &str) {
        let now = Instant::now();
        let waited = now - self.looked.replace(now);
        self.left.set(self.left.get().saturating_sub(waited.min(Duration::from_secs(1))));
        assert!(!self.left.get().is_zero(), "waited too long for: {what}");
    }
}

/// The resident memory of this process in bytes.
#[cfg(target_os = "linux")]
pub fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Whether the tests of the protocol run over TLS: with `TICKWS_TEST_TLS=1`.
pub fn is_over_tls() -> bool {
    cfg!(feature = "tls") && std::env::var_os("TICKWS_TEST_TLS").is_some_and(|value| value == "1")
}

/// An event that outlives its tick.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    Open(ClientId, String),
    Text(ClientId, String),
    Binary(ClientId, Vec<u8>),
    Close(ClientId, CloseReason),
    Drained(ClientId),
    Timer(TimerId),
    Failed(ClientId, ConnectError),
    /// The new id, the attempt and its error.
    Reconnecting(ClientId, u32, Option<ConnectError>),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Open { client, request } => Seen::Open(client, request.uri().to_string()),
            Event::Message { client, message: Message::Text(text) } => Seen::Text(client, text.to_owned()),
            Event::Message { client, message: Message::Binary(bytes) } => {
                Seen::Binary(client, bytes.to_vec())
            }
            Event::Close { client, reason } => Seen::Close(client, reason.clone()),
            Event::Drained { client } => Seen::Drained(client),
            Event::Timer { timer, .. } => Seen::Timer(timer),
            Event::ConnectFailed { client, error, .. } => Seen::Failed(client, error.clone()),
            Event::Reconnecting { client, attempt, error, .. } => {
                Seen::Reconnecting(client, attempt, error.cloned())
            }
            other => panic!("unexpected event: {other:?}"),
        }
    }
}

/// A server, and every event that it has reported.
#[derive(Debug)]
pub struct Harness {
    pub server: Server,
    pub addr: SocketAddr,
    pub seen: Vec<Seen>,
}

impl Harness {
    pub fn new() -> Self {
        Harness::with(Server::builder())
    }

    pub fn with(builder: ServerBuilder) -> Self {
        #[cfg(feature = "tls")]
        let server = match is_over_tls() {
            true => builder.tls(tls::server()).bind_tls("127.0.0.1:0"),
            false => builder.bind("127.0.0.1:0"),
        };
        #[cfg(not(feature = "tls"))]
        let server = builder.bind("127.0.0.1:0");
        let server = server.expect("binds a free port");
        let addr = server.local_addrs()[0];
        #[cfg(feature = "tls")]
        if is_over_tls() {
            tls::note(addr);
        }
        Harness { server, addr, seen: Vec::new() }
    }

    /// Polls once.
    pub fn step(&mut self) {
        let tick = self.server.poll_for(Duration::from_millis(1)).expect("polls");
        self.seen.extend(tick.iter().map(Seen::from));
    }

    /// Polls until `done` returns true for the server and the last tick. Events of any kind may
    /// come, and are not kept.
    #[track_caller]
    pub fn poll_until(&mut self, what: &str, mut done: impl FnMut(&mut Harness, &Tick) -> bool) {
        let deadline = Deadline::new();
        loop {
            let tick = self.server.poll_for(Duration::from_millis(1)).expect("polls");
            if done(self, &tick) {
                return;
            }
            deadline.check(what);
        }
    }

    /// Polls until `done` returns true.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Harness) -> bool) {
        let deadline = Deadline::new();
        while !done(self) {
            self.step();
            deadline.check(what);
        }
    }

    /// Polls until `count` events of the given kind have been seen.
    #[track_caller]
    pub fn until_seen(&mut self, what: &str, count: usize, kind: impl Fn(&Seen) -> bool) {
        self.until(what, |h| h.seen.iter().filter(|seen| kind(seen)).count() >= count);
    }

    /// Polls until nothing more is in flight: ten polls in a row without an event or a change in
    /// the statistics. For tests of events that must *not* happen.
    #[track_caller]
    pub fn settle(&mut self) {
        let deadline = Deadline::new();
        let mut quiet = 0;
        while quiet < 10 {
            let before = (self.seen.len(), self.server.stats());
            self.step();
            quiet = if before == (self.seen.len(), self.server.stats()) { quiet + 1 } else { 0 };
            deadline.check("rest");
        }
    }

    /// A TCP connection that has sent nothing yet.
    pub fn dial(&self) -> Raw {
        Raw::connect(self.addr)
    }

    /// A client whose handshake is complete on both sides.
    #[track_caller]
    pub fn connect(&mut self) -> (Raw, ClientId) {
        let mut raw = self.dial();
        let id = self.upgrade(&mut raw, &raw::upgrade_request("/", ""));
        (raw, id)
    }

    /// Sends `request` and waits for status 101; gives the id of the new client.
    #[track_caller]
    pub fn upgrade(&mut self, raw: &mut Raw, request: &str) -> ClientId {
        let local = raw.local_addr();
        self.write(raw, request.as_bytes());
        let head = self.head(raw);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let id =
            self.server.clients().find(|id| self.server.remote_addr(*id).is_some_and(|addr| addr == local));
        id.expect("an upgraded client is listed with its address")
    }

    /// Writes all of `bytes`, and polls whenever the kernel's buffer is full.
    #[track_caller]
    pub fn write(&mut self, raw: &mut Raw, bytes: &[u8]) {
        let deadline = Deadline::new();
        let mut at = 0;
        while at < bytes.len() {
            at += raw.write_some(&bytes[at..]).expect("the server reads");
            if at < bytes.len() {
                self.step();
            }
            deadline.check("a write");
        }
        while !raw.is_flushed() {
            self.step();
            deadline.check("a TLS handshake, and a write");
        }
    }

    /// Waits for an HTTP head from the server, and gives it.
    #[track_caller]
    pub fn head(&mut self, raw: &mut Raw) -> String {
        let mut head = None;
        self.until("an HTTP head", |_| {
            raw.read_some();
            head = raw.take_head();
            head.is_some()
        });
        head.unwrap()
    }

    /// Waits for a frame from the server, and gives it.
    #[track_caller]
    pub fn frame(&mut self, raw: &mut Raw) -> Frame {
        let mut frame = None;
        self.until("a frame", |_| {
            frame = raw.take_frame();
            if frame.is_none() {
                assert_eq!(raw.end, None, "the connection ended before a frame came");
                raw.read_some();
            }
            frame.is_some()
        });
        frame.unwrap()
    }

    /// Reads until the server has hung up, and checks that it sent FIN rather than RST.
    #[track_caller]
    pub fn read_to_end(&mut self, raw: &mut Raw) -> Vec<u8> {
        self.until("the end of the stream", |_| {
            raw.read_some();
            raw.end.is_some()
        });
        assert_eq!(raw.end, Some(raw::End::Fin), "the response must not be lost to a reset");
        raw.take_all()
    }

    /// Waits for the `Close` event of `client`, and gives its reason.
    #[track_caller]
    pub fn close_reason(&mut self, client: ClientId) -> CloseReason {
        self.until("a Close event", |h| h.closes(client).next().is_some());
        let mut closes = self.closes(client);
        let reason = closes.next().unwrap();
        assert_eq!(closes.next(), None, "one Close for each client");
        reason
    }

    /// The `Close` events of `client` so far.
    pub fn closes(&self, client: ClientId) -> impl Iterator<Item = CloseReason> {
        self.seen.iter().filter_map(move |seen| match seen {
            Seen::Close(id, reason) if *id == client => Some(reason.clone()),
            _ => None,
        })
    }

    /// The texts of `client` so far.
    pub fn texts(&self, client: ClientId) -> Vec<String> {
        let texts = self.seen.iter().filter_map(|seen| match seen {
            Seen::Text(id, text) if *id == client => Some(text.clone()),
            _ => None,
        });
        texts.collect()
    }

    /// Gives the events seen so far and clears the list.
    pub fn take_seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    /// Runs a blocking client on another thread while this one polls the server and calls
    /// `on_event`.
    #[track_caller]
    pub fn serve<T: Send>(
        &mut self,
        mut on_event: impl FnMut(&mut Server, Event<'_>),
        client: impl FnOnce(SocketAddr) -> T + Send,
    ) -> T {
        let deadline = Deadline::new();
        let addr = self.addr;
        thread::scope(|scope| {
            let client = scope.spawn(move || client(addr));
            while !client.is_finished() {
                let tick = self.server.poll_for(Duration::from_millis(1)).expect("polls");
                for event in &tick {
                    on_event(&mut self.server, event);
                    self.seen.push(event.into());
                }
                deadline.check("the client's thread");
            }
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Sends every message back.
pub fn echo(server: &mut Server, event: Event<'_>) {
    if let Event::Message { client, message } = event {
        server.send(client, message).expect("the echo fits");
    }
}

/// Connects tungstenite's own client, the independent peer. It blocks, but never longer than
/// [`PATIENCE`].
pub fn dial(addr: SocketAddr, path: &str) -> WebSocket<Blocking> {
    let config = tungstenite::protocol::WebSocketConfig::default()
        .max_message_size(Some(64 << 20))
        .max_frame_size(Some(64 << 20));
    let stream = blocking(addr).expect("connects");
    let url = format!("ws://{addr}{path}");
    tungstenite::client::client_with_config(url, stream, Some(config)).expect("a handshake").0
}

/// A blocking connection that fails rather than hangs.
pub fn blocking(addr: SocketAddr) -> io::Result<Blocking> {
    Ok(Blocking::new(TcpStream::connect(addr)?, PATIENCE)?.encrypted_for(addr))
}
