//! `Handle` over real sockets: other threads send to the server's clients and control it.

mod support;

use std::{
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use support::{
    Deadline, Harness, PATIENCE,
    raw::{self, Frame, TEXT, texts},
    threads::{call_and_wait, join, run},
};
use tickws::{
    BindError, CloseCode, CloseError, CloseReason, ConfigError, Handle, HandleError, Prepared, Server,
};

#[test]
fn a_full_queue_is_an_error_and_queued_sends_arrive() {
    let mut h = Harness::with(Server::builder().handle_queue(4));
    let (mut raw, id) = h.connect();
    h.settle();
    let handle = h.server.handle();
    for i in 0..4 {
        handle.send(id, i.to_string()).unwrap();
    }
    // All handles share one queue. The calls run on a thread, so that one that blocks fails the
    // test.
    let other = h.server.handle();
    let full = thread::spawn(move || {
        assert_eq!(other.wake(), Ok(()), "a wake needs no place in the queue");
        [other.send(id, "too many"), other.broadcast("too many"), other.call(|_| panic!("was dropped"))]
    });
    assert_eq!(join(full, "calls that do not block"), [Err(HandleError::Full); 3]);
    let tick = h.server.poll_once().unwrap();
    assert!(!tick.more(), "all commands were carried out");
    for i in 0..4 {
        assert_eq!(h.frame(&mut raw), Frame::new(TEXT, i.to_string()));
    }
    handle.send(id, "again").unwrap();
    assert_eq!(h.frame(&mut raw), Frame::new(TEXT, "again"));
}

#[test]
fn queued_commands_run_in_one_poll_and_in_order() {
    let mut h = Harness::new();
    let (mut one, id) = h.connect();
    let (mut two, other) = h.connect();
    let handle = h.server.handle();
    let prepared = Prepared::new("three");
    handle.send(id, "one").unwrap();
    h.server.send(id, "zero").unwrap();
    handle.broadcast("two").unwrap();
    handle.broadcast_except(other, &prepared).unwrap();
    handle.send(other, "after two").unwrap();
    handle.send(id, &b"four"[..]).unwrap();
    handle.call(move |server| server.send(id, "five").unwrap()).unwrap();
    handle.close(id, 4001, "enough").unwrap();
    handle.send(id, "too late").unwrap();
    h.step();
    let frames: Vec<Frame> = (0..7).map(|_| h.frame(&mut one)).collect();
    assert_eq!(texts(frames[..6].to_vec()), ["zero", "one", "two", "three", "four", "five"]);
    assert_eq!(frames[6], Frame::close(4001, "enough"));
    assert_eq!(h.server.stats().undelivered, 1, "the last send came after the close");
    assert_eq!(texts(vec![h.frame(&mut two), h.frame(&mut two)]), ["two", "after two"]);
    handle.disconnect(other).unwrap();
    assert_eq!(h.close_reason(other), CloseReason::Disconnected);
}

#[test]
fn rooms_and_users_are_resolved_when_a_command_runs() {
    let mut h = Harness::new();
    let (mut one, id) = h.connect();
    let (mut two, other) = h.connect();
    let (mut three, _) = h.connect();
    h.server.join(id, "lobby").unwrap();
    let room = h.server.room("lobby").unwrap();
    let handle = h.server.handle();
    handle.publish("lobby", "by name").unwrap();
    handle.publish(room, "by id").unwrap();
    handle.publish("nowhere", "to no member").unwrap();
    handle.send_to_user("ada", "to the user").unwrap();
    handle.send_to_user("bob", "to no member").unwrap();
    h.server.join(other, "lobby").unwrap();
    h.server.set_user(id, "ada").unwrap();
    h.server.set_user(other, "ada").unwrap();
    handle.broadcast("to all").unwrap();
    h.step();
    for raw in [&mut one, &mut two] {
        let frames = (0..4).map(|_| h.frame(raw)).collect();
        assert_eq!(texts(frames), ["by name", "by id", "to the user", "to all"]);
    }
    assert_eq!(texts(vec![h.frame(&mut three)]), ["to all"]);
    assert_eq!(h.server.stats().undelivered, 0, "a room without members counts no delivery");
}

#[test]
fn a_message_leaves_within_one_poll() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    h.settle();
    let handle = h.server.handle();
    let before = h.server.stats().bytes_out;
    handle.send(id, "now").unwrap();
    let _ = h.server.poll_once().unwrap();
    assert_eq!(h.server.stats().bytes_out, before + 5);
    assert_eq!(h.frame(&mut raw), Frame::new(TEXT, "now"));

    // A poll that is woken by the message sends it in the same poll: the thread waits for the
    // message, and there is no second poll.
    let thread = thread::spawn(move || {
        handle.send(id, "woken").unwrap();
        let deadline = Deadline::new();
        while raw.input().is_empty() {
            raw.read_some();
            deadline.check("a message of the poll that was woken");
        }
        texts(raw.take_frames())
    });
    let written = h.server.stats().bytes_out;
    let _ = h.server.poll_wait(None).unwrap();
    assert_eq!(h.server.stats().bytes_out, written + 7, "the message left in the poll that it ended");
    assert_eq!(join(thread, "the reader"), ["woken"]);
}

