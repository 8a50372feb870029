//! Frames small broadcast messages without allocating.

use crate::{
    outbox::{outgoing::Outgoing, prepared::Prepared},
    proto::frame::{Header, opcode},
};

/// Frames small broadcast messages one after the other without allocating.
#[derive(Debug)]
pub(crate) struct Encoder {
    spare: Prepared,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder { spare: Prepared::new("") }
    }
}

impl Encoder {
    /// Frames a message. Outboxes copy a small frame, so that the next call can reuse its memory.
    pub(crate) fn encode(&mut self, message: Outgoing<'_>) -> Prepared {
        let message = match message {
            Outgoing::Message(message) => message,
            Outgoing::Prepared(prepared) => return prepared,
        };
        let (kind, payload) = (message.kind(), message.as_bytes());
        let header =
            Header { fin: true, rsv1: false, opcode: opcode(kind), mask: None, len: payload.len() as u64 };
        if header.encoded_len() + payload.len() < Prepared::SHARE_FROM && self.spare.reframe(message) {
            return self.spare.clone();
        }
        Prepared::frame_message(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoder_reuses_only_memory_that_is_free() {
        let mut encoder = Encoder::default();
        let first = encoder.encode("first".into());
        let second = encoder.encode("second".into());
        assert_eq!((first.payload(), second.payload()), (&b"first"[..], &b"second"[..]));
        let place = first.frame().as_ptr();
        drop((first, second));
        assert_eq!(encoder.encode((&[1u8; 5]).into()).frame().as_ptr(), place);
        let large = encoder.encode((&[1u8; 2_000]).into());
        assert_eq!(large.len(), 2_000);
        assert_eq!(encoder.encode(Outgoing::from(&large)).frame().as_ptr(), large.frame().as_ptr());
    }
}
