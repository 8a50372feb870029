//! The buffer of one tick: received bytes, and events as offsets into them.

#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "an offset or an index is stored only together with the bytes or the entry it points to"
)]

use std::{ops::Range, sync::Arc, time::Duration};

use crate::{
    error::ConnectError,
    event::{close_reason::CloseReason, pressure::Pressure},
    http1::{head::RequestHead, request::Request},
    id::{ClientId, ExchangeId, LinkId, TimerId, UpgradeId},
    message::{Kind, Message},
    peer_addr::Endpoint,
    proto::{assembler::Assembled, utf8},
    util::buffer_pool::BufferPool,
};

/// The received bytes and the events of one tick.
#[derive(Debug, Default)]
pub(crate) struct TickBuffer {
    /// Zeroed once, then reused. Events point into `..filled`.
    block: Vec<u8>,
    filled: usize,
    /// Copies of small text messages, with the bytes between them; at most one block. Without
    /// unsafe code a text in `block` has to be validated again when its event is read, which costs
    /// 200 instructions for 125 bytes. The copy costs 25.
    texts: String,
    records: Vec<Record>,
    assembled: Vec<(Vec<u8>, usize)>,
    requests: Vec<StoredRequest>,
    reasons: Vec<CloseReason>,
    failures: Vec<Failure>,
    /// Records that are not charged to the event budget.
    uncharged: usize,
    /// How many of the uncharged records are of a kind that is charged.
    excess: usize,
    /// Event budget charged in this tick for frames that yielded no event.
    charged: usize,
    /// Bytes received in this tick.
    input: usize,
    /// Bytes of fragmented or compressed messages completed in this tick, including discarded ones.
    held: usize,
}

/// The request of an event.
#[derive(Debug)]
struct StoredRequest {
    request: Arc<RequestHead>,
    body: Vec<u8>,
    endpoint: Endpoint,
}

/// A failed or lost outbound connection, and the next attempt.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) link: LinkId,
    /// `None`: the connection was open, and its `Close` event has the reason.
    pub(crate) error: Option<ConnectError>,
    /// The number of the next attempt and the delay before it; zero if none follows.
    pub(crate) attempt: u32,
    pub(crate) wait: Duration,
}

/// An event with offsets in place of references: 24 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Record {
    Open { client: ClientId, request: u32 },
    Message { client: ClientId, kind: Kind, place: Place, start: u32, len: u32 },
    Close { client: ClientId, reason: u32 },
    Drained { client: ClientId },
    Pressure { pressure: Pressure },
    Timer { timer: TimerId, missed: u32 },
    Upgrade { upgrade: UpgradeId, request: u32 },
    UpgradeGone { upgrade: UpgradeId },
    Http { exchange: ExchangeId, request: u32 },
    Reconnecting { client: ClientId, failure: u32 },
    ConnectFailed { client: ClientId, failure: u32 },
}

impl Record {
    /// Whether the event budget does not limit this kind: each client has at most one per tick.
    fn comes_on_top(&self) -> bool {
        match self {
            Record::Close { .. }
            | Record::Drained { .. }
            | Record::Pressure { .. }
            | Record::UpgradeGone { .. }
            | Record::Reconnecting { .. }
            | Record::ConnectFailed { .. } => true,
            Record::Open { .. }
            | Record::Message { .. }
            | Record::Timer { .. }
            | Record::Upgrade { .. }
            | Record::Http { .. } => false,
        }
    }
}

/// The memory that `start` and `len` of a message refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Block,
    Texts,
    /// `start` is the index of a buffer, and `len` is zero.
    Assembled,
}

impl TickBuffer {
    /// The size of the block: about as much input as stays in the cache while the application
    /// processes it.
    pub(crate) const BLOCK: usize = 64 * 1024;

    /// Space behind the block into which large messages are read to their end. A message that stays
    /// in place is neither copied nor given its own buffer. The pages are untouched until such a
    /// message arrives.
    const OVERHANG: usize = 4 * Self::BLOCK;

    /// The most bytes received in one tick. It also bounds the bytes of fragmented or compressed
    /// messages in one tick; the last of these messages may exceed it.
    const INPUT: usize = 4 * Self::BLOCK;

    /// The most spare bytes that a dropped tick holds until the next poll.
    const KEPT: usize = 2 * 1024 * 1024;

