//! The write buffer against a naive model of it, and against kernels of every temper.

use super::*;
use crate::test_rng::Rng;

/// A frame of the server side with a number in its payload.
fn numbered(first: u8, number: u32, len: usize) -> Vec<u8> {
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

/// The frames in `bytes`, which must be whole: opcode, number, length.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, usize)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (head, len) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => (10, u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize),
            len => (2, usize::from(len)),
        };
        let payload = &bytes[head..head + len];
        let number = u32::from_be_bytes(payload[..4].try_into().unwrap());
        assert!(payload[4..] == vec![number as u8; len - 4], "frame {number} is damaged");
        frames.push((bytes[0], number, head + len));
        bytes = &bytes[head + len..];
    }
    frames
}

const DATA: u8 = 0x82;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// What an outbox holds, without any thought of speed.
#[derive(Default)]
struct Model {
    /// Whole frames in their order; of the first, `begun` bytes are gone.
    queue: VecDeque<Vec<u8>>,
    begun: usize,
    /// The first is raw HTTP: no frame may come before it either.
    raw: bool,
    /// Control frames that leave at the next frame boundary; of them, too, the beginning is cut off.
    leaving: Vec<u8>,
    leaving_begun: bool,
    pong: Vec<u8>,
    ping: Vec<u8>,
}

impl Model {
    fn admit(&mut self) {
        if !self.leaving_begun {
            self.leaving.append(&mut self.pong);
            self.leaving.append(&mut self.ping);
        }
    }

    /// Everything that is to leave, in its order.
    fn stream(&self) -> Vec<u8> {
        let Some(first) = self.queue.front() else { return self.leaving.clone() };
        let mut stream = Vec::with_capacity(self.len());
        let goes_on = self.goes_on();
        if goes_on {
            stream.extend_from_slice(&first[self.begun..]);
        }
        stream.extend_from_slice(&self.leaving);
        let others = self.queue.iter().skip(usize::from(goes_on));
        others.for_each(|frame| stream.extend_from_slice(frame));
        stream
    }

    fn take(&mut self, mut count: usize) {
        while count > 0 {
            if !self.goes_on() && !self.leaving.is_empty() {
                let taken = count.min(self.leaving.len());
                self.leaving.drain(..taken);
                self.leaving_begun = !self.leaving.is_empty();
                count -= taken;
                continue;
            }
            let rest = self.queue[0].len() - self.begun;
            let taken = count.min(rest);
            count -= taken;
            self.begun += taken;
            if taken == rest {
                self.queue.pop_front();
                (self.begun, self.raw) = (0, false);
            }
        }
    }

    /// Whether nothing may come before the rest of the first piece.
    fn goes_on(&self) -> bool {
        self.begun > 0 || self.raw
    }

    fn len(&self) -> usize {
        self.queue.iter().map(Vec::len).sum::<usize>() - self.begun + self.leaving.len()
    }

    fn is_idle(&self) -> bool {
        self.len() == 0 && self.pong.is_empty() && self.ping.is_empty()
    }
}

/// A kernel that checks everything it is offered against the model and takes what it likes.
struct Kernel<'a> {
    model: &'a mut Model,
    rng: &'a mut Rng,
    taken: &'a mut Vec<u8>,
    /// Takes all; otherwise any part, nothing, or fails with a signal.
    willing: bool,
    /// Did not take everything it was offered.
    full: bool,
}

impl Write for Kernel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(!self.full, "offered again after it had refused");
        assert!(!slices.is_empty() && slices.len() <= SLICES);
        assert!(slices.iter().all(|slice| !slice.is_empty()));
        self.model.admit();
        let offered = slices.iter().map(|slice| &slice[..]).collect::<Vec<_>>().concat();
        assert!(self.model.stream().starts_with(&offered), "offered something else");
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
        self.full = count < offered.len() && SHORT_WRITE_MEANS_FULL;
        self.taken.extend_from_slice(&offered[..count]);
        self.model.take(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        unreachable!("a socket has nothing to flush")
    }
}

/// An outbox and its model, doing the same.
struct Pair {
    outbox: Outbox,
    pool: OutboxPool,
    model: Model,
    rng: Rng,
    taken: Vec<u8>,
    number: u32,
}

impl Pair {
    const POOLED: usize = 256 * 1024;

    fn new(seed: u64) -> Self {
        Pair {
            outbox: Outbox::default(),
            pool: OutboxPool::new(Self::POOLED),
            model: Model::default(),
            rng: Rng::new(seed),
            taken: Vec::new(),
            number: 0,
        }
    }

