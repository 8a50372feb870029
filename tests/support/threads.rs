//! Runs the server on one thread and the test on others.

use std::{
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tickws::{Handle, HandleError, Server};

use super::{Deadline, PATIENCE};

/// Waits for a thread to end, and fails after [`PATIENCE`](super::PATIENCE).
#[track_caller]
pub fn join<T>(thread: JoinHandle<T>, what: &str) -> T {
    let deadline = Deadline::new();
    while !thread.is_finished() {
        deadline.check(what);
        thread::sleep(Duration::from_millis(1));
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Repeats `call` while the handle's queue is full.
pub fn retry_while_full(mut call: impl FnMut() -> Result<(), HandleError>) {
    loop {
        match call() {
            Ok(()) => return,
            // Sleeps rather than spins: eight spinning threads would leave the server's thread too
            // little time on a small machine.
            Err(HandleError::Full) => thread::sleep(Duration::from_micros(100)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs the server on a thread of its own until a shutdown is complete.
pub fn run(mut server: Server) -> JoinHandle<Server> {
    thread::spawn(move || {
        server.run(|_, _| {}).expect("polls");
        server
    })
}

/// Runs `call` on the server's thread and gives its result.
#[track_caller]
pub fn call_and_wait<T: Send + 'static>(
    handle: &Handle,
    call: impl FnOnce(&mut Server) -> T + Send + 'static,
) -> T {
    let (sender, result) = mpsc::channel();
    handle.call(move |server| sender.send(call(server)).unwrap()).expect("accepted");
    result.recv_timeout(PATIENCE).expect("a result")
}
