//! `Handle` under load: many threads, clients that leave, and a server that is dropped first.

mod support;

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use support::{
    Deadline, Harness, PATIENCE, Seen,
    raw::{self, Raw, texts},
    threads::{call_and_wait, join, retry_while_full, run},
};
use tickws::{ClientId, CloseCode, Handle, HandleError, Server};

#[test]
fn eight_threads_send_while_clients_come_and_go() {
    const THREADS: usize = 8;
    const SENDS: usize = 10_000;
    const STAYING: usize = 4;
    const LEAVING: usize = 8;

    let mut h = Harness::with(Server::builder().max_buffered(64 << 20));
    let mut staying: Vec<(Raw, ClientId)> = (0..STAYING).map(|_| h.connect()).collect();
    let ids: Vec<ClientId> = staying.iter().map(|(_, id)| *id).collect();
    let mut leavers: Vec<(Raw, ClientId)> = (0..LEAVING).map(|_| h.connect()).collect();
    let leaving = Arc::new(Mutex::new(leavers.iter().map(|(_, id)| *id).collect::<Vec<_>>()));
    let before = h.server.stats();

    // Every other message is for a client that may have left by then.
    let senders = (0..THREADS).map(|thread| {
        let (handle, ids, leaving) = (h.server.handle(), ids.clone(), leaving.clone());
        thread::spawn(move || {
            for i in 0..SENDS {
                let text = format!("{thread} {i}");
                let client = match i % 2 {
                    0 => ids[i / 2 % STAYING],
                    _ => leaving.lock().unwrap()[i / 2 % LEAVING],
                };
                retry_while_full(|| handle.send(client, &text));
            }
        })
    });
    let threads: Vec<_> = senders.collect();

    let mut received: Vec<HashMap<usize, Vec<usize>>> = vec![HashMap::new(); STAYING];
    let mut count = 0;
    let mut turn = 0;
    let deadline = Deadline::new();
    while count < THREADS * SENDS / 2 || !threads.iter().all(JoinHandle::is_finished) {
        deadline.check("all messages");
        h.step();
        for (which, (raw, _)) in staying.iter_mut().enumerate() {
            raw.read_some();
            for text in texts(raw.take_frames()) {
                let (thread, i) = text.split_once(' ').unwrap();
                received[which].entry(thread.parse().unwrap()).or_default().push(i.parse().unwrap());
                count += 1;
            }
        }
        for (raw, _) in &mut leavers {
            raw.read_some();
        }
        // One client leaves in one of three ways and another connects, while messages for the first
        // go on.
        turn += 1;
        if turn % 4 == 0 {
            let (raw, id) = leavers.remove(0);
            match turn / 4 % 3 {
                0 => drop(raw),
                #[cfg(unix)]
                1 => raw.reset(),
                _ => h.server.disconnect(id).unwrap_or(()),
            }
            leavers.push(h.connect());
            leaving.lock().unwrap()[(turn / 4 - 1) % LEAVING] = leavers[LEAVING - 1].1;
        }
    }
    for thread in threads {
        join(thread, "a sender");
    }
    h.settle();

    for (which, received) in received.iter().enumerate() {
        for thread in 0..THREADS {
            let expected: Vec<usize> =
                (0..SENDS).filter(|i| i % 2 == 0 && i / 2 % STAYING == which).collect();
            assert!(received[&thread] == expected, "each once and in order, from {thread} to {which}");
        }
    }
    let after = h.server.stats();
    let queued = after.messages_out - before.messages_out;
    assert_eq!(queued + after.undelivered, (THREADS * SENDS) as u64);
    assert!(after.undelivered > 0, "some messages were for clients that had left: {after:?}");
}

