//! The outbox against a naive model, with streams that take all, some or nothing.

mod model;

use model::{DATA, HIGH, Model, PING, PONG, Pair, Seed, frames, numbered};

use super::*;
use crate::util::test_rng::Rng;

#[test]
fn random_pushes_and_writes_match_the_model() {
    for seed in 0..3000 {
        let _seed = Seed(seed);
        play(Pair::new(seed));
    }
}

/// The fuzz target that runs the same steps.
pub(crate) fn target(data: &[u8]) {
    play(Pair::with(Rng::from_bytes(data)));
}

fn play(mut pair: Pair) {
    let raw = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".repeat(1 + pair.rng.below(3));
    let with_raw = pair.rng.one_in(2);
    if with_raw {
        pair.outbox.push_raw(&raw, &mut pair.pool);
        pair.model.queue.push_back(raw.clone());
        (pair.model.raw, pair.model.http) = (true, true);
    }
    // Some seeds fill faster than they drain.
    let drain = pair.rng.pick(&[2, 5, 20]);
    let (mut pushed, mut dropped) = (Vec::new(), Vec::new());
    for _ in 0..150 {
        if pair.rng.is_spent() {
            break;
        }
        let number = pair.number + 1;
        match pair.rng.below(14 + drain) {
            0..4 => {
                let max = pair.rng.pick(&[10, 130, 700, 700, 40_000]);
                let len = pair.rng.below(max);
                pair.push_small(len);
                pushed.push((DATA, number));
            }
            4..7 => {
                let len = Prepared::SHARE_FROM + pair.rng.below(3000);
                pair.push_shared(len);
                pushed.push((DATA, number));
            }
            7..10 => {
                let kind = pair.rng.pick(&[Control::Ping, Control::Pong]);
                let (len, must_wait) = (pair.rng.below(126), pair.rng.one_in(4));
                pair.push_control(kind, len, must_wait);
            }
            10 => {
                pair.outbox.unblock();
            }
            // Sometimes also without `takes_ahead`, as a closing connection does.
            11..13 if pair.outbox.takes_ahead() || pair.rng.one_in(9) => {
                let max = pair.rng.pick(&[10, 700, 3000, 9000]);
                let len = pair.rng.below(max);
                pair.push_ahead(len);
                pushed.push((HIGH, number));
            }
            13 if pair.rng.one_in(8) => dropped.extend(pair.cut()),
            13 if pair.rng.one_in(8) => pair.seal(),
            _ => {
                let ahead_only = pair.rng.one_in(4);
                pair.write_some(false, ahead_only);
            }
        }
        pair.check();
    }
    while pair.outbox.has_work() {
        pair.write(false);
        pair.check();
    }
    // Frees the space that `cut` reserved for a close frame.
    pair.write(true);
    // Independently of the model: the stream has whole frames, in order, each data frame once.
    let http = raw.iter().zip(&pair.taken).take_while(|(a, b)| a == b).count();
    assert_eq!(http, if with_raw { raw.len() } else { 0 });
    let frames = frames(&pair.taken[http..]);
    for lane in [DATA, HIGH] {
        let left = frames.iter().filter(|frame| frame.0 == lane).map(|frame| (frame.0, frame.1));
        let expected = pushed.iter().filter(|frame| frame.0 == lane && !dropped.contains(frame));
        assert!(left.eq(expected.copied()));
    }
    for opcode in [PING, PONG] {
        let mut seen: Vec<u32> =
            frames.iter().filter(|frame| frame.0 == opcode).map(|frame| frame.1).collect();
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count, "a control frame was written twice");
    }
    pair.holds_no_memory();
    assert!(pair.pooled() <= Pair::POOLED);
}

