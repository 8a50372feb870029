//! Frames ↔ bytes (RFC 6455 §5.2).

#![allow(
    clippy::indexing_slicing,
    reason = "a header has at most 14 bytes, and `start` is where `out` ended before"
)]

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::{error::ProtocolError, message::Kind, proto::mask::apply_mask};

/// "All control frames MUST have a payload length of 125 bytes or less" (§5.5).
pub(crate) const MAX_CONTROL_PAYLOAD: usize = 125;

/// The longest header in bytes: two fixed bytes, a 64-bit length and a masking key.
pub(crate) const MAX_HEADER: usize = 14;

/// Largest payload, in bytes, that [`parse_short`] and [`short_header`] handle.
const SMALL: usize = 4096;

// Fields of the first byte of a header (§5.2).
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_RSV3: u8 = 0x30;
const OPCODE: u8 = 0x0f;
const FIRST_OF_TEXT: u8 = FIN | 1;
const FIRST_OF_BINARY: u8 = FIN | 2;
// Fields of the second byte, and the two lengths that announce an extended one (§5.2).
const MASK: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// The header of a frame.
///
/// [`parse`](Self::parse) checks only that the header itself is well-formed. The caller checks
/// whether RSV1, the mask, a continuation or this length is allowed at this point of the
/// connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whether this is the last fragment of a message, or its only frame.
    pub(crate) fin: bool,
    /// Reserved for extensions; permessage-deflate calls it "Per-Message Compressed" (RFC 7692 §6).
    pub(crate) rsv1: bool,
    /// Never a reserved opcode.
    pub(crate) opcode: OpCode,
    /// The masking key, if the payload is masked.
    pub(crate) mask: Option<[u8; 4]>,
    /// The payload's length in bytes, below 2⁶³.
    pub(crate) len: u64,
}

impl Header {
    /// Reads a header, and returns it with its length in bytes; `None` if `bytes` ends inside it.
    ///
    /// # Errors
    ///
    /// A violation is reported at the first byte that proves it, even in an incomplete header.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, ProtocolError> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        let opcode = parse_first(first)?;

        let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
        // A control frame never has an extended length (§5.5), so 126 and 127 are too long as well.
        if is_control(opcode) && usize::from(second & LENGTH) > MAX_CONTROL_PAYLOAD {
            return Err(ProtocolError::ControlTooLong);
        }
        let Some((len, rest)) = parse_length(second & LENGTH, rest)? else { return Ok(None) };

        let (mask, rest) = if second & MASK == 0 {
            (None, rest)
        } else {
            let Some((&key, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (Some(key), rest)
        };
        let header = Header { fin: first & FIN != 0, rsv1: first & RSV1 != 0, opcode, mask, len };
        Ok(Some((header, bytes.len() - rest.len())))
    }

    /// Appends the header to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let (bytes, end) = self.encode();
        out.extend_from_slice(&bytes[..end]);
    }

