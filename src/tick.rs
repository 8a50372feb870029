//! What one poll brought: the received bytes, and the events that point into them.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    close_reason::CloseReason,
    event::{Event, Events},
    id::{ClientId, TimerId},
    message::Message,
    pool::BufferPool,
    proto::{
        assembler::{Assembled, Kind},
        handshake::Request,
        utf8,
    },
};

/// Everything that happened in one poll: owns its events and the bytes they borrow.
///
/// Iterate over `&tick`. The events borrow from the tick and not from the server, so the server
/// is free to send inside the loop. Dropping a tick gives its buffers back to the server; keeping one
/// is fine, too: it stays valid, and the next poll uses other buffers.
///
/// # Examples
///
/// ```
/// use tickws::{Event, Server};
///
/// # fn main() -> std::io::Result<()> {
/// let mut server = Server::bind("127.0.0.1:0")?;
/// let tick = server.poll_once()?;
/// for event in &tick {
///     if let Event::Message { client, message } = event {
///         let _ = server.send(client, message);
///     }
/// }
/// assert!(tick.is_empty() && !tick.more());
/// # Ok(())
/// # }
/// ```
pub struct Tick {
    /// `Some` until the drop.
    data: Option<Box<TickData>>,
    home: Arc<Recycler>,
    more: bool,
    next_timeout: Option<Duration>,
}

impl Tick {
    pub(crate) fn new(
        data: Box<TickData>,
        home: Arc<Recycler>,
        more: bool,
        next_timeout: Option<Duration>,
    ) -> Self {
        Tick { data: Some(data), home, more, next_timeout }
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.data().records.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a budget ended the poll: input, accepts or timers are ready now. Poll again soon.
    pub fn more(&self) -> bool {
        self.more
    }

    /// How long the server could sleep as of the end of the poll: zero if there is [`more`](Tick::more),
    /// `None` if no deadline is set. What is queued since needs a flush first;
    /// [`Server::next_timeout`](crate::Server::next_timeout) knows of that.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.next_timeout
    }

    /// Iterates over the events in the order in which they happened, as `&tick` does.
    pub fn iter(&self) -> Events<'_> {
        Events::new(self.data())
    }

    fn data(&self) -> &TickData {
        // Only the drop takes it.
        self.data.as_ref().expect("a tick holds its data until it is dropped")
    }
}

impl<'t> IntoIterator for &'t Tick {
    type Item = Event<'t>;
    type IntoIter = Events<'t>;

    fn into_iter(self) -> Events<'t> {
        self.iter()
    }
}

impl Drop for Tick {
    fn drop(&mut self) {
        if let Some(data) = self.data.take() {
            self.home.give(data);
        }
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tick")
            .field("events", &self.iter())
            .field("more", &self.more)
            .field("next_timeout", &self.next_timeout)
            .finish()
    }
}

/// Where dropped ticks leave their buffers. Ticks may be dropped on another thread, hence the lock.
#[derive(Debug, Default)]
pub(crate) struct Recycler(Mutex<Vec<Box<TickData>>>);

impl Recycler {
    /// An application that keeps ticks drops them in bursts; no need to hoard those.
    const MAX_SPARE: usize = 4;

    pub(crate) fn take(&self, pool: &mut BufferPool) -> Box<TickData> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut data = spare.unwrap_or_default();
        data.reset(pool);
        data
    }

    fn give(&self, data: Box<TickData>) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < Self::MAX_SPARE {
            spare.push(data);
        }
    }
}

/// A tick being filled or read.
#[derive(Debug, Default)]
pub(crate) struct TickData {
    /// Zeroed once, then reused; `..filled` is in use by events.
    block: Vec<u8>,
    filled: usize,
    records: Vec<Record>,
    assembled: Vec<(Vec<u8>, usize)>,
    requests: Vec<Arc<Request>>,
    reasons: Vec<CloseReason>,
    /// Bytes received in this tick.
    input: usize,
}

/// An event as offsets: 24 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Record {
    Open { client: ClientId, request: u32 },
    InPlace { client: ClientId, kind: Kind, start: u32, len: u32 },
    Assembled { client: ClientId, kind: Kind, index: u32 },
    Close { client: ClientId, reason: u32 },
    Drained { client: ClientId },
    Timer { timer: TimerId },
}

