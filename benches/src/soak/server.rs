//! The application of the soak: echoes, rooms, latest values, blasts, timers, another thread and an
//! outbound connection. It shuts down at the end of its input, and prints its counters.
//!
//! A binary message is a command, given by its first byte; a text is echoed.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    thread,
    time::Duration,
};

use tickws::{
    ClientId, CloseCode, Connect, Event, Handle, HandleError, Message, OverflowPolicy, Reconnect, SendError,
    Server, WhileDown,
};

use crate::{Outcome, secure};

/// The cap that blasts overflow.
const MAX_BUFFERED: usize = 1 << 20;

/// Interval of the timer, and ten times that of the other thread.
const BEAT: Duration = Duration::from_millis(50);

/// Room names, indexed by the second byte of a command.
pub const ROOMS: [&str; 4] = ["red", "green", "blue", "white"];

#[derive(Debug, Default)]
struct Game {
    /// The number of the next message to each room.
    next: [u64; ROOMS.len()],
    /// Accepted messages of a blast, by client.
    blasts: HashMap<ClientId, u64>,
    upstream: Option<ClientId>,
    /// The last number sent upstream, and the last that came back.
    sent: u64,
    returned: u64,
    /// Events that must not happen.
    faults: u64,
}

/// The time that a certificate is used.
const RENEWAL: Duration = Duration::from_secs(1);

/// Serves until the end of the input.
pub fn serve(upstream: &str, tls: bool) -> Outcome<()> {
    let builder = Server::builder()
        .path("/ws")
        .health("/healthz")
        .metrics("/metrics")
        .max_buffered(MAX_BUFFERED)
        .send_buffer(64 * 1024)
        .ping_interval(Duration::from_secs(2))
        .silence_timeout(Duration::from_secs(5))
        .write_timeout(Duration::from_secs(5))
        .close_timeout(Duration::from_secs(2))
        .handshake_timeout(Duration::from_secs(5));
    let mut server = match tls {
        true => builder.tls(secure::renewed_tls()?).bind_tls("127.0.0.1:0")?,
        false => builder.bind("127.0.0.1:0")?,
    };
    crate::servers::announce(server.local_addrs()[0])?;

    let handle = server.handle();
    thread::spawn(move || stop_at_end_of_input(&handle));
    let handle = server.handle();
    thread::spawn(move || publish_news(&handle));
    let beat = server.set_interval(BEAT);
    let renewal = server.set_interval(RENEWAL);
    let connect = Connect::new(upstream)
        .reconnect(Reconnect::new().base(Duration::from_millis(50)).cap(Duration::from_millis(500)))
        .while_down(WhileDown::KeepLast(10));
    let mut game = Game { upstream: Some(server.connect(connect)?), ..Game::default() };
    server.run(|server, event| match event {
        Event::Timer { timer, .. } if timer == beat => game.beat(server),
        Event::Timer { timer, .. } if timer == renewal && tls => match secure::renewed_tls() {
            Ok(renewed) => server.set_tls(renewed),
            Err(error) => eprintln!("no new certificate: {error}"),
        },
        Event::Message { client, message } if Some(client) == game.upstream => game.returned(message),
        Event::Message { client, message: Message::Text(text) } => game.check_sent(server.send(client, text)),
        Event::Message { client, message: Message::Binary(bytes) } => game.command(server, client, bytes),
        Event::Close { client, .. } => drop(game.blasts.remove(&client)),
        Event::Reconnecting { client, .. } => game.upstream = Some(client),
        Event::ConnectFailed { .. } => game.upstream = None,
        _ => {}
    })?;
    report(&server, &game)
}

