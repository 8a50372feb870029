//! Input: one turn of one client, from its stream to the tick.

use std::{io, time::Instant};

use super::{
    Engine, Stream, slot_mut,
    throttle::{TOO_MANY_BYTES, TOO_MANY_MESSAGES},
};
use crate::{
    connection::{
        Io, Received,
        rate_limiter::RateLimiter,
        slot::{Grace, Slot, Stage},
    },
    error::ProtocolError,
    event::tick_buffer::TickBuffer,
    message::Kind,
    util::{buffer_pool::BufferPool, rearm::Rearm},
};

/// How a turn ended.
#[derive(Debug)]
pub(super) enum Turn {
    /// The stream has nothing to read for now.
    Drained,
    /// The stream has more to read, after the turns of other clients.
    Again,
    /// The block ends with an incomplete message, which lacks this many bytes.
    Unfinished(usize),
    /// The client has more input, but a budget is used up: it continues in the next poll.
    Postponed,
    /// The input needs more room than this tick has left: the client is first in the next one.
    NoRoom,
    /// The peer sent FIN, or the end of an encrypted stream.
    Eof,
    /// The peer sent FIN without the end of its encrypted stream.
    Truncated,
    /// Reading failed.
    Failed(io::ErrorKind),
    /// The rate limit is used up: the client continues when it allows more.
    Throttled,
    /// The client exceeded a rate limit. The text is the close reason for the peer.
    Excess(&'static str),
    /// The peer violated the protocol.
    Violation(ProtocolError),
    /// The peer's close frame arrived.
    Closed { code: u16, text: String },
}

impl<S: Stream> Engine<S> {
    /// Bytes read in one turn while other clients wait. The known rest of a large payload may
    /// exceed it, because it yields one event only.
    const TURN: usize = 16 * 1024;

    /// Room in the block for a client whose last message was larger than `TURN`. It reads all that
    /// is there, because a system call costs more than a copy of this size.
    const LARGE_TURN: usize = TickBuffer::BLOCK + Self::LOOK;

    /// Bytes read behind a large message, whose header tells whether another one follows.
    const LOOK: usize = 64;

    /// Read size for a client that overran the event budget: the rest of each read is carried over,
    /// and copied, from poll to poll.
    const FLOOD_TURN: usize = 8 * 1024;

    /// Gives one ready client its turn: one read. `false`: no client is ready, or the tick is full.
    pub(crate) fn service_next(&mut self, now: Instant) -> bool {
        debug_assert!(self.batch.is_empty(), "a poll begins with a flush");
        if self.resumes {
            self.tick.leave_room(self.config.event_budget, 0);
        }
        if self.tick.is_full(self.config.event_budget) {
            return false;
        }
        if std::mem::take(&mut self.resumes) {
            self.ready.extend(self.postponed.drain(..));
        }
        // With a time budget the host ends the poll. Without one, ends of connections are limited
        // in number, as they cost more than the messages that the event budget counts.
        if self.endings >= Self::ENDINGS && self.config.time_budget.is_none() {
            return false;
        }
        if self.may_admit() {
            self.admit_next(now);
        }
        let Some(id) = self.ready.pop_front() else { return false };
        let index = id.index();
        // The client may be gone, and its slot reused.
        let Some(client) = slot_mut(&mut self.clients, id) else {
            return true;
        };
        client.in_ready = false;
        if client.grace == Grace::Given {
            client.grace = Grace::Used;
        }
        if client.paused || self.hold_back(index) {
            return true;
        }
        let Some(share) = self.share(index, now) else { return true };
        let is_http = matches!(self.clients[index].stage, Stage::Handshake(_) | Stage::Request(_));
        let turn = match &self.clients[index].stage {
            Stage::Handshake(_) | Stage::Request(_) => self.read_request(index, now),
            Stage::Dialing(_) => self.read_response(index, now),
            Stage::Open(open) if open.reported => Turn::Drained,
            Stage::Open(_) => self.read_frames(index, share, now),
            Stage::Linger { .. } => self.read_rest(index, now),
        };
        match turn {
            Turn::Drained => {}
            Turn::Again | Turn::Unfinished(_) => self.make_ready(index),
            Turn::Postponed => {
                self.clients[index].in_ready = true;
                self.postponed.push(id);
            }
            Turn::NoRoom => {
                self.clients[index].in_ready = true;
                self.ready.push_front(id);
                return false;
            }
            Turn::Throttled => self.throttle(index, now),
            Turn::Excess(text) => self.ended_by_limit(index, text),
            Turn::Eof => self.ended_by_eof(index, now),
            Turn::Truncated => self.ended_by_truncation(index, now),
            Turn::Failed(kind) => self.ended_by_error(index, kind, now),
            Turn::Violation(violation) => self.ended_by_violation(index, violation),
            Turn::Closed { code, text } => self.ended_by_peer(index, code, text),
        }
        self.count_inbound(index);
        // Responses to plain requests are queued in here. All other output is queued by calls of
        // the application, which enforce the limit themselves.
        if is_http {
            self.enforce_memory_limit();
        }
        true
    }

