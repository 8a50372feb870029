//! The scripts of the clients, one short session each, over sockets of their own: with
//! tungstenite's client, or raw.
//!
//! Every script checks what it receives: a message that is lost, duplicated, late or wrong is an
//! error.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use socket2::SockRef;
use tungstenite::{Bytes, Message, WebSocket, protocol::CloseFrame};

use crate::{Outcome, secure::Link};

/// The longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(15);

/// The clients' counts, compared with the server's counters at the end.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub sessions: u64,
    /// Completed handshakes, and connections that ended without one.
    pub opened: u64,
    pub plain: u64,
    /// Messages that the server must have received, and further ones that it may have received.
    pub sent: u64,
    pub maybe: u64,
    pub received: u64,
    /// Messages of blasts that the server reported as dropped.
    pub dropped: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.sessions += other.sessions;
        self.opened += other.opened;
        self.plain += other.plain;
        self.sent += other.sent;
        self.maybe += other.maybe;
        self.received += other.received;
        self.dropped += other.dropped;
    }
}

/// One client session.
#[derive(Debug)]
struct Session {
    server: SocketAddr,
    tls: bool,
    rng: Rng,
    tally: Tally,
}

type Socket = WebSocket<Link>;
type Script = fn(&mut Session) -> Outcome<()>;

/// Runs one session with a random script.
pub fn run_session(server: SocketAddr, tls: bool, rng: &mut Rng) -> Outcome<Tally> {
    let tally = Tally { sessions: 1, ..Tally::default() };
    let mut session = Session { server, tls, rng: rng.fork(), tally };
    let scripts: [(&str, u32, Script); 11] = [
        ("echo", 6, Session::echo),
        ("pipeline", 6, Session::pipeline),
        ("room", 6, Session::room),
        ("news", 3, Session::news),
        ("stalled", 2, Session::stalled),
        ("kicked", 2, Session::kicked),
        ("reset", 3, Session::reset),
        ("half-closed", 2, Session::half_closed),
        ("malformed", 2, Session::malformed),
        ("silent", 1, Session::silent),
        ("web", 2, Session::web),
    ];
    let mut pick = session.rng.u32(0..scripts.iter().map(|(_, weight, _)| weight).sum());
    for (name, weight, script) in scripts {
        if pick < weight {
            script(&mut session).map_err(|error| format!("{name}: {error}"))?;
            break;
        }
        pick -= weight;
    }
    Ok(session.tally)
}

impl Session {
    /// Sends one message at a time, of any size and in any number of fragments.
    fn echo(&mut self) -> Outcome<()> {
        let mut socket = self.open()?;
        for _ in 0..self.rng.u32(1..60) {
            let message = self.message();
            self.send(&mut socket, message.clone())?;
            self.expect(&mut socket, &message)?;
            thread::sleep(Duration::from_millis(self.rng.u64(0..20)));
        }
        self.leave(socket)
    }

    /// Keeps many messages in flight; all come back, once, in order.
    fn pipeline(&mut self) -> Outcome<()> {
        let mut socket = self.open()?;
        for _ in 0..self.rng.u32(1..20) {
            let messages: Vec<_> = (0..self.rng.u32(1..50)).map(|_| self.text(2000)).collect();
            for message in &messages {
                socket.write(message.clone())?;
            }
            socket.flush()?;
            self.tally.sent += messages.len() as u64;
            for message in &messages {
                self.expect(&mut socket, message)?;
            }
        }
        self.leave(socket)
    }

    /// Receives every message published while it is a member, and none after it has left.
    fn room(&mut self) -> Outcome<()> {
        let mut socket = self.open()?;
        let room = self.rng.u8(0..super::server::ROOMS.len() as u8);
        self.command(&mut socket, &[b'J', room])?;
        let mut next = number(&self.read(&mut socket)?, b'j')?;
        let rounds = self.rng.u32(1..40);
        for round in 0..rounds {
            let mut said = vec![b'S', room];
            said.extend(self.rng.u64(..).to_be_bytes());
            said.resize(10 + self.rng.usize(0..3000), round as u8);
            self.command(&mut socket, &said)?;
            let mut own = false;
            while !own {
                let message = self.read(&mut socket)?;
                let actual = number(&message, b'm')?;
                if actual != next {
                    return Err(format!("message {actual} of the room, not {next}").into());
                }
                own = message[10..] == said[1..];
                next += 1;
            }
        }
        self.command(&mut socket, &[b'L', room])?;
        loop {
            match &self.read(&mut socket)?[..] {
                b"l" => break,
                message if number(message, b'm')? == next => next += 1,
                message => return Err(format!("{} instead of {next}", number(message, b'm')?).into()),
            }
        }
        self.leave(socket)
    }