impl Game {
    fn command(&mut self, server: &mut Server, client: ClientId, bytes: &[u8]) {
        let (&command, rest) = bytes.split_first().unwrap_or((&0, &[]));
        let room = usize::from(rest.first().copied().unwrap_or(0)) % ROOMS.len();
        match command {
            b'E' => self.check_sent(server.send(client, bytes)),
            b'J' => {
                self.faults += u64::from(server.join(client, ROOMS[room]).is_err());
                let reply = numbered(b'j', room as u8, self.next[room], &[]);
                self.check_sent(server.send(client, &reply));
            }
            b'L' => {
                self.faults += u64::from(!matches!(server.leave(client, ROOMS[room]), Ok(true)));
                self.check_sent(server.send(client, b"l"));
            }
            b'S' => {
                let _ = server.publish(ROOMS[room], numbered(b'm', room as u8, self.next[room], rest));
                self.next[room] += 1;
            }
            b'N' => self.faults += u64::from(server.join(client, "news").is_err()),
            b'T' => self.faults += u64::from(server.join(client, "state").is_err()),
            b'B' => self.blast(server, client, rest),
            b'Q' => {
                let accepted = self.blasts.get(&client).copied().unwrap_or(0);
                self.check_sent(server.send(client, numbered(b'q', 0, accepted, &[])));
            }
            b'K' => self.faults += u64::from(server.close(client, CloseCode::new(4001), "kicked").is_err()),
            _ => self.faults += 1,
        }
    }

    /// Sends far more than may be buffered to a client that does not read. Messages beyond the cap
    /// are dropped.
    fn blast(&mut self, server: &mut Server, client: ClientId, filler: &[u8]) {
        self.faults += u64::from(server.set_overflow(client, OverflowPolicy::DropNewest).is_err());
        let accepted = self.blasts.entry(client).or_default();
        for number in 0..1000 {
            if server.send(client, numbered(b'b', 0, number, filler)).is_ok() {
                *accepted += 1;
            }
        }
    }

    /// Checks the result of a send: it may fail only for a client that is closing, as only a blast
    /// fills an outbox.
    fn check_sent(&mut self, sent: Result<(), SendError>) {
        let is_expected = matches!(sent, Ok(()) | Err(SendError::NotConnected(_) | SendError::Closing(_)));
        self.faults += u64::from(!is_expected);
    }

    fn beat(&mut self, server: &mut Server) {
        let _ = server.publish_latest("state", "tick", numbered(b't', 0, self.sent, &[7; 300]));
        if let Some(upstream) = self.upstream {
            self.sent += 1;
            // While the upstream is down the oldest messages are dropped.
            let _ = server.send(upstream, self.sent.to_be_bytes());
        }
    }

    /// Checks a number from upstream: some are lost with a connection, but none is duplicated or
    /// early.
    fn returned(&mut self, message: Message<'_>) {
        let number = <[u8; 8]>::try_from(message.as_bytes()).map_or(0, u64::from_be_bytes);
        self.faults += u64::from(number <= self.returned || number > self.sent);
        self.returned = number;
    }
}

/// A message of command, room, number and `rest`.
fn numbered(command: u8, room: u8, number: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![command, room];
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

/// Publishes numbers from a thread of its own; when the queue is full it tries again.
fn publish_news(handle: &Handle) {
    let mut number = 0;
    loop {
        match handle.publish("news", numbered(b'n', 0, number, &[])) {
            Ok(()) => number += 1,
            Err(HandleError::Full) => {}
            Err(_) => return,
        }
        thread::sleep(BEAT / 10);
    }
}

fn stop_at_end_of_input(handle: &Handle) {
    let _ = io::stdin().read_to_end(&mut Vec::new());
    let _ = handle.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(5));
}

/// Prints the counters for the verdict.
fn report(server: &Server, game: &Game) -> Outcome<()> {
    let stats = server.stats();
    // The pipe is closed if the parent process has failed: an error, not a panic.
    writeln!(
        io::stdout(),
        "{}",
        serde_json::json!({
            "accepted": stats.accepted, "rejected": stats.rejected.total(), "http_only": stats.http_only,
            "dialed": stats.dialed, "dial_failed": stats.dial_failed,
            "opened": stats.opened, "open": stats.open, "closed": stats.closed.total(), "buffered": stats.buffered,
            "messages_in": stats.messages_in, "messages_out": stats.messages_out, "dropped": stats.dropped,
            "faults": game.faults, "upstream": game.returned, "stats": stats.to_string(),
        })
    )?;
    Ok(())
}
