//! A naive model of an outbox, and a kernel that checks what it is offered.

use std::collections::VecDeque;

use super::*;
use crate::util::test_rng::Rng;

/// Builds a server's frame with a number in its payload.
pub(super) fn numbered(first: u8, number: u32, len: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(len.max(4), number as u8);
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(len as u8),
        len @ 126..65536 => {
            bytes.push(126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

/// Parses the frames in `bytes`, which must be whole, into opcode, number and length.
pub(super) fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, usize)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (head, len) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => (10, u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize),
            len => (2, usize::from(len)),
        };
        let payload = &bytes[head..head + len];
        let number = u32::from_be_bytes(payload[..4].try_into().unwrap());
        assert!(payload[4..] == vec![number as u8; len - 4], "frame {number} is corrupt");
        frames.push((bytes[0], number, head + len));
        bytes = &bytes[head + len..];
    }
    frames
}

pub(super) const DATA: u8 = 0x82;
pub(super) const PING: u8 = 0x89;
pub(super) const PONG: u8 = 0x8a;
/// Data of high priority.
pub(super) const HIGH: u8 = 0x81;

/// A naive model of an outbox.
#[derive(Default)]
pub(super) struct Model {
    /// Whole frames in order. `begun` bytes of the first were written.
    pub(super) queue: VecDeque<Vec<u8>>,
    begun: usize,
    /// The first entry is raw HTTP or the rest of a frame, so no frame may go before it.
    pub(super) raw: bool,
    /// The first entry is raw HTTP.
    pub(super) http: bool,
    /// Frames to write at the next frame boundary; `left` of their bytes were written. Control
    /// frames are first, or at the end.
    pub(super) leaving: Vec<Vec<u8>>,
    left: usize,
    pub(super) pong: Vec<u8>,
    pub(super) ping: Vec<u8>,
}

impl Model {
    pub(super) fn admit(&mut self) {
        let waits = self.leaving.first().is_some_and(|frame| is_control(frame));
        if self.left == 0 && !waits {
            self.admit_at(0);
        }
    }

    fn admit_at(&mut self, at: usize) {
        let frames = [&mut self.pong, &mut self.ping].map(std::mem::take);
        self.leaving.splice(at..at, frames.into_iter().filter(|frame| !frame.is_empty()));
    }

    pub(super) fn seal(&mut self) {
        let controls = self.leaving.iter().take_while(|frame| is_control(frame)).count();
        self.admit_at(if self.left == 0 { controls } else { self.leaving.len() });
    }

    pub(super) fn takes_ahead(&self) -> bool {
        let len = self.leaving.concat().len();
        len == 0 || (self.left == 0 && len < AHEAD_MAX)
    }

    /// Drops all frames that are not partly written, and returns their first bytes and numbers.
    pub(super) fn cut(&mut self) -> Vec<(u8, u32)> {
        let keep = usize::from(self.goes_on());
        let mut dropped: Vec<Vec<u8>> = self.queue.drain(keep..).collect();
        if let Some(first) = self.queue.front_mut() {
            first.drain(..self.begun);
        }
        let mut at = 0;
        for frame in self.leaving.drain(..) {
            let end = at + frame.len();
            if at < self.left && self.left < end {
                assert!(self.queue.is_empty(), "two frames are partly written");
                self.queue.push_back(frame[self.left - at..].to_vec());
            } else if at >= self.left {
                dropped.push(frame);
            }
            at = end;
        }
        dropped.extend([&mut self.pong, &mut self.ping].map(std::mem::take));
        dropped.retain(|frame| !frame.is_empty());
        (self.begun, self.left) = (0, 0);
        self.raw = !self.queue.is_empty();
        dropped.iter().map(|frame| frames(frame)[0]).map(|(first, number, _)| (first, number)).collect()
    }

    /// All bytes to write, in order. With `ahead_only`, no data but the rest of a partly written
    /// frame.
    fn stream(&self, ahead_only: bool) -> Vec<u8> {
        let ahead = self.leaving.concat().split_off(self.left);
        let Some(first) = self.queue.front() else { return ahead };
        let mut stream = Vec::with_capacity(self.len());
        let goes_on = self.goes_on();
        if goes_on {
            stream.extend_from_slice(&first[self.begun..]);
        }
        stream.extend_from_slice(&ahead);
        let others = self.queue.iter().skip(usize::from(goes_on));
        others.filter(|_| !ahead_only).for_each(|frame| stream.extend_from_slice(frame));
        stream
    }

    pub(super) fn take(&mut self, mut count: usize) {
        while count > 0 {
            if !self.goes_on() && !self.leaving.is_empty() {
                let len = self.leaving.concat().len();
                let taken = count.min(len - self.left);
                self.left += taken;
                count -= taken;
                if self.left == len {
                    self.leaving.clear();
                    self.left = 0;
                }
                continue;
            }
            let rest = self.queue[0].len() - self.begun;
            let taken = count.min(rest);
            count -= taken;
            self.begun += taken;
            if taken == rest {
                self.queue.pop_front();
                (self.begun, self.raw, self.http) = (0, false, false);
            }
        }
    }

