//! Input: one turn of one client, from its stream to the tick.

use std::{io, sync::Arc, time::Instant};

use super::{Engine, Stream};
use crate::{
    client::{Client, Open, Stage},
    deadlines::Deadlines,
    error::PeerMisbehaved,
    proto::{
        connection::{Connection, Io, Received, Role},
        handshake::{self, HeadLimits, Rejection, Request},
    },
};

/// A short read means that the socket is drained. Windows re-arms only after `WouldBlock`.
const SHORT_READ_MEANS_DRAINED: bool = cfg!(not(windows));

/// How a turn ended.
#[derive(Debug)]
enum Turn {
    /// Nothing is left to read for now.
    Drained,
    /// More is there, and it is the others' turn.
    Again,
    /// More is there, and it waits for the next poll or for a fresh tick.
    Postponed,
    /// The peer sent FIN.
    Eof,
    /// Reading failed.
    Failed(io::ErrorKind),
    /// The peer broke the protocol.
    Violation(PeerMisbehaved),
    /// The peer's close frame arrived.
    Closed { code: u16, text: String },
}

impl<S: Stream> Engine<S> {
    /// Gives one ready client its turn: one read. `false`: none is ready, or the tick is full.
    pub(crate) fn service_next(&mut self, now: Instant) -> bool {
        if self.tick.is_full(self.config.event_budget) {
            return false;
        }
        let Some(index) = self.ready.pop_front() else { return false };
        let index = index as usize;
        // A slot may have been left and taken since it was listed.
        let Some(client) = self.clients.get_mut(index).filter(|client| client.in_ready) else { return true };
        client.in_ready = false;
        if client.paused {
            return true;
        }
        let turn = match &client.stage {
            Stage::Handshake(_) => self.read_head(index, now),
            Stage::Open(open) if open.farewell.is_some() => Turn::Drained,
            Stage::Open(_) => self.read_frames(index, now),
            Stage::Linger { .. } => self.read_rest(index),
        };
        match turn {
            Turn::Drained => {}
            Turn::Again => self.make_ready(index),
            Turn::Postponed => {
                self.clients[index].in_ready = true;
                self.postponed.push(index as u32);
            }
            Turn::Eof => self.ended_by_eof(index, now),
            Turn::Failed(kind) => self.ended_by_error(index, kind),
            Turn::Violation(violation) => self.ended_by_violation(index, violation),
            Turn::Closed { code, text } => self.ended_by_peer(index, code, text),
        }
        true
    }

    /// One read of an open connection, and all messages that it completes.
    fn read_frames(&mut self, index: usize, now: Instant) -> Turn {
        let id = self.id(index);
        let Engine { config, clients, tick, inbound, outbound, stats, dirty, .. } = self;
        let client = &mut clients[index];
        let Some(budget) = budget_left(client, self.poll, config.read_budget) else { return Turn::Postponed };
        let Client { stage: Stage::Open(open), stream, outbox, carry, .. } = client else {
            return Turn::Drained;
        };
        let Open { connection, verdict, .. } = &mut **open;
        let closing = verdict.is_some();

        // A large payload goes straight where it belongs.
        if carry.is_empty()
            && let Some(room) = connection.room(budget)
        {
            let offered = room.len();
            let read = match read(stream, room) {
                Ok(read) => read,
                Err(turn) => return drained_by(client, turn),
            };
            match connection.arrived(read) {
                Ok(Some(Received::Assembled(message))) if closing => inbound.give(message.buffer),
                Ok(Some(Received::Assembled(message))) => {
                    stats.messages_in += 1;
                    tick.assembled(id, message);
                }
                Ok(_) => {}
                Err(violation) => return Turn::Violation(violation),
            }
            stats.bytes_in += read as u64;
            tick.received(read);
            return after_read(client, read, offered, now, self.poll);
        }

        let (mut block, base) = tick.take_block();
        let room = &mut block[base..];
        let start = carry.len();
        if start > room.len() {
            tick.put_block(block);
            return Turn::Postponed;
        }
        room[..start].copy_from_slice(carry);
        let end = room.len().min(start.saturating_add(budget));
        let offered = end - start;
        let read = if client.readable && offered > 0 { read(stream, &mut room[start..end]) } else { Ok(0) };
        let (count, failed) = match read {
            Ok(count) => (count, None),
            // What is carried has still to be parsed.
            Err(turn) => (0, Some(turn)),
        };
        stats.bytes_in += count as u64;
        let bytes = &mut room[..start + count];
        let (mut at, mut keep, mut outcome) = (0, 0, None);
        let had_output = outbox.has_work();
        let mut io = Io {
            now,
            limits: config.message_limits(),
            inbound,
            outbox,
            outbound,
            max_buffered: config.max_buffered,
        };
        let mut full = false;
        while !full {
            match connection.receive(bytes, &mut at, &mut io) {
                Ok(None) => break,
                Ok(Some(Received::InPlace(kind, range))) => {
                    if !closing {
                        keep = range.end;
                        tick.in_place(id, kind, base + range.start..base + range.end);
                    }
                }
                Ok(Some(Received::Assembled(message))) => {
                    if closing {
                        io.inbound.give(message.buffer);
                    } else {
                        tick.assembled(id, message);
                    }
                }
                Ok(Some(Received::Close { code, text })) => {
                    outcome = Some(Turn::Closed { code, text });
                    at = bytes.len();
                    break;
                }
                Err(violation) => {
                    outcome = Some(Turn::Violation(violation));
                    at = bytes.len();
                    break;
                }
            }
            stats.messages_in += u64::from(!closing);
            full = tick.events_left(config.event_budget) == 0;
        }
        let left = &bytes[at..];
        if left.is_empty() {
            if carry.capacity() > 0 {
                inbound.give(std::mem::take(carry));
            }
        } else {
            if carry.capacity() == 0 {
                *carry = inbound.take();
            }
            carry.clear();
            carry.extend_from_slice(left);
        }
        tick.put_block(block);
        tick.keep(keep);
        tick.received(count);
        if !had_output && outbox.has_work() && !client.in_dirty && !outbox.is_blocked() {
            client.in_dirty = true;
            dirty.push(index as u32);
        }
        if let Some(turn) = outcome {
            return turn;
        }
        if full {
            note_read(client, count, offered, now, self.poll);
            return Turn::Postponed;
        }
        match failed {
            Some(turn) => drained_by(client, turn),
            None if !client.readable => Turn::Drained,
            None => after_read(client, count, offered, now, self.poll),
        }
    }

