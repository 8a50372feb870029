//! Faults of the host: a stopped process, an application that panics or polls rarely, a listener
//! that fails.
#![cfg(unix)]

mod support;

use std::{
    env,
    io::{BufRead, BufReader},
    net::{Shutdown, SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use socket2::SockRef;
use support::{Deadline, Harness, PATIENCE, Seen, blocking::Blocking, raw};
use tickws::{CloseCode, CloseReason, Event, Server};
use tungstenite::Message;

const MS: Duration = Duration::from_millis(1);

fn shut_down(listener: &TcpListener) {
    SockRef::from(listener).shutdown(Shutdown::Both).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_lost_listener_is_counted_and_the_others_go_on() {
    let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [dying, living] = [&first, &second].map(|listener| listener.local_addr().unwrap());
    let remote_control = first.try_clone().unwrap();
    let mut server = Server::builder().listener(first).listener(second).build().unwrap();
    assert_eq!(server.local_addrs(), [dying, living]);
    drop(server.poll_once().unwrap());
    shut_down(&remote_control);
    let mut h = Harness { server, addr: living, seen: Vec::new() };
    h.until("the loss of the listener", |h| h.server.stats().listeners_lost == 1);
    assert_eq!(h.server.local_addrs(), [living]);
    // If the server stopped accepting, the other listener would wait; if it spun, it would never
    // sleep.
    let mut clients: Vec<_> = (0..100).map(|_| h.connect()).collect();
    let stats = h.server.stats();
    assert_eq!((stats.opened, stats.accept_pauses, stats.listeners_lost), (100, 0, 1));
    let (raw, id) = &mut clients[7];
    h.write(raw, &raw::text("as ever"));
    h.until("a message", |h| h.texts(*id) == ["as ever"]);
    h.settle();
    assert_ne!(h.server.next_timeout(), Some(Duration::ZERO), "the server may sleep");
}

#[cfg(target_os = "linux")]
#[test]
fn losing_the_last_listener_keeps_clients_and_still_sleeps() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, remote_control) = (listener.local_addr().unwrap(), listener.try_clone().unwrap());
    let builder = Server::builder().ping_interval(None).silence_timeout(None);
    let server = builder.listener(listener).build().unwrap();
    let mut h = Harness { server, addr, seen: Vec::new() };
    let (mut raw, id) = h.connect();
    shut_down(&remote_control);
    h.until("the loss of the listener", |h| h.server.stats().listeners_lost == 1);
    assert_eq!(h.server.local_addrs(), []);
    h.settle();
    assert_ne!(h.server.next_timeout(), Some(Duration::ZERO), "the server may sleep");
    h.write(&mut raw, &raw::text("still here"));
    h.until("a message", |h| h.texts(id) == ["still here"]);
    h.server.shutdown(CloseCode::GOING_AWAY, "", PATIENCE);
    assert_eq!(h.frame(&mut raw), raw::Frame::close(1001, ""));
    h.write(&mut raw, &raw::close(1001, ""));
    assert_eq!(h.read_to_end(&mut raw), b"");
    // Without this FIN the server would wait for it until `close_timeout`.
    drop(raw);
    h.until("the end", |h| h.server.is_drained());
}

#[test]
fn a_panic_inside_run_unwinds_and_the_server_goes_on() {
    let mut h = Harness::new();
    let (mut failing, failing_id) = h.connect();
    let (mut raw, id) = h.connect();
    h.settle();
    h.write(&mut failing, &raw::text("boom"));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        h.server.run(|_, event| {
            if let Event::Message { client, .. } = event {
                assert_eq!(client, failing_id);
                resume_unwind(Box::new("on purpose"));
            }
        })
    }));
    assert_eq!(outcome.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
    // The tick that panicked is lost, but no client and no later event.
    assert_eq!(h.server.client_count(), 2);
    h.write(&mut raw, &raw::text("and now?"));
    h.write(&mut failing, &raw::text("again"));
    h.until("both messages", |h| h.texts(id) == ["and now?"] && h.texts(failing_id) == ["again"]);
    assert_eq!(h.server.broadcast("all").queued, 2);
    assert_eq!(h.frame(&mut raw).payload, b"all");
    assert_eq!(h.frame(&mut failing).payload, b"all");
}

