//! Direct writes: a large frame is written from where it is, without being queued.

use std::io::{ErrorKind, IoSlice, Write};

use super::{Outbox, OutboxPool};
use crate::util::rearm::Rearm;

impl Outbox {
    /// Whether a direct write is possible: nothing is queued, blocked or failed.
    pub(crate) fn is_free(&self) -> bool {
        !self.has_work() && !self.blocked && self.failed.is_none()
    }

    /// Writes one whole frame without copying it, and queues the part that the stream does not
    /// take. Returns the number of bytes written. An error is kept for the next `write_to`. The
    /// outbox must be free.
    pub(crate) fn write_direct(
        &mut self,
        header: &[u8],
        payload: &[u8],
        stream: &mut impl Write,
        rearm: Rearm,
        pool: &mut OutboxPool,
    ) -> usize {
        debug_assert!(self.is_free());
        let len = header.len() + payload.len();
        let mut left = 0;
        while left < len && !self.blocked && self.failed.is_none() {
            let slices = rest(header, payload, left).map(IoSlice::new);
            match stream.write_vectored(&slices) {
                Ok(0) => self.failed = Some(ErrorKind::WriteZero),
                Ok(count) => {
                    // Do not trust a stream that reports more than it was given.
                    left += count.min(len - left);
                    self.blocked = rearm.follows(left, len);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.failed = Some(error.kind()),
            }
        }
        if left == len && self.failed.is_none() {
            match stream.flush() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
                Err(error) => self.failed = Some(error.kind()),
            }
        }
        if left < len {
            let tail = self.tail(pool);
            rest(header, payload, left).iter().for_each(|part| tail.extend_from_slice(part));
            // After the first byte of a frame, no other frame may be written before its last.
            self.boundary = if left > 0 { len - left } else { 0 };
            self.pushed(len - left, pool);
        }
        left
    }
}

/// The unsent parts of both after `left` bytes were written.
fn rest<'a>(header: &'a [u8], payload: &'a [u8], left: usize) -> [&'a [u8]; 2] {
    let begun = left.min(header.len());
    [&header[begun..], &payload[left - begun..]]
}
