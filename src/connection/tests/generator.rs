//! Random streams of frames, most of them with one flaw. The same seed gives the same stream.

use super::harness::{Side, frame, header};
use crate::{config::MessageLimits, util::test_rng::Rng};

impl Rng {
    /// A random length: mostly a few bytes, sometimes up to `max`.
    pub(super) fn len(&mut self, max: usize) -> usize {
        let end = self.pick(&[2, 10, 130, 130, 400, max]);
        self.below(end.min(max) + 1)
    }

    /// Valid text of exactly `len` bytes.
    pub(super) fn text(&mut self, len: usize) -> String {
        let mut text = String::new();
        let plain = self.one_in(2);
        while text.len() < len {
            let next = if plain {
                'a'
            } else {
                self.pick(&['x', 'é', '€', '🦀', '\u{7ff}', '\u{10ffff}', '\0'])
            };
            text.push(if text.len() + next.len_utf8() <= len { next } else { '.' });
        }
        text
    }

    /// `bytes` cut into pieces, whose typical size is random too.
    pub(super) fn cut<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let size = self.pick(&[1, 3, 20, 300, 3000, 30_000]);
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at((1 + self.below(size)).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}

/// A stream of frames that one side receives.
pub(super) struct Stream {
    pub(super) bytes: Vec<u8>,
    pub(super) limits: MessageLimits,
    /// The stream consists of whole frames with at most one flaw.
    pub(super) tidy: bool,
    /// Name of the flaw, for the message of a failing test.
    pub(super) flaw: &'static str,
}

struct Generator {
    rng: Rng,
    side: Side,
    limits: MessageLimits,
    out: Vec<u8>,
}

const FLAWS: [&str; 19] = [
    "reserved bit",
    "reserved opcode",
    "fragmented control",
    "long control",
    "length not minimal",
    "length overflow",
    "stray continuation",
    "message inside a message",
    "bad text",
    "text cut short",
    "frame too big",
    "message too big",
    "wrong mask",
    "close of one byte",
    "close code",
    "close reason",
    "empty fragments",
    "close",
    "close 1014",
];

/// Generates a stream from these random numbers.
pub(super) fn stream(mut rng: Rng, side: Side) -> Stream {
    let limits = match rng.below(6) {
        0 => MessageLimits { frame: 40_000, message: 60_000 },
        1 => MessageLimits { frame: 5000, message: 300 },
        _ => MessageLimits { frame: 2000, message: 4000 },
    };
    let mut generator = Generator { rng, side, limits, out: Vec::new() };
    for _ in 0..generator.rng.below(6) {
        generator.item();
    }
    let mut flaw = "none";
    if !generator.rng.one_in(4) {
        flaw = generator.rng.pick(&FLAWS);
        generator.flaw(flaw);
        // A message behind the flaw, which must be ignored.
        if generator.rng.one_in(2) {
            generator.item();
        }
    }
    let Generator { mut rng, out: mut bytes, .. } = generator;
    let mut tidy = true;
    match rng.below(6) {
        0 if !bytes.is_empty() => {
            bytes.truncate(rng.below(bytes.len()));
            tidy = false;
        }
        1 if !bytes.is_empty() => {
            for _ in 0..1 + rng.below(3) {
                let at = rng.below(bytes.len());
                bytes[at] ^= 1 << rng.below(8);
            }
            tidy = false;
        }
        2 if rng.one_in(8) => {
            let len = rng.len(200);
            bytes.extend(rng.bytes(len));
            tidy = false;
        }
        _ => {}
    }
    Stream { bytes, limits, tidy, flaw }
}

impl Generator {
    fn key(&mut self) -> Option<[u8; 4]> {
        let key = (self.rng.next() as u32).to_ne_bytes();
        (self.side == Side::Server).then_some(key)
    }

    fn push(&mut self, first: u8, payload: &[u8]) {
        let key = self.key();
        self.out.extend(frame(first, key, payload));
    }

    /// Adds a message or a single control frame.
    fn item(&mut self) {
        if self.rng.one_in(4) {
            return self.control();
        }
        let max = self.limits.message.min(self.limits.frame);
        let len = self.rng.len(max as usize);
        let (opcode, payload) = self.payload(len);
        self.fragments(opcode, &payload);
    }

    fn payload(&mut self, len: usize) -> (u8, Vec<u8>) {
        if self.rng.one_in(2) { (1, self.rng.text(len).into_bytes()) } else { (2, self.rng.bytes(len)) }
    }

    fn control(&mut self) {
        let len = self.rng.len(125);
        let (payload, first) = (self.rng.bytes(len), self.rng.pick(&[0x89, 0x89, 0x8a]));
        self.push(first, &payload);
    }

    /// Adds `payload` in one to five frames, with control frames between them.
    fn fragments(&mut self, opcode: u8, payload: &[u8]) {
        let mut first = opcode;
        let mut rest = payload;
        for _ in 0..self.rng.pick(&[0, 0, 0, 1, 4]) {
            let (part, after) = rest.split_at(self.rng.below(rest.len() + 1));
            self.push(first, part);
            (first, rest) = (0, after);
            if self.rng.one_in(3) {
                self.control();
            }
        }
        self.push(0x80 | first, rest);
    }