    /// One read of an open connection, of at most `share` bytes, and all messages it completes.
    fn read_frames(&mut self, index: usize, share: usize, now: Instant) -> Turn {
        let client = &mut self.clients[index];
        let Some(budget) = budget_left(client, self.poll, self.config.read_budget) else {
            return Turn::Postponed;
        };
        let allowed =
            client.rate_limiter_mut().map_or(Some(usize::MAX), |rate_limiter| rate_limiter.may_read(now));
        let Some(allowed) = allowed else { return Turn::Throttled };
        let left = self.tick.input_left();
        if client.expects_large() && left < Self::LARGE_TURN && !self.tick.is_fresh() {
            // The message would be split between two ticks, and copied.
            return Turn::NoRoom;
        }
        let budget = budget.min(allowed).min(left).min(share);
        self.read_payload(index, budget, now).unwrap_or_else(|| self.read_block(index, budget, now))
    }

    /// Bytes for one turn: unlimited if no other client is ready.
    pub(super) fn turn(&self) -> usize {
        if self.ready.is_empty() { usize::MAX } else { Self::TURN }
    }

    /// Reads a large payload directly into its own buffer; `None` if no such payload is expected.
    fn read_payload(&mut self, index: usize, budget: usize, now: Instant) -> Option<Turn> {
        let id = self.id(index);
        let Engine { config, clients, tick, inbound, codec, stats, .. } = self;
        let rearm = config.rearm;
        let client = &mut clients[index];
        let Stage::Open(open) = &mut client.stage else { return None };
        if !client.unparsed.is_empty() {
            return None;
        }
        let room = open.connection.room(budget)?;
        let offered = room.len();
        let count = match read(&mut client.stream, room) {
            Ok(count) => count,
            Err(turn) => return Some(drained_by(client, turn)),
        };
        stats.bytes_in += count as u64;
        tick.received(count);
        if let Some(rate_limiter) = &mut open.rate_limiter
            && !rate_limiter.received(count, now)
        {
            return Some(Turn::Excess(TOO_MANY_BYTES));
        }
        let limits = config.message_limits(open.max_message_size);
        match open.connection.arrived(count, limits, inbound, codec) {
            Ok(Some(Received::Assembled(message))) if open.pending_reason.is_some() => {
                tick.discard(message, inbound)
            }
            Ok(Some(Received::Assembled(_))) if exceeds(&mut open.rate_limiter, now) => {
                return Some(Turn::Excess(TOO_MANY_MESSAGES));
            }
            Ok(Some(Received::Assembled(message))) => {
                stats.messages_in += 1;
                open.messages_in += 1;
                tick.assembled(id, message);
            }
            Ok(_) => {}
            Err(violation) => return Some(Turn::Violation(violation)),
        }
        Some(after_read(client, count, offered, rearm, now))
    }

