//! The lane beside the queue.

use crate::proto::frame;

/// Frames that pass the queued data: control frames while the client is blocked, and those of high priority.
#[derive(Debug, Default)]
pub(super) struct Urgent {
    /// Leaves at the next frame boundary: control frames, then others.
    pub(super) leaving: Vec<u8>,
    pub(super) left: usize,
    /// Bytes of control frames at the start of `leaving`.
    pub(super) control: usize,
    /// The newest of each kind waits; RFC 6455 §5.5.3 lets a pong answer the latest ping only.
    pub(super) pong: Vec<u8>,
    pub(super) ping: Vec<u8>,
}

impl Urgent {
    /// Lines up the control frames that wait, and says how many bytes that is. They come before frames of
    /// high priority unless one of those may be half gone.
    pub(super) fn admit(&mut self) -> usize {
        let at = if self.left == 0 { self.control } else { self.leaving.len() };
        let count = self.pong.len() + self.ping.len();
        self.leaving.splice(at..at, self.pong.drain(..).chain(self.ping.drain(..)));
        self.control += count;
        count
    }

    /// Whether control frames may be lined up. Not behind others: there a newer one could not replace them.
    pub(super) fn takes_control(&self) -> bool {
        self.left == 0 && self.control == 0
    }

    /// What is left of the frame that has begun to leave.
    pub(super) fn begun(&self) -> &[u8] {
        let mut end = 0;
        while end < self.left {
            // `None` cannot happen: whole frames only.
            end += frame::wire_len(&self.leaving[end..]).unwrap_or(self.leaving.len());
        }
        &self.leaving[self.left..end]
    }

    pub(super) fn clear(&mut self) {
        for bytes in [&mut self.leaving, &mut self.pong, &mut self.ping] {
            bytes.clear();
        }
        (self.left, self.control) = (0, 0);
    }

    /// Frees what has left.
    pub(super) fn forget_left(&mut self) {
        if self.left == self.leaving.len() {
            self.leaving.clear();
            (self.left, self.control) = (0, 0);
        }
    }

    pub(super) fn held(&self) -> usize {
        size_of::<Urgent>() + self.leaving.capacity() + self.pong.capacity() + self.ping.capacity()
    }
}
