//! The encode-once message: framed when it is made, shared by everyone it is sent to.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    message::{Kind, Message},
    proto::frame::{self, Header, opcode},
};

/// A message framed once, to be sent many times, to anyone, in any order.
///
/// Cloning one is cheap: all clones share one frame, and so do the outboxes that it waits in. A snapshot
/// that ten thousand slow readers wait for is held once. It may be made on another thread, and outlive
/// the server.
///
/// # Examples
///
/// ```
/// use tickws::{ClientId, Prepared, SendError, Server};
///
/// fn welcome(server: &mut Server, client: ClientId, rules: &Prepared) -> Result<(), SendError> {
///     server.send(client, rules)
/// }
///
/// let rules = Prepared::new("no running, no shouting");
/// assert_eq!(rules.len(), 23);
/// ```
#[derive(Clone)]
pub struct Prepared(Arc<Frame>);

/// One unmasked frame.
struct Frame {
    bytes: Vec<u8>,
    /// Bytes before the payload.
    header: usize,
    kind: Kind,
    charge: OnceLock<Charge>,
}

/// Where a frame's bytes are counted for as long as it lives.
struct Charge {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Prepared {
    /// Frames a message (RFC 6455 §5.2), unfragmented, as a server sends it.
    pub fn new<'m>(message: impl Into<Message<'m>>) -> Prepared {
        let message = message.into();
        let mut bytes = Vec::new();
        frame::write_frame(&mut bytes, opcode(message.kind()), message.as_bytes(), None);
        Prepared::from_frame(message.kind(), bytes, message.len())
    }

    fn from_frame(kind: Kind, bytes: Vec<u8>, payload: usize) -> Prepared {
        let header = bytes.len() - payload;
        Prepared(Arc::new(Frame { bytes, header, kind, charge: OnceLock::new() }))
    }

    /// The payload's length in bytes.
    pub fn len(&self) -> usize {
        self.payload().len()
    }

    /// Whether the payload is empty, which is legal.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.0.bytes[self.0.header..]
    }

    /// The whole unmasked frame.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Counts the frame's memory in `total` from now until its last clone is gone: once, however many
    /// outboxes it waits in, and for the first who asks.
    pub(crate) fn charge(&self, total: &Arc<AtomicUsize>) {
        self.0.charge.get_or_init(|| {
            let bytes = self.0.bytes.capacity();
            total.fetch_add(bytes, Ordering::Relaxed);
            Charge { total: total.clone(), bytes }
        });
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("kind", &self.kind()).field("len", &self.len()).finish()
    }
}

/// What a sending call takes: a [`Message`], or anything that converts to one, or a [`Prepared`].
///
/// # Examples
///
/// ```
/// use tickws::{Outgoing, Prepared};
///
/// fn shout<'m>(message: impl Into<Outgoing<'m>>) -> Outgoing<'m> {
///     message.into()
/// }
///
/// shout("text");
/// shout(&[0u8, 1, 2]);
/// shout(&Prepared::new("framed already"));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Outgoing<'m> {
    /// Framed when it is queued.
    Message(Message<'m>),
    /// Framed already.
    Prepared(Prepared),
}

impl Outgoing<'_> {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Outgoing::Message(message) => message.kind(),
            Outgoing::Prepared(prepared) => prepared.kind(),
        }
    }

    pub(crate) fn payload(&self) -> &[u8] {
        match self {
            Outgoing::Message(message) => message.as_bytes(),
            Outgoing::Prepared(prepared) => prepared.payload(),
        }
    }

    /// Framed, now if it was not.
    pub(crate) fn prepare(self) -> Prepared {
        match self {
            Outgoing::Message(message) => Prepared::new(message),
            Outgoing::Prepared(prepared) => prepared,
        }
    }
}

impl<'m, M: Into<Message<'m>>> From<M> for Outgoing<'m> {
    fn from(message: M) -> Self {
        Outgoing::Message(message.into())
    }
}

impl From<&Prepared> for Outgoing<'_> {
    fn from(prepared: &Prepared) -> Self {
        Outgoing::Prepared(prepared.clone())
    }
}

impl From<Prepared> for Outgoing<'_> {
    fn from(prepared: Prepared) -> Self {
        Outgoing::Prepared(prepared)
    }
}

/// Frames small messages to many, one after the other, without allocating.
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
    /// A frame below this is copied by those it is sent to, so that the next call finds its memory free.
    /// From here on it is shared.
    pub(crate) const SHARE_FROM: usize = 1024;

    pub(crate) fn encode(&mut self, message: Outgoing<'_>) -> Prepared {
        let message = match message {
            Outgoing::Message(message) => message,
            Outgoing::Prepared(prepared) => return prepared,
        };
        let (kind, payload) = (message.kind(), message.as_bytes());
        let header =
            Header { fin: true, rsv1: false, opcode: opcode(kind), mask: None, len: payload.len() as u64 };
        if header.encoded_len() + payload.len() < Self::SHARE_FROM
            && let Some(frame) = Arc::get_mut(&mut self.spare.0)
        {
            frame.bytes.clear();
            frame::write_frame(&mut frame.bytes, opcode(kind), payload, None);
            (frame.header, frame.kind) = (header.encoded_len(), kind);
            return self.spare.clone();
        }
        Prepared::new(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_frame_and_knows_its_payload() {
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            let prepared = Prepared::new(&vec![7; len]);
            assert_eq!(prepared.payload(), vec![7; len]);
            let mut expected = Vec::new();
            frame::write_frame(&mut expected, opcode(Kind::Binary), &vec![7; len], None);
            assert_eq!(prepared.frame(), expected);
            assert_eq!((prepared.len(), prepared.is_empty()), (len, len == 0));
        }
        assert_eq!(Prepared::new("ü").kind(), Kind::Text);
    }

    #[test]
    fn is_counted_once_and_until_the_last_clone_is_gone() {
        let (total, other) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let prepared = Prepared::new("hello");
        let bytes = prepared.0.bytes.capacity();
        let clone = prepared.clone();
        prepared.charge(&total);
        clone.charge(&total);
        clone.charge(&other);
        assert_eq!((total.load(Ordering::Relaxed), other.load(Ordering::Relaxed)), (bytes, 0));
        drop(prepared);
        assert_eq!(total.load(Ordering::Relaxed), bytes);
        drop(clone);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_encoder_uses_its_memory_again_but_never_what_is_still_held() {
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

    #[test]
    fn moves_between_threads() {
        fn is_shared<T: Send + Sync>() {}
        is_shared::<Prepared>();
    }
}