    /// Reads into the tick's block, behind the client's unparsed input, and parses both. A large
    /// message that fits into the block is read to its end.
    fn read_block(&mut self, index: usize, mut budget: usize, now: Instant) -> Turn {
        let client = &self.clients[index];
        let small = if client.is_frame_flood() { Self::FLOOD_TURN } else { self.turn() };
        // Each turn copies the unparsed input, so most of it is parsed before more is read.
        let expects_large = client.expects_large() && client.unparsed.len() < Self::TURN;
        let (mut block, mut base) = self.tick.take_block();
        let rearm = self.config.rearm;
        let client = &mut self.clients[index];
        let mut start = client.unparsed.len();
        // A turn with room for a large message may leave more unparsed input than `LARGE_TURN`.
        // Only an empty block has room for that.
        if base > 0 && base + start > Self::LARGE_TURN {
            self.tick.put_block(block);
            return Turn::NoRoom;
        }
        block[base..base + start].copy_from_slice(&client.unparsed);
        let most = match expects_large {
            true => block.len() - base,
            false => small.min(Self::LARGE_TURN.saturating_sub(base)),
        };
        let mut offered = budget.min(most.saturating_sub(start));
        loop {
            let client = &mut self.clients[index];
            let from = base + start;
            let outcome = match client.readable && offered > 0 {
                true => read(&mut client.stream, &mut block[from..from + offered]),
                false => Ok(0),
            };
            // Unparsed input must be parsed even if the read failed.
            let count = *outcome.as_ref().unwrap_or(&0);
            self.stats.bytes_in += count as u64;
            self.tick.received(count);
            if let Some(rate_limiter) = self.clients[index].rate_limiter_mut() {
                rate_limiter.received(count, now);
            }
            budget -= count;
            let more = if count == offered { budget.min(block.len() - from - count) } else { 0 };
            let parsed = self.parse(index, &mut block[base..from + count], base, more, now);
            let client = &mut self.clients[index];
            let turn = match (parsed, outcome) {
                (Some(Turn::Unfinished(missing)), _) => {
                    after_read(client, count, offered, rearm, now);
                    base = self.tick.filled();
                    start = from + count - base;
                    offered = (missing + Self::LOOK).min(budget).min(block.len() - base - start);
                    continue;
                }
                (Some(turn @ (Turn::Postponed | Turn::Throttled)), Err(Turn::Failed(kind))) => {
                    // The kernel reports the error only once.
                    client.failed = Some(kind);
                    turn
                }
                (Some(turn), _) => {
                    if count > 0 {
                        after_read(client, count, offered, rearm, now);
                    }
                    turn
                }
                (None, Err(turn)) => drained_by(client, turn),
                (None, Ok(0)) if !client.readable => Turn::Drained,
                (None, Ok(count)) => after_read(client, count, offered, rearm, now),
            };
            self.tick.put_block(block);
            return turn;
        }
    }

