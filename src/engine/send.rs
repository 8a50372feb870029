//! Output: what the application queues.

use std::time::Instant;

use bytes::Bytes;
use tungstenite::protocol::frame::coding::CloseCode;

use super::{Engine, Stream};
use crate::{
    client::{Farewell, Stage},
    close_reason::CloseReason,
    config::Overflow,
    error::{NotConnected, SendError},
    id::ClientId,
    message::Message,
    outbox::SHARE_FROM,
    proto::{assembler::Kind, connection::opcode, frame},
};

/// What became of a message to many: how many clients it was queued for, and how many it was not.
///
/// # Examples
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let mut server = tickws::Server::bind("127.0.0.1:0")?;
/// let delivery = server.broadcast("anyone there?");
/// assert_eq!(delivery.queued, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Delivery {
    /// Clients that get the message.
    pub queued: usize,
    /// Clients that miss it and stay: their outbox is full under
    /// [`Overflow::DropNewest`], or the message alone is above `max_buffered`.
    pub dropped: usize,
    /// Clients whose outbox is full under [`Overflow::Disconnect`]: they are being closed with 1013.
    pub overflowed: usize,
}

impl<S: Stream> Engine<S> {
    /// Queues one message for one client.
    pub(crate) fn send(&mut self, id: ClientId, message: Message<'_>) -> Result<(), SendError> {
        let max = self.config.max_buffered;
        let (open, outbox, pool) =
            self.open_mut(id).map_err(|NotConnected(id)| SendError::NotConnected(id))?;
        if !open.connection.close_state().may_send_data() {
            return Err(SendError::Closing(id));
        }
        let (kind, payload) = parts(message);
        let len = open.connection.frame_len(payload.len());
        if len > max {
            return Err(SendError::TooLarge { len, max });
        }
        if outbox.frames_len() + len > max {
            return Err(self.overflow(id));
        }
        open.connection.send(kind, payload, outbox, pool);
        self.stats.messages_out += 1;
        self.make_dirty(id.index());
        Ok(())
    }

    /// Queues one message for every client but `except`. It is framed once; a large one is shared.
    pub(crate) fn broadcast(&mut self, message: Message<'_>, except: Option<ClientId>) -> Delivery {
        let (kind, payload) = parts(message);
        let mut bytes = std::mem::take(&mut self.frame);
        bytes.clear();
        frame::write_frame(&mut bytes, opcode(kind), payload, None);
        let shared = (bytes.len() >= SHARE_FROM).then(|| Bytes::from(std::mem::take(&mut bytes)));
        let encoded: &[u8] = shared.as_deref().unwrap_or(&bytes);
        let (len, max) = (encoded.len(), self.config.max_buffered);

        let mut delivery = Delivery::default();
        let mut overflowed = Vec::new();
        let Engine { clients, outbound, dirty, .. } = self;
        for (index, client) in clients.iter_mut() {
            let Stage::Open(open) = &mut client.stage else { continue };
            if open.farewell.is_some()
                || !open.connection.close_state().may_send_data()
                || except.is_some_and(|id| id.index() == index && id.serial() == client.serial)
            {
                continue;
            }
            let outbox = &mut client.outbox;
            if len > max {
                delivery.dropped += 1;
                continue;
            }
            if outbox.frames_len() + len > max {
                overflowed.push(ClientId::new(index as u32, client.serial));
                continue;
            }
            match &shared {
                _ if open.connection.masks() => open.connection.send(kind, payload, outbox, outbound),
                Some(frame) => outbox.push_shared(frame.clone(), outbound),
                None => {
                    outbox.tail(outbound).extend_from_slice(encoded);
                    outbox.pushed(len);
                }
            }
            delivery.queued += 1;
            if !client.in_dirty && !outbox.is_blocked() {
                client.in_dirty = true;
                dirty.push(index as u32);
            }
        }
        self.frame = bytes;
        self.stats.messages_out += delivery.queued as u64;
        self.stats.dropped += delivery.dropped as u64;
        for id in overflowed {
            match self.overflow(id) {
                SendError::Dropped(_) => delivery.dropped += 1,
                _ => delivery.overflowed += 1,
            }
        }
        delivery
    }

    /// Queues a ping; the pong sets `rtt`.
    pub(crate) fn ping(&mut self, id: ClientId, now: Instant) -> Result<(), SendError> {
        let max = self.config.max_buffered;
        let (open, outbox, pool) =
            self.open_mut(id).map_err(|NotConnected(id)| SendError::NotConnected(id))?;
        if !open.connection.close_state().may_send_data() {
            return Err(SendError::Closing(id));
        }
        open.connection.ping(now, outbox.len() >= max / 2, outbox, pool);
        self.stats.pings += 1;
        self.make_dirty(id.index());
        Ok(())
    }

    /// Overrides the server's overflow policy for one client.
    pub(crate) fn set_overflow(&mut self, id: ClientId, overflow: Overflow) -> Result<(), NotConnected> {
        self.open_mut(id)?.0.overflow = Some(overflow);
        Ok(())
    }

    /// No more input from this client: its messages wait in the kernel, and TCP slows the peer down.
    pub(crate) fn pause_reading(&mut self, id: ClientId) -> Result<(), NotConnected> {
        let (open, ..) = self.open_mut(id)?;
        // A close handshake has to be read to its end.
        let closing = open.verdict.is_some() || open.farewell.is_some();
        self.clients[id.index()].paused |= !closing;
        Ok(())
    }

    pub(crate) fn resume_reading(&mut self, id: ClientId, now: Instant) -> Result<(), NotConnected> {
        self.open_mut(id)?;
        let client = &mut self.clients[id.index()];
        if std::mem::take(&mut client.paused) {
            // Nothing could be heard while it was paused.
            client.deadlines.heard(now);
            if client.readable || !client.carry.is_empty() {
                self.make_ready(id.index());
            }
            self.rearm(id.index());
        }
        Ok(())
    }

    /// The outbox of `id` is full: does what the policy says.
    fn overflow(&mut self, id: ClientId) -> SendError {
        let default = self.config.overflow;
        let Ok((open, ..)) = self.open_mut(id) else { return SendError::NotConnected(id) };
        if open.farewell.is_some() {
            return SendError::Closing(id);
        }
        match open.overflow.unwrap_or(default) {
            Overflow::DropNewest => {
                self.stats.dropped += 1;
                // Whoever hears of the drop waits for `Drained`, even if the next flush takes everything.
                self.clients[id.index()].backed_up = true;
                SendError::Dropped(id)
            }
            Overflow::Disconnect => {
                // Reported now; what is queued still leaves, and 1013 behind it, while it lingers.
                self.say_close(id.index(), CloseCode::Again, "too slow");
                self.end(id.index(), CloseReason::Overflow, Farewell::Silent);
                SendError::Overflow(id)
            }
        }
    }
}

fn parts(message: Message<'_>) -> (Kind, &[u8]) {
    let kind = if message.as_text().is_some() { Kind::Text } else { Kind::Binary };
    (kind, message.as_bytes())
}