    /// Encodes the header, its length in the shortest form; returns the bytes and how many count.
    pub(crate) fn encode(&self) -> ([u8; MAX_HEADER], usize) {
        debug_assert!(self.len >> 63 == 0, "the highest bit of a length is zero");
        let mut bytes = [0; MAX_HEADER];
        bytes[0] = u8::from(self.opcode) | if self.fin { FIN } else { 0 } | if self.rsv1 { RSV1 } else { 0 };

        // "in all cases, the minimal number of bytes MUST be used to encode the length" (§5.2)
        let (short, mut end) = match self.len {
            0..=125 => (self.len as u8, 2),
            126..=0xffff => {
                bytes[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
                (LENGTH_16, 4)
            }
            _ => {
                bytes[2..10].copy_from_slice(&self.len.to_be_bytes());
                (LENGTH_64, 10)
            }
        };
        bytes[1] = short;
        if let Some(key) = self.mask {
            bytes[1] |= MASK;
            bytes[end..end + 4].copy_from_slice(&key);
            end += 4;
        }
        debug_assert_eq!(end, self.encoded_len());
        (bytes, end)
    }

    /// How many bytes [`write`](Self::write) appends.
    pub(crate) fn encoded_len(&self) -> usize {
        let length = match self.len {
            0..=125 => 0,
            126..=0xffff => 2,
            _ => 8,
        };
        2 + length + if self.mask.is_some() { 4 } else { 0 }
    }
}

/// Reads a small message that stands at the front of `bytes` as one complete masked frame, which is
/// what clients send most. Returns its kind, its masking key, its payload (still masked) and the
/// length of its header; `None` for everything else, which [`Header::parse`] then reads.
#[inline]
pub(crate) fn parse_short(bytes: &mut [u8]) -> Option<(Kind, [u8; 4], &mut [u8], usize)> {
    let (&mut [first, second], rest) = bytes.split_first_chunk_mut()?;
    let kind = match first {
        FIRST_OF_TEXT => Kind::Text,
        FIRST_OF_BINARY => Kind::Binary,
        _ => return None,
    };
    let (len, rest, size) = match second.wrapping_sub(MASK) {
        len if len < LENGTH_16 => (usize::from(len), rest, 6),
        LENGTH_16 => {
            let (&mut len, rest) = rest.split_first_chunk_mut()?;
            (usize::from(u16::from_be_bytes(len)), rest, 8)
        }
        _ => return None,
    };
    // `Header::parse` rejects a length that is not in its shortest form.
    if len > SMALL || (size == 8 && len < usize::from(LENGTH_16)) {
        return None;
    }
    let (key, rest) = rest.split_first_chunk_mut()?;
    Some((kind, *key, rest.get_mut(..len)?, size))
}

/// Encodes the unmasked header of a small message; returns the bytes and how many are used. `None`
/// if `len` is not small.
#[inline]
pub(crate) fn short_header(kind: Kind, len: usize) -> Option<([u8; 4], usize)> {
    let first = match kind {
        Kind::Text => FIRST_OF_TEXT,
        Kind::Binary => FIRST_OF_BINARY,
    };
    let [high, low] = (len as u16).to_be_bytes();
    match len {
        0..=125 => Some(([first, low, 0, 0], 2)),
        126..=SMALL => Some(([first, LENGTH_16, high, low], 4)),
        _ => None,
    }
}

/// The opcode of an unfragmented message.
pub(crate) fn opcode(kind: Kind) -> OpCode {
    OpCode::Data(match kind {
        Kind::Text => Data::Text,
        Kind::Binary => Data::Binary,
    })
}

/// The length in bytes of the frame at the front of `frame`, header included; `None` if its header
/// is incomplete. Takes only frames that this library wrote, which are well-formed.
pub(crate) fn wire_len(frame: &[u8]) -> Option<usize> {
    let parsed = Header::parse(frame);
    debug_assert!(parsed.is_ok(), "a frame of our own is malformed: {parsed:?}");
    let (header, taken) = parsed.ok()??;
    taken.checked_add(usize::try_from(header.len).ok()?)
}

/// Appends an unfragmented frame; with a `mask` its payload is masked.
pub(crate) fn write_frame(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) {
    debug_assert!(!is_control(opcode) || payload.len() <= MAX_CONTROL_PAYLOAD);
    write(out, Header { fin: true, rsv1: false, opcode, mask, len: payload.len() as u64 }, payload);
}

/// Appends an unfragmented frame with RSV1 set, for a `payload` that is compressed (RFC 7692 §6).
pub(crate) fn write_compressed(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) {
    write(out, Header { fin: true, rsv1: true, opcode, mask, len: payload.len() as u64 }, payload);
}

/// Whether RSV1 is set in `frame`, the first of a message: it is compressed (RFC 7692 §6).
pub(crate) fn is_compressed(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & RSV1 != 0)
}

#[inline(always)]
fn write(out: &mut Vec<u8>, header: Header, payload: &[u8]) {
    out.reserve(header.encoded_len() + payload.len());
    header.write(out);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = header.mask {
        apply_mask(&mut out[start..], key);
    }
}

/// Checks the rules that the first byte alone can violate, and returns its opcode.
fn parse_first(first: u8) -> Result<OpCode, ProtocolError> {
    // "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values."
    // (§5.2). No supported extension defines RSV2 or RSV3.
    if first & RSV2_RSV3 != 0 {
        return Err(ProtocolError::ReservedBits);
    }
    // "If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket
    // Connection_." (§5.2)
    let opcode = OpCode::from(first & OPCODE);
    if let OpCode::Data(Data::Reserved(code)) | OpCode::Control(Control::Reserved(code)) = opcode {
        return Err(ProtocolError::ReservedOpcode(code));
    }
    // "All control frames … MUST NOT be fragmented." (§5.5)
    if is_control(opcode) && first & FIN == 0 {
        return Err(ProtocolError::FragmentedControl);
    }
    Ok(opcode)
}