    /// Parses all messages in `bytes`, which start at `base` in the tick's block, and carries the
    /// rest over. `Some` ends the turn, even if the stream has more.
    fn parse(
        &mut self,
        index: usize,
        bytes: &mut [u8],
        base: usize,
        more: usize,
        now: Instant,
    ) -> Option<Turn> {
        let id = self.id(index);
        let Engine { config, clients, tick, inbound, outbound, codec, stats, .. } = self;
        let client = &mut clients[index];
        let Stage::Open(open) = &mut client.stage else { return None };
        let closing = open.pending_reason.is_some();
        let had_output = client.outbox.has_work();
        let exceeded = open.rate_limiter.as_ref().is_some_and(|rate_limiter| rate_limiter.is_exceeded());
        let mut io = Io {
            now,
            opened: client.deadlines.opened(),
            limits: config.message_limits(open.max_message_size),
            inbound,
            outbox: &mut client.outbox,
            outbound,
            codec,
            more: if exceeded { 0 } else { more },
            frames: 0,
            max_buffered: config.max_buffered,
        };
        let (mut at, mut keep, mut last) = (0, 0, 0);
        // The byte that exceeds the rate limit is not parsed.
        let end = bytes.len() - usize::from(exceeded);
        // A rate limit must count each message, and messages after our close frame are discarded.
        let may_be_short = open.rate_limiter.is_none() && !closing;
        let turn = loop {
            // Inflated data may be a thousand times the size of the input.
            if tick.events_left(config.event_budget) == 0
                || (open.connection.deflates() && tick.holds_enough())
            {
                break Some(Turn::Postponed);
            }
            if may_be_short {
                let (before, from) = (tick.records().len(), at);
                let (mut texts, mut left) = (false, tick.events_left(config.event_budget));
                open.connection.receive_short(&mut bytes[..end], &mut at, io.limits, |kind, range| {
                    // A text is kept here as well, though it is copied: this bounds the input per
                    // tick.
                    (keep, last) = (range.end, range.len());
                    texts = kind == Kind::Text;
                    match kind {
                        Kind::Text => tick.text(id, range.start - from..range.end - from),
                        Kind::Binary => tick.in_place(id, kind, base + range.start..base + range.end),
                    }
                    left -= 1;
                    left > 0
                });
                let valid = !texts || tick.copy_texts(&bytes[from..at], before);
                let count = (tick.records().len() - before) as u64;
                stats.messages_in += count;
                open.messages_in += count;
                if !valid {
                    at = bytes.len();
                    break Some(Turn::Violation(ProtocolError::InvalidUtf8));
                }
                // The next message may be a short one of the other kind.
                if at > from {
                    continue;
                }
            }
            io.frames = tick.eventless_frames_left(config.event_budget);
            let received = open.connection.receive(&mut bytes[..end], &mut at, &mut io);
            tick.charge_eventless(tick.eventless_frames_left(config.event_budget) - io.frames);
            match received {
                Ok(None) if io.frames == 0 && at < end => break Some(Turn::Postponed),
                Ok(None) if exceeded => {
                    at = bytes.len();
                    break Some(Turn::Excess(TOO_MANY_BYTES));
                }
                Ok(Some(Received::InPlace(..) | Received::Assembled(_)))
                    if exceeds(&mut open.rate_limiter, now) =>
                {
                    at = bytes.len();
                    break Some(Turn::Excess(TOO_MANY_MESSAGES));
                }
                Ok(None) => break None,
                Ok(Some(Received::InPlace(..))) if closing => {
                    tick.charge_eventless(1);
                    continue;
                }
                Ok(Some(Received::Assembled(message))) if closing => {
                    tick.discard(message, io.inbound);
                    continue;
                }
                Ok(Some(Received::InPlace(kind, range))) => {
                    (keep, last) = (range.end, range.len());
                    tick.in_place(id, kind, base + range.start..base + range.end);
                }
                Ok(Some(Received::Assembled(message))) => tick.assembled(id, message),
                Ok(Some(Received::Unfinished(missing))) => {
                    keep = at;
                    at = bytes.len();
                    break Some(Turn::Unfinished(missing));
                }
                Ok(Some(Received::Close { code, text })) => {
                    at = bytes.len();
                    break Some(Turn::Closed { code, text });
                }
                Err(violation) => {
                    at = bytes.len();
                    break Some(Turn::Violation(violation));
                }
            }
            stats.messages_in += 1;
            open.messages_in += 1;
            let out =
                open.rate_limiter.as_ref().is_some_and(|rate_limiter| rate_limiter.is_out_of_messages(now));
            if out && at < end {
                break Some(Turn::Throttled);
            }
        };
        tick.keep(keep);
        if matches!(turn, Some(Turn::Postponed)) {
            open.frame_flood = true;
        } else if open.frame_flood {
            // The flood lasts until the stream is drained. An incomplete message ends it as well,
            // because its end needs more room.
            open.frame_flood = more > 0 && bytes.len() - at < Self::FLOOD_TURN / 2;
        }
        open.expects_large = last >= Self::TURN || matches!(turn, Some(Turn::Unfinished(_)));
        keep_unparsed(&mut client.unparsed, &bytes[at..], inbound);
        if let Some(rate_limiter) = &mut open.rate_limiter {
            rate_limiter.held = turn.is_some() && !client.unparsed.is_empty();
        }
        if !had_output && client.outbox.has_work() {
            // Pongs were queued.
            self.make_dirty(index);
        }
        turn
    }

