//! A simulated client: says what it is told to, hears what comes, and answers pings and close frames as a browser
//! does.

use std::{
    collections::VecDeque,
    mem,
    net::{Ipv4Addr, SocketAddr},
};

use tungstenite::{
    handshake::derive_accept_key,
    protocol::frame::coding::{Control, Data, OpCode},
};

use super::{EndId, Network};
use crate::proto::{
    close,
    frame::{Header, write_frame},
};

/// What a simulated client has heard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Received {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// The answer to a ping of its own.
    Pong(Vec<u8>),
    /// A close frame; it has been answered unless it was the answer.
    Close {
        /// 1005 if there was none (RFC 6455 §7.1.5).
        code: u16,
        /// Why, often empty.
        reason: String,
    },
    /// The server has hung up (FIN), and so has the client now.
    End,
    /// The connection was refused, or is reset: what was on its way is lost.
    Reset,
}

#[derive(Debug)]
pub(super) struct Speaker {
    link: usize,
    /// Said, and not taken by the network.
    unsaid: VecDeque<u8>,
    /// FIN follows what is unsaid.
    wants_end: bool,
    /// Heard, and no frame yet.
    inbox: Vec<u8>,
    /// Frames that wait for the server's 101.
    early: Vec<u8>,
    ends_early: bool,
    /// What a 101 has to accept; `None` if the request was the test's own.
    accept: Option<String>,
    status: Option<u16>,
    head: String,
    heard: Vec<Received>,
    stalls: bool,
    says_close: bool,
    hears_close: bool,
    over: bool,
}

impl Network {
    /// A client connects to `host`.
    pub(crate) fn add_speaker(&mut self, host: usize) -> usize {
        let number = self.speakers.len();
        let ip = Ipv4Addr::from(0x0a01_0001 + number as u32);
        let from = SocketAddr::from((ip, self.next_port()));
        // Nobody is there: the connection is refused.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let link = self.link(from, self.hosts.get(host).map_or(nowhere, |host| host.addr));
        self.half((link, 0)).speaker = Some(number);
        self.speakers.push(Speaker {
            link,
            unsaid: VecDeque::new(),
            wants_end: false,
            inbox: Vec::new(),
            early: Vec::new(),
            ends_early: false,
            accept: None,
            status: None,
            head: String::new(),
            heard: Vec::new(),
            stalls: false,
            says_close: false,
            hears_close: false,
            over: false,
        });
        number
    }

