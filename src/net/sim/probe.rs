//! The engine's tests look into a server's end: calls, bytes, and errors of the kernel at a call of
//! their choice.

#![cfg_attr(not(any(test, fuzzing)), allow(dead_code))]

use std::io;

/// A call to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
    Shutdown,
}

/// An error that one call gives, once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    /// Calls of that kind before it.
    pub(crate) after: usize,
    pub(crate) errno: i32,
}

#[derive(Debug, Default)]
pub(crate) struct Probe {
    pub(crate) fault: Option<Fault>,
    pub(crate) read_calls: usize,
    pub(crate) write_calls: usize,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    /// The end was closed while input was unread.
    pub(crate) aborted: bool,
}

impl Probe {
    /// Counts a call, and gives the error that it was chosen for.
    pub(super) fn enter(&mut self, call: Call) -> io::Result<()> {
        match call {
            Call::Read => self.read_calls += 1,
            Call::Write => self.write_calls += 1,
            Call::Shutdown => {}
        }
        match &mut self.fault {
            Some(fault) if fault.call == call && fault.after == 0 => {
                let error = io::Error::from_raw_os_error(fault.errno);
                self.fault = None;
                Err(error)
            }
            Some(fault) if fault.call == call => {
                fault.after -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
