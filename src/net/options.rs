//! Socket options that streams of all kinds have.

use socket2::SockRef;

/// Sets the size of the kernel's send buffer. A failure shows in the next read or write, too.
pub(super) fn set_send_buffer(socket: SockRef<'_>, bytes: usize) {
    if let Err(error) = socket.set_send_buffer_size(bytes) {
        log::debug!("cannot set the send buffer to {bytes} bytes: {error}");
    }
}

/// Turns SIGPIPE off, which other systems do for each write.
#[cfg(target_vendor = "apple")]
pub(super) fn turn_sigpipe_off(socket: SockRef<'_>) {
    if let Err(error) = socket.set_nosigpipe(true) {
        // The peer has reset the connection already; the first read returns the error.
        log::debug!("cannot turn SIGPIPE off: {error}");
    }
}
