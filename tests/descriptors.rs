//! A process without free descriptors: the server goes on, does not spin, and accepts again when it
//! can.
#![cfg(unix)]

mod support;

use std::{
    env,
    process::{Command, Stdio},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Deadline, Harness, PATIENCE, raw};
use tickws::Server;

/// Set in the environment of the child process, whose descriptor limit is low.
const CHILD: &str = "TICKWS_TEST_FEW_DESCRIPTORS";

const LIMIT: u64 = 64;

/// Runs the test `name` of this binary again in a process of its own.
fn run_in_child_process(name: &str) {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
}

#[test]
fn without_descriptors_the_server_pauses_and_recovers() {
    if env::var_os(CHILD).is_none() {
        return run_in_child_process("without_descriptors_the_server_pauses_and_recovers");
    }
    let limit = Rlimit { current: Some(LIMIT), maximum: getrlimit(Resource::Nofile).maximum };
    setrlimit(Resource::Nofile, limit).unwrap();

    // No other deadline may end a sleep of the poll.
    let builder = Server::builder().handshake_timeout(3 * PATIENCE).ping_interval(None).silence_timeout(None);
    let mut h = Harness::with(builder);
    let (mut first, first_id) = h.connect();
    // Each waits in the listener's backlog with one descriptor of the test; the server's side needs
    // another.
    let mut clients: Vec<raw::Raw> = (0..40).map(|_| h.dial()).collect();
    for raw in &mut clients {
        let request = raw::upgrade_request("/", "");
        assert_eq!(raw.write_some(request.as_bytes()).unwrap(), request.len());
    }
    h.until("accepting to pause", |h| h.server.stats().accept_pauses == 1);
    h.settle();
    let open = h.server.client_count();
    assert!(open > 5 && open < 41, "{open} fit");

    // Only the end of a pause may wake the server.
    let mut polls = 0;
    let deadline = Deadline::new();
    while h.server.stats().accept_pauses < 3 {
        let tick = h.server.poll_for(PATIENCE).unwrap();
        deadline.check("two pauses");
        assert!(tick.is_empty(), "{tick:?}");
        assert!(!tick.more());
        polls += 1;
        assert!(polls <= 12, "{polls} polls in two pauses");
    }
    assert_eq!(h.server.client_count(), open);

    // Open clients are served during a pause.
    h.write(&mut first, &raw::text("still served"));
    h.until("the message", |h| h.texts(first_id) == ["still served"]);
    let pauses = h.server.stats().accept_pauses;
    assert!(pauses <= 5, "{pauses} pauses");

    // Half of the clients leave, and the server then accepts the waiting clients.
    clients.drain(..20);
    h.until("the waiting clients to be open", |h| h.server.client_count() == 21);
    for raw in &mut clients {
        assert!(h.head(raw).starts_with("HTTP/1.1 101 "));
    }
    assert_eq!(h.server.broadcast("all here").queued, 21);
    for raw in &mut clients {
        assert_eq!(h.frame(raw).payload, b"all here");
    }
    let stats = h.server.stats();
    assert_eq!((stats.accepted, stats.opened), (41, 41), "{stats}");
}

#[test]
fn a_free_descriptor_ends_the_accept_pause() {
    if env::var_os(CHILD).is_none() {
        return run_in_child_process("a_free_descriptor_ends_the_accept_pause");
    }
    let limit = Rlimit { current: Some(LIMIT), maximum: getrlimit(Resource::Nofile).maximum };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut h = Harness::new();
    let mut clients: Vec<raw::Raw> = (0..45).map(|_| h.dial()).collect();
    h.until("accepting to pause", |h| h.server.stats().accept_pauses == 1);
    h.settle();
    let accepted = h.server.stats().accepted as usize;
    assert!(accepted < 45);

    // An accepted connection ends. Its descriptors let the next connections in now, not at the end
    // of the pause.
    clients.remove(0);
    h.until("one to be gone", |h| h.server.stats().rejected.gone == 1);
    let _ = h.server.poll_once().unwrap();
    assert!(h.server.stats().accepted as usize > accepted);
}

#[test]
fn a_file_without_a_free_descriptor_gets_503_not_404() {
    if env::var_os(CHILD).is_none() {
        return run_in_child_process("a_file_without_a_free_descriptor_gets_503_not_404");
    }
    let limit = Rlimit { current: Some(LIMIT), maximum: getrlimit(Resource::Nofile).maximum };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut h = Harness::with(Server::builder().serve_dir("/", concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    let mut raw = h.dial();
    let mut status = |path: &str| {
        h.write(&mut raw, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        let head = h.head(&mut raw);
        h.until("the body", |h| {
            h.step();
            raw.read_some();
            let len = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            raw.input().len() >= len.unwrap_or(0)
        });
        raw.take_all();
        head[9..12].to_owned()
    };
    assert_eq!(["/id.rs", "/none.rs"].map(&mut status), ["200", "404"]);
    let taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert_eq!(["/id.rs", "/none.rs"].map(&mut status), ["503", "404"]);
    drop(taken);
    assert_eq!(["/id.rs", "/none.rs"].map(&mut status), ["200", "404"]);
}
