//! The tick being filled: received bytes, and events as offsets into them.

#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "an offset or an index stands for what was put there while the same tick was filled"
)]

use std::{net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use crate::{
    close_reason::CloseReason,
    error::ConnectError,
    id::{ClientId, LinkId, RequestId, TimerId, UpgradeId},
    message::{Kind, Message},
    pool::BufferPool,
    pressure::Pressure,
    proto::{assembler::Assembled, handshake::Request, utf8},
    request::HttpRequest,
};

/// What one tick owns: the received bytes, and what happened.
#[derive(Debug, Default)]
pub(crate) struct TickData {
    /// Zeroed once, then reused; `..filled` is in use by events.
    block: Vec<u8>,
    filled: usize,
    /// Small texts, with what stood between them: at most a block of them. Without unsafe code the bytes of a block
    /// would have to be checked a second time, and of 125 that costs 200 instructions; the copy costs 25.
    texts: String,
    records: Vec<Record>,
    assembled: Vec<(Vec<u8>, usize)>,
    requests: Vec<Arc<Request>>,
    asked: Vec<Asked>,
    reasons: Vec<CloseReason>,
    failures: Vec<Failure>,
    /// Records that take nothing from the event budget, and how many of them would by their kind.
    uncharged: usize,
    excess: usize,
    /// Frames taken in this tick of which no event came.
    passed_over: usize,
    /// Bytes received in this tick.
    input: usize,
    /// Bytes of messages that came in pieces, or compressed, handed over or not.
    held: usize,
}

/// A request that the application is to answer.
#[derive(Debug)]
struct Asked {
    request: Arc<Request>,
    body: Vec<u8>,
    remote: SocketAddr,
}

/// An outbound connection that is not there, and what follows from it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) link: LinkId,
    /// `None`: it was open, and its `Close` has told why.
    pub(crate) error: Option<ConnectError>,
    /// The new attempt's number and the wait before it; zero if there is none.
    pub(crate) attempt: u32,
    pub(crate) wait: Duration,
}

/// An event as offsets: 24 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Record {
    Open { client: ClientId, request: u32 },
    Message { client: ClientId, kind: Kind, source: Source },
    Close { client: ClientId, reason: u32 },
    Drained { client: ClientId },
    Pressure { pressure: Pressure },
    Timer { timer: TimerId },
    Upgrade { upgrade: UpgradeId, asked: u32 },
    UpgradeGone { upgrade: UpgradeId },
    Http { request: RequestId, asked: u32 },
    Reconnecting { client: ClientId, failure: u32 },
    ConnectFailed { client: ClientId, failure: u32 },
}

impl Record {
    /// Whether the event budget does not limit it: there is one of these per client at most.
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

/// Where a payload lies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    Block { start: u32, len: u32 },
    Assembled { index: u32 },
    Text { start: u32, len: u32 },
}

impl TickData {
    /// About as much input as stays in the cache while the application works on it.
    pub(crate) const BLOCK: usize = 64 * 1024;

    /// Behind that, room for large messages to be read to their end: what stays in place is neither copied
    /// nor needs a buffer of its own. No memory is touched before they come.
    const OVERHANG: usize = 4 * Self::BLOCK;

    /// Bytes received in one tick, and bytes handed over of messages that came in pieces; the last of
    /// those may exceed it.
    const INPUT: usize = 4 * Self::BLOCK;

