//! The encode-once message: framed when it is made, shared by everyone it is sent to.

#![allow(
    clippy::indexing_slicing,
    reason = "a header of a server's frame fits into ROOM, and `header` is the length of the one that was written"
)]

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    message::{Kind, Message},
    proto::{
        deflate::Codec,
        frame::{self, Header, opcode},
    },
};

/// A message framed once, to be sent many times, to anyone, in any order.
///
/// Cloning one is cheap: all clones share one frame, and so do the outboxes that it waits in. A snapshot
/// that ten thousand slow readers wait for is held once. It may be made on another thread, and outlive
/// the server. Where compression is agreed on, it is compressed once, when first sent.
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
    /// How many wait for it, and where its bytes are counted while anyone does.
    waiting: AtomicUsize,
    counter: OnceLock<SharedBytes>,
    /// The message compressed, by the bits of the window that it is for; made when first wanted.
    #[cfg(feature = "deflate")]
    compressed: OnceLock<Box<Compressed>>,
}

/// By the bits of the windows, from 8. `None`: it had better go as it is.
#[cfg(feature = "deflate")]
type Compressed = [OnceLock<Option<Prepared>>; 8];

impl Prepared {
    /// A frame of at least this many bytes is shared by the outboxes it waits in.
    pub(crate) const SHARE_FROM: usize = 1024;

    /// Frames a message (RFC 6455 §5.2), unfragmented, as a server sends it.
    pub fn new<'m>(message: impl Into<Message<'m>>) -> Prepared {
        let message = message.into();
        let mut bytes = Vec::new();
        frame::write_frame(&mut bytes, opcode(message.kind()), message.as_bytes(), None);
        Prepared::from_frame(message.kind(), bytes, message.len())
    }

    /// Frames what `write` appends; it must leave alone what is there already.
    #[cfg(feature = "json")]
    pub(crate) fn try_written<E>(
        kind: Kind,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Prepared, E> {
        // Room for any unmasked header. What is too much of it goes when the length is known: moving the
        // payload down costs less than a second buffer.
        const ROOM: usize = frame::MAX_HEADER - 4;
        let mut bytes = Vec::with_capacity(128);
        bytes.resize(ROOM, 0);
        write(&mut bytes)?;
        let payload = bytes.len() - ROOM;
        let (opcode, len) = (opcode(kind), payload as u64);
        let (header, end) = Header { fin: true, rsv1: false, opcode, mask: None, len }.encode();
        bytes[ROOM - end..ROOM].copy_from_slice(&header[..end]);
        bytes.drain(..ROOM - end);
        Ok(Prepared::from_frame(kind, bytes, payload))
    }

    /// Bytes that are no frame: the body of an HTTP answer.
    pub(crate) fn raw(bytes: Vec<u8>) -> Prepared {
        let len = bytes.len();
        Prepared::from_frame(Kind::Binary, bytes, len)
    }

    fn from_frame(kind: Kind, bytes: Vec<u8>, payload: usize) -> Prepared {
        let header = bytes.len() - payload;
        let (waiting, counter) = (AtomicUsize::new(0), OnceLock::new());
        Prepared(Arc::new(Frame {
            bytes,
            header,
            kind,
            waiting,
            counter,
            #[cfg(feature = "deflate")]
            compressed: OnceLock::new(),
        }))
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

    /// The frame of the message compressed on its own, for a window of 2^bits bytes; `None` if it had better go as
    /// it is. It is made once, however many want it.
    #[cfg(feature = "deflate")]
    pub(crate) fn compressed(&self, bits: u8, codec: &mut Codec) -> Option<&Prepared> {
        let all = self.0.compressed.get_or_init(Box::default);
        let made = all.get(usize::from(bits.checked_sub(8)?))?.get_or_init(|| {
            let payload = codec.compress(bits, self.payload())?;
            let mut bytes = Vec::new();
            frame::write_compressed(&mut bytes, opcode(self.kind()), payload, None);
            Some(Prepared::from_frame(self.kind(), bytes, payload.len()))
        });
        made.as_ref()
    }

    #[cfg(not(feature = "deflate"))]
    pub(crate) fn compressed(&self, _: u8, _: &mut Codec) -> Option<&Prepared> {
        None
    }

    /// Appends the frame as a client sends it.
    pub(crate) fn write_masked(&self, out: &mut Vec<u8>, mask: [u8; 4]) {
        let write =
            if frame::is_compressed(self.frame()) { frame::write_compressed } else { frame::write_frame };
        write(out, opcode(self.kind()), self.payload(), Some(mask));
    }

    /// Whether outboxes share it; a smaller one they copy.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.bytes.len() >= Self::SHARE_FROM
    }

    /// A place in line for this frame. However many there are, `counter` counts its bytes once. (Of several
    /// servers that share a frame, the first one's does.)
    pub(crate) fn queue(&self, counter: &SharedBytes) -> Queued {
        if self.0.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            let counter = self.0.counter.get_or_init(|| counter.clone());
            counter.0.fetch_add(self.0.bytes.capacity(), Ordering::Relaxed);
        }
        Queued(self.clone())
    }
}

