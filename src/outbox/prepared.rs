//! A message that is framed once and shared by all clients it is sent to.

#![allow(
    clippy::indexing_slicing,
    reason = "a header of a server's frame fits into ROOM, and `header` is the length of the written header"
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
        frame::{self, opcode},
    },
};

/// A message framed once (RFC 6455 §5.2), to be sent many times, to any client, in any order.
///
/// A clone is cheap: all clones share one frame, and so do the outboxes in which it is queued. A
/// snapshot that ten thousand slow readers wait for is in memory once. A `Prepared` may be made on
/// another thread and may outlive the server. For clients that negotiated compression (RFC 7692),
/// it is compressed once per size of window, when first sent.
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
    /// Number of outboxes in which this frame is queued.
    waiting: AtomicUsize,
    /// Includes the bytes of this frame while it is queued anywhere.
    counter: OnceLock<SharedBytes>,
    /// The compressed message for each size of window; made when first needed.
    #[cfg(feature = "deflate")]
    compressed: OnceLock<Box<Compressed>>,
}

/// Indexed by the window's bits less 8. `None`: the message is too short or would not shrink.
#[cfg(feature = "deflate")]
type Compressed = [OnceLock<Option<Prepared>>; 8];

impl Prepared {
    /// Frames of at least this many bytes are shared by the outboxes in which they are queued.
    pub(crate) const SHARE_FROM: usize = 1024;

    /// Frames a message in memory of its own.
    pub(super) fn frame_message(message: Message<'_>) -> Prepared {
        let mut bytes = Vec::new();
        frame::write_frame(&mut bytes, opcode(message.kind()), message.as_bytes(), None);
        Prepared::from_frame(message.kind(), bytes, message.len())
    }

    /// Frames a small message in the memory of this one. `false`: the memory is in use elsewhere.
    pub(super) fn reframe(&mut self, message: Message<'_>) -> bool {
        let Some(frame) = Arc::get_mut(&mut self.0) else { return false };
        let (kind, payload) = (message.kind(), message.as_bytes());
        frame.bytes.clear();
        #[cfg(feature = "deflate")]
        frame.compressed.take();
        frame::write_frame(&mut frame.bytes, opcode(kind), payload, None);
        (frame.header, frame.kind) = (frame.bytes.len() - payload.len(), kind);
        true
    }

    /// Frames the payload that `write` appends to the buffer. `write` must not change the bytes
    /// before it.
    #[cfg(feature = "json")]
    pub(crate) fn try_written<E>(
        kind: Kind,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Prepared, E> {
        // Room for any unmasked header. The unused part is removed when the length is known: moving
        // the payload down costs less than a second buffer.
        const ROOM: usize = frame::MAX_HEADER - 4;
        let mut bytes = Vec::with_capacity(128);
        bytes.resize(ROOM, 0);
        write(&mut bytes)?;
        let payload = bytes.len() - ROOM;
        let (opcode, len) = (opcode(kind), payload as u64);
        let (header, end) = frame::Header { fin: true, rsv1: false, opcode, mask: None, len }.encode();
        bytes[ROOM - end..ROOM].copy_from_slice(&header[..end]);
        bytes.drain(..ROOM - end);
        Ok(Prepared::from_frame(kind, bytes, payload))
    }

    /// Wraps bytes that are not a WebSocket frame: the body of an HTTP response.
    pub(crate) fn raw(bytes: Vec<u8>) -> Prepared {
        let len = bytes.len();
        Prepared::from_frame(Kind::Binary, bytes, len)
    }

    fn from_frame(kind: Kind, mut bytes: Vec<u8>, payload: usize) -> Prepared {
        // The capacity counts as memory. It must depend on the content only: a replay, which has
        // other buffers, must come to the same sums.
        bytes.shrink_to_fit();
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

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.0.bytes[self.0.header..]
    }

    /// The whole unmasked frame.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The frame of the message compressed without a context, for a window of 2^bits bytes; `None`
    /// if it is too short or would not shrink. It is made once for all clients with this window.
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

    /// Appends the frame masked, as a client sends it (RFC 6455 §5.3).
    pub(crate) fn write_masked(&self, out: &mut Vec<u8>, mask: [u8; 4]) {
        let write =
            if frame::is_compressed(self.frame()) { frame::write_compressed } else { frame::write_frame };
        write(out, opcode(self.kind()), self.payload(), Some(mask));
    }

    /// Whether outboxes share this frame; they copy a smaller one.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.bytes.len() >= Self::SHARE_FROM
    }

    /// Queues this frame once more. While it is queued anywhere, `counter` includes its bytes once.
    /// If several servers share the frame, only the counter of the first one includes them.
    pub(crate) fn queue(&self, counter: &SharedBytes) -> Queued {
        if self.0.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            let counter = self.0.counter.get_or_init(|| counter.clone());
            counter.0.fetch_add(self.0.bytes.capacity(), Ordering::Relaxed);
        }
        Queued(self.clone())
    }
}

/// Identifies a message without keeping its bytes. No other message has the same identity while
/// this value exists.
#[cfg(feature = "sim")]
#[derive(Clone)]
pub(crate) struct Identity(std::sync::Weak<Frame>);

#[cfg(feature = "sim")]
impl Identity {
    pub(crate) fn of(message: &Prepared) -> Self {
        Identity(Arc::downgrade(&message.0))
    }

    /// The address of the message; it is not reused while this value exists.
    pub(crate) fn place(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Whether the message has been dropped everywhere, so that it cannot be sent again.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("kind", &self.kind()).field("len", &self.len()).finish()
    }
}

/// Bytes of shared frames that are queued in any outbox, each frame counted once.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedBytes(Arc<AtomicUsize>);

impl SharedBytes {
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A shared frame that is queued for one client.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepared_holds_the_frame_and_its_payload() {
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            let prepared = Prepared::new(vec![7; len]);
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
    fn try_written_gives_the_same_frame_as_new() {
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
    fn spare_capacity_of_the_caller_is_not_counted() {
        let counter = SharedBytes::default();
        let mut body = Vec::with_capacity(1 << 20);
        body.extend_from_slice(&[7; 3_000]);
        let raw = Prepared::raw(body);
        let _queued = raw.queue(&counter);
        assert_eq!(counter.get(), 3_000);
    }

    #[test]
    fn shared_bytes_count_a_frame_once_while_it_is_queued() {
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
        assert_eq!((counter.get(), other.get()), (bytes, 0), "only the first counter includes the frame");
    }

    #[test]
    fn prepared_messages_are_send_and_sync() {
        fn is_shared<T: Send + Sync>() {}
        is_shared::<Prepared>();
    }
}