    /// One read of a connection whose request head is arriving.
    fn read_head(&mut self, index: usize, now: Instant) -> Turn {
        let Engine { config, clients, tick, stats, .. } = self;
        let client = &mut clients[index];
        let Stage::Handshake(head) = &mut client.stage else { return Turn::Drained };
        let limits = HeadLimits { max_bytes: config.max_head_bytes, max_headers: config.max_headers };
        let (mut block, base) = tick.take_block();
        let room = &mut block[base..];
        let (read, offered) = (read(&mut client.stream, room), room.len());
        let parsed = match &read {
            Ok(count) => head.push(&room[..*count], limits),
            Err(_) => Ok(None),
        };
        tick.put_block(block);
        let count = match read {
            Ok(count) => count,
            Err(turn) => return drained_by(client, turn),
        };
        tick.received(count);
        stats.bytes_in += count as u64;
        let turn = after_read(client, count, offered, now, self.poll);
        match parsed {
            Ok(None) => {}
            Ok(Some(request)) => self.decide(index, request, now),
            Err(rejection) => self.reject(index, rejection, now),
        }
        turn
    }

    /// A request head is complete: upgrade or refuse.
    fn decide(&mut self, index: usize, request: Request, now: Instant) {
        match handshake::accept(&request, &self.config.origins) {
            Ok(response) => self.upgrade(index, request, &response, now),
            Err(rejection) => self.reject(index, rejection, now),
        }
    }

    fn upgrade(&mut self, index: usize, request: Request, response: &[u8], now: Instant) {
        let request = Arc::new(request);
        let id = self.id(index);
        let client = &mut self.clients[index];
        client.outbox.push_raw(response, &mut self.outbound);
        client.stage = Stage::Open(Box::new(Open {
            connection: Connection::new(Role::Server),
            verdict: None,
            farewell: None,
            overflow: None,
            request: self.config.keep_requests.then(|| request.clone()),
        }));
        client.deadlines = Deadlines::new(now);
        self.open += 1;
        self.stats.opened += 1;
        self.tick.open(id, request);
        self.rearm(index);
        self.make_dirty(index);
    }

    fn reject(&mut self, index: usize, rejection: Rejection, now: Instant) {
        self.stats.rejected.count(rejection);
        log::debug!("refused {}: {}", self.clients[index].remote, rejection.status());
        self.answer(index, &rejection.response(), now);
    }

    /// One read of a connection that is only waited for; the bytes are thrown away.
    fn read_rest(&mut self, index: usize) -> Turn {
        let Some(budget) = budget_left(&mut self.clients[index], self.poll, self.config.read_budget) else {
            return Turn::Postponed;
        };
        let client = &mut self.clients[index];
        let room = self.tick.room();
        let offered = room.len().min(budget);
        match read(&mut client.stream, &mut room[..offered]) {
            Ok(count) => {
                self.stats.bytes_in += count as u64;
                self.tick.received(count);
                spend(client, count, offered);
                if client.readable { Turn::Again } else { Turn::Drained }
            }
            Err(turn) => drained_by(client, turn),
        }
    }
}

/// One read that is not cut short by a signal. An end is an `Err`, so `Ok` is never zero.
fn read(stream: &mut impl io::Read, room: &mut [u8]) -> Result<usize, Turn> {
    debug_assert!(!room.is_empty());
    loop {
        match stream.read(room) {
            Ok(0) => return Err(Turn::Eof),
            Ok(count) => return Ok(count.min(room.len())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Turn::Drained),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Turn::Failed(error.kind())),
        }
    }
}

/// What of its budget `client` has left in this poll.
fn budget_left<S>(client: &mut Client<S>, poll: u32, budget: usize) -> Option<usize> {
    if client.spent.0 != poll {
        client.spent = (poll, 0);
    }
    budget.checked_sub(client.spent.1).filter(|left| *left > 0)
}

fn spend<S>(client: &mut Client<S>, read: usize, offered: usize) {
    client.spent.1 += read;
    if read < offered && !client.read_closed && SHORT_READ_MEANS_DRAINED {
        client.readable = false;
    }
}

fn note_read<S>(client: &mut Client<S>, read: usize, offered: usize, now: Instant, poll: u32) {
    if client.spent.0 != poll {
        client.spent = (poll, 0);
    }
    if read > 0 {
        client.deadlines.heard(now);
        spend(client, read, offered);
    }
}

fn after_read<S>(client: &mut Client<S>, read: usize, offered: usize, now: Instant, poll: u32) -> Turn {
    note_read(client, read, offered, now, poll);
    if client.readable { Turn::Again } else { Turn::Drained }
}

/// A read gave nothing: remembers that the stream is drained.
fn drained_by<S>(client: &mut Client<S>, turn: Turn) -> Turn {
    client.readable = false;
    turn
}
