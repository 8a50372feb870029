//! Lines of the standard input for a program that polls. Reading blocks, and on Windows no event
//! loop tells when there is input, so a thread reads.

use std::{
    io::{self, BufRead},
    sync::mpsc::{self, Receiver},
    thread,
};

use tickws::Handle;

/// Starts the thread. It ends the sleep of the server's poll with every line, and at the end of the
/// input, which disconnects the channel.
pub fn lines(handle: Handle) -> Receiver<String> {
    // When so many lines wait, the thread does.
    let (sender, receiver) = mpsc::sync_channel(100);
    thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() || handle.wake().is_err() {
                return;
            }
        }
        drop(sender);
        let _ = handle.wake();
    });
    receiver
}