#[test]
fn a_server_dropped_by_a_panic_closes_its_connections() {
    let mut h = Harness::new();
    let (mut raw, _) = h.connect();
    let server = h.server;
    let outcome = catch_unwind(AssertUnwindSafe(move || {
        let mut server = server;
        server.set_timer(MS);
        server.run(|_, event| {
            if let Event::Timer { .. } = event {
                resume_unwind(Box::new(()));
            }
        })
    }));
    assert!(outcome.is_err());
    let deadline = Deadline::new();
    while raw.end.is_none() {
        raw.read_some();
        deadline.check("the end");
    }
}

#[test]
fn kept_ticks_stay_unchanged() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    h.settle();
    let mut ticks = Vec::new();
    let deadline = Deadline::new();
    let texts: Vec<String> = (0..200).map(|i| format!("{i} ").repeat(1 + i * 20)).collect();
    for text in &texts {
        h.write(&mut raw, &raw::text(text));
        let mut received = false;
        while !received {
            let tick = h.server.poll_for(MS).unwrap();
            received = tick.iter().any(|event| matches!(event, Event::Message { .. }));
            ticks.push(tick);
            deadline.check("a message");
        }
    }
    // The ticks are read out of order and on another thread.
    ticks.rotate_left(77);
    let mut received: Vec<String> = thread::spawn(move || {
        let seen = ticks.iter().flat_map(|tick| tick.iter().map(Seen::from));
        let text = |seen| match seen {
            Seen::Text(client, text) if client == id => text,
            other => panic!("{other:?}"),
        };
        seen.map(text).collect()
    })
    .join()
    .unwrap();
    received.sort_by_key(String::len);
    assert!(received == texts);
}

#[test]
fn an_application_that_polls_rarely_loses_no_client() {
    // Each pause between two polls is longer than every deadline.
    let builder = Server::builder()
        .ping_interval(20 * MS)
        .silence_timeout(60 * MS)
        .write_timeout(60 * MS)
        .close_timeout(60 * MS)
        .handshake_timeout(60 * MS);
    let mut h = Harness::with(builder);
    let mut raw = h.dial();
    raw.write_some(raw::upgrade_request("/", "").as_bytes()).unwrap();
    let (mut head, deadline) = (None, Deadline::new());
    while head.is_none() {
        poll_after_a_while(&mut h, &mut raw);
        head = raw.take_head();
        deadline.check("the handshake");
    }
    for i in 0..10 {
        raw.write_some(&raw::text(&i.to_string())).unwrap();
        while answer_pings(&mut raw) != [raw::Frame::new(raw::TEXT, i.to_string())] {
            poll_after_a_while(&mut h, &mut raw);
            deadline.check("an echo");
        }
    }
    raw.write_some(&raw::masked(true, raw::CLOSE, b"")).unwrap();
    while raw.end.is_none() {
        poll_after_a_while(&mut h, &mut raw);
        deadline.check("the end");
    }
    assert_eq!(raw.take_frames().pop(), Some(raw::Frame::new(raw::CLOSE, "")));
    let ends: Vec<_> = h.seen.iter().filter(|seen| matches!(seen, Seen::Close(..))).collect();
    let reason = CloseReason::Peer { code: CloseCode::NO_STATUS_RECEIVED, text: String::new() };
    assert!(matches!(ends[..], [Seen::Close(_, end)] if *end == reason), "{ends:?}");
}

/// Polls after a pause of the application. The peer reads during the pause, on this thread: a
/// thread of its own might be delayed for longer than the server's deadlines.
fn poll_after_a_while(h: &mut Harness, raw: &mut raw::Raw) {
    thread::sleep(75 * MS);
    raw.read_some();
    thread::sleep(75 * MS);
    let tick = h.server.poll_once().unwrap();
    for event in &tick {
        support::echo(&mut h.server, event);
    }
    h.seen.extend(tick.iter().map(Seen::from));
    h.server.flush();
}

/// Answers the pings among the frames read so far; gives the other frames.
fn answer_pings(raw: &mut raw::Raw) -> Vec<raw::Frame> {
    let (pings, others): (Vec<_>, Vec<_>) =
        raw.take_frames().into_iter().partition(|frame| frame.opcode == raw::PING);
    for ping in pings {
        raw.write_some(&raw::masked(true, raw::PONG, &ping.payload)).unwrap();
    }
    others
}

// ---- SIGSTOP ----

/// Set in the environment of the process that is stopped.
const CHILD: &str = "TICKWS_TEST_STOPPED";
/// Long enough that no client on a loaded machine is delayed for as long.
const SILENCE: Duration = Duration::from_secs(2);

/// A server in a process of its own, which echoes messages and prints the reason of every close.
struct Stopped {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    addr: SocketAddr,
}

