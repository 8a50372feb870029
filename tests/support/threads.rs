//! The server on one thread and the test on others.

use std::{
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tickws::{Handle, HandleError, Server};

use super::{Deadline, PATIENCE};

/// Waits for a thread, but not for ever.
#[track_caller]
pub fn join<T>(thread: JoinHandle<T>, what: &str) -> T {
    let deadline = Deadline::new();
    while !thread.is_finished() {
        deadline.check(what);
        thread::sleep(Duration::from_millis(1));
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Tries again while the queue is full.
pub fn insist(mut call: impl FnMut() -> Result<(), HandleError>) {
    loop {
        match call() {
            Ok(()) => return,
            // Not a spin: eight of these would leave the server's thread little of a small machine.
            Err(HandleError::Full) => thread::sleep(Duration::from_micros(100)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The server on a thread of its own, in `run`, until a shutdown is complete.
pub fn run(mut server: Server) -> JoinHandle<Server> {
    thread::spawn(move || {
        server.run(|_, _| {}).expect("polls");
        server
    })
}

/// Runs `call` on the server's thread and gives its result.
#[track_caller]
pub fn ask<T: Send + 'static>(handle: &Handle, call: impl FnOnce(&mut Server) -> T + Send + 'static) -> T {
    let (sender, answer) = mpsc::channel();
    handle.call(move |server| sender.send(call(server)).unwrap()).expect("accepted");
    answer.recv_timeout(PATIENCE).expect("an answer")
}
