//! A process without free descriptors: the server neither dies nor spins, and goes on by itself.
#![cfg(unix)]

mod support;

use std::{
    env,
    process::{Command, Stdio},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Deadline, Harness, PATIENCE, raw};
use tickws::Server;

/// Set in the child process, whose descriptors are few.
const CHILD: &str = "TICKWS_TEST_FEW_DESCRIPTORS";

const LIMIT: u64 = 64;

/// Runs the test `name` of this binary again in a process of its own.
fn in_a_child(name: &str) {
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
fn running_out_of_descriptors_neither_kills_nor_spins() {
    if env::var_os(CHILD).is_none() {
        return in_a_child("running_out_of_descriptors_neither_kills_nor_spins");
    }
    let limit = Rlimit { current: Some(LIMIT), maximum: getrlimit(Resource::Nofile).maximum };
    setrlimit(Resource::Nofile, limit).unwrap();

    // No other deadline that could end a sleep.
    let builder = Server::builder().handshake_timeout(3 * PATIENCE).ping_interval(None).silence_timeout(None);
    let mut h = Harness::with(builder);
    let (mut first, first_id) = h.connect();
    // Each waits in the backlog with one descriptor of ours; the server's side needs another.
    let mut clients: Vec<raw::Raw> = (0..40).map(|_| h.dial()).collect();
    for raw in &mut clients {
        let request = raw::upgrade_request("/", "");
        assert_eq!(raw.write_some(request.as_bytes()).unwrap(), request.len());
    }
    h.until("accepting to pause", |h| h.server.stats().accept_pauses == 1);
    h.settle();
    let open = h.server.client_count();
    assert!(open > 5 && open < 41, "{open} fit");

    // Only the end of each pause may wake it.
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

    // Those that are open are served meanwhile.
    h.write(&mut first, &raw::text("still served"));
    h.until("the message", |h| h.texts(first_id) == ["still served"]);
    let pauses = h.server.stats().accept_pauses;
    assert!(pauses <= 5, "{pauses} pauses");

    // Half of them leave, and the waiting ones come in by themselves.
    clients.drain(..20);
    h.until("the waiting ones to be open", |h| h.server.client_count() == 21);
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
fn one_free_descriptor_ends_the_pause_at_once() {
    if env::var_os(CHILD).is_none() {
        return in_a_child("one_free_descriptor_ends_the_pause_at_once");
    }
    let limit = Rlimit { current: Some(LIMIT), maximum: getrlimit(Resource::Nofile).maximum };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut h = Harness::new();
    let mut clients: Vec<raw::Raw> = (0..45).map(|_| h.dial()).collect();
    h.until("accepting to pause", |h| h.server.stats().accept_pauses == 1);
    h.settle();
    let accepted = h.server.stats().accepted as usize;
    assert!(accepted < 45);

    // One that is inside leaves. Its descriptors let the next ones in: not when the pause is over, but now.
    clients.remove(0);
    h.until("one to be gone", |h| h.server.stats().rejected.gone == 1);
    h.server.poll_once().unwrap();
    assert!(h.server.stats().accepted as usize > accepted);
}

#[test]
fn a_file_that_cannot_be_opened_for_now_is_not_said_to_be_missing() {
    if env::var_os(CHILD).is_none() {
        return in_a_child("a_file_that_cannot_be_opened_for_now_is_not_said_to_be_missing");
    }
    let limit = Rlimit { current: Some(LIMIT), maximum: getrlimit(Resource::Nofile).maximum };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut h = Harness::with(Server::builder().serve_dir("/", concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    let mut raw = h.dial();
    let mut ask = |path: &str| {
        h.write(&mut raw, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
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
    assert_eq!(["/id.rs", "/none.rs"].map(&mut ask), ["200", "404"]);
    let taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert_eq!(["/id.rs", "/none.rs"].map(&mut ask), ["503", "404"]);
    drop(taken);
    assert_eq!(["/id.rs", "/none.rs"].map(&mut ask), ["200", "404"]);
}