impl Stopped {
    fn new() -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "stopped_process", "--nocapture", "--test-threads", "1"])
            .env(CHILD, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut stopped = Stopped { child, lines, addr: ([0; 4], 0).into() };
        stopped.addr = stopped.line().parse().unwrap();
        stopped
    }

    /// Waits for the next line that starts with `@`, and gives the rest of it.
    fn line(&mut self) -> String {
        let mut line = String::new();
        while !line.starts_with('@') {
            line.clear();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "the process has ended");
        }
        line[1..].trim().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This test is the process that is stopped; on its own it does nothing.
#[test]
fn stopped_process() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let builder = Server::builder()
        .ping_interval(SILENCE / 4)
        .silence_timeout(SILENCE)
        .handshake_timeout(SILENCE)
        .write_timeout(SILENCE)
        .close_timeout(SILENCE);
    let mut server = builder.bind("127.0.0.1:0").unwrap();
    println!("\n@{}", server.local_addrs()[0]);
    let echo = |server: &mut Server, event: Event<'_>| match event {
        Event::Message { client, message } => server.send(client, message).unwrap(),
        Event::Close { reason, .. } => println!("@{reason}"),
        _ => {}
    };
    server.run(echo).unwrap();
}

#[test]
fn a_stopped_and_continued_process_drops_only_dead_clients() {
    let mut server = Stopped::new();
    // 20 idle clients answer pings; one sends while the process is stopped; one never answers; one
    // is in the middle of its handshake.
    let over = Arc::new(AtomicBool::new(false));
    let idle: Vec<_> = (0..20)
        .map(|_| {
            let (mut socket, over) = (support::dial(server.addr, "/"), over.clone());
            thread::spawn(move || {
                let mut pings = 0;
                while !over.load(Ordering::Relaxed) {
                    let message = socket.read().expect("a client that answers pings stays open");
                    pings += usize::from(matches!(message, Message::Ping(_)));
                }
                socket.send(Message::text("after")).unwrap();
                while socket.read().expect("an echo") != Message::text("after") {}
                pings
            })
        })
        .collect();
    let mut active = support::dial(server.addr, "/");
    let mut silent = support::dial(server.addr, "/");
    let request = raw::upgrade_request("/", "");
    let mut late = support::blocking(server.addr).unwrap();
    std::io::Write::write_all(&mut late, &request.as_bytes()[..20]).unwrap();
    active.send(Message::text("before")).unwrap();
    assert_eq!(active.read().unwrap(), Message::text("before"));

    // Stopped while it sleeps in the poll, which ends with `EINTR`.
    thread::sleep(50 * MS);
    server.signal(Signal::STOP);
    std::io::Write::write_all(&mut late, &request.as_bytes()[20..]).unwrap();
    active.send(Message::text("meanwhile")).unwrap();
    thread::sleep(SILENCE * 3 / 2);

    // Clients that are alive answer the pings sent now.
    let begin = Instant::now();
    server.signal(Signal::CONT);
    assert_eq!(next_text(&mut active), "meanwhile");
    let mut head = [0; 12];
    std::io::Read::read_exact(&mut late, &mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101", "a head that came in time is not late");
    late.stream().shutdown(Shutdown::Write).unwrap();
    active.close(None).unwrap();
    let mut ends: Vec<String> = (0..3).map(|_| server.line()).collect();
    ends.sort();
    let expected = [
        "the peer closed with 1005",
        "the peer disconnected without a close frame",
        "the peer was silent for too long",
    ];
    assert_eq!(ends, expected);
    assert!(begin.elapsed() > SILENCE / 2, "the silent client was pinged first");
    // Wait as long again as a connection may be silent.
    thread::sleep((2 * SILENCE).saturating_sub(begin.elapsed()));
    over.store(true, Ordering::Relaxed);
    for client in idle {
        assert!(support::threads::join(client, "an idle client") > 0);
    }
    // The silent client was pinged and then dropped.
    let ends = |error| {
        matches!(
            error,
            tungstenite::Error::Protocol(_)
                | tungstenite::Error::Io(_)
                | tungstenite::Error::ConnectionClosed
        )
    };
    assert!(matches!(silent.read(), Ok(Message::Ping(_))));
    let end = loop {
        match silent.read() {
            Ok(message) => assert!(message.is_ping(), "{message}"),
            Err(error) => break error,
        }
    };
    assert!(ends(end));
}

fn next_text(socket: &mut tungstenite::WebSocket<Blocking>) -> String {
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            return text.to_string();
        }
    }
}
