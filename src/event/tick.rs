//! The events of one poll. Dropping them returns their buffers to the server.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    event::{Event, Events, tick_buffer::TickBuffer},
    util::buffer_pool::BufferPool,
};

/// The events of one poll and the bytes they borrow.
///
/// Iterate over `&tick`. The events borrow from the tick and not from the server, so a program can
/// send inside the loop. Dropping a tick returns its buffers to the server. A tick that is kept
/// stays valid; the next poll uses other buffers.
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
#[must_use = "dropping a tick discards its events, `Close` among them"]
pub struct Tick {
    /// `Some` until the drop.
    data: Option<TickBuffer>,
    home: Arc<Recycler>,
    more: bool,
    next_timeout: Option<Duration>,
}

impl Tick {
    pub(crate) fn new(
        data: TickBuffer,
        home: Arc<Recycler>,
        more: bool,
        next_timeout: Option<Duration>,
    ) -> Self {
        Tick { data: Some(data), home, more, next_timeout }
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.data().records().len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a budget ended the poll while work was left: input, accepts, timers or commands of a
    /// [`Handle`](crate::Handle) are ready now. Poll again soon.
    pub fn more(&self) -> bool {
        self.more
    }

    /// How long the server can sleep, as of the end of the poll: zero if there is
    /// [`more`](Tick::more), `None` if no deadline is set. It does not include messages queued
    /// since; [`Server::next_timeout`](crate::Server::next_timeout) does.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.next_timeout
    }

    /// Iterates over the events in the order in which they occurred, as `&tick` does.
    pub fn iter(&self) -> Events<'_> {
        Events::new(self.data())
    }

    #[allow(clippy::expect_used, reason = "only `drop` takes the data")]
    fn data(&self) -> &TickBuffer {
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

/// Collects the buffers of dropped ticks. A tick may be dropped on another thread, hence the lock.
#[derive(Debug, Default)]
pub(crate) struct Recycler(Mutex<Vec<TickBuffer>>);

impl Recycler {
    /// Bounds the spare ticks when an application keeps many and drops them in a burst.
    const MAX_SPARE: usize = 4;

    pub(crate) fn take(&self, pool: &mut BufferPool) -> TickBuffer {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for data in spare.iter_mut() {
            data.recycle(pool);
        }
        spare.pop().unwrap_or_default()
    }

    /// Gives `data` the block that was used last, which is still in the cache.
    pub(crate) fn lend_block(&self, data: &mut TickBuffer) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = spare.last_mut() {
            data.swap_block(last);
        }
    }

    fn give(&self, mut data: TickBuffer) {
        data.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < Self::MAX_SPARE {
            spare.push(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Serial;
    use crate::{id::ClientId, message::Kind, proto::assembler::Assembled};

    #[test]
    fn dropped_ticks_free_their_spare_buffers_at_the_next_poll() {
        let (home, mut pool) = (Arc::new(Recycler::default()), BufferPool::new(usize::MAX));
        for _ in 0..4 {
            let mut data = TickBuffer::default();
            for len in [1 << 20, 64 << 20] {
                let message = Assembled { kind: Kind::Binary, buffer: vec![0; len], len };
                data.assembled(ClientId::new(0, Serial::new(1)), message);
            }
            home.give(data);
        }
        let spare = |home: &Recycler| home.0.lock().unwrap().iter().map(TickBuffer::spare).sum::<usize>();
        assert_eq!(spare(&home), 4 << 20);
        let data = home.take(&mut pool);
        assert_eq!(spare(&home) + data.spare(), 0);
        assert!(data.is_empty());
    }
}