/// Tells one message from another as long as it is kept, without keeping the message.
#[cfg(feature = "sim")]
#[derive(Clone)]
pub(crate) struct Identity(std::sync::Weak<Frame>);

#[cfg(feature = "sim")]
impl Identity {
    pub(crate) fn of(message: &Prepared) -> Self {
        Identity(Arc::downgrade(&message.0))
    }

    /// Where it stands; nobody else does as long as this is kept.
    pub(crate) fn place(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Whether nobody can send it any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("kind", &self.kind()).field("len", &self.len()).finish()
    }
}

/// Bytes of frames that someone waits for, each counted once.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedBytes(Arc<AtomicUsize>);

impl SharedBytes {
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A frame in line for one client.
#[derive(Debug)]
pub(crate) struct Queued(Prepared);

impl Deref for Queued {
    type Target = Prepared;

    fn deref(&self) -> &Prepared {
        &self.0
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let frame = &self.0.0;
        if frame.waiting.fetch_sub(1, Ordering::Relaxed) == 1
            && let Some(counter) = frame.counter.get()
        {
            counter.0.fetch_sub(frame.bytes.capacity(), Ordering::Relaxed);
        }
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

    /// Whether it is framed already, and large enough to be shared by those it is sent to.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Outgoing::Prepared(prepared) if prepared.is_shared())
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
    /// A small frame is copied by those it is sent to, so that the next call finds its memory free.
    pub(crate) fn encode(&mut self, message: Outgoing<'_>) -> Prepared {
        let message = match message {
            Outgoing::Message(message) => message,
            Outgoing::Prepared(prepared) => return prepared,
        };
        let (kind, payload) = (message.kind(), message.as_bytes());
        let header =
            Header { fin: true, rsv1: false, opcode: opcode(kind), mask: None, len: payload.len() as u64 };
        if header.encoded_len() + payload.len() < Prepared::SHARE_FROM
            && let Some(frame) = Arc::get_mut(&mut self.spare.0)
        {
            frame.bytes.clear();
            #[cfg(feature = "deflate")]
            frame.compressed.take();
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

    #[cfg(feature = "json")]
    #[test]
    fn what_is_written_into_the_frame_is_framed_as_if_it_had_been_copied() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            let payload = vec![7; len];
            let written = Prepared::try_written(Kind::Binary, |bytes| {
                bytes.extend_from_slice(&payload);
                Ok::<(), ()>(())
            });
            let written = written.unwrap();
            assert_eq!((written.kind(), written.payload()), (Kind::Binary, &payload[..]));
            assert_eq!(written.frame(), Prepared::new(&payload).frame());
        }
        assert!(Prepared::try_written(Kind::Text, |_| Err("no")).is_err_and(|error| error == "no"));
    }

    #[test]
    fn is_counted_once_and_while_someone_waits_for_it() {
        let (counter, other) = (SharedBytes::default(), SharedBytes::default());
        let prepared = Prepared::new("hello");
        let bytes = prepared.0.bytes.capacity();
        assert_eq!(counter.get(), 0);
        let places = [prepared.queue(&counter), prepared.clone().queue(&counter), prepared.queue(&other)];
        assert_eq!((counter.get(), other.get()), (bytes, 0));
        let [first, second, third] = places;
        drop((first, third));
        assert_eq!(counter.get(), bytes);
        drop(second);
        assert_eq!(counter.get(), 0);
        drop(prepared.queue(&other));
        let _waits = prepared.queue(&other);
        assert_eq!((counter.get(), other.get()), (bytes, 0), "the first who counted it goes on counting");
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