/// Repeats every call until it returns `ServerGone`.
fn until_gone(handle: &Handle, client: ClientId) {
    let nested = handle.clone();
    type Call<'h> = Box<dyn Fn() -> Result<(), HandleError> + 'h>;
    let calls: [Call<'_>; 8] = [
        Box::new(|| handle.send(client, "x")),
        Box::new(|| handle.broadcast("x")),
        Box::new(|| handle.broadcast_except(client, "x")),
        Box::new(|| handle.close(client, 1000, "")),
        Box::new(|| handle.disconnect(client)),
        Box::new(|| {
            let nested = nested.clone();
            handle.call(move |_| drop(nested))
        }),
        Box::new(|| handle.wake()),
        Box::new(|| handle.shutdown(CloseCode::GOING_AWAY, "", Duration::ZERO)),
    ];
    for call in calls {
        while call() != Err(HandleError::ServerGone) {}
    }
}

#[test]
fn nothing_deadlocks_when_the_server_is_dropped_first() {
    for queue in [1, 3, 1024] {
        let mut h = Harness::with(Server::builder().handle_queue(queue));
        let (_raw, id) = h.connect();
        let handle = h.server.handle();
        let started = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (handle, started) = (handle.clone(), started.clone());
                thread::spawn(move || {
                    started.fetch_add(1, Ordering::Relaxed);
                    until_gone(&handle, id);
                })
            })
            .collect();
        h.until("eight threads", |_| started.load(Ordering::Relaxed) == 8);
        drop(h);
        for thread in threads {
            join(thread, "a thread whose server is gone");
        }
        assert_eq!(handle.wake(), Err(HandleError::ServerGone));
        assert!(format!("{handle:?}").contains("server_gone: true"));
    }
}

#[test]
fn no_wake_up_is_lost_with_a_real_poller() {
    let mut server = Server::builder().build().unwrap();
    let handle = server.handle();
    let server = run(server);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let handle = handle.clone();
            thread::spawn(move || {
                for i in 0..3_000 {
                    assert_eq!(call_and_wait(&handle, move |_| i), i);
                }
            })
        })
        .collect();
    for thread in threads {
        join(thread, "the calling threads");
    }
    handle.shutdown(CloseCode::GOING_AWAY, "", Duration::ZERO).unwrap();
    join(server, "the end of the server");
}

/// Readiness is edge-triggered: a panic in the poll that was told of it must not lose it.
#[test]
fn a_panic_in_a_call_loses_no_readiness_event() {
    const ROUNDS: usize = 300;
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    h.settle();
    let handle = h.server.handle();
    let (sender, received) = mpsc::channel();
    let mut server = h.server;
    let thread = thread::spawn(move || {
        let mut texts = 0;
        while texts < ROUNDS {
            let Ok(tick) = catch_unwind(AssertUnwindSafe(|| server.poll_wait(None).expect("polls"))) else {
                continue;
            };
            for event in &tick {
                assert!(matches!(Seen::from(event), Seen::Text(from, _) if from == id));
                texts += 1;
                sender.send(()).unwrap();
            }
        }
        server // the last call may follow the last message
    });
    let message = raw::text("x");
    for round in 0..ROUNDS {
        assert_eq!(raw.write_some(&message).unwrap(), message.len());
        handle.call(|_| std::panic::resume_unwind(Box::new(()))).unwrap();
        received.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the message of round {round} was lost"));
    }
    join(thread, "the poller");
}

#[cfg(unix)]
#[test]
fn a_handle_wakes_an_external_poll_loop() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let mut server = Server::bind("127.0.0.1:0").unwrap();
    let handle = server.handle();
    let thread = thread::spawn(move || {
        for i in 0..1000 {
            assert_eq!(call_and_wait(&handle, move |_| i), i);
        }
        // More commands than a poll carries out: the loop must not sleep while some are left.
        for i in 0..10_000 {
            retry_while_full(|| handle.call(move |_| assert!(i < 10_000)));
        }
        retry_while_full(|| handle.shutdown(CloseCode::GOING_AWAY, "", Duration::ZERO));
    });
    while !server.is_drained() {
        let limit = server.next_timeout().unwrap_or(PATIENCE).min(PATIENCE);
        let timeout = Timespec::try_from(limit).unwrap();
        let ready = poll(&mut [PollFd::new(&server, PollFlags::IN)], Some(&timeout)).unwrap();
        assert!(ready > 0 || limit < PATIENCE, "slept while a command was queued");
        let _ = server.poll_once().unwrap();
    }
    join(thread, "the calling thread");
}
