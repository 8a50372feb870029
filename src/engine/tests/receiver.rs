//! One simulated client that only reads, and a model of everything that was queued for it: which
//! messages may arrive, in which order, and which must.

use std::{collections::HashMap, time::Instant};

use super::*;
use crate::{
    LatestKey, Priority,
    outbox::pending::{Pending, Terms},
};

/// A message that was queued.
#[derive(Debug)]
struct Entry {
    is_text: bool,
    payload: Vec<u8>,
    terms: Terms,
    /// Position in its lane: that of the message that it replaced, or behind all others.
    place: usize,
    /// Bytes written to the client when it was queued.
    mark: u64,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waits,
    Replaced,
    /// Its time passed while it could still be dropped.
    Expired,
    Arrived,
}

#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) peer: Peer,
    pub(super) id: ClientId,
    pub(super) reads: bool,
    pub(super) reason: Option<CloseReason>,
    /// Its socket is closed, so that nothing is known about later messages.
    pub(super) socket_closed: bool,
    /// Nothing more can be queued.
    pub(super) closing: bool,
    /// The peer has sent FIN or a close frame.
    pub(super) ended: bool,
    pub(super) disconnected: bool,
    /// The server's close frame has arrived.
    pub(super) heard_close: bool,

    entries: Vec<Entry>,
    /// The index in `entries`, by the number in the payload.
    numbers: HashMap<u32, usize>,
    /// The index of the newest entry of each key.
    latest: HashMap<LatestKey, usize>,
    /// Entries queued since the last flush; the next flush frames or drops them.
    fresh: Vec<usize>,
    /// Bytes received before the next frame.
    offset: u64,
    /// Positions of the last messages that arrived, of normal and of high priority.
    places: [Option<usize>; 2],
    /// The offset at which the last frame of normal priority began.
    last_normal: u64,
    /// The newest number that arrived for each key, and whether it had high priority.
    arrived: HashMap<LatestKey, (u32, bool)>,
    pings: u32,
    pong: Option<u32>,
}

/// A payload that carries its number.
pub(super) fn numbered(number: u32, is_text: bool, len: usize) -> Vec<u8> {
    let mut payload =
        if is_text { format!("{number:08}").into_bytes() } else { number.to_be_bytes().to_vec() };
    let filler = if is_text { b'a' + (number % 26) as u8 } else { number as u8 };
    payload.resize(len.max(payload.len()), filler);
    payload
}

fn number_of(is_text: bool, payload: &[u8]) -> u32 {
    match is_text {
        true => std::str::from_utf8(&payload[..8]).unwrap().parse().unwrap(),
        false => u32::from_be_bytes(payload[..4].try_into().unwrap()),
    }
}

pub(super) fn frame_len(payload: usize) -> usize {
    payload
        + if payload < 126 {
            2
        } else if payload < 65_536 {
            4
        } else {
            10
        }
}

impl Receiver {
    /// A receiver whose handshake is complete and for which nothing was queued.
    pub(super) fn new(peer: Peer, id: ClientId) -> Self {
        let offset = peer.traffic().1;
        Receiver {
            peer,
            id,
            reads: true,
            reason: None,
            socket_closed: false,
            closing: false,
            ended: false,
            disconnected: false,
            heard_close: false,
            entries: Vec::new(),
            numbers: HashMap::new(),
            latest: HashMap::new(),
            fresh: Vec::new(),
            offset,
            places: [None; 2],
            last_normal: 0,
            arrived: HashMap::new(),
            pings: 0,
            pong: None,
        }
    }

    // ---- queued messages ----

    /// The bytes that a message counts for while it is pending.
    pub(super) fn cost(payload: usize, key: Option<&LatestKey>) -> usize {
        payload + key.map_or(0, LatestKey::heap) + Pending::OVERHEAD
    }

