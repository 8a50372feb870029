//! The resolver's thread: it starts with the first name that needs it, and ends with the server.
#![cfg(target_os = "linux")]

mod support;

use std::{fs, net::ToSocketAddrs};

use support::{Deadline, Harness, Seen};
use tickws::{Connect, Event, Server};

fn resolvers() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "tickws-resolver").count()
}

#[test]
fn the_resolver_thread_runs_only_for_names() {
    let hosts = ["127.0.0.1", "localhost", "a.name.invalid"];
    let mut h = Harness::with(Server::builder().allow_hosts(hosts));
    let port = h.addr.port();
    for connect in [
        Connect::new(format!("ws://127.0.0.1:{port}/")),
        Connect::new(format!("ws://localhost:{port}/")),
        Connect::new("ws://a.name.invalid/").addrs([h.addr]),
    ] {
        h.server.connect(connect).unwrap();
    }
    h.until_seen("both ends of three", 6, |seen| matches!(seen, Seen::Open(..)));
    assert_eq!(resolvers(), 0);

    // With a trailing dot, localhost is resolved like any other name.
    if ("localhost.", port).to_socket_addrs().is_err() {
        return eprintln!("skipped: \"localhost.\" does not resolve on this machine");
    }
    for _ in 0..5 {
        h.server.connect(format!("ws://localhost.:{port}/")).unwrap();
    }
    // The result of the thread wakes a sleeping server.
    let (deadline, mut opened) = (Deadline::new(), 0);
    while opened < 10 {
        deadline.check("both ends of five");
        let tick = h.server.poll_for(support::PATIENCE).unwrap();
        opened += tick.iter().filter(|event| matches!(event, Event::Open { .. })).count();
    }
    assert_eq!(resolvers(), 1);
    drop(h);
    while resolvers() > 0 {
        deadline.check("the end of the thread");
        std::thread::yield_now();
    }
}
