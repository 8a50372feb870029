//! Priority frames: they are written before the queued data.

use crate::proto::frame;

/// Bounds the bytes of high-priority frames that can delay a later pong.
pub(super) const AHEAD_MAX: usize = 4 * 1024;

/// Frames that overtake the queued data: control frames while the client is blocked, and frames of
/// high priority.
#[derive(Debug, Default)]
pub(super) struct PriorityFrames {
    /// Frames to write at the next frame boundary: control frames, then others. `..left` has been
    /// written.
    pub(super) leaving: Vec<u8>,
    pub(super) left: usize,
    /// Bytes of control frames at the start of `leaving`.
    pub(super) control: usize,
    /// The newest waiting frame of each kind. RFC 6455 §5.5.3 allows a pong for the latest ping
    /// only.
    pub(super) pong: Vec<u8>,
    pub(super) ping: Vec<u8>,
}

impl PriorityFrames {
    /// Moves the waiting control frames to `leaving` and returns their size in bytes. They go
    /// before frames of high priority unless one of these may be partly written.
    pub(super) fn admit(&mut self) -> usize {
        let at = if self.left == 0 { self.control } else { self.leaving.len() };
        let count = self.pong.len() + self.ping.len();
        self.leaving.splice(at..at, self.pong.drain(..).chain(self.ping.drain(..)));
        self.control += count;
        count
    }

    /// Whether waiting control frames may move to `leaving`. They must not queue behind others
    /// there, where a newer one could not replace them.
    pub(super) fn takes_control(&self) -> bool {
        self.left == 0 && self.control == 0
    }

    /// The rest of the partly written frame.
    pub(super) fn begun(&self) -> &[u8] {
        let mut end = 0;
        while end < self.left {
            // `None` cannot occur: `leaving` contains whole frames only.
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

    /// Clears `leaving` if all of it was written.
    pub(super) fn forget_left(&mut self) {
        if self.left == self.leaving.len() {
            self.leaving.clear();
            (self.left, self.control) = (0, 0);
        }
    }

    pub(super) fn held(&self) -> usize {
        size_of::<PriorityFrames>() + self.leaving.capacity() + self.pong.capacity() + self.ping.capacity()
    }
}
