//! The bytes of a simulated peer: the head and the frames that a server sends, and a client's own
//! frames.

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

/// Undoes the compression of a payload.
pub(crate) type Inflate<'i> = &'i mut dyn FnMut(&[u8]) -> Vec<u8>;

impl Frame {
    /// The first frame of `bytes` and its length, if it is whole. Panics at a frame that no server
    /// may send; `inflate`: compression was agreed on.
    pub(crate) fn read(bytes: &[u8], inflate: Option<Inflate<'_>>) -> Option<(Frame, usize)> {
        let (header, start) = Header::parse(bytes).expect("tickws sends legal frames")?;
        let payload = bytes[start..].get(..header.len as usize)?;
        let whole = header.fin && header.opcode != OpCode::Data(Data::Continue);
        assert!(whole && header.mask.is_none(), "tickws sends {header:?}");
        let compressed = header.rsv1 && matches!(header.opcode, OpCode::Data(_));
        let bytes = match inflate.filter(|_| compressed) {
            Some(inflate) => inflate(payload),
            None => {
                assert!(!header.rsv1, "tickws sends {header:?}");
                payload.to_vec()
            }
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

/// The status and the head of the response that `bytes` begin with, up to the empty line, if it is
/// whole.
pub(crate) fn head_of(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = &bytes[..end];
    let status = head.strip_prefix(b"HTTP/1.1 ").and_then(|rest| std::str::from_utf8(&rest[..3]).ok());
    let status = status.and_then(|status| status.parse().ok());
    Some((status.expect("tickws answers with a status"), head))
}

/// A client's frame.
pub(crate) fn masked(opcode: OpCode, fin: bool, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 14);
    write_frame(&mut bytes, opcode, payload, Some(key));
    if !fin {
        bytes[0] &= 0x7f;
    }
    bytes
}