    fn number(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    fn push_small(&mut self, len: usize) {
        let bytes = numbered(DATA, self.number(), len);
        self.outbox.tail(&mut self.pool).extend_from_slice(&bytes);
        self.outbox.pushed(bytes.len(), &mut self.pool);
        self.model.queue.push_back(bytes);
    }

    fn push_shared(&mut self, len: usize) {
        let bytes = numbered(DATA, self.number(), len);
        let (_, header) = frame::Header::parse(&bytes).unwrap().unwrap();
        let shared = Prepared::new(&bytes[header..]);
        assert_eq!(shared.frame(), bytes);
        self.outbox.push_shared(&shared, &mut self.pool);
        self.model.queue.push_back(bytes);
    }

    fn push_control(&mut self, kind: Control, len: usize, must_wait: bool) {
        let first = if kind == Control::Ping { PING } else { PONG };
        let bytes = numbered(first, self.number(), len);
        self.outbox.push_control(kind, &bytes, must_wait, &mut self.pool);
        match kind {
            _ if !self.outbox.is_blocked() && !must_wait => self.model.queue.push_back(bytes),
            Control::Ping => self.model.ping = bytes,
            Control::Pong => self.model.pong = bytes,
        }
    }

    fn write(&mut self, willing: bool) {
        let before = self.taken.len();
        let Pair { outbox, pool, model, rng, taken, .. } = self;
        outbox.unblock();
        let mut kernel = Kernel { model, rng, taken, willing, full: false };
        let written = outbox.write_to(&mut kernel, pool).unwrap();
        let full = kernel.full;
        let count = self.taken.len() - before;
        if full {
            assert_eq!(written, Written::Blocked(count));
            assert!(self.outbox.is_blocked());
        } else {
            assert_eq!(written, Written::All(count));
            assert!(!self.outbox.is_blocked());
            assert!(self.model.is_idle());
            self.holds_no_memory();
        }
    }

    fn check(&self) {
        assert_eq!(self.outbox.len(), self.model.len());
        assert_eq!(self.outbox.is_empty(), self.model.len() == 0);
        assert!(self.outbox.has_work() || self.model.is_idle());
    }

    fn holds_no_memory(&self) {
        let Outbox { queue, tail, written, boundary, len, urgent, .. } = &self.outbox;
        assert_eq!((queue.capacity(), tail.capacity()), (0, 0));
        assert_eq!((*written, *boundary, *len), (0, 0, 0));
        assert!(urgent.is_none() && !self.outbox.has_work());
    }

    /// The bytes that the pool keeps; they are lost.
    fn pooled(&mut self) -> usize {
        assert!(self.pool.queues.len() <= OutboxPool::MAX_QUEUES);
        assert!(self.pool.queues.iter().all(|queue| queue.is_empty()));
        let spares = std::iter::repeat_with(|| self.pool.tails.take(usize::MAX).capacity());
        spares.take_while(|capacity| *capacity > 0).sum()
    }
}

/// Names the seed when anything panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}", self.0);
        }
    }
}

#[test]
fn random_pushes_and_writes_do_what_the_model_does() {
    for seed in 0..3000 {
        let _seed = Seed(seed);
        let mut pair = Pair::new(seed);
        let raw = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".repeat(1 + pair.rng.below(3));
        let with_raw = pair.rng.one_in(2);
        if with_raw {
            pair.outbox.push_raw(&raw, &mut pair.pool);
            pair.model.queue.push_back(raw.clone());
            pair.model.raw = true;
        }
        // Some seeds fill faster than they drain.
        let drain = pair.rng.pick(&[2, 5, 20]);
        let mut controls = Vec::new();
        for _ in 0..150 {
            match pair.rng.below(10 + drain) {
                0..4 => {
                    let max = pair.rng.pick(&[10, 130, 700, 700, 40_000]);
                    let len = pair.rng.below(max);
                    pair.push_small(len);
                }
                4..7 => {
                    let len = 1024 + pair.rng.below(3000);
                    pair.push_shared(len);
                }
                7..10 => {
                    let kind = pair.rng.pick(&[Control::Ping, Control::Pong]);
                    let (len, must_wait) = (pair.rng.below(126), pair.rng.one_in(4));
                    pair.push_control(kind, len, must_wait);
                    controls.push(pair.number);
                }
                10 => {
                    pair.outbox.unblock();
                }
                _ => pair.write(false),
            }
            pair.check();
        }
        while pair.outbox.has_work() {
            pair.write(false);
            pair.check();
        }
        // The model aside: the stream is what was said, whole frames, each piece of data once.
        let start = if with_raw { raw.len() } else { 0 };
        assert_eq!(pair.taken[..start], raw[..start]);
        let frames = frames(&pair.taken[start..]);
        let numbers = |opcode: u8| frames.iter().filter(move |frame| frame.0 == opcode).map(|frame| frame.1);
        let data: Vec<u32> = (1..=pair.number).filter(|number| !controls.contains(number)).collect();
        assert!(numbers(DATA).eq(data));
        for opcode in [PING, PONG] {
            let mut seen: Vec<u32> = numbers(opcode).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), numbers(opcode).count(), "a control frame left twice");
        }
        assert!(pair.pooled() <= Pair::POOLED);
    }
}