    /// One read of a lingering connection; the bytes are discarded.
    fn read_rest(&mut self, index: usize, now: Instant) -> Turn {
        let Some(budget) = budget_left(&mut self.clients[index], self.poll, self.config.read_budget) else {
            return Turn::Postponed;
        };
        let rearm = self.config.rearm;
        let client = &mut self.clients[index];
        let room = self.tick.room();
        let offered = room.len().min(budget);
        match read(&mut client.stream, &mut room[..offered]) {
            Ok(count) => {
                self.stats.bytes_in += count as u64;
                self.tick.received(count);
                after_read(client, count, offered, rearm, now)
            }
            Err(turn) => drained_by(client, turn),
        }
    }
}

/// One read, repeated if a signal interrupts it. The end of the stream is an `Err`, so `Ok` is
/// never zero.
pub(super) fn read(stream: &mut impl io::Read, room: &mut [u8]) -> Result<usize, Turn> {
    debug_assert!(!room.is_empty());
    loop {
        match stream.read(room) {
            Ok(0) => return Err(Turn::Eof),
            Ok(count) => return Ok(count.min(room.len())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Turn::Drained),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Turn::Truncated),
            Err(error) => return Err(Turn::Failed(error.kind())),
        }
    }
}

/// Counts a message. `true`: it exceeds the rate limit.
fn exceeds(rate_limiter: &mut Option<Box<RateLimiter>>, now: Instant) -> bool {
    rate_limiter.as_mut().is_some_and(|rate_limiter| !rate_limiter.message(now))
}

/// The rest of the client's read budget in this poll; `None` if it is used up.
pub(super) fn budget_left<S>(client: &mut Slot<S>, poll: u32, budget: usize) -> Option<usize> {
    if client.spent.0 != poll {
        client.spent = (poll, 0);
    }
    budget.checked_sub(client.spent.1 as usize).filter(|left| *left > 0)
}

/// Accounts for one read, which may have drained the stream.
pub(super) fn after_read<S: Stream>(
    client: &mut Slot<S>,
    count: usize,
    offered: usize,
    rearm: Rearm,
    now: Instant,
) -> Turn {
    client.bytes_in += count as u64;
    if count > 0 {
        client.deadlines.heard(now);
    }
    let mut charged = count;
    if count < offered && !client.read_closed && !client.urgent {
        let has_input = client.stream.get().is_some_and(Stream::has_input);
        client.readable = has_input || !rearm.follows(count, offered);
        if has_input {
            // The stream ended this read because small records cost as much as large ones.
            charged = offered;
        }
    }
    client.spent.1 = client.spent.1.saturating_add(u32::try_from(charged).unwrap_or(u32::MAX));
    if client.readable { Turn::Again } else { Turn::Drained }
}

/// Carries unparsed input over in a pooled buffer. Without any, no buffer is kept.
pub(super) fn keep_unparsed(carried: &mut Vec<u8>, left: &[u8], pool: &mut BufferPool) {
    if left.is_empty() {
        return pool.give(std::mem::take(carried));
    }
    if carried.capacity() == 0 {
        *carried = pool.take(left.len());
    }
    carried.clear();
    carried.extend_from_slice(left);
}

/// Marks the stream as drained after a read without bytes.
pub(super) fn drained_by<S>(client: &mut Slot<S>, turn: Turn) -> Turn {
    client.readable = false;
    turn
}
