//! Direct writes: a large message is written when it is sent, without a copy of it.

use crate::{
    connection::slot::Stage,
    engine::{Engine, Stream, flush::rearm_after_write, slot_mut},
    id::ClientId,
    message::Message,
    outbox::pending::Terms,
};

impl<S: Stream> Engine<S> {
    /// The payload size from which a copy costs more than a separate write.
    pub(super) const DIRECT_LEN: usize = 16 * 1024;

    /// Writes a message directly from the caller's memory if nothing is queued before it, and
    /// queues the rest that the stream did not accept. `false`: nothing was done, and the caller
    /// must queue the message, which also reports an error if it has one.
    pub(super) fn send_direct(&mut self, id: ClientId, message: &Message<'_>, terms: &Terms) -> bool {
        let Engine { clients, outbound, stats, config, dirty, .. } = self;
        let Some(client) = slot_mut(clients, id) else { return false };
        let rearm = rearm_after_write(client, config);
        let Stage::Open(open) = &mut client.stage else { return false };
        let payload = message.as_bytes();
        let Some((header, size)) = open.connection.plain_header(message.kind(), payload.len()) else {
            return false;
        };
        if !terms.is_plain()
            || !client.outbox.is_free()
            || open.pending.is_some()
            || client.failed.is_some()
            || size + payload.len() > config.max_buffered
        {
            return false;
        }
        let count = client.outbox.write_direct(&header[..size], payload, &mut client.stream, rearm, outbound);
        stats.bytes_out += count as u64;
        client.bytes_out += count as u64;
        stats.messages_out += 1;
        open.messages_out += 1;
        client.outbox.congested = client.outbox.is_blocked() && !client.outbox.has_work();
        if client.has_output() {
            client.backed_up |= client.outbox.is_blocked();
            // A blocked client is added, too: the next flush knows the time, and sets its deadline.
            if !client.in_dirty {
                client.in_dirty = true;
                dirty.push(id.index() as u32);
            }
            self.enforce_memory_limit();
        }
        true
    }
}
