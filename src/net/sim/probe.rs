//! Counters of a server's end, and errors that a test injects into its calls.

#![cfg_attr(not(any(test, fuzzing)), allow(dead_code))]

use std::io;

/// A kind of call to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
    Shutdown,
}

/// An error that one call returns, once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    /// The number of calls of this kind that succeed before.
    pub(crate) after: usize,
    pub(crate) errno: i32,
}

#[derive(Debug, Default)]
pub(crate) struct Probe {
    pub(crate) fault: Option<Fault>,
    /// Calls so far, by kind.
    pub(crate) calls: [usize; 3],
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    /// The end was closed while input was unread.
    pub(crate) aborted: bool,
}

impl Probe {
    /// Counts a call. Fails if a fault was injected into this call.
    pub(super) fn enter(&mut self, call: Call) -> io::Result<()> {
        self.calls[call as usize] += 1;
        if let Some(fault) = self.fault.take_if(|fault| fault.call == call && fault.after == 0) {
            return Err(io::Error::from_raw_os_error(fault.errno));
        }
        if let Some(fault) = self.fault.as_mut().filter(|fault| fault.call == call) {
            fault.after -= 1;
        }
        Ok(())
    }
}