    pub(crate) fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.dice.fill(&mut bytes);
        bytes
    }

    // ---- to the server ----

    /// Asks for a WebSocket.
    pub(crate) fn ask(&mut self, speaker: usize, path: &str, headers: &[(&str, &str)]) {
        let key = data_encoding::BASE64.encode(&self.random::<16>());
        let host = self.links[self.speakers[speaker].link].addr;
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n"
        );
        self.speakers[speaker].accept = Some(derive_accept_key(key.as_bytes()));
        self.say(speaker, head.as_bytes());
    }

    pub(crate) fn say(&mut self, speaker: usize, bytes: &[u8]) {
        let Speaker { link, unsaid, over, wants_end, .. } = &mut self.speakers[speaker];
        if *over || *wants_end {
            return;
        }
        unsaid.extend(bytes);
        let end = (*link, 0);
        self.say_more(end);
    }

    pub(crate) fn say_frame(&mut self, speaker: usize, opcode: OpCode, payload: &[u8]) {
        // RFC 6455 §5.5.1: nothing follows a close frame.
        if self.speakers[speaker].says_close {
            return;
        }
        self.speakers[speaker].says_close = opcode == OpCode::Control(Control::Close);
        let key = self.random();
        let mut bytes = Vec::with_capacity(payload.len() + 14);
        write_frame(&mut bytes, opcode, payload, Some(key));
        match self.speakers[speaker].status {
            Some(101) => self.say(speaker, &bytes),
            Some(_) => {}
            None => self.speakers[speaker].early.extend(bytes),
        }
    }

    pub(crate) fn say_end(&mut self, speaker: usize) {
        // Behind what waits for the 101.
        let Speaker { status, early, ends_early, .. } = &mut self.speakers[speaker];
        if status.is_none() && !early.is_empty() {
            *ends_early = true;
            return;
        }
        self.speakers[speaker].wants_end = true;
        self.say_more((self.speakers[speaker].link, 0));
    }

    pub(crate) fn say_reset(&mut self, speaker: usize) {
        self.reset_link(self.speakers[speaker].link);
    }

    /// As much of what a client has to say as there is room for.
    pub(super) fn say_more(&mut self, writer: EndId) {
        let Some(speaker) = self.half(writer).speaker else { return };
        let room = self.links[writer.0].room(writer.1);
        let Speaker { unsaid, wants_end, .. } = &mut self.speakers[speaker];
        let count = unsaid.len().min(room);
        let bytes: Vec<u8> = unsaid.drain(..count).collect();
        let ends = *wants_end && unsaid.is_empty();
        let half = self.half(writer);
        if half.reset || half.fin_sent {
            return;
        }
        self.post_bytes((writer.0, 1 - writer.1), &bytes);
        if ends {
            self.finish(writer);
        }
    }

    // ---- from the server ----

    /// Something has arrived at an end; if a client is there, it hears it.
    pub(super) fn hear(&mut self, end: EndId) {
        let half = self.half(end);
        let Some(speaker) = half.speaker else { return };
        (half.readable_edge, half.writable_edge) = (false, false);
        let Network { links, speakers, .. } = self;
        if speakers[speaker].stalls || speakers[speaker].over {
            return;
        }
        let half = &mut links[end.0].halves[end.1];
        let arrived = mem::take(&mut half.arrived);
        let (ends, breaks) = (half.fin_arrived, half.reset);
        self.speakers[speaker].inbox.extend(arrived);
        self.make_room(end);
        self.understand(speaker);
        // An answer of its own has met a reset.
        if self.speakers[speaker].over {
            return;
        }
        let heard = if breaks {
            Received::Reset
        } else if ends {
            self.speakers[speaker].early.clear();
            self.say_end(speaker);
            Received::End
        } else {
            return;
        };
        self.speakers[speaker].heard.push(heard);
        self.speakers[speaker].over = true;
    }

    /// Takes the whole frames out of the inbox, and then answers those that want one: an answer may meet a reset,
    /// and that is heard behind what was here before.
    fn understand(&mut self, speaker: usize) {
        self.speakers[speaker].read_head();
        if self.speakers[speaker].status.is_some() {
            let early = mem::take(&mut self.speakers[speaker].early);
            if self.speakers[speaker].status == Some(101) {
                self.say(speaker, &early);
            }
            if mem::take(&mut self.speakers[speaker].ends_early) {
                self.say_end(speaker);
            }
        }
        for (control, payload) in self.speakers[speaker].read_frames() {
            self.say_frame(speaker, OpCode::Control(control), &payload);
        }
    }

    // ---- for its owner ----

    pub(crate) fn stall(&mut self, speaker: usize, stalls: bool) {
        self.speakers[speaker].stalls = stalls;
        if !stalls {
            self.hear((self.speakers[speaker].link, 0));
        }
    }

    pub(crate) fn heard(&mut self, speaker: usize) -> Vec<Received> {
        mem::take(&mut self.speakers[speaker].heard)
    }

    pub(crate) fn status(&self, speaker: usize) -> Option<u16> {
        self.speakers[speaker].status
    }

    pub(crate) fn response_head(&self, speaker: usize) -> String {
        self.speakers[speaker].head.clone()
    }

    /// What came behind a head that opens no WebSocket.
    pub(crate) fn body(&mut self, speaker: usize) -> Vec<u8> {
        match self.speakers[speaker].status {
            Some(101) => Vec::new(),
            _ => mem::take(&mut self.speakers[speaker].inbox),
        }
    }

    pub(crate) fn is_over(&self, speaker: usize) -> bool {
        self.speakers[speaker].over
    }

    /// The client's socket is closed.
    pub(crate) fn hang_up(&mut self, speaker: usize) {
        let Speaker { unsaid, over, link, wants_end, .. } = &mut self.speakers[speaker];
        (*wants_end, *over) = (true, true);
        unsaid.clear();
        let end = (*link, 0);
        self.drop_end(end);
    }
}