    /// Whether the rest of the first entry must be written before anything else.
    fn goes_on(&self) -> bool {
        self.begun > 0 || self.raw
    }

    pub(super) fn len(&self) -> usize {
        let ahead = self.leaving.iter().map(Vec::len).sum::<usize>() - self.left;
        self.queue.iter().map(Vec::len).sum::<usize>() - self.begun + ahead
    }

    pub(super) fn frames_len(&self) -> usize {
        let http = self.queue.front().filter(|_| self.http).map_or(0, |http| http.len() - self.begun);
        self.len() - http
    }

    pub(super) fn is_idle(&self) -> bool {
        self.len() == 0 && self.pong.is_empty() && self.ping.is_empty()
    }
}

fn is_control(frame: &[u8]) -> bool {
    frame[0] & 0x08 != 0
}

/// A kernel that compares everything it is offered with the model and takes a random part.
struct Kernel<'a> {
    model: &'a mut Model,
    rng: &'a mut Rng,
    taken: &'a mut Vec<u8>,
    /// The outbox writes with `ahead_only`.
    ahead_only: bool,
    /// Takes everything. Otherwise it takes a part, blocks or is interrupted by a signal.
    willing: bool,
    /// The rest of the call's limit.
    left: usize,
    /// The last write was short or would block.
    full: bool,
    rearm: Rearm,
}

