//! Frames of the load, built in advance, and the expected replies.

use std::rc::Rc;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;

/// The upgrade request; its key is the example of RFC 6455 §1.3.
pub const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The Sec-WebSocket-Accept for [`REQUEST`].
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A close frame with code 1000, and the expected response.
pub fn close() -> (Vec<u8>, Vec<u8>) {
    (frame(8, &1000_u16.to_be_bytes(), true), frame(8, &1000_u16.to_be_bytes(), false))
}

/// Whether a complete response head accepts the upgrade.
pub fn is_accepted(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    head.starts_with("HTTP/1.1 101") && head.contains(ACCEPT)
}

/// A whole message in one frame.
pub fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 14);
    let mask = if masked { 0x80 } else { 0 };
    bytes.push(0x80 | opcode);
    match payload.len() {
        len @ 0..126 => bytes.push(mask | len as u8),
        len @ 126..0x1_0000 => {
            bytes.push(mask | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(mask | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    if masked {
        bytes.extend_from_slice(&KEY);
        bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    } else {
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// A payload that depends on the seed; text is about half non-ASCII.
pub fn payload(len: usize, text: bool, seed: u64) -> Vec<u8> {
    if text {
        // Characters of two and of three bytes alternate, each followed by a letter.
        let letters = ["é", "ü", "ß", "ñ"];
        let signs = ["€", "→", "漢", "字"];
        let mut text = String::with_capacity(len + 3);
        let mut at = seed as usize;
        while text.len() + 3 <= len {
            text.push_str(if at.is_multiple_of(2) { letters[at / 2 % 4] } else { signs[at / 2 % 4] });
            text.push((b'a' + (at % 26) as u8) as char);
            at += 1;
        }
        while text.len() > len {
            text.pop();
        }
        while text.len() < len {
            text.push('.');
        }
        return text.into_bytes();
    }
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// The messages of one client: one frame, repeated so that a single write can send many.
#[derive(Debug, Clone)]
pub struct Script {
    pub requests: Rc<[u8]>,
    /// Length of one request.
    pub request: usize,
    pub reply: Rc<[u8]>,
    pub header: usize,
}

impl Script {
    pub fn new(payload: &[u8], text: bool, repeat: usize) -> Script {
        let opcode = if text { TEXT } else { BINARY };
        let request = frame(opcode, payload, true);
        let reply = frame(opcode, payload, false);
        Script {
            requests: request.repeat(repeat.max(1)).into(),
            request: request.len(),
            header: reply.len() - payload.len(),
            reply: reply.into(),
        }
    }
}

/// Checks a stream of replies: headers always, content only if `verify` is set.
#[derive(Debug, Clone)]
pub struct Replies {
    script: Script,
    /// Position within the current reply.
    at: usize,
    verify: bool,
}

impl Replies {
    pub fn new(script: Script, verify: bool) -> Replies {
        Replies { script, at: 0, verify }
    }

    /// The number of replies that these bytes complete.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<u64, String> {
        let Script { reply, header, .. } = &self.script;
        let checked = if self.verify { reply.len() } else { *header };
        let mut complete = 0;
        while !bytes.is_empty() {
            let step = bytes.len().min(reply.len() - self.at);
            let check = step.min(checked.saturating_sub(self.at));
            if bytes[..check] != reply[self.at..self.at + check] {
                let part = if self.at < *header { "header" } else { "content" };
                let shown = &bytes[..bytes.len().min(16)];
                return Err(format!(
                    "the {part} of a reply is not what was sent: {shown:02x?} at {}",
                    self.at
                ));
            }
            self.at += step;
            bytes = &bytes[step..];
            if self.at == reply.len() {
                self.at = 0;
                complete += 1;
            }
        }
        Ok(complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted_however_they_are_split() {
        for (len, text) in [(0, false), (16, false), (125, true), (300, false), (70_000, false)] {
            let body = payload(len, text, 3);
            assert_eq!(body.len(), len);
            let script = Script::new(&body, text, 2);
            let bytes = script.reply.repeat(5);
            for cut in [1, 2, 7, 1000, usize::MAX] {
                for verify in [false, true] {
                    let mut replies = Replies::new(script.clone(), verify);
                    let counts = bytes.chunks(cut.min(bytes.len())).map(|chunk| replies.take(chunk));
                    assert_eq!(counts.sum::<Result<u64, _>>(), Ok(5));
                    assert_eq!(replies.at, 0);
                }
            }
        }
    }

    #[test]
    fn differing_replies_are_errors() {
        let script = Script::new(&payload(16, false, 1), false, 1);
        let mut bytes = script.reply.to_vec();
        bytes[9] ^= 1;
        assert_eq!(Replies::new(script.clone(), false).take(&bytes), Ok(1));
        assert!(Replies::new(script.clone(), true).take(&bytes).is_err());
        bytes[0] = 0x81;
        assert!(Replies::new(script, false).take(&bytes).is_err());
    }

    #[test]
    fn text_payloads_are_partly_non_ascii() {
        let text = String::from_utf8(payload(125, true, 5)).unwrap();
        assert!(text.chars().filter(|c| !c.is_ascii()).count() > 25, "{text}");
    }
}