impl Speaker {
    fn read_head(&mut self) {
        if self.status.is_some() {
            return;
        }
        let Some(end) = self.inbox.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return };
        let head: Vec<u8> = self.inbox.drain(..end + 4).collect();
        // The application's headers may be in any encoding.
        self.head = String::from_utf8_lossy(&head).into_owned();
        let status = self.head.split(' ').nth(1).and_then(|status| status.parse().ok());
        self.status = Some(status.expect("tickws answers with a status"));
        if let (Some(101), Some(accept)) = (self.status, &self.accept) {
            let accepts = |line: &str| {
                let (name, value) = line.split_once(':').unwrap_or_default();
                name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == accept
            };
            assert!(self.head.lines().any(accepts), "tickws accepts another key: {}", self.head);
        }
    }

    /// Hears all whole frames; gives the answers to them.
    fn read_frames(&mut self) -> Vec<(Control, Vec<u8>)> {
        let (mut at, mut answers) = (0, Vec::new());
        while self.status == Some(101)
            && let Some((header, taken)) =
                Header::parse(&self.inbox[at..]).expect("tickws sends legal frames")
            && let Some(payload) = self.inbox[at + taken..].get(..header.len as usize)
        {
            assert!(!self.hears_close, "tickws sends {header:?} behind its close frame");
            let whole = header.fin && header.opcode != OpCode::Data(Data::Continue);
            assert!(whole && !header.rsv1 && header.mask.is_none(), "tickws sends {header:?}");
            at += taken + payload.len();
            let heard = match header.opcode {
                OpCode::Data(Data::Text) => Received::Text(text(payload)),
                OpCode::Data(_) => Received::Binary(payload.to_vec()),
                OpCode::Control(Control::Ping) => {
                    answers.push((Control::Pong, payload.to_vec()));
                    continue;
                }
                OpCode::Control(Control::Pong) => Received::Pong(payload.to_vec()),
                OpCode::Control(_) => {
                    answers.push((Control::Close, payload.to_vec()));
                    self.hears_close = true;
                    closed(payload)
                }
            };
            self.heard.push(heard);
        }
        self.inbox.drain(..at);
        answers
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("tickws sends UTF-8")
}

fn closed(payload: &[u8]) -> Received {
    match close::parse_body(payload).expect("tickws sends legal close frames") {
        None => Received::Close { code: 1005, reason: String::new() },
        Some((code, reason)) => Received::Close { code, reason: reason.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        panic::{AssertUnwindSafe, catch_unwind},
        time::{Duration, Instant},
    };

    use crate::net::sim::{Shared, SimSocket, Weather};

    /// A server of the test's own, and a client whose request it has read.
    fn pair() -> (Shared, usize, SimSocket) {
        let shared = Shared::new(1, Weather::calm(), Instant::now());
        let mut network = shared.lock();
        let host = network.add_host();
        let speaker = network.add_speaker(host);
        network.ask(speaker, "/", &[]);
        network.advance(Duration::ZERO);
        let (id, _) = network.accept(host).expect("a client");
        drop(network);
        let mut socket = SimSocket::new(&shared, id);
        let read = socket.read(&mut [0; 1000]).expect("a request");
        assert!(read > 100);
        (shared, speaker, socket)
    }

    fn accept(shared: &Shared, speaker: usize) -> String {
        let accept = shared.lock().speakers[speaker].accept.clone().expect("a key");
        format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n\r\n")
    }

    fn say(shared: &Shared, socket: &mut SimSocket, bytes: &[u8]) {
        assert_eq!(socket.write(bytes).expect("room"), bytes.len());
        shared.lock().advance(Duration::ZERO);
    }

    #[test]
    fn what_no_server_may_send_is_not_hidden() {
        let close = b"\x88\x02\x03\xe8";
        for (what, legal, bytes) in [
            ("a message", true, &b"\x81\x01a"[..]),
            ("two messages and a close", true, b"\x81\x01a\x82\x01\xff\x88\x02\x03\xe8"),
            ("an empty close", true, b"\x88\x00"),
            ("a code of its own", true, b"\x88\x02\x0f\xa0"),
            ("half a close code", false, b"\x88\x01\x03"),
            ("a close code that is never sent", false, b"\x88\x02\x03\xed"),
            ("a close code of nobody", false, b"\x88\x02\x00\x01"),
            ("a second close", false, &[&close[..], close].concat()),
            ("a message behind a close", false, &[&close[..], b"\x81\x01a"].concat()),
            ("the end of a message that has not begun", false, b"\x80\x01a"),
            ("the beginning of a message", false, b"\x01\x01a"),
            ("a bit of no extension", false, b"\xc1\x01a"),
            ("a masked frame", false, b"\x81\x81\0\0\0\0a"),
            ("a reserved opcode", false, b"\x83\x00"),
            ("a long ping", false, b"\x89\x7e\x00\x7e"),
            ("a text that is none", false, b"\x81\x01\xff"),
            ("a reason that is none", false, b"\x88\x03\x03\xe8\xff"),
        ] {
            let (shared, speaker, mut socket) = pair();
            let head = accept(&shared, speaker);
            say(&shared, &mut socket, head.as_bytes());
            let outcome = catch_unwind(AssertUnwindSafe(|| say(&shared, &mut socket, bytes)));
            assert_eq!(outcome.is_ok(), legal, "{what}");
        }
    }

    #[test]
    fn an_answer_to_another_key_is_not_hidden() {
        let (shared, _, mut socket) = pair();
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert!(catch_unwind(AssertUnwindSafe(|| say(&shared, &mut socket, head.as_bytes()))).is_err());
    }
}