#[test]
fn more_slices_than_a_write_takes() {
    for willing in [true, false] {
        let mut pair = Pair::new(7);
        for i in 0..400 {
            if i % 7 == 0 {
                pair.push_small(20);
            }
            pair.push_shared(1024);
        }
        while pair.outbox.has_work() {
            pair.write(willing);
            pair.check();
        }
        assert_eq!(frames(&pair.taken).len(), 400 + 400_usize.div_ceil(7));
    }
}

#[test]
fn a_long_tail_is_split_and_freed_piece_by_piece() {
    let mut pair = Pair::new(3);
    for _ in 0..2000 {
        pair.push_small(300);
    }
    assert!(pair.outbox.queue.len() >= 8, "{} chunks", pair.outbox.queue.len());
    assert!(pair.outbox.queue.iter().all(|chunk| chunk.bytes().len() < TAIL_MAX + 400));
    let chunks = pair.outbox.queue.len();
    while pair.outbox.len() > 300_000 {
        pair.write(false);
        pair.check();
    }
    assert!(pair.outbox.queue.len() < chunks);
    while pair.outbox.has_work() {
        pair.write(false);
    }
    assert!(pair.pooled() <= Pair::POOLED);
}

#[test]
fn large_frames_in_one_piece() {
    let mut pair = Pair::new(4);
    pair.push_small(3 << 20);
    pair.push_control(Control::Pong, 4, false);
    pair.push_shared(2 << 20);
    pair.push_small(70_000);
    pair.push_small(1);
    while pair.outbox.has_work() {
        pair.write(false);
        if pair.outbox.is_blocked() {
            pair.push_control(Control::Pong, 9, false);
        }
        // What waits must leave now and then, or this would not end.
        pair.write(pair.taken.len() > 5 << 20);
        pair.check();
    }
    let lens: Vec<usize> =
        frames(&pair.taken).iter().filter(|frame| frame.0 == DATA).map(|frame| frame.2).collect();
    assert_eq!(lens, [10 + (3 << 20), 10 + (2 << 20), 10 + 70_000, 2 + 4]);
    // A buffer above the pool's cap is not kept.
    assert!(pair.pooled() <= Pair::POOLED);
}

#[test]
fn control_frames_pass_at_every_boundary_and_nowhere_else() {
    let lens = [5, 200, 4];
    let total: usize = lens.iter().map(|len| numbered(DATA, 0, *len).len()).sum();
    for stop in 1..total {
        let mut pair = Pair::new(stop as u64);
        lens.iter().for_each(|len| pair.push_small(*len));
        take_exactly(&mut pair, stop);
        // Ten pongs and a ping: the newest pong and the ping leave, before the data.
        (0..10).for_each(|_| pair.push_control(Control::Pong, 4, false));
        pair.push_control(Control::Ping, 4, false);
        pair.write(true);
        let frames = frames(&pair.taken);
        let at = frames.iter().position(|frame| frame.0 == PONG).unwrap();
        let before: usize = frames[..at].iter().map(|frame| frame.2).sum();
        assert!(before >= stop && before - frames[at - 1].2 < stop, "stopped at {stop}");
        assert_eq!((frames[at].1, frames[at + 1].0, frames.len()), (13, PING, 5));
    }
}

/// Takes exactly so many bytes.
struct Exactly<'a> {
    model: &'a mut Model,
    taken: &'a mut Vec<u8>,
    left: usize,
}