/// Returns the payload length and the bytes behind it; `None` if the length is incomplete.
fn parse_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, ProtocolError> {
    match short {
        LENGTH_16 => {
            let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let len = u16::from_be_bytes(*bytes);
            // "the minimal number of bytes MUST be used to encode the length" (§5.2)
            if len <= 125 {
                return Err(ProtocolError::LengthNotMinimal);
            }
            Ok(Some((len.into(), rest)))
        }
        LENGTH_64 => {
            // "the most significant bit MUST be 0" (§5.2)
            if rest.first().is_some_and(|byte| byte & 0x80 != 0) {
                return Err(ProtocolError::LengthOverflow);
            }
            // After six zero bytes the length fits into 16 bits, whatever the last two bytes are.
            if rest.starts_with(&[0; 6]) {
                return Err(ProtocolError::LengthNotMinimal);
            }
            let Some((bytes, rest)) = rest.split_first_chunk() else { return Ok(None) };
            Ok(Some((u64::from_be_bytes(*bytes), rest)))
        }
        _ => Ok(Some((short.into(), rest))),
    }
}

fn is_control(opcode: OpCode) -> bool {
    matches!(opcode, OpCode::Control(_))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tungstenite::protocol::frame::FrameHeader;

    use super::*;
    use crate::util::test_rng::Rng;

    const TEXT: OpCode = OpCode::Data(Data::Text);
    const BINARY: OpCode = OpCode::Data(Data::Binary);
    const CONTINUE: OpCode = OpCode::Data(Data::Continue);
    const PING: OpCode = OpCode::Control(Control::Ping);
    const PONG: OpCode = OpCode::Control(Control::Pong);
    const CLOSE: OpCode = OpCode::Control(Control::Close);
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    impl Rng {
        fn header(&mut self) -> Header {
            let opcode = self.pick(&[TEXT, BINARY, CONTINUE, PING, PONG, CLOSE]);
            let control = is_control(opcode);
            // Lengths of every magnitude; half of them lie at the border between two encodings.
            let any = self.next() >> (1 + self.next() % 63);
            let border = self.pick(&[0, 1, 125, 126, 127, 0xffff, 0x1_0000, u64::MAX >> 1]);
            let len = if self.one_in(2) { border } else { any };
            Header {
                fin: control || self.one_in(2),
                rsv1: self.one_in(2),
                opcode,
                mask: self.one_in(2).then(|| (self.next() as u32).to_ne_bytes()),
                len: if control { len % 126 } else { len },
            }
        }
    }

    fn framed(opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, opcode, payload, mask);
        bytes
    }

    fn theirs(header: &Header) -> FrameHeader {
        let Header { fin: is_final, rsv1, opcode, mask, .. } = *header;
        FrameHeader { is_final, rsv1, rsv2: false, rsv3: false, opcode, mask }
    }

    #[test]
    fn rfc_examples_are_encoded_and_parsed() {
        // The examples of §5.7, in the same order.
        assert_eq!(framed(TEXT, b"Hello", None), b"\x81\x05Hello");
        assert_eq!(framed(TEXT, b"Hello", Some(KEY)), b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
        let fragment = |fin, opcode| Header { fin, rsv1: false, opcode, mask: None, len: 3 };
        assert_eq!(Header::parse(b"\x01\x03Hel"), Ok(Some((fragment(false, TEXT), 2))));
        let last = Header { len: 2, ..fragment(true, CONTINUE) };
        assert_eq!(Header::parse(b"\x80\x02lo"), Ok(Some((last, 2))));
        assert_eq!(framed(PING, b"Hello", None), b"\x89\x05Hello");
        assert_eq!(framed(PONG, b"Hello", Some(KEY)), b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
        assert_eq!(framed(BINARY, &[7; 256], None)[..5], *b"\x82\x7e\x01\x00\x07");
        assert_eq!(framed(BINARY, &[7; 65536], None)[..11], *b"\x82\x7f\0\0\0\0\0\x01\0\0\x07");
    }

    #[test]
    fn random_headers_round_trip_and_match_tungstenite() {
        let mut rng = Rng::new(0);
        for _ in 0..20_000 {
            let header = rng.header();
            let mut bytes = Vec::new();
            header.write(&mut bytes);
            assert_eq!(bytes.len(), header.encoded_len());
            assert!(bytes.len() <= MAX_HEADER);

            let mut formatted = Vec::new();
            theirs(&header).format(header.len, &mut formatted).unwrap();
            assert_eq!(bytes, formatted, "{header:?}");

            assert_eq!(Header::parse(&bytes), Ok(Some((header, bytes.len()))));
            for end in 0..bytes.len() {
                assert_eq!(Header::parse(&bytes[..end]), Ok(None), "{header:?} cut at {end}");
            }
            let taken = bytes.len();
            bytes.extend_from_slice(&[0xff; 20]);
            assert_eq!(Header::parse(&bytes), Ok(Some((header, taken))));
        }
    }

    #[test]
    fn random_bytes_parse_as_in_tungstenite() {
        let mut rng = Rng::new(1);
        let mut complete = 0;
        for _ in 0..200_000 {
            let mut bytes = rng.bytes(16);
            // RSV2 and RSV3 are cleared in half of them, or hardly any header would be valid.
            bytes[0] &= if rng.one_in(2) { !RSV2_RSV3 } else { 0xff };
            bytes.truncate(rng.below(17));

            let mut cursor = Cursor::new(&bytes);
            let read = FrameHeader::parse(&mut cursor);
            match Header::parse(&bytes) {
                Ok(Some((header, taken))) => {
                    assert_eq!(read.unwrap(), Some((theirs(&header), header.len)), "{bytes:x?}");
                    assert_eq!(taken as u64, cursor.position());
                    complete += 1;
                }
                Ok(None) => assert_eq!(read.unwrap(), None, "{bytes:x?}"),
                // tungstenite reports a reserved opcode only when the header is complete.
                Err(ProtocolError::ReservedOpcode(_)) => assert!(!matches!(read, Ok(Some(_))), "{bytes:x?}"),
                // tungstenite leaves all other checks to the caller of its parser.
                Err(_) => {}
            }
        }
        assert!(complete > 10_000, "only {complete} were headers");
    }

    #[test]
    fn violations_are_reported_by_the_first_byte_that_proves_them() {
        use ProtocolError::*;
        for (bytes, expected) in [
            (&b"\xa1"[..], ReservedBits),
            (b"\x83", ReservedOpcode(3)),
            (b"\x0f", ReservedOpcode(15)),
            (b"\x09", FragmentedControl),
            (b"\x89\x7e", ControlTooLong),
            (b"\x88\xff", ControlTooLong),
            (b"\x82\x7e\x00\x7d", LengthNotMinimal),
            (b"\x82\xfe\x00\x00", LengthNotMinimal),
            (b"\x82\x7f\0\0\0\0\0\0", LengthNotMinimal),
            (b"\x82\x7f\x80", LengthOverflow),
        ] {
            assert_eq!(Header::parse(bytes), Err(expected), "{bytes:x?}");
            assert_eq!(
                Header::parse(&bytes[..bytes.len() - 1]),
                Ok(None),
                "{bytes:x?} without the last byte"
            );
            let followed = [bytes, &[0xff; 14]].concat();
            assert_eq!(Header::parse(&followed), Err(expected), "{bytes:x?} followed by other bytes");
        }
    }

    #[test]
    fn wire_len_steps_over_whole_frames() {
        for mask in [None, Some(KEY)] {
            for len in [0, 1, 125, 126, 127, 65535, 65536] {
                let frame = framed(BINARY, &vec![1; len], mask);
                let two = [&frame[..], &frame].concat();
                assert_eq!(wire_len(&two), Some(frame.len()));
                let (head, _) = frame.split_at(frame.len() - len);
                assert_eq!(wire_len(head), Some(frame.len()));
                assert_eq!(wire_len(&head[..head.len() - 1]), None);
            }
        }
        assert_eq!(wire_len(&[]), None);
    }

    #[test]
    fn short_functions_match_the_general_ones() {
        for (kind, len) in [0, 1, 125, 126, 127, 4095, 4096, 4097, 65536]
            .into_iter()
            .flat_map(|len| [Kind::Text, Kind::Binary].map(|kind| (kind, len)))
        {
            let header = Header { fin: true, rsv1: false, opcode: opcode(kind), mask: None, len: len as u64 };
            let (bytes, end) = header.encode();
            let short = short_header(kind, len);
            assert_eq!(short.is_some(), len <= SMALL);
            assert!(short.is_none_or(|(head, size)| head[..size] == bytes[..end]), "{len}");

            let mut frame = Vec::new();
            Header { mask: Some([1, 2, 3, 4]), ..header }.write(&mut frame);
            let size = frame.len();
            frame.resize(size + len + 3, 7);
            let parsed =
                parse_short(&mut frame).map(|(kind, key, payload, size)| (kind, key, payload.len(), size));
            assert_eq!(parsed, (len <= SMALL).then_some((kind, [1, 2, 3, 4], len, size)));
            frame.truncate(size + len);
            for end in (0..size).chain((len > 0).then_some(size + len - 1)) {
                assert_eq!(parse_short(&mut frame[..end]), None, "{end} bytes of {}", size + len);
            }
        }
        // Rejected: a length not in its shortest form, no mask, a fragment, a reserved bit.
        assert_eq!(parse_short(&mut [0x82, 0xfe, 0, 1, 0, 0, 0, 0, 9]), None);
        assert_eq!(parse_short(&mut [0x82, 0x01, 9, 9, 9, 9, 9]), None);
        assert_eq!(parse_short(&mut [0x02, 0x81, 0, 0, 0, 0, 9]), None);
        assert_eq!(parse_short(&mut [0xc2, 0x81, 0, 0, 0, 0, 9]), None);
    }
}