#[test]
fn commands_for_closed_clients_are_counted() {
    let mut h = Harness::new();
    let (raw, id) = h.connect();
    drop(raw);
    h.close_reason(id);
    h.settle();
    let handle = h.server.handle();
    handle.send(id, "gone").unwrap();
    handle.close(id, CloseCode::NORMAL_CLOSURE, "").unwrap();
    handle.disconnect(id).unwrap();
    handle.broadcast("to no clients").unwrap();
    h.step();
    assert_eq!(h.server.stats().undelivered, 3);
}

#[test]
fn invalid_close_codes_and_reasons_are_errors() {
    let mut h = Harness::new();
    let (_raw, id) = h.connect();
    let handle = h.server.handle();
    let invalid = Err(HandleError::Close(CloseError::InvalidCode(1005.into())));
    assert_eq!(handle.close(id, 1005, ""), invalid);
    let long = Err(HandleError::Close(CloseError::ReasonTooLong(124)));
    assert_eq!(handle.close(id, 1000, &"x".repeat(124)), long);
    h.settle();
    assert_eq!((h.server.client_count(), h.server.stats().undelivered), (1, 0));
}

#[test]
fn queue_sizes_of_zero_and_above_the_maximum_are_errors() {
    for (size, expected) in [
        (0, ConfigError::Zero("handle_queue")),
        (usize::MAX, ConfigError::TooLarge { setting: "handle_queue", max: 1 << 20 }),
    ] {
        let error = Server::builder().handle_queue(size).build().unwrap_err();
        assert!(matches!(error, BindError::Config(error) if error == expected));
    }
}

/// Reports its drop, after an attempt to send through a server that is being dropped.
struct DropProbe(Handle, mpsc::Sender<Result<(), HandleError>>);

impl Drop for DropProbe {
    fn drop(&mut self) {
        let _ = self.1.send(self.0.broadcast("last words"));
    }
}

#[test]
fn queued_closures_are_dropped_with_the_server() {
    let mut h = Harness::new();
    let handle = h.server.handle();
    let (sender, dropped) = mpsc::channel();
    for _ in 0..3 {
        let probe = DropProbe(handle.clone(), sender.clone());
        handle.call(move |_| panic!("{probe:p} was called", probe = &probe)).unwrap();
    }
    drop((handle, sender));
    let thread = thread::spawn(move || drop(h));
    join(thread, "the drop of the server");
    assert_eq!(dropped.iter().collect::<Vec<_>>(), [Err(HandleError::ServerGone); 3]);
}