    /// Whether a message fits beside the pending ones. `expired`: entries that expired by this time
    /// take no room.
    pub(super) fn fits(
        &self,
        host: &Host,
        len: usize,
        terms: &Terms,
        max: usize,
        expired: Option<Instant>,
    ) -> bool {
        let Some(client) = host.engine.get(self.id) else { return false };
        let gone = |entry: &Entry| expired.is_some_and(|now| entry.terms.expires.is_some_and(|at| at <= now));
        let replaced = |entry: &Entry| terms.latest.is_some() && entry.terms.latest == terms.latest;
        let waiting: Vec<&Entry> =
            self.waiting(host).map(|place| &self.entries[place]).filter(|entry| !gone(entry)).collect();
        let straight = terms.is_plain() && !waiting.iter().any(|e| e.terms.priority == Priority::Normal);
        let others = waiting.iter().filter(|entry| !replaced(entry));
        let cost: usize =
            others.map(|entry| Self::cost(entry.payload.len(), entry.terms.latest.as_ref())).sum();
        let need = if straight { frame_len(len) } else { Self::cost(len, terms.latest.as_ref()) };
        client.outbox.frames_len() + host.engine.batch.held_for(client) + cost + need <= max
    }

    /// The pending entries, which can still be replaced, dropped or overtaken.
    pub(super) fn waiting<'r>(&'r self, host: &'r Host) -> impl Iterator<Item = usize> + 'r {
        let pending = host.engine.get(self.id).and_then(|client| client.open()?.pending.as_ref());
        pending.into_iter().flat_map(|pending| pending.waiting()).map(|payload| {
            // A text begins with its number in digits.
            let is_text = payload.len() >= 8 && payload[..8].iter().all(u8::is_ascii_digit);
            self.numbers[&number_of(is_text, payload)]
        })
    }

    /// Notes a queued message. `older`: an older value of its key was pending until then.
    pub(super) fn queued(&mut self, number: u32, is_text: bool, payload: &[u8], terms: &Terms, older: bool) {
        let mut place = self.entries.len();
        if let Some(key) = &terms.latest
            && let Some(before) = self.latest.insert(key.clone(), place)
            && older
        {
            assert!(matches!(self.entries[before].fate, Fate::Waits | Fate::Expired));
            self.entries[before].fate = Fate::Replaced;
            if self.entries[before].terms.priority == terms.priority {
                place = self.entries[before].place;
            }
        }
        self.fresh.push(self.entries.len());
        self.numbers.insert(number, self.entries.len());
        self.entries.push(Entry {
            is_text,
            payload: payload.to_vec(),
            terms: terms.clone(),
            place,
            mark: self.peer.traffic().1,
            fate: Fate::Waits,
        });
    }

    /// Whether this message, if it fits, replaces an older value. An older value that has expired
    /// and must make room is not replaced.
    pub(super) fn replaces(&self, host: &Host, len: usize, terms: &Terms, max: usize) -> bool {
        let Some(older) = terms.latest.as_ref().and_then(|key| self.latest.get(key)) else { return false };
        let expired = self.entries[*older].terms.expires.is_some_and(|at| at <= host.engine.now);
        let waits = self.waiting(host).any(|waiting| waiting == *older);
        waits && (!expired || self.fits(host, len, terms, max, None))
    }

    /// Notes the entries that the next flush must drop.
    pub(super) fn before_flush(&mut self, now: Instant) {
        for place in std::mem::take(&mut self.fresh) {
            // Messages before a close frame have been framed already, and cannot expire.
            if !self.closing {
                self.expire(place, now);
            }
        }
    }

    /// Notes the entries that expired while pending, which must not arrive.
    pub(super) fn after_poll(&mut self, host: &Host) {
        for place in self.waiting(host).collect::<Vec<_>>() {
            self.expire(place, host.now);
        }
    }

    fn expire(&mut self, place: usize, now: Instant) {
        let entry = &mut self.entries[place];
        if entry.fate == Fate::Waits && entry.terms.expires.is_some_and(|expires| expires <= now) {
            entry.fate = Fate::Expired;
        }
    }

    // ---- received messages ----