impl TickData {
    /// About as much input as stays in the cache while the application works on it.
    pub(crate) const BLOCK: usize = 64 * 1024;

    /// With less room than this a read is left to the next tick.
    const MIN_READ: usize = 4 * 1024;

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether the next read has to wait for the next tick.
    pub(crate) fn is_full(&self, event_budget: usize) -> bool {
        self.filled + Self::MIN_READ > Self::BLOCK
            || self.input >= 4 * Self::BLOCK
            || self.records.len() >= event_budget
    }

    /// How many more events fit.
    pub(crate) fn events_left(&self, event_budget: usize) -> usize {
        event_budget.saturating_sub(self.records.len())
    }

    /// The free end of the block.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.block.is_empty() {
            self.block = vec![0; Self::BLOCK];
        }
        &mut self.block[self.filled..]
    }

    /// Lends the block out, so that events can be noted while it is written to, and where its free end
    /// begins. `put_block` must follow.
    pub(crate) fn take_block(&mut self) -> (Vec<u8>, usize) {
        self.room();
        (std::mem::take(&mut self.block), self.filled)
    }

    pub(crate) fn put_block(&mut self, block: Vec<u8>) {
        self.block = block;
    }

    /// Keeps the first `bytes` of `room`: events point there.
    pub(crate) fn keep(&mut self, bytes: usize) {
        self.filled += bytes;
    }

    /// `bytes` were received, wherever they went.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.input += bytes;
    }

    pub(crate) fn open(&mut self, client: ClientId, request: Arc<Request>) {
        self.requests.push(request);
        self.records.push(Record::Open { client, request: self.requests.len() as u32 - 1 });
    }

    /// A message at `range` of the block.
    pub(crate) fn in_place(&mut self, client: ClientId, kind: Kind, range: Range<usize>) {
        let (start, len) = (range.start as u32, range.len() as u32);
        self.records.push(Record::InPlace { client, kind, start, len });
    }

    pub(crate) fn assembled(&mut self, client: ClientId, message: Assembled) {
        self.assembled.push((message.buffer, message.len));
        let index = self.assembled.len() as u32 - 1;
        self.records.push(Record::Assembled { client, kind: message.kind, index });
    }

    pub(crate) fn close(&mut self, client: ClientId, reason: CloseReason) {
        self.reasons.push(reason);
        self.records.push(Record::Close { client, reason: self.reasons.len() as u32 - 1 });
    }

    pub(crate) fn drained(&mut self, client: ClientId) {
        self.records.push(Record::Drained { client });
    }

    pub(crate) fn timer(&mut self, timer: TimerId) {
        self.records.push(Record::Timer { timer });
    }

    /// What the application sees of a record.
    pub(crate) fn event(&self, record: Record) -> Event<'_> {
        match record {
            Record::Open { client, request } => {
                Event::Open { client, request: &self.requests[request as usize] }
            }
            Record::InPlace { client, kind, start, len } => {
                let bytes = &self.block[start as usize..][..len as usize];
                Event::Message { client, message: message(kind, bytes) }
            }
            Record::Assembled { client, kind, index } => {
                let (buffer, len) = &self.assembled[index as usize];
                Event::Message { client, message: message(kind, &buffer[..*len]) }
            }
            Record::Close { client, reason } => {
                Event::Close { client, reason: &self.reasons[reason as usize] }
            }
            Record::Drained { client } => Event::Drained { client },
            Record::Timer { timer } => Event::Timer { timer },
        }
    }

    fn reset(&mut self, pool: &mut BufferPool) {
        for (buffer, _) in self.assembled.drain(..) {
            pool.give(buffer);
        }
        self.records.clear();
        self.requests.clear();
        self.reasons.clear();
        (self.filled, self.input) = (0, 0);
    }
}

fn message(kind: Kind, bytes: &[u8]) -> Message<'_> {
    match kind {
        Kind::Binary => Message::Binary(bytes),
        // Checked when it arrived. Without unsafe code a `&str` costs a second look.
        Kind::Text => Message::Text(utf8::as_str(bytes).expect("text is validated on arrival")),
    }
}