    /// With less free space than this, a read waits for the next tick.
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
            || self.input_left() < Self::MIN_READ
            || self.holds_enough()
            || self.events_left(event_budget) == 0
    }

    /// Whether further fragmented or compressed messages have to wait for the next tick.
    pub(crate) fn holds_enough(&self) -> bool {
        self.held >= Self::INPUT
    }

    /// How many more bytes may be received in this tick.
    pub(crate) fn input_left(&self) -> usize {
        Self::INPUT.saturating_sub(self.input)
    }

    /// Whether nothing has been received in this tick.
    pub(crate) fn is_fresh(&self) -> bool {
        self.input == 0
    }

    /// Event budget charged for an eventless frame, such as a ping or a fragment. Floods of these
    /// are hostile, and taking fewer of them at a time brings the other clients' turns sooner.
    pub(crate) const EVENTLESS_CHARGE: usize = 16;

    /// How many more events fit. Eventless frames are counted too.
    pub(crate) fn events_left(&self, event_budget: usize) -> usize {
        event_budget.saturating_sub(self.records.len() - self.uncharged + self.charged)
    }

    /// Does not charge the records of kinds that the event budget does not limit, nor as many
    /// others as it takes to have room for `least` events. The budget does not limit writes,
    /// outbound connections and calls of the application. If their events were charged, a tick
    /// could be full before its first read, and so could every tick after it.
    #[inline]
    pub(crate) fn leave_room(&mut self, event_budget: usize, least: usize) {
        if self.records.is_empty() {
            return;
        }
        let on_top = self.records.iter().filter(|record| record.comes_on_top()).count();
        let others = self.records.len() - on_top;
        self.excess = self.excess.max(others.saturating_sub(event_budget.saturating_sub(least)));
        self.uncharged = on_top + self.excess;
    }

    /// How many more eventless frames may be processed: at least one if there is room for an event.
    pub(crate) fn eventless_frames_left(&self, event_budget: usize) -> usize {
        self.events_left(event_budget).div_ceil(Self::EVENTLESS_CHARGE)
    }

    /// Charges the event budget for this many eventless frames.
    pub(crate) fn charge_eventless(&mut self, frames: usize) {
        self.charged += frames * Self::EVENTLESS_CHARGE;
    }

    /// The free part of the block, without the space reserved for large messages.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.block.is_empty() {
            self.block = vec![0; Self::BLOCK + Self::OVERHANG];
        }
        &mut self.block[self.filled..Self::BLOCK.max(self.filled)]
    }

    /// The offset of the free part of the block.
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    /// Swaps blocks with `other` if neither holds data. The block of `other` was used last and is
    /// still in the cache.
    pub(crate) fn swap_block(&mut self, other: &mut TickBuffer) {
        if self.filled == 0 && other.filled == 0 {
            std::mem::swap(&mut self.block, &mut other.block);
        }
    }

    /// Moves the whole block out, so that events can be recorded while it is written to. Also
    /// returns the offset of its free part. `put_block` must follow.
    pub(crate) fn take_block(&mut self) -> (Vec<u8>, usize) {
        self.room();
        (std::mem::take(&mut self.block), self.filled)
    }

    pub(crate) fn put_block(&mut self, block: Vec<u8>) {
        self.block = block;
    }

    /// Marks the first `bytes` of `room` as used by events.
    pub(crate) fn keep(&mut self, bytes: usize) {
        self.filled += bytes;
    }

    /// Counts received bytes, in whichever buffer they were stored.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.input += bytes;
    }

    pub(crate) fn open(&mut self, client: ClientId, request: Arc<RequestHead>, endpoint: Endpoint) {
        let request = self.store(request, Vec::new(), endpoint);
        self.records.push(Record::Open { client, request });
    }

    /// Adds a message at `range` of the block.
    pub(crate) fn in_place(&mut self, client: ClientId, kind: Kind, range: Range<usize>) {
        let (start, len) = (range.start as u32, range.len() as u32);
        self.records.push(Record::Message { client, kind, place: Place::Block, start, len });
    }

    /// Adds a text message at `range` of the bytes that will be passed to the next `copy_texts`.
    #[inline]
    pub(crate) fn text(&mut self, client: ClientId, range: Range<usize>) {
        let (start, len) = ((self.texts.len() + range.start) as u32, range.len() as u32);
        self.records.push(Record::Message { client, kind: Kind::Text, place: Place::Texts, start, len });
    }

    /// Copies `bytes`, which contain the text messages added since there were `records` events. All
    /// bytes between the texts must be ASCII. Returns `false` if a text is not UTF-8; that text and
    /// those after it are removed.
    pub(crate) fn copy_texts(&mut self, bytes: &[u8], records: usize) -> bool {
        if let Some(texts) = utf8::as_str(bytes) {
            self.texts.push_str(texts);
            return true;
        }
        let (base, mut good, mut end) = (self.texts.len(), 0, 0);
        for record in &self.records[records..] {
            let Record::Message { place: Place::Texts, start, len, .. } = *record else { break };
            let range = start as usize - base..start as usize - base + len as usize;
            if !utf8::is_valid(&bytes[range.clone()]) {
                break;
            }
            (good, end) = (good + 1, range.end);
        }
        self.records.truncate(records + good);
        self.texts.push_str(utf8::as_str(&bytes[..end]).unwrap_or_default());
        false
    }

    pub(crate) fn assembled(&mut self, client: ClientId, message: Assembled) {
        self.held += message.len;
        self.assembled.push((message.buffer, message.len));
        let (kind, start) = (message.kind, self.assembled.len() as u32 - 1);
        self.records.push(Record::Message { client, kind, place: Place::Assembled, start, len: 0 });
    }

    /// Drops a message of a closing connection. It counts as processed input and one event all the
    /// same.
    pub(crate) fn discard(&mut self, message: Assembled, pool: &mut BufferPool) {
        (self.held, self.charged) = (self.held + message.len, self.charged + 1);
        pool.give(message.buffer);
    }

    pub(crate) fn close(&mut self, client: ClientId, reason: CloseReason) {
        self.reasons.push(reason);
        self.records.push(Record::Close { client, reason: self.reasons.len() as u32 - 1 });
    }

    pub(crate) fn reconnecting(&mut self, client: ClientId, failure: Failure) {
        self.failures.push(failure);
        self.records.push(Record::Reconnecting { client, failure: self.failures.len() as u32 - 1 });
    }

    pub(crate) fn connect_failed(&mut self, client: ClientId, failure: Failure) {
        self.failures.push(failure);
        self.records.push(Record::ConnectFailed { client, failure: self.failures.len() as u32 - 1 });
    }

    pub(crate) fn drained(&mut self, client: ClientId) {
        self.records.push(Record::Drained { client });
    }

    pub(crate) fn pressure(&mut self, pressure: Pressure) {
        self.records.push(Record::Pressure { pressure });
    }

    pub(crate) fn timer(&mut self, timer: TimerId, missed: u32) {
        self.records.push(Record::Timer { timer, missed });
    }

    pub(crate) fn upgrade(&mut self, upgrade: UpgradeId, request: Arc<RequestHead>, endpoint: Endpoint) {
        let request = self.store(request, Vec::new(), endpoint);
        self.records.push(Record::Upgrade { upgrade, request });
    }

    pub(crate) fn upgrade_gone(&mut self, upgrade: UpgradeId) {
        self.records.push(Record::UpgradeGone { upgrade });
    }

    pub(crate) fn http(
        &mut self,
        id: ExchangeId,
        request: Arc<RequestHead>,
        body: Vec<u8>,
        endpoint: Endpoint,
    ) {
        self.held += body.len();
        let request = self.store(request, body, endpoint);
        self.records.push(Record::Http { exchange: id, request });
    }

    fn store(&mut self, request: Arc<RequestHead>, body: Vec<u8>, endpoint: Endpoint) -> u32 {
        self.requests.push(StoredRequest { request, body, endpoint });
        self.requests.len() as u32 - 1
    }

    /// The message of a record. Inlined for the same reason as `Events::next`.
    #[inline(always)]
    #[allow(clippy::expect_used, reason = "a text becomes an event only after it was validated")]
    pub(crate) fn message(&self, kind: Kind, place: Place, start: u32, len: u32) -> Message<'_> {
        let payload = match place {
            Place::Texts => {
                return Message::Text(&self.texts[start as usize..][..len as usize]);
            }
            Place::Block => &self.block[start as usize..][..len as usize],
            Place::Assembled => {
                let (buffer, len) = &self.assembled[start as usize];
                &buffer[..*len]
            }
        };
        match kind {
            Kind::Binary => Message::Binary(payload),
            // The text was validated on arrival. Without unsafe code a `&str` needs a second check.
            Kind::Text => Message::Text(utf8::as_str(payload).expect("text is validated on arrival")),
        }
    }

    /// The request of an `Open`, `Upgrade` or `Http` record.
    #[inline]
    pub(crate) fn request(&self, index: u32) -> Request<'_> {
        let StoredRequest { request, body, endpoint } = &self.requests[index as usize];
        Request::new(request, body, *endpoint)
    }

    /// The reason of a `Close` record.
    #[inline]
    pub(crate) fn reason(&self, index: u32) -> &CloseReason {
        &self.reasons[index as usize]
    }

    /// The failure of a `Reconnecting` or `ConnectFailed` record.
    #[inline]
    pub(crate) fn failure(&self, index: u32) -> &Failure {
        &self.failures[index as usize]
    }

    /// Removes the events. Keeps their buffers for reuse, up to `KEPT` bytes of assembled messages.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.texts.clear();
        self.requests.clear();
        self.reasons.clear();
        self.failures.clear();
        (self.uncharged, self.excess, self.charged) = (0, 0, 0);
        (self.filled, self.input, self.held) = (0, 0, 0);
        let mut kept = 0;
        self.assembled.retain(|(buffer, _)| {
            kept += buffer.capacity();
            kept <= Self::KEPT
        });
    }

    /// Bytes kept for reuse, without the block.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn spare(&self) -> usize {
        self.assembled.iter().map(|(buffer, _)| buffer.capacity()).sum()
    }

    /// Returns the buffers of assembled messages to the pool.
    pub(crate) fn recycle(&mut self, pool: &mut BufferPool) {
        for (buffer, _) in self.assembled.drain(..) {
            pool.give(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Serial;

    #[test]
    fn a_record_has_24_bytes() {
        assert_eq!(size_of::<Record>(), 24);
    }

    #[test]
    fn events_on_top_of_the_budget_are_not_charged_and_others_leave_room() {
        for (event_budget, left) in [(1, 1), (2, 2), (4, 2), (10, 7)] {
            let mut tick = TickBuffer::default();
            (0..5).for_each(|index| tick.drained(ClientId::new(index, Serial::new(1))));
            (0..3).for_each(|index| tick.timer(TimerId::new(index, Serial::new(1)), 0));
            tick.leave_room(event_budget, 2);
            assert_eq!(tick.events_left(event_budget), left, "of {event_budget}");
            tick.timer(TimerId::new(3, Serial::new(1)), 0);
            tick.close(ClientId::new(5, Serial::new(1)), CloseReason::Eof);
            tick.leave_room(event_budget, 0);
            assert_eq!(tick.events_left(event_budget), left - 1, "the timer's event is charged");
            tick.close(ClientId::new(6, Serial::new(1)), CloseReason::Eof);
            assert_eq!(tick.events_left(event_budget), left.saturating_sub(2), "an end found by reading");
        }
    }

    #[test]
    fn copy_texts_keeps_texts_before_the_first_invalid_one() {
        const TEXTS: [&[u8]; 4] = ["größer".as_bytes(), b"", "€".as_bytes(), b"end"];
        for bad in 0..=TEXTS.len() {
            let (mut tick, client) = (TickBuffer::default(), ClientId::new(3, Serial::new(4)));
            for (round, bad) in [TEXTS.len(), bad].into_iter().enumerate() {
                let (mut bytes, before) = (Vec::new(), tick.records().len());
                for (index, text) in TEXTS.into_iter().enumerate() {
                    bytes.extend([0; 6]);
                    let start = bytes.len();
                    bytes.extend(text);
                    if index == bad {
                        // A truncated UTF-8 sequence.
                        bytes.push(0xe2);
                    }
                    tick.text(client, start..bytes.len());
                }
                assert_eq!(tick.copy_texts(&bytes, before), bad == TEXTS.len());
                assert_eq!(tick.records().len(), round * TEXTS.len() + bad);
            }
            for (record, text) in tick.records().iter().zip(TEXTS.into_iter().cycle()) {
                let Record::Message { client: who, kind, place, start, len } = *record else {
                    panic!("{record:?}")
                };
                let message = tick.message(kind, place, start, len);
                assert_eq!((who, kind, message.as_bytes()), (client, Kind::Text, text));
            }
        }
    }
}