#[test]
fn many_wakes_end_one_sleep() {
    let mut server = Server::bind("127.0.0.1:0").unwrap();
    let handle = server.handle();
    let _ = server.poll_once().unwrap();
    let sleeps = |server: &mut Server| {
        let (start, sleep) = (Instant::now(), Duration::from_millis(50));
        let tick = server.poll_for(sleep).unwrap();
        assert!(tick.is_empty());
        (start.elapsed() >= sleep, tick.more())
    };
    assert_eq!(sleeps(&mut server), (true, false));
    for round in 0..3 {
        for _ in 0..1000 {
            handle.wake().unwrap();
        }
        assert_eq!(server.next_timeout(), Some(Duration::ZERO));
        // Without the wake this would sleep for ever.
        let tick = server.poll_wait(None).unwrap();
        assert!(tick.is_empty() && !tick.more());
        assert_eq!(server.next_timeout(), None);
        assert_eq!(
            sleeps(&mut server),
            (true, false),
            "all wake-ups were consumed by one poll, round {round}"
        );
    }
    // A batch of commands is one wake-up as well.
    for _ in 0..500 {
        handle.call(|_| {}).unwrap();
    }
    let _ = server.poll_wait(None).unwrap();
    assert_eq!(sleeps(&mut server), (true, false));
}

#[test]
fn a_wake_during_a_poll_does_not_mask_the_next_one() {
    let mut server = Server::bind("127.0.0.1:0").unwrap();
    let handle = server.handle();
    let inner = handle.clone();
    // The wake of the closure comes after this poll's check of the flag and before its check of the
    // kernel.
    handle.call(move |_| inner.wake().unwrap()).unwrap();
    let tick = server.poll_once().unwrap();
    assert!(tick.more());
    let (sender, done) = mpsc::channel();
    let thread = thread::spawn(move || {
        handle.wake().unwrap();
        let _ = server.poll_wait(None).unwrap();
        sender.send(()).unwrap();
    });
    done.recv_timeout(PATIENCE).expect("the second wake ends the next sleep");
    join(thread, "the poller");
}

#[test]
fn wake_ends_an_unlimited_sleep() {
    let mut server = Server::bind("127.0.0.1:0").unwrap();
    let handle = server.handle();
    let (woken, polled) = (Arc::new(AtomicBool::new(false)), mpsc::channel());
    let thread = {
        let woken = woken.clone();
        thread::spawn(move || {
            while !woken.load(Ordering::Relaxed) {
                let tick = server.poll_wait(None).expect("polls");
                assert!(tick.is_empty());
                polled.0.send(()).unwrap();
            }
        })
    };
    // The first poll returns at once: a new listener may already have a backlog.
    polled.1.recv_timeout(PATIENCE).unwrap();
    woken.store(true, Ordering::Relaxed);
    handle.wake().unwrap();
    join(thread, "a sleeper that was woken");
}

#[test]
fn a_poll_is_bounded_when_commands_queue_commands() {
    fn queue_next(handle: Handle, count: Arc<AtomicUsize>) {
        if count.fetch_add(1, Ordering::Relaxed) == 1000 {
            return; // some poll was not bounded
        }
        let again = handle.clone();
        handle.call(move |_| queue_next(again, count)).unwrap();
    }
    let mut h = Harness::with(Server::builder().handle_queue(4));
    let (mut raw, id) = h.connect();
    let count = Arc::new(AtomicUsize::new(0));
    queue_next(h.server.handle(), count.clone());
    for _ in 0..10 {
        let before = count.load(Ordering::Relaxed);
        let tick = h.server.poll_wait(None).unwrap();
        assert!(tick.more() && tick.next_timeout() == Some(Duration::ZERO));
        assert_eq!(h.server.next_timeout(), Some(Duration::ZERO));
        let ran = count.load(Ordering::Relaxed) - before;
        assert!((1..=5).contains(&ran), "{ran} commands in a poll");
    }
    // Clients are served beside the commands.
    h.write(&mut raw, &raw::text("hello"));
    h.until("the message", |h| h.texts(id) == ["hello"]);
}

