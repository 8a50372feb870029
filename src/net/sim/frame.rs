//! Bytes between a simulated peer and the server: heads, frames and their parser.

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::proto::{
    close,
    frame::{Header, write_frame},
};

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Frame {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// The code is 1005 if the body was empty (RFC 6455 §7.1.5).
    Close(u16, String),
}

impl Frame {
    /// Parses the first frame of `bytes` and returns it with its length; `None` if it is
    /// incomplete. `inflate` gives `None` if the peer has agreed to no compression.
    ///
    /// # Panics
    ///
    /// If a server must not send this frame.
    fn parse(bytes: &[u8], inflate: &mut impl FnMut(&[u8]) -> Option<Vec<u8>>) -> Option<(Frame, usize)> {
        let (header, start) = Header::parse(bytes).expect("tickws sends legal frames")?;
        let payload = bytes[start..].get(..header.len as usize)?;
        let is_whole = header.fin && header.opcode != OpCode::Data(Data::Continue);
        assert!(is_whole && header.mask.is_none(), "tickws sends {header:?}");
        let is_data = matches!(header.opcode, OpCode::Data(_));
        let bytes = match header.rsv1 {
            true => is_data.then(|| inflate(payload)).flatten().expect("tickws sets RSV1 as agreed"),
            false => payload.to_vec(),
        };
        let frame = match header.opcode {
            OpCode::Data(Data::Text) => Frame::Text(String::from_utf8(bytes).expect("tickws sends UTF-8")),
            OpCode::Data(_) => Frame::Binary(bytes),
            OpCode::Control(Control::Ping) => Frame::Ping(bytes),
            OpCode::Control(Control::Pong) => Frame::Pong(bytes),
            OpCode::Control(_) => match close::parse_body(&bytes).expect("tickws sends legal close frames") {
                None => Frame::Close(1005, String::new()),
                Some((code, reason)) => Frame::Close(code, reason.to_owned()),
            },
        };
        Some((frame, start + payload.len()))
    }
}

/// Bytes that a peer received and has not parsed yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) bytes: Vec<u8>,
    /// The status of the last response; frames follow a 101.
    pub(crate) status: Option<u16>,
    pub(super) close_received: bool,
}

impl Inbox {
    /// Takes the head of a response, up to the empty line, if it is complete.
    pub(super) fn take_head(&mut self) -> Option<Vec<u8>> {
        let (status, len) = parse_head(&self.bytes)?;
        self.status = Some(status);
        Some(self.bytes.drain(..len).collect())
    }

    /// Takes all complete frames. Panics if a server must not send them.
    pub(super) fn take_frames(&mut self, mut inflate: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> Vec<Frame> {
        let (mut at, mut frames) = (0, Vec::new());
        while self.status == Some(101)
            && let Some((frame, len)) = Frame::parse(&self.bytes[at..], &mut inflate)
        {
            assert!(!self.close_received, "tickws sends {frame:?} after its close frame");
            at += len;
            self.close_received = matches!(frame, Frame::Close(..));
            frames.push(frame);
        }
        self.bytes.drain(..at);
        frames
    }
}

/// The status and the length of the head that `bytes` begin with; `None` if it is incomplete.
pub(super) fn parse_head(bytes: &[u8]) -> Option<(u16, usize)> {
    let len = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let status = bytes.strip_prefix(b"HTTP/1.1 ").and_then(|rest| std::str::from_utf8(&rest[..3]).ok());
    let status = status.and_then(|status| status.parse().ok());
    Some((status.expect("tickws sends a status line"), len))
}

/// A frame of a client, masked with `key`.
pub(crate) fn masked(opcode: OpCode, fin: bool, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 14);
    write_frame(&mut bytes, opcode, payload, Some(key));
    if !fin {
        bytes[0] &= 0x7f;
    }
    bytes
}

/// The body of a close frame; empty for 1005.
pub(super) fn close_body(code: u16, reason: &str) -> Vec<u8> {
    match code {
        1005 => Vec::new(),
        _ => [&code.to_be_bytes()[..], reason.as_bytes()].concat(),
    }
}
