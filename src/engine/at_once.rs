//! Output: a large message leaves when it is sent, without a copy of it.

use super::{Engine, Stream};
use crate::{backlog::Terms, client::Stage, id::ClientId, message::Message};

impl<S: Stream> Engine<S> {
    /// A payload from here on costs more to copy than a write of its own does.
    pub(super) const AT_ONCE: usize = 16 * 1024;

    /// Writes a message straight from the caller's memory, if nothing stands before it; what the stream does
    /// not take is queued. `false`: it has to go the usual way, where it is also said what is wrong with it.
    pub(super) fn send_at_once(&mut self, id: ClientId, message: &Message<'_>, terms: &Terms) -> bool {
        let Engine { clients, outbound, stats, config, dirty, .. } = self;
        let client = clients.get_mut(id.index()).filter(|client| client.serial == id.serial());
        let Some(client) = client else { return false };
        let Stage::Open(open) = &client.stage else { return false };
        let payload = message.as_bytes();
        let Some((header, size)) = open.connection.plain_header(message.kind(), payload.len()) else {
            return false;
        };
        if !terms.is_plain()
            || !client.outbox.is_free()
            || open.backlog.is_some()
            || client.failed.is_some()
            || size + payload.len() > config.max_buffered
        {
            return false;
        }
        let count = client.outbox.write_at_once(&header[..size], payload, &mut client.stream, outbound);
        stats.bytes_out += count as u64;
        stats.messages_out += 1;
        if client.outbox.has_work() {
            client.backed_up |= client.outbox.is_blocked();
            // Also if it is blocked: the flush knows what time it is, and sets the deadline.
            if !client.in_dirty {
                client.in_dirty = true;
                dirty.push(id.index() as u32);
            }
            self.keep_below_ceiling();
        }
        true
    }
}