    /// Spare bytes that a dropped tick holds until the next poll.
    const KEPT: usize = 2 * 1024 * 1024;

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
            || self.input_left() < Self::MIN_READ
            || self.holds_enough()
            || self.events_left(event_budget) == 0
    }

    /// Whether messages that came in pieces, or compressed, are to wait for the next tick.
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

    /// A frame of which no event comes, as a ping or a fragment, counts as so many events. Hardly anyone sends many but
    /// to keep the server busy, and the fewer are taken at a time, the sooner it is the others' turn.
    pub(crate) const BARREN: usize = 16;

    /// How many more events fit. Frames of which none comes count, too.
    pub(crate) fn events_left(&self, event_budget: usize) -> usize {
        event_budget.saturating_sub(self.records.len() - self.uncharged + self.passed_over)
    }

    /// Leaves the records that come on top of the event budget uncharged, and as many others as it
    /// takes to have room for `least` events. Writes, dials and calls of the application are not
    /// limited by that budget: if their events were charged, a tick could be full before its first
    /// read, and so could every tick after it.
    pub(crate) fn leave_room(&mut self, event_budget: usize, least: usize) {
        let on_top = self.records.iter().filter(|record| record.comes_on_top()).count();
        let others = self.records.len() - on_top;
        self.excess = self.excess.max(others.saturating_sub(event_budget.saturating_sub(least)));
        self.uncharged = on_top + self.excess;
    }

    /// How many more frames of which no event comes may be taken: at least one if there is room for an event.
    pub(crate) fn barren_left(&self, event_budget: usize) -> usize {
        self.events_left(event_budget).div_ceil(Self::BARREN)
    }

    /// So many frames were taken, and no event came of them.
    pub(crate) fn passed_over(&mut self, frames: usize) {
        self.passed_over += frames * Self::BARREN;
    }

    /// The free end of the block, as far as it is for messages of any size.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.block.is_empty() {
            self.block = vec![0; Self::BLOCK + Self::OVERHANG];
        }
        &mut self.block[self.filled..Self::BLOCK.max(self.filled)]
    }

    /// Where the free end of the block begins.
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    /// Takes the block of `other` instead of its own, if nothing is in either: that one was used last, and is
    /// still in the cache.
    pub(crate) fn swap_block(&mut self, other: &mut TickData) {
        if self.filled == 0 && other.filled == 0 {
            std::mem::swap(&mut self.block, &mut other.block);
        }
    }

    /// Lends the whole block out, so that events can be noted while it is written to, and where its free end
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
        self.records.push(Record::Message { client, kind, source: Source::Block { start, len } });
    }

    /// A text at `range` of the bytes that `copy_texts` will be given next.
    #[inline]
    pub(crate) fn text(&mut self, client: ClientId, range: Range<usize>) {
        let (start, len) = ((self.texts.len() + range.start) as u32, range.len() as u32);
        self.records.push(Record::Message { client, kind: Kind::Text, source: Source::Text { start, len } });
    }

    /// Copies the bytes in which lie the texts that were noted since `records` of them were there, and nothing else
    /// that is not ASCII. `false`: one is not UTF-8, and neither it nor what follows is noted any more.
    pub(crate) fn copy_texts(&mut self, bytes: &[u8], records: usize) -> bool {
        if let Some(texts) = utf8::as_str(bytes) {
            self.texts.push_str(texts);
            return true;
        }
        let (base, mut good, mut end) = (self.texts.len(), 0, 0);
        for record in &self.records[records..] {
            let Record::Message { source: Source::Text { start, len }, .. } = *record else { break };
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
        let index = self.assembled.len() as u32 - 1;
        self.records.push(Record::Message {
            client,
            kind: message.kind,
            source: Source::Assembled { index },
        });
    }

    /// A message that nobody wants: what came of it was work all the same.
    pub(crate) fn discard(&mut self, message: Assembled, pool: &mut BufferPool) {
        (self.held, self.passed_over) = (self.held + message.len, self.passed_over + 1);
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

    pub(crate) fn timer(&mut self, timer: TimerId) {
        self.records.push(Record::Timer { timer });
    }

    pub(crate) fn upgrade(&mut self, upgrade: UpgradeId, request: Arc<Request>, remote: SocketAddr) {
        let asked = self.ask(request, Vec::new(), remote);
        self.records.push(Record::Upgrade { upgrade, asked });
    }

    pub(crate) fn upgrade_gone(&mut self, upgrade: UpgradeId) {
        self.records.push(Record::UpgradeGone { upgrade });
    }

    pub(crate) fn http(&mut self, id: RequestId, request: Arc<Request>, body: Vec<u8>, remote: SocketAddr) {
        self.held += body.len();
        let asked = self.ask(request, body, remote);
        self.records.push(Record::Http { request: id, asked });
    }

    fn ask(&mut self, request: Arc<Request>, body: Vec<u8>, remote: SocketAddr) -> u32 {
        self.asked.push(Asked { request, body, remote });
        self.asked.len() as u32 - 1
    }

    /// The message of a record. Inlined for the reason for which `Events::next` is.
    #[inline(always)]
    #[allow(clippy::expect_used, reason = "text becomes an event only after it was checked")]
    pub(crate) fn message(&self, kind: Kind, source: Source) -> Message<'_> {
        let payload = match source {
            Source::Text { start, len } => {
                return Message::Text(&self.texts[start as usize..][..len as usize]);
            }
            Source::Block { start, len } => &self.block[start as usize..][..len as usize],
            Source::Assembled { index } => {
                let (buffer, len) = &self.assembled[index as usize];
                &buffer[..*len]
            }
        };
        match kind {
            Kind::Binary => Message::Binary(payload),
            // Checked when it arrived. Without unsafe code a `&str` costs a second look.
            Kind::Text => Message::Text(utf8::as_str(payload).expect("text is validated on arrival")),
        }
    }

    /// The request of an `Open` record.
    #[inline]
    pub(crate) fn request(&self, index: u32) -> &Request {
        &self.requests[index as usize]
    }

    /// The request of an `Upgrade` or `Http` record.
    #[inline]
    pub(crate) fn asked(&self, index: u32) -> HttpRequest<'_> {
        let Asked { request, body, remote } = &self.asked[index as usize];
        HttpRequest::new(request, body, *remote)
    }

    /// The reason of a `Close` record.
    #[inline]
    pub(crate) fn reason(&self, index: u32) -> &CloseReason {
        &self.reasons[index as usize]
    }

    /// Of a `Reconnecting` or `ConnectFailed` record.
    #[inline]
    pub(crate) fn failure(&self, index: u32) -> &Failure {
        &self.failures[index as usize]
    }

    /// Forgets the events. Buffers stay for reuse, large ones only if they are few.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.texts.clear();
        self.requests.clear();
        self.asked.clear();
        self.reasons.clear();
        self.failures.clear();
        (self.uncharged, self.excess, self.passed_over) = (0, 0, 0);
        (self.filled, self.input, self.held) = (0, 0, 0);
        let mut kept = 0;
        self.assembled.retain(|(buffer, _)| {
            kept += buffer.capacity();
            kept <= Self::KEPT
        });
    }

    /// Bytes held for reuse besides the block.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn spare(&self) -> usize {
        self.assembled.iter().map(|(buffer, _)| buffer.capacity()).sum()
    }

    /// Gives the buffers of messages that came in pieces to those that will need them.
    pub(crate) fn recycle(&mut self, pool: &mut BufferPool) {
        for (buffer, _) in self.assembled.drain(..) {
            pool.give(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_on_top_of_the_budget_are_not_charged_and_others_leave_room() {
        for (event_budget, left) in [(1, 1), (2, 2), (4, 2), (10, 7)] {
            let mut tick = TickData::default();
            (0..5).for_each(|index| tick.drained(ClientId::new(index, 1)));
            (0..3).for_each(|index| tick.timer(TimerId::new(index, 1)));
            tick.leave_room(event_budget, 2);
            assert_eq!(tick.events_left(event_budget), left, "of {event_budget}");
            tick.timer(TimerId::new(3, 1));
            tick.close(ClientId::new(5, 1), CloseReason::Eof);
            tick.leave_room(event_budget, 0);
            assert_eq!(tick.events_left(event_budget), left - 1, "the timer's event is charged");
            tick.close(ClientId::new(6, 1), CloseReason::Eof);
            assert_eq!(tick.events_left(event_budget), left.saturating_sub(2), "an end found by reading");
        }
    }

    #[test]
    fn texts_before_the_one_that_is_not_utf8_are_kept_and_none_behind_it() {
        const TEXTS: [&[u8]; 4] = ["größer".as_bytes(), b"", "€".as_bytes(), b"end"];
        for bad in 0..=TEXTS.len() {
            let (mut tick, client) = (TickData::default(), ClientId::new(3, 4));
            for (round, bad) in [TEXTS.len(), bad].into_iter().enumerate() {
                let (mut bytes, before) = (Vec::new(), tick.records().len());
                for (index, text) in TEXTS.into_iter().enumerate() {
                    bytes.extend([0; 6]);
                    let start = bytes.len();
                    bytes.extend(text);
                    if index == bad {
                        // The rest would be in the next message.
                        bytes.push(0xe2);
                    }
                    tick.text(client, start..bytes.len());
                }
                assert_eq!(tick.copy_texts(&bytes, before), bad == TEXTS.len());
                assert_eq!(tick.records().len(), round * TEXTS.len() + bad);
            }
            for (record, text) in tick.records().iter().zip(TEXTS.into_iter().cycle()) {
                let Record::Message { client: who, kind, source } = *record else { panic!("{record:?}") };
                assert_eq!((who, kind, tick.message(kind, source).as_bytes()), (client, Kind::Text, text));
            }
        }
    }
}