impl Write for Kernel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(!self.full, "written to again after it blocked");
        assert!(!slices.is_empty() && slices.len() <= SLICES);
        assert!(slices.iter().all(|slice| !slice.is_empty()));
        self.model.admit();
        let offered = slices.iter().map(|slice| &slice[..]).collect::<Vec<_>>().concat();
        let stream = self.model.stream(self.ahead_only);
        assert!(offered.len() <= self.left, "offered more than the limit");
        assert!(stream.starts_with(&offered), "offered other bytes than the model's");
        assert!(
            !self.ahead_only || stream.len() == offered.len() || offered.len() == self.left,
            "some high-priority bytes were not offered"
        );
        let count = match self.rng.below(if self.willing { 1 } else { 6 }) {
            0 => offered.len(),
            1 => return Err(io::ErrorKind::Interrupted.into()),
            2 => {
                self.full = true;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            3 => 1 + self.rng.below(offered.len().min(12)),
            _ => 1 + self.rng.below(offered.len()),
        };
        self.full = self.rearm.follows(count, offered.len());
        self.taken.extend_from_slice(&offered[..count]);
        self.model.take(count);
        self.left -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An outbox and its model.
pub(super) struct Pair {
    pub(super) outbox: Outbox,
    pub(super) pool: OutboxPool,
    pub(super) model: Model,
    pub(super) rng: Rng,
    pub(super) taken: Vec<u8>,
    pub(super) number: u32,
    pub(super) rearm: Rearm,
}

impl Pair {
    pub(super) const POOLED: usize = 256 * 1024;

    pub(super) fn new(seed: u64) -> Self {
        Self::with(Rng::new(seed))
    }

    pub(super) fn with(mut rng: Rng) -> Self {
        let rearm = rng.pick(&[Rearm::OnChange, Rearm::AfterWouldBlock]);
        Pair {
            rearm,
            outbox: Outbox::default(),
            pool: OutboxPool::new(Self::POOLED),
            model: Model::default(),
            rng,
            taken: Vec::new(),
            number: 0,
        }
    }

    pub(super) fn number(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    pub(super) fn push_small(&mut self, len: usize) {
        let bytes = numbered(DATA, self.number(), len);
        if self.number.is_multiple_of(2) {
            let (head, body) = bytes.split_at(2);
            let would = self.outbox.frames_len() + bytes.len();
            let write = |tail: &mut Vec<u8>| [head, body].map(|part| tail.extend_from_slice(part));
            let len = head.len() + body.len();
            assert!(!self.outbox.append(len, would - 1, &mut self.pool, |_| panic!("one byte too many")));
            assert!(self.outbox.append(len, would, &mut self.pool, |tail| _ = write(tail)));
        } else {
            self.outbox.push(&mut self.pool, |tail| tail.extend_from_slice(&bytes));
        }
        self.model.queue.push_back(bytes);
    }

    pub(super) fn push_shared(&mut self, len: usize) {
        let bytes = numbered(DATA, self.number(), len);
        let (_, header) = frame::Header::parse(&bytes).unwrap().unwrap();
        let shared = Prepared::new(&bytes[header..]);
        assert_eq!(shared.frame(), bytes);
        self.outbox.push_shared(&shared, &mut self.pool);
        self.model.queue.push_back(bytes);
    }

    pub(super) fn push_control(&mut self, kind: Control, len: usize, must_wait: bool) {
        let first = if kind == Control::Ping { PING } else { PONG };
        let bytes = numbered(first, self.number(), len);
        self.outbox.push_control(kind, &bytes, must_wait, &mut self.pool);
        match kind {
            _ if !self.outbox.is_blocked() && !must_wait => self.model.queue.push_back(bytes),
            Control::Ping => self.model.ping = bytes,
            Control::Pong => self.model.pong = bytes,
        }
    }

    /// Pushes one frame of high priority.
    pub(super) fn push_ahead(&mut self, len: usize) {
        let bytes = numbered(HIGH, self.number(), len);
        self.outbox.push_ahead(|out| out.extend_from_slice(&bytes), &mut self.pool);
        self.model.leaving.push(bytes);
    }

    pub(super) fn seal(&mut self) {
        self.outbox.seal(&mut self.pool);
        self.model.seal();
    }

    pub(super) fn cut(&mut self) -> Vec<(u8, u32)> {
        self.outbox.cut(&mut self.pool);
        self.model.cut()
    }

    pub(super) fn write(&mut self, willing: bool) {
        self.write_some(willing, false);
    }

    pub(super) fn write_some(&mut self, willing: bool, ahead_only: bool) {
        let before = self.taken.len();
        let Pair { outbox, pool, model, rng, taken, rearm, .. } = self;
        let rearm = *rearm;
        outbox.unblock();
        // Some calls have a limit.
        let max = if !willing && rng.one_in(4) { 1 + rng.below(200) } else { usize::MAX };
        let mut kernel = Kernel { model, rng, taken, ahead_only, willing, left: max, full: false, rearm };
        let written = outbox.write_to(&mut kernel, ahead_only, max, rearm, pool).unwrap();
        let full = kernel.full;
        let count = self.taken.len() - before;
        if full {
            assert_eq!(written, Written::Blocked(count));
            assert!(self.outbox.is_blocked());
        } else if let Written::Limited(limited) = written {
            assert_eq!((limited, count), (max, max));
            assert!(!self.outbox.is_blocked() && self.outbox.has_work());
        } else {
            assert_eq!(written, Written::All(count));
            assert!(!self.outbox.is_blocked());
            assert!(self.model.leaving.is_empty() && self.model.pong.is_empty());
            if !ahead_only || self.model.is_idle() {
                assert!(self.model.is_idle());
                self.holds_no_memory();
            }
        }
    }

    pub(super) fn check(&self) {
        assert_eq!(self.outbox.len(), self.model.len());
        assert_eq!(self.outbox.frames_len(), self.model.frames_len());
        assert_eq!(self.outbox.takes_ahead(), self.model.takes_ahead());
        assert_eq!(self.pool.held, self.memory());
        // The shared frames are in no other outbox, so each counts with its whole size.
        let shared = self.outbox.queue.iter().filter(|chunk| matches!(chunk, Chunk::Shared(_)));
        let shared: usize = shared.map(|chunk| chunk.bytes().len()).sum();
        assert_eq!(self.pool.held(), self.pool.held + shared);
        assert_eq!(self.outbox.len() == 0, self.model.len() == 0);
        assert!(self.outbox.has_work() || self.model.is_idle());
    }

    pub(super) fn holds_no_memory(&self) {
        let Outbox { queue, tail, written, boundary, len, priority_frames, .. } = &self.outbox;
        assert_eq!((queue.capacity(), tail.capacity()), (0, 0));
        assert_eq!((*written, *boundary, *len), (0, 0, 0));
        assert!(priority_frames.is_none() && !self.outbox.has_work());
        assert_eq!(self.pool.held(), 0);
    }

    /// The memory that the pool should have counted.
    fn memory(&self) -> usize {
        let chunk = |chunk: &Chunk| match chunk {
            Chunk::Owned(bytes) => size_of::<Chunk>() + bytes.capacity(),
            Chunk::Shared(_) => size_of::<Chunk>(),
        };
        let priority_frames = self.outbox.priority_frames.as_ref().map_or(0, |priority_frames| {
            let PriorityFrames { leaving, pong, ping, .. } = &**priority_frames;
            size_of::<PriorityFrames>() + leaving.capacity() + pong.capacity() + ping.capacity()
        });
        self.outbox.queue.iter().map(chunk).sum::<usize>() + self.outbox.tail.capacity() + priority_frames
    }

    /// Empties the pool and returns the bytes that it kept.
    pub(super) fn pooled(&mut self) -> usize {
        assert!(self.pool.queues.len() <= OutboxPool::MAX_QUEUES);
        assert!(self.pool.queues.iter().all(|queue| queue.is_empty()));
        let spares = std::iter::repeat_with(|| self.pool.tails.take(usize::MAX).capacity());
        spares.take_while(|capacity| *capacity > 0).sum()
    }
}

/// Prints the seed on a panic.
pub(super) struct Seed(pub(super) u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}", self.0);
        }
    }
}
