//! When the host reports the readiness of a stream again.

/// When a readable or writable event of a stream follows the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rearm {
    /// When something changes. A read or write that did not fill the buffer has used up what was
    /// there, so nothing is lost by not repeating it: epoll (epoll(7), question 9) and kqueue.
    OnChange,
    /// Only after a call has returned `WouldBlock`: mio's port to Windows.
    AfterWouldBlock,
}

impl Rearm {
    /// The rule of this system.
    pub(crate) const NATIVE: Rearm = if cfg!(windows) { Rearm::AfterWouldBlock } else { Rearm::OnChange };

    /// Whether an event follows a call that has taken `count` of the `offered` bytes, so that the
    /// call need not be repeated.
    #[inline]
    pub(crate) fn follows(self, count: usize, offered: usize) -> bool {
        count < offered && self == Rearm::OnChange
    }
}