    pub(super) fn ping(&mut self) {
        self.pings += 1;
        self.peer.ping(&self.pings.to_be_bytes());
    }

    /// Reads up to `most` bytes.
    pub(super) fn read(&mut self, most: usize) -> Vec<Frame> {
        if self.socket_closed {
            return Vec::new();
        }
        if self.reads {
            self.peer.read(most);
        }
        let frames = self.peer.parse();
        for frame in &frames {
            let len = match frame {
                Frame::Text(text) => self.arrive(true, text.as_bytes()),
                Frame::Binary(bytes) => self.arrive(false, bytes),
                Frame::Ping(body) => {
                    if !self.ended {
                        self.peer.pong(body);
                    }
                    body.len()
                }
                Frame::Pong(body) => {
                    let number = u32::from_be_bytes(body[..].try_into().unwrap());
                    assert!(number <= self.pings);
                    self.pong = self.pong.max(Some(number));
                    body.len()
                }
                Frame::Close(1005, _) => 0,
                Frame::Close(code, text) => {
                    self.heard_close = true;
                    if !std::mem::replace(&mut self.ended, true) {
                        self.peer.close(*code);
                    }
                    2 + text.len()
                }
            };
            self.offset += frame_len(len) as u64;
        }
        if self.peer.at_end() {
            self.ended = true;
            self.peer.fin();
        }
        frames
    }

    /// Checks one whole message that begins at `offset`.
    fn arrive(&mut self, is_text: bool, payload: &[u8]) -> usize {
        let number = number_of(is_text, payload);
        let entry = &mut self.entries[self.numbers[&number]];
        assert_eq!(
            (entry.is_text, &entry.payload[..]),
            (is_text, payload),
            "a half of one and a half of another"
        );
        assert_eq!(std::mem::replace(&mut entry.fate, Fate::Arrived), Fate::Waits, "message {number}");
        let high = entry.terms.priority == Priority::High;
        // Each lane keeps its order; a newer value has the position of the one it replaced.
        let last = self.places[usize::from(high)].replace(entry.place);
        assert!(last < Some(entry.place), "message {number} has lost its place");
        if let Some(key) = &entry.terms.latest {
            // A high-priority value overtakes framed messages, even an older value of its own key.
            let last = self.arrived.entry(key.clone()).or_default();
            assert!(last.0 < number || (last.1 && !high), "a value after a newer one");
            *last = (*last).max((number, high));
        }
        if high {
            // Normal messages that had not begun to leave when it was queued must come after it.
            assert!(self.last_normal < entry.mark, "message {number} was passed");
        } else {
            self.last_normal = self.offset;
        }
        payload.len()
    }

    // ---- final checks ----

    /// The number of replaced, expired and missing entries.
    pub(super) fn tally(&self) -> (u64, u64, u64) {
        let count =
            |of: &dyn Fn(&Entry) -> bool| self.entries.iter().filter(|entry| of(entry)).count() as u64;
        let expired = |entry: &Entry| match entry.fate {
            Fate::Expired => true,
            // The model may not have seen the expiry between two polls.
            Fate::Waits => entry.terms.expires.is_some(),
            Fate::Replaced | Fate::Arrived => false,
        };
        let missing = |entry: &Entry| entry.fate == Fate::Waits && entry.terms.expires.is_none();
        (count(&|entry| entry.fate == Fate::Replaced), count(&expired), count(&missing))
    }

    /// Checks that nothing is missing, once everything was sent and read: the last value of every
    /// key has arrived.
    pub(super) fn check_complete(&self) {
        assert_eq!(self.tally().2, 0, "not received: {:?}", self.reason);
        for place in self.latest.values() {
            let entry = &self.entries[*place];
            assert!(
                entry.fate == Fate::Arrived || entry.terms.expires.is_some(),
                "the last value is missing"
            );
        }
        assert_eq!(self.peer.rest(), b"", "a piece of a frame");
        assert!(
            self.reason.is_some() || self.pings == self.pong.unwrap_or(0),
            "the last ping was not answered"
        );
    }
}
