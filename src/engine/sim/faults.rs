//! Errors of the kernel, at a call of one's choice.

use std::io;

use super::{Link, Peer};

/// A call to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Call {
    Read,
    Write,
    Shutdown,
}

/// An error that one call gives, once.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Fault {
    pub(in crate::engine) call: Call,
    /// Calls of that kind before it.
    pub(in crate::engine) after: usize,
    pub(in crate::engine) errno: i32,
}

impl Link {
    pub(super) fn may_fail(&mut self, call: Call) -> io::Result<()> {
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

impl Peer {
    /// The server's end of this connection will fail.
    pub(in crate::engine) fn will_fail(&self, fault: Fault) {
        self.link.borrow_mut().fault = Some(fault);
    }

    /// Whether it has not failed yet.
    pub(in crate::engine) fn is_to_fail(&self) -> bool {
        self.link.borrow().fault.is_some()
    }
}