#[test]
fn more_slices_than_one_write_takes_are_all_written() {
    for willing in [true, false] {
        let mut pair = Pair::new(7);
        for i in 0..400 {
            if i % 7 == 0 {
                pair.push_small(20);
            }
            pair.push_shared(Prepared::SHARE_FROM);
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
fn large_frames_are_not_split() {
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
        // A willing write now and then, so that the loop ends.
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
fn control_frames_go_out_at_frame_boundaries_only() {
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

/// Takes exactly `left` bytes, then blocks.
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
        self.model.admit();
        if self.left == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
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

/// Writes `count` bytes, then blocks.
fn take_exactly(pair: &mut Pair, count: usize) {
    let Pair { outbox, pool, model, taken, rearm, .. } = pair;
    outbox.unblock();
    let mut kernel = Exactly { model, taken, left: count };
    let written = outbox.write_to(&mut kernel, false, usize::MAX, *rearm, pool).unwrap();
    assert_eq!(written, Written::Blocked(count));
}

#[test]
fn sealed_control_frames_leave_before_the_last_frame() {
    let mut pair = Pair::new(0);
    pair.push_small(10);
    take_exactly(&mut pair, 3);
    pair.push_control(Control::Pong, 20, false);
    // Up to the middle of the pong, so that the next one has to wait for its end.
    take_exactly(&mut pair, 9 + 4);
    pair.push_control(Control::Pong, 4, false);
    pair.push_control(Control::Ping, 4, false);
    pair.outbox.seal(&mut pair.pool);
    pair.model.seal();
    pair.check();
    pair.push_small(5);
    pair.write(true);
    let order: Vec<(u8, u32)> = frames(&pair.taken).iter().map(|frame| (frame.0, frame.1)).collect();
    assert_eq!(order, [(DATA, 1), (PONG, 2), (PONG, 3), (PING, 4), (DATA, 5)]);
    // Without waiting control frames it does nothing.
    pair.outbox.seal(&mut pair.pool);
    pair.holds_no_memory();
}

/// Returns the same result for every write.
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
fn a_stream_that_reports_too_much_is_harmless() {
    for shared in [false, true] {
        let mut pair = Pair::new(0);
        pair.push_small(100);
        if shared {
            // More slices than one write can take.
            (0..100).for_each(|_| pair.push_shared(2000));
        }
        let len = pair.outbox.len();
        for claim in [|len| Ok(len + 1), |_| Ok(usize::MAX)] {
            let written = pair
                .outbox
                .write_to(&mut Always(claim), false, usize::MAX, pair.rearm, &mut pair.pool)
                .unwrap();
            assert!(written == Written::All(len) || written == Written::All(0));
            pair.holds_no_memory();
        }
    }
}

#[test]
fn write_errors_are_returned_and_lose_no_bytes() {
    let mut pair = Pair::new(0);
    pair.push_small(100);
    let len = pair.outbox.len();
    let zero = pair
        .outbox
        .write_to(&mut Always(|_| Ok(0)), false, usize::MAX, pair.rearm, &mut pair.pool)
        .unwrap_err();
    assert_eq!(zero.kind(), io::ErrorKind::WriteZero);
    let broken = Always(|_| Err(io::ErrorKind::BrokenPipe.into()));
    let broken =
        pair.outbox.write_to(&mut { broken }, false, usize::MAX, pair.rearm, &mut pair.pool).unwrap_err();
    assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(pair.outbox.len(), len);
    pair.write(true);
    assert_eq!(frames(&pair.taken).len(), 1);
}

#[test]
fn an_emptied_outbox_is_not_blocked() {
    let mut pair = Pair::new(0);
    pair.push_small(100);
    take_exactly(&mut pair, 50);
    assert!(pair.outbox.is_blocked());
    // A retry without a writable event succeeds, so control frames need not wait any more.
    let written =
        pair.outbox.write_to(&mut Always(Ok), false, usize::MAX, pair.rearm, &mut pair.pool).unwrap();
    assert_eq!(written, Written::All(52));
    assert!(!pair.outbox.is_blocked());
}

#[test]
fn clear_returns_all_memory() {
    for seed in 0..50 {
        let mut pair = Pair::new(seed);
        for _ in 0..pair.rng.below(60) {
            match pair.rng.below(5) {
                0 => pair.push_small(500),
                1 => pair.push_shared(1500),
                2 => pair.push_control(Control::Pong, 5, false),
                3 => pair.push_ahead(300),
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
    for round in 0..40 {
        pair.push_small(900);
        pair.push_shared(2000);
        pair.push_small(900);
        // By round 20 the buffers have reached their final size.
        if round >= 20 {
            held.push((pair.outbox.tail.as_ptr(), pair.outbox.queue.capacity()));
        }
        pair.write(true);
    }
    // Two tails and one queue take turns.
    held.sort_unstable();
    held.dedup();
    assert!(held.len() <= 2, "{held:?}");
    assert_eq!(pair.pool.queues.len(), 1);
}

#[test]
fn ahead_only_writes_no_data_behind_high_priority_frames() {
    let mut pair = Pair::new(0);
    pair.push_small(100);
    pair.push_shared(2000);
    take_exactly(&mut pair, 30);
    pair.push_ahead(20);
    pair.write_some(true, true);
    assert_eq!(pair.taken.len(), 102 + 22);
    assert!(!pair.outbox.is_blocked() && pair.outbox.has_work());
    // Without high-priority frames nothing is written.
    pair.write_some(true, true);
    pair.push_ahead(20);
    pair.push_control(Control::Pong, 4, true);
    pair.write(true);
    let order: Vec<(u8, u32)> = frames(&pair.taken).iter().map(|frame| (frame.0, frame.1)).collect();
    assert_eq!(order, [(DATA, 1), (HIGH, 3), (PONG, 5), (HIGH, 4), (DATA, 2)]);
}

#[test]
fn cut_keeps_only_the_rest_of_a_partly_written_frame() {
    let total = {
        let mut pair = Pair::new(0);
        cut_me(&mut pair);
        pair.outbox.len()
    };
    for stop in 0..total {
        let mut pair = Pair::new(0);
        cut_me(&mut pair);
        take_exactly(&mut pair, stop);
        pair.push_control(Control::Ping, 4, false);
        pair.cut();
        pair.check();
        let rest = pair.outbox.len();
        assert!(rest < 1100 && pair.outbox.is_blocked(), "{rest} bytes stay");
        // Later frames of either priority go behind the rest.
        pair.push_small(10);
        pair.push_ahead(10);
        pair.check();
        pair.write(true);
        let frames = frames(&pair.taken);
        assert!(pair.taken.len() >= stop + rest && frames.len() >= 2, "cut at {stop}");
        let order: Vec<u8> = frames.iter().rev().map(|frame| frame.0).take(2).collect();
        assert_eq!(order, [DATA, HIGH]);
    }
}

/// Two frames of high priority, then three of data.
fn cut_me(pair: &mut Pair) {
    pair.push_ahead(50);
    pair.push_ahead(300);
    pair.push_small(200);
    pair.push_shared(Prepared::SHARE_FROM);
    pair.push_small(7);
}

#[test]
fn a_newer_control_frame_replaces_a_waiting_one_while_blocked() {
    let mut pair = Pair::new(0);
    pair.push_small(100);
    take_exactly(&mut pair, 3);
    for _ in 0..1000 {
        pair.push_control(Control::Pong, 100, false);
        take_exactly(&mut pair, 0);
        pair.check();
    }
    assert!(pair.outbox.len() < 400, "{} bytes of pongs", pair.outbox.len());
    pair.write(true);
    let pongs: Vec<u32> =
        frames(&pair.taken).iter().filter(|frame| frame.0 == PONG).map(|frame| frame.1).collect();
    assert_eq!(pongs, [2, 1001]);
}

#[test]
fn frames_of_high_priority_reuse_the_same_memory() {
    let mut pair = Pair::new(0);
    let mut held = Vec::new();
    for _ in 0..10 {
        pair.push_small(100);
        pair.push_ahead(900);
        held.push(pair.outbox.priority_frames.as_ref().unwrap().leaving.as_ptr());
        pair.write(true);
    }
    held.dedup();
    assert_eq!((held.len(), pair.pool.spare_priority.len()), (1, 1));
    // A large buffer is not kept.
    pair.push_ahead(100_000);
    pair.write(true);
    assert_eq!(pair.pool.spare_priority.len(), 0);
}