#[test]
fn call_may_do_everything_but_poll() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    let handle = h.server.handle();
    let other = handle.clone();
    let results = h.serve(
        |_, _| {},
        move |_| {
            let count = call_and_wait(&other, |server| server.client_count());
            let polls = call_and_wait(&other, |server| {
                let polls =
                    [server.poll_once(), server.poll_for(Duration::from_secs(60)), server.poll_wait(None)];
                let kinds = polls.map(|tick| tick.unwrap_err());
                [kinds[0].kind(), kinds[1].kind(), kinds[2].kind(), server.run(|_, _| {}).unwrap_err().kind()]
            });
            call_and_wait(&other, move |server| {
                server.send(id, "inside").unwrap();
                server.flush();
                server.handle().send(id, "and after it").unwrap();
            });
            (count, polls)
        },
    );
    assert_eq!(results, (1, [ErrorKind::ResourceBusy; 4]));
    assert_eq!(h.frame(&mut raw), Frame::new(TEXT, "inside"));
    assert_eq!(h.frame(&mut raw), Frame::new(TEXT, "and after it"));
    // A handle works on the server's own thread as well.
    handle.send(id, "from here").unwrap();
    assert_eq!(h.frame(&mut raw), Frame::new(TEXT, "from here"));
}

#[test]
fn a_panic_in_a_call_unwinds_the_poll_and_loses_nothing_else() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    h.settle();
    let handle = h.server.handle();
    handle.send(id, "before").unwrap();
    handle.call(|_| std::panic::resume_unwind(Box::new("on purpose"))).unwrap();
    handle.send(id, "after").unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| h.server.poll_once())).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
    assert_eq!(h.server.next_timeout(), Some(Duration::ZERO), "one command is left");
    assert_eq!(h.frame(&mut raw), Frame::new(TEXT, "before"));
    assert_eq!(h.frame(&mut raw), Frame::new(TEXT, "after"));
    h.write(&mut raw, &raw::text("still served"));
    h.until("the message", |h| h.texts(id) == ["still served"]);
}

#[test]
fn a_shutdown_from_another_thread_ends_run() {
    let mut h = Harness::new();
    let (mut raw, _id) = h.connect();
    let handle = h.server.handle();
    let addr = h.addr;
    let server = run(h.server);
    handle.shutdown(CloseCode::SERVICE_RESTART, "", PATIENCE).unwrap();
    let deadline = Deadline::new();
    while raw.input().len() < 4 {
        raw.read_some();
        deadline.check("a close frame");
    }
    assert_eq!(raw.take_frames(), [Frame::close(1012, "")]);
    raw.write_some(&raw::close(1012, "")).unwrap();
    drop(raw);
    let server = join(server, "the end of run");
    assert_eq!(server.stats().closed.shutdown, 1);
    assert!(std::net::TcpStream::connect(addr).is_err(), "the listener is closed");
    // The server is drained but not dropped, so `wake` succeeds.
    handle.wake().unwrap();
    drop(server);
    assert_eq!(handle.wake(), Err(HandleError::ServerGone));
}

#[test]
fn a_server_that_is_replaced_in_a_call_can_be_polled_as_can_its_replacement() {
    for budget in [None, Some(Duration::ZERO)] {
        let mut h = Harness::with(Server::builder().time_budget(budget));
        let (_raw, id) = h.connect();
        h.settle();
        let handle = h.server.handle();
        let (give, taken) = mpsc::channel();
        let other = Server::builder().time_budget(budget).bind("127.0.0.1:0").unwrap();
        let addr = other.local_addrs()[0];
        // The call runs in the middle of a poll, which sleeps until it comes.
        let caller = thread::spawn(move || {
            handle.call(move |server| {
                assert_eq!(server.poll_once().unwrap_err().kind(), ErrorKind::ResourceBusy);
                give.send(std::mem::replace(server, other)).unwrap();
            })
        });
        let deadline = Deadline::new();
        let mut first = loop {
            let _ = h.server.poll_for(Duration::from_millis(100)).unwrap();
            deadline.check("the call");
            if let Ok(first) = taken.try_recv() {
                break first;
            }
        };
        join(caller, "the caller").unwrap();
        // The poll went on with the replacement, which serves clients.
        assert_eq!(h.server.local_addrs(), [addr]);
        let mut raw = raw::Raw::connect(addr);
        let client = h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
        h.server.send(client, "from the second").unwrap();
        assert_eq!(h.frame(&mut raw), Frame::new(TEXT, "from the second"));
        // The first server has kept its client, and may be polled by its new owner.
        assert!(first.is_open(id));
        first.send(id, "from the first").unwrap();
        for _ in 0..3 {
            let _ = first.poll_once().unwrap();
        }
        assert_eq!(first.buffered(id), 0);
    }
}