impl Write for Exactly<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.model.admit();
        let offered = slices.iter().map(|slice| &slice[..]).collect::<Vec<_>>().concat();
        let count = offered.len().min(self.left);
        self.left -= count;
        self.taken.extend_from_slice(&offered[..count]);
        self.model.take(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lets `count` bytes leave, then blocks.
fn take_exactly(pair: &mut Pair, count: usize) {
    let Pair { outbox, pool, model, taken, .. } = pair;
    outbox.unblock();
    let written = outbox.write_to(&mut Exactly { model, taken, left: count }, pool).unwrap();
    assert_eq!(written, Written::Blocked(count));
}

#[test]
fn sealed_control_frames_leave_before_the_last_frame() {
    let mut pair = Pair::new(0);
    pair.push_small(10);
    take_exactly(&mut pair, 3);
    pair.push_control(Control::Pong, 20, false);
    // Into the middle of the pong, so that the next one has to wait for its end.
    take_exactly(&mut pair, 9 + 4);
    pair.push_control(Control::Pong, 4, false);
    pair.push_control(Control::Ping, 4, false);
    pair.outbox.seal();
    let Model { leaving, pong, ping, .. } = &mut pair.model;
    leaving.append(pong);
    leaving.append(ping);
    pair.check();
    pair.push_small(5);
    pair.write(true);
    let order: Vec<(u8, u32)> = frames(&pair.taken).iter().map(|frame| (frame.0, frame.1)).collect();
    assert_eq!(order, [(DATA, 1), (PONG, 2), (PONG, 3), (PING, 4), (DATA, 5)]);
    // With nothing waiting it does nothing.
    pair.outbox.seal();
    pair.holds_no_memory();
}

/// Answers every write with the same.
struct Always(fn(usize) -> io::Result<usize>);

impl Write for Always {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (self.0)(slices.iter().map(|slice| slice.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_that_claims_too_much_is_not_believed() {
    for shared in [false, true] {
        let mut pair = Pair::new(0);
        pair.push_small(100);
        if shared {
            // More than one write can take.
            (0..100).for_each(|_| pair.push_shared(2000));
        }
        let len = pair.outbox.len();
        for claim in [|len| Ok(len + 1), |_| Ok(usize::MAX)] {
            let written = pair.outbox.write_to(&mut Always(claim), &mut pair.pool).unwrap();
            assert!(written == Written::All(len) || written == Written::All(0));
            pair.holds_no_memory();
        }
    }
}

#[test]
fn errors_are_handed_on_and_nothing_is_lost() {
    let mut pair = Pair::new(0);
    pair.push_small(100);
    let len = pair.outbox.len();
    let zero = pair.outbox.write_to(&mut Always(|_| Ok(0)), &mut pair.pool).unwrap_err();
    assert_eq!(zero.kind(), io::ErrorKind::WriteZero);
    let broken = Always(|_| Err(io::ErrorKind::BrokenPipe.into()));
    let broken = pair.outbox.write_to(&mut { broken }, &mut pair.pool).unwrap_err();
    assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(pair.outbox.len(), len);
    pair.write(true);
    assert_eq!(frames(&pair.taken).len(), 1);
}

#[test]
fn an_empty_outbox_is_not_blocked() {
    let mut pair = Pair::new(0);
    pair.push_small(100);
    take_exactly(&mut pair, 50);
    assert!(pair.outbox.is_blocked());
    // Tried again although no event came, and it worked: control frames need not wait any more.
    let written = pair.outbox.write_to(&mut Always(Ok), &mut pair.pool).unwrap();
    assert_eq!(written, Written::All(52));
    assert!(!pair.outbox.is_blocked());
}

#[test]
fn clear_gives_everything_back() {
    for seed in 0..50 {
        let mut pair = Pair::new(seed);
        for _ in 0..pair.rng.below(60) {
            match pair.rng.below(4) {
                0 => pair.push_small(500),
                1 => pair.push_shared(1500),
                2 => pair.push_control(Control::Pong, 5, false),
                _ => pair.write(false),
            }
        }
        pair.outbox.clear(&mut pair.pool);
        pair.holds_no_memory();
        assert!(pair.pooled() <= Pair::POOLED);
    }
}

#[test]
fn filling_and_draining_reuses_the_same_buffers() {
    let mut pair = Pair::new(0);
    let mut held = Vec::new();
    for _ in 0..10 {
        pair.push_small(900);
        pair.push_shared(2000);
        pair.push_small(900);
        held.push((pair.outbox.tail.as_ptr(), pair.outbox.queue.capacity()));
        pair.write(true);
    }
    // Two tails and one queue take turns.
    held.sort_unstable();
    held.dedup();
    assert!(held.len() <= 2, "{held:?}");
    assert_eq!(pair.pool.queues.len(), 1);
}
