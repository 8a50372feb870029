//! A simulated client: says what it is told to, hears what comes, and answers pings and close frames as a browser
//! does.

use std::{
    collections::VecDeque,
    mem,
    net::{Ipv4Addr, SocketAddr},
};

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{EndId, Network};
use crate::proto::frame::{Header, write_frame};

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
    status: Option<u16>,
    head: String,
    heard: Vec<Received>,
    stalls: bool,
    says_close: bool,
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
            status: None,
            head: String::new(),
            heard: Vec::new(),
            stalls: false,
            says_close: false,
            over: false,
        });
        number
    }

    /// Where a client's server listens.
    pub(crate) fn server_of(&self, speaker: usize) -> SocketAddr {
        self.links[self.speakers[speaker].link].addr
    }

    pub(crate) fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.dice.fill(&mut bytes);
        bytes
    }

    // ---- to the server ----

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
            Some(_) => self.say(speaker, &bytes),
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

    /// Takes the whole frames out of the inbox, and answers those that want one.
    fn understand(&mut self, speaker: usize) {
        self.speakers[speaker].read_head();
        if self.speakers[speaker].status == Some(101) {
            let early = mem::take(&mut self.speakers[speaker].early);
            self.say(speaker, &early);
            if mem::take(&mut self.speakers[speaker].ends_early) {
                self.say_end(speaker);
            }
        }
        while let Some((opcode, payload)) = self.speakers[speaker].next_frame() {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("tickws sends UTF-8");
            let heard = match opcode {
                OpCode::Data(Data::Text) => Received::Text(text(&payload)),
                OpCode::Data(_) => Received::Binary(payload),
                OpCode::Control(Control::Ping) => {
                    self.say_frame(speaker, OpCode::Control(Control::Pong), &payload);
                    continue;
                }
                OpCode::Control(Control::Pong) => Received::Pong(payload),
                OpCode::Control(_) => {
                    self.say_frame(speaker, OpCode::Control(Control::Close), &payload);
                    match &payload[..] {
                        [a, b, rest @ ..] => {
                            Received::Close { code: u16::from_be_bytes([*a, *b]), reason: text(rest) }
                        }
                        _ => Received::Close { code: 1005, reason: String::new() },
                    }
                }
            };
            self.speakers[speaker].heard.push(heard);
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
        self.head = String::from_utf8(head).expect("tickws answers in ASCII");
        let status = self.head.split(' ').nth(1).and_then(|status| status.parse().ok());
        self.status = Some(status.expect("tickws answers with a status"));
    }

    fn next_frame(&mut self) -> Option<(OpCode, Vec<u8>)> {
        if self.status != Some(101) {
            return None;
        }
        let (header, taken) = Header::parse(&self.inbox).expect("tickws sends legal frames")?;
        let end = taken.checked_add(header.len as usize).filter(|end| *end <= self.inbox.len())?;
        assert!(header.fin && !header.rsv1 && header.mask.is_none(), "tickws sends {header:?}");
        let payload = self.inbox[taken..end].to_vec();
        self.inbox.drain(..end);
        Some((header.opcode, payload))
    }
}
