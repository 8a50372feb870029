//! Output: one write per client that something is queued for.

use std::{io, time::Instant};

use super::{Engine, Stream, tls::is_secure};
use crate::{
    config::{Config, send_options::Priority},
    connection::slot::{Slot, Stage},
    outbox::Written,
    util::{rearm::Rearm, time::after},
};

impl<S: Stream> Engine<S> {
    /// Bytes of pending messages framed at a time. The limit is lower for a client that is behind,
    /// since a framed message can no longer be replaced.
    const FILL: usize = 64 * 1024;
    const FILL_SLOW: usize = 4 * 1024;

    /// The most bytes that one step writes to one client.
    const PIECE: usize = 64 * 1024;

    /// Pieces that one call writes because sockets can be written to again. What peers cause is
    /// bounded also without a time budget: this many pieces take about a millisecond.
    const RESUMED: usize = 24;

    /// Writes the output that was queued by calls of the application, one write per client. Writes
    /// also a bounded part of what peers caused: final close frames of clients reported closed, and
    /// output that sockets did not accept before.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.now = now;
        self.end_some(now);
        // Output that is queued during the flush waits for the next one.
        let mut work = std::mem::take(&mut self.work);
        work.drain(..std::mem::take(&mut self.worked));
        work.append(&mut self.dirty);
        self.deliver_batch(Some(now));
        for index in work.drain(..) {
            self.write_queued(index, usize::MAX, now);
        }
        self.work = work;
        self.write_resumed(now);
        self.update_pressure(now);
    }

    /// Continues the output of clients whose sockets can be written to again, and of files that are
    /// served.
    #[inline]
    pub(crate) fn write_resumed(&mut self, now: Instant) {
        if !self.resumed.is_empty() {
            self.write_some(now);
        }
    }

    fn write_some(&mut self, now: Instant) {
        for _ in 0..Self::RESUMED {
            let Some(index) = self.resumed.pop_front() else { return };
            self.write_queued(index, Self::PIECE, now);
        }
    }

    /// One step of output: one write to one client. `false`: no output is queued.
    pub(super) fn output_next(&mut self, now: Instant) -> bool {
        self.now = now;
        // Output of the application and continued output take turns.
        let resumed = std::mem::replace(&mut self.resumed_is_next, false);
        let index = if resumed { self.resumed.pop_front() } else { None };
        let index = index.or_else(|| {
            self.resumed_is_next = true;
            self.next_dirty()
        });
        let Some(index) = index.or_else(|| self.resumed.pop_front()) else { return false };
        self.write_queued(index, Self::PIECE, now);
        true
    }

    /// The client whose output has waited longest.
    fn next_dirty(&mut self) -> Option<u32> {
        if self.worked == self.work.len() {
            self.work.clear();
            self.worked = 0;
            std::mem::swap(&mut self.work, &mut self.dirty);
        }
        let index = self.work.get(self.worked).copied()?;
        self.worked += 1;
        Some(index)
    }

    /// How many clients have output that waits for a later call. A client that is gone may count.
    pub(crate) fn unflushed(&self) -> usize {
        self.work.len() - self.worked + self.dirty.len() + self.resumed.len() + self.ended.len()
    }

    /// Writes at most `max` bytes to a client of one of the lists of output.
    #[inline]
    fn write_queued(&mut self, index: u32, max: usize, now: Instant) {
        let index = index as usize;
        if let Some(client) = self.clients.get_mut(index)
            && std::mem::take(&mut client.in_dirty)
        {
            // The stream may have become blocked since this client was queued, by a direct write;
            // its write deadline is set here.
            match client.outbox.is_blocked() {
                true => self.would_block(index, 0, now),
                false => self.write(index, max, now),
            }
        }
    }

    /// Queues a client to be written to when its turn comes, because its socket or its output
    /// allows more and not because the application sent something.
    pub(super) fn resume_output(&mut self, index: usize) {
        if !std::mem::replace(&mut self.clients[index].in_dirty, true) {
            self.resumed.push_back(index as u32);
        }
    }

    pub(super) fn make_dirty(&mut self, index: usize) {
        note_dirty(&mut self.clients[index], index, &mut self.dirty);
    }

    /// Writes as much as the stream accepts, and at most about `max` bytes.
    pub(super) fn write(&mut self, index: usize, max: usize, now: Instant) {
        let mut left = max;
        if self.clients[index].failed.is_some() {
            return self.drop_output(index);
        }
        if self.clients[index].apart > 0 && !self.write_apart(index, now) {
            return;
        }
        loop {
            let room = if self.clients[index].backed_up { Self::FILL_SLOW } else { Self::FILL };
            // While high-priority messages are pending, normal data that has not begun to leave
            // waits.
            let ahead_only = self.fill(index, room, now);
            let Engine { clients, outbound, stats, config, .. } = self;
            let client = &mut clients[index];
            let rearm = rearm_after_write(client, config);
            match client.outbox.write_to(&mut client.stream, ahead_only, left, rearm, outbound) {
                Ok(Written::All(count)) => {
                    stats.bytes_out += count as u64;
                    client.bytes_out += count as u64;
                    client.deadlines.unstuck();
                    client.outbox.congested = false;
                    if !client.has_output() {
                        break;
                    }
                    left = left.saturating_sub(count);
                    if left == 0 {
                        return self.resume_output(index);
                    }
                }
                Ok(Written::Limited(count)) => {
                    stats.bytes_out += count as u64;
                    client.bytes_out += count as u64;
                    return self.resume_output(index);
                }
                Ok(Written::Blocked(count)) => {
                    stats.bytes_out += count as u64;
                    client.bytes_out += count as u64;
                    client.outbox.congested = !client.outbox.has_work();
                    return self.would_block(index, count, now);
                }
                Err(error) => return self.write_failed(index, error.kind(), now),
            }
        }
        let client = &mut self.clients[index];
        if std::mem::take(&mut client.backed_up) && client.is_live() {
            let id = self.id(index);
            self.tick.drained(id);
        }
        self.after_last_byte(index, now);
    }

    /// Writes a 101 that leaves in a write of its own. Returns whether all of it was written.
    #[cold]
    fn write_apart(&mut self, index: usize, now: Instant) -> bool {
        let Engine { clients, outbound, stats, config, .. } = self;
        let client = &mut clients[index];
        let apart = usize::from(client.apart);
        let rearm = rearm_after_write(client, config);
        let written = client.outbox.write_to(&mut client.stream, false, apart, rearm, outbound);
        let count = match written {
            Ok(Written::All(count) | Written::Limited(count) | Written::Blocked(count)) => count,
            Err(error) => {
                self.write_failed(index, error.kind(), now);
                return false;
            }
        };
        stats.bytes_out += count as u64;
        client.bytes_out += count as u64;
        // `apart` fits into a `u16`.
        client.apart = apart.saturating_sub(count) as u16;
        if client.apart == 0 {
            // A stream that holds bytes back must not add what comes next. If it would block, the
            // next write finds that out.
            let _ = std::io::Write::flush(&mut client.stream);
        }
        if matches!(written, Ok(Written::Blocked(_))) {
            self.would_block(index, count, now);
            return false;
        }
        if client.apart > 0 {
            self.resume_output(index);
        }
        self.clients[index].apart == 0
    }

    /// Handles a stream that accepted `count` bytes and would block on the rest.
    pub(super) fn would_block(&mut self, index: usize, count: usize, now: Instant) {
        let client = &mut self.clients[index];
        if !(client.outbox.has_work() || client.outbox.congested) || client.failed.is_some() {
            return;
        }
        if count > 0 || !client.deadlines.is_stuck() {
            client.deadlines.stuck_since(now);
        }
        client.backed_up = true;
        self.rearm(index);
    }

    /// Frames pending messages of the client until about `room` bytes are queued. Returns whether
    /// high-priority messages are still pending.
    pub(super) fn fill(&mut self, index: usize, room: usize, now: Instant) -> bool {
        let Engine { clients, outbound, pending_pool, codec, stats, .. } = self;
        let client = &mut clients[index];
        let Some((open, outbox)) = client.open_mut() else { return false };
        let Some(mut pending) = open.pending.take() else { return false };
        stats.expired += open.connection.fill(&mut pending, room, now, codec, outbox, outbound);
        let ahead = pending.waits(Priority::High);
        open.pending = pending_pool.retain_or_give(pending);
        ahead
    }

    /// Discards the client's queued output and pending messages.
    pub(super) fn drop_output(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.outbox.clear(&mut self.outbound);
        client.outbox.congested = false;
        if let Stage::Open(open) = &mut client.stage
            && let Some(pending) = open.pending.take()
        {
            self.pending_pool.give(pending);
        }
    }

    pub(super) fn write_failed(&mut self, index: usize, kind: io::ErrorKind, now: Instant) {
        self.drop_output(index);
        // A request whose response cannot be written need not be read.
        if matches!(self.clients[index].stage, Stage::Handshake(_) | Stage::Request(_)) {
            return self.forget_handshake(index);
        }
        // The peer may have sent its reason before it reset the connection: read that first.
        let client = &mut self.clients[index];
        client.failed = Some(kind);
        client.readable = true;
        client.read_closed = true;
        client.end_pauses();
        client.deadlines.unstuck();
        // An outbound connection that is not open yet keeps the deadline of its attempt.
        if client.dial_mut().is_none() {
            client.deadlines.close_by(after(now, self.config.close_timeout));
        }
        self.rearm(index);
        self.make_ready(index);
    }
}

/// Adds the client at `index` to the dirty list, unless it is there or its stream is blocked.
#[inline]
pub(super) fn note_dirty<S>(client: &mut Slot<S>, index: usize, dirty: &mut Vec<u32>) {
    if !client.in_dirty && !client.outbox.is_blocked() {
        client.in_dirty = true;
        dirty.push(index as u32);
    }
}

/// When readiness follows a write to this client. An encrypted stream repeats its writes itself:
/// what it does not take has met `WouldBlock`.
#[inline]
pub(super) fn rearm_after_write<S: Stream>(client: &Slot<S>, config: &Config) -> Rearm {
    if is_secure(client) { Rearm::OnChange } else { config.rearm }
}