    /// Receives every number that another thread publishes; latest values never decrease.
    fn news(&mut self) -> Outcome<()> {
        let mut socket = self.open()?;
        self.command(&mut socket, b"N")?;
        self.command(&mut socket, b"T")?;
        let (mut last, mut latest) = (None, None);
        for _ in 0..self.rng.u32(10..300) {
            let message = self.read(&mut socket)?;
            if message.first() == Some(&b't') {
                let value = number(&message, b't')?;
                if latest.is_some_and(|latest| value < latest) {
                    return Err("a latest value is older than an earlier one".into());
                }
                latest = Some(value);
            } else {
                let actual = number(&message, b'n')?;
                if last.is_some_and(|last| actual != last + 1) {
                    return Err(format!("news {actual} after {last:?}").into());
                }
                last = Some(actual);
            }
        }
        self.leave(socket)
    }

    /// Requests more than may be buffered, and sleeps. The accepted messages arrive in order.
    fn stalled(&mut self) -> Outcome<()> {
        let mut socket = self.open()?;
        let mut blast = vec![b'B'];
        blast.resize(self.rng.usize(1000..10_000), 9);
        self.command(&mut socket, &blast)?;
        thread::sleep(Duration::from_millis(self.rng.u64(0..2000)));
        let mut received = Vec::new();
        // All queued messages fit now; the response follows them.
        while let Some(message) = self.next_within(&mut socket, Duration::from_secs(2))? {
            received.push(number(&message.into_data(), b'b')?);
        }
        self.command(&mut socket, b"Q")?;
        let accepted = loop {
            let message = self.read(&mut socket)?;
            if message.first() == Some(&b'q') {
                break number(&message, b'q')?;
            }
            received.push(number(&message, b'b')?);
        };
        if !received.is_sorted_by(|a, b| a < b) {
            return Err("the messages of a blast are out of order".into());
        }
        let count = received.len() as u64;
        if accepted != count {
            return Err(format!("{accepted} messages accepted, {count} received").into());
        }
        self.tally.dropped += 1000 - accepted;
        self.leave(socket)
    }

    /// Asks the server to close the connection.
    fn kicked(&mut self) -> Outcome<()> {
        let mut socket = self.open()?;
        self.command(&mut socket, b"K")?;
        self.closed_with(&mut socket, 4001)
    }