    /// Adds the first fragment of a message.
    fn open(&mut self) {
        let len = self.rng.len(100);
        let (opcode, payload) = self.payload(len);
        self.push(opcode, &payload);
    }

    fn flaw(&mut self, flaw: &'static str) {
        // Flaws of a single frame may also happen inside a message.
        let data_first =
            if !matches!(flaw, "stray continuation" | "bad text" | "text cut short" | "frame too big")
                && !matches!(flaw, "message too big" | "empty fragments")
                && (self.rng.one_in(2) || flaw == "message inside a message")
            {
                self.open();
                0x80
            } else {
                self.rng.pick(&[0x81, 0x82])
            };
        let len = self.rng.len(120);
        let small = self.rng.text(len).into_bytes();
        match flaw {
            "reserved bit" => {
                let first = self.rng.pick(&[data_first, 0x89, 0x8a]);
                let bits = 1 + self.rng.below(7) as u8;
                self.push(first | bits << 4, &small);
            }
            "reserved opcode" => {
                let opcode = self.rng.pick(&[3, 4, 5, 6, 7, 11, 12, 13, 14, 15]);
                self.push(0x80 | opcode, &small);
            }
            "fragmented control" => {
                let opcode = self.rng.pick(&[9, 10]);
                self.push(opcode, &small);
            }
            "long control" => {
                let first = self.rng.pick(&[0x88, 0x89, 0x8a]);
                let len = 126 + self.rng.below(100);
                self.push(first, &vec![3; len]);
            }
            "length not minimal" => {
                let key = self.key();
                let mut bytes = frame(data_first, key, &small[..small.len().min(100)]);
                let len = bytes[1] & 0x7f;
                let long = self.rng.one_in(2);
                bytes[1] = bytes[1] & 0x80 | if long { 127 } else { 126 };
                let zeros = if long { 7 } else { 1 };
                bytes.splice(2..2, vec![0; zeros].into_iter().chain([len]));
                self.out.extend(bytes);
            }
            "length overflow" => {
                let key = self.key();
                let len = self.rng.next() | 1 << 63;
                self.out.extend(header(data_first, key, len));
            }
            "stray continuation" => {
                let first = self.rng.pick(&[0x80, 0x00]);
                self.push(first, &small);
            }
            "message inside a message" => {
                let first = self.rng.pick(&[0x81, 0x82, 0x01, 0x02]);
                self.push(first, &small);
            }
            "bad text" => {
                let mut text = self.rng.text(small.len() + 2).into_bytes();
                let at = self.rng.below(text.len());
                text[at] = self.rng.pick(&[0xc0, 0xff, 0xf5]);
                self.fragments(1, &text);
            }
            "text cut short" => {
                let mut text = small;
                text.extend_from_slice(self.rng.pick(&[&b"\xc3"[..], b"\xe2\x82", b"\xf0\x9f\xa6"]));
                self.fragments(1, &text);
            }
            "frame too big" => {
                let len = self.limits.frame as usize + 1 + self.rng.below(3);
                self.push(0x82, &vec![7; len]);
            }
            "message too big" => {
                // Fragments up to the limit, then one byte more.
                let mut left = self.limits.message as usize;
                let mut first = 2;
                while left > 0 {
                    let len = (1 + self.rng.below(self.limits.frame as usize)).min(left);
                    self.push(first, &vec![8; len]);
                    (first, left) = (0, left - len);
                }
                let first = self.rng.pick(&[0x00, 0x80]);
                self.push(first, b"!");
            }
            "wrong mask" => {
                let key = if self.side == Side::Server { None } else { Some(*b"mask") };
                let first = self.rng.pick(&[data_first, 0x89, 0x8a]);
                self.out.extend(frame(first, key, &small));
            }
            "close of one byte" => self.push(0x88, &small[..small.len().min(1)]),
            "close code" => {
                let low = self.rng.below(1000) as u16;
                let high = self.rng.below(3000) as u16 + 999;
                let code = self.rng.pick(&[0, low, high, high, 1004, 1005, 1006, 1015, 5000, 65535]);
                let reason = &small[..small.len().min(40)];
                let valid = std::str::from_utf8(reason).map_or_else(|error| error.valid_up_to(), str::len);
                self.push(0x88, &[&code.to_be_bytes(), &reason[..valid]].concat());
            }
            "close reason" => {
                self.push(0x88, &[b"\x03\xe8good \xff bad", &small[..small.len().min(40)]].concat())
            }
            "empty fragments" => {
                self.push(1, b"");
                for _ in 0..60 + self.rng.below(10) {
                    self.push(0, b"");
                }
                self.push(0x80, b"end");
            }
            "close" => {
                let code: u16 = self.rng.pick(&[1000, 1001, 1003, 1007, 1013, 3000, 3999, 4000, 4999]);
                let reason = self.rng.text(small.len());
                let body = [&code.to_be_bytes(), reason.as_bytes()].concat();
                let body = if self.rng.one_in(4) { &[] } else { &body[..] };
                self.push(0x88, body);
            }
            "close 1014" => self.push(0x88, &1014_u16.to_be_bytes()),
            _ => unreachable!("{flaw}"),
        }
    }
}