    /// Disconnects without a close frame, perhaps in the middle of a message.
    fn reset(&mut self) -> Outcome<()> {
        let mut socket = self.open()?;
        for _ in 0..self.rng.u32(0..20) {
            let message = self.message();
            // The server may not have read this message before the reset.
            self.tally.maybe += 1;
            socket.send(message)?;
        }
        let stream = socket.get_mut();
        if self.rng.bool() {
            stream.write_all(&[0x82, 0xfe, 0x10, 0x00, 1, 2, 3, 4, 5])?;
        }
        if self.rng.bool() {
            SockRef::from(stream.socket()).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }

    /// Sends FIN without a close frame, and reads on.
    fn half_closed(&mut self) -> Outcome<()> {
        let mut socket = self.open()?;
        let message = self.text(500);
        self.send(&mut socket, message.clone())?;
        self.expect(&mut socket, &message)?;
        socket.get_mut().half_close()?;
        loop {
            match socket.get_mut().read(&mut [0; 1024]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Violates the protocol, and expects the matching close code.
    fn malformed(&mut self) -> Outcome<()> {
        let mut socket = self.open()?;
        let frames: [(&[u8], u16); 5] = [
            (&[0x81, 0x01, b'x'], 1002),
            (&[0x83, 0x80, 0, 0, 0, 0], 1002),
            (&[0xc1, 0x81, 0, 0, 0, 0, b'x'], 1002),
            (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),
            (&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
        ];
        let (bytes, code) = frames[self.rng.usize(0..frames.len())];
        socket.get_mut().write_all(bytes)?;
        self.closed_with(&mut socket, code)
    }

    /// Answers no ping, and expects to be dropped.
    fn silent(&mut self) -> Outcome<()> {
        let mut socket = self.open()?;
        let mut pinged = Vec::new();
        match socket.get_mut().read_to_end(&mut pinged) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error.into()),
        }
        if pinged.is_empty() { Err("dropped without having been pinged".into()) } else { Ok(()) }
    }

    /// Sends plain HTTP requests on one connection.
    fn web(&mut self) -> Outcome<()> {
        let mut stream = self.connect()?;
        for _ in 0..self.rng.u32(1..5) {
            let path = ["/healthz", "/metrics"][self.rng.usize(0..2)];
            let (status, _) = get(&mut stream, path)?;
            if status != 200 {
                return Err(format!("{path}: {status}").into());
            }
        }
        self.tally.plain += 1;
        Ok(())
    }

    fn connect(&self) -> Outcome<Link> {
        let stream = TcpStream::connect(self.server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Link::new(stream, self.tls)
    }

    fn open(&mut self) -> Outcome<Socket> {
        let url = format!("ws://{}/ws", self.server);
        let (socket, _) = tungstenite::client(url, self.connect()?).map_err(|error| error.to_string())?;
        self.tally.opened += 1;
        Ok(socket)
    }

    /// A text or binary message, mostly small, now and then very large.
    fn message(&mut self) -> Message {
        let max = [200, 5_000, 200_000][self.rng.choice([0, 0, 0, 0, 0, 0, 1, 1, 2]).unwrap_or(0)];
        if self.rng.bool() {
            return self.text(max);
        }
        let mut bytes = vec![b'E'];
        bytes.resize(1 + self.rng.usize(0..max), 0);
        self.rng.fill(&mut bytes[1..]);
        Message::Binary(bytes.into())
    }

    fn text(&mut self, max: usize) -> Message {
        let mut text: String = (0..self.rng.usize(0..max)).map(|_| self.rng.alphanumeric()).collect();
        text.push_str("ü✓");
        Message::text(text)
    }

    fn send(&mut self, socket: &mut Socket, message: Message) -> Outcome<()> {
        self.tally.sent += 1;
        Ok(socket.send(message)?)
    }

    fn command(&mut self, socket: &mut Socket, bytes: &[u8]) -> Outcome<()> {
        self.send(socket, Message::binary(bytes.to_vec()))
    }

    fn expect(&mut self, socket: &mut Socket, message: &Message) -> Outcome<()> {
        let actual = self.next(socket)?;
        if actual == *message {
            Ok(())
        } else {
            Err(format!("{} bytes came back for {}", actual.len(), message.len()).into())
        }
    }

    fn read(&mut self, socket: &mut Socket) -> Outcome<Bytes> {
        Ok(self.next(socket)?.into_data())
    }

    /// The next data message.
    fn next(&mut self, socket: &mut Socket) -> Outcome<Message> {
        self.next_within(socket, PATIENCE)?.ok_or_else(|| format!("no message within {PATIENCE:?}").into())
    }

    fn next_within(&mut self, socket: &mut Socket, wait: Duration) -> Outcome<Option<Message>> {
        let deadline = Instant::now() + wait;
        loop {
            // Pings do not extend the deadline.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            socket.get_mut().socket().set_read_timeout(Some(left))?;
            match socket.read() {
                Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                    self.tally.received += 1;
                    return Ok(Some(message));
                }
                Ok(Message::Close(frame)) => return Err(format!("closed: {frame:?}").into()),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Starts the close handshake and completes it.
    fn leave(&mut self, mut socket: Socket) -> Outcome<()> {
        socket.close(Some(CloseFrame { code: 1000.into(), reason: "bye".into() }))?;
        self.closed_with(&mut socket, 1000)
    }

    /// Reads further messages until a close frame with this code.
    fn closed_with(&mut self, socket: &mut Socket, code: u16) -> Outcome<()> {
        loop {
            match socket.read() {
                Ok(Message::Close(Some(frame))) if u16::from(frame.code) == code => {}
                Ok(Message::Close(frame)) => return Err(format!("closed: {frame:?}, not {code}").into()),
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The number in a numbered message.
fn number(message: &[u8], command: u8) -> Outcome<u64> {
    match message.split_at_checked(10) {
        Some(([first, _, number @ ..], _)) if *first == command => Ok(u64::from_be_bytes(number.try_into()?)),
        _ => Err(format!("a message of {} bytes is not a {:?}", message.len(), char::from(command)).into()),
    }
}

/// Sends a plain HTTP request on a kept connection; gives status and body.
pub fn get(stream: &mut Link, path: &str) -> Outcome<(u16, String)> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8(head)?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.ok_or("no length")?.trim().parse()?];
    stream.read_exact(&mut body)?;
    let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, String::from_utf8(body)?))
}
