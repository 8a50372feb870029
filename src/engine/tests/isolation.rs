//! Isolation: a request affects no other client by a panic of its closure, by time or by memory.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{web::*, *};
use crate::{Decision, engine::hooks::Hooks};

#[test]
fn panicking_closure_loses_no_message_of_the_same_tick() {
    for upgrade in [false, true] {
        let hooks = Hooks {
            on_http: Some(Box::new(|_| panic!("as expected"))),
            on_upgrade: Some(Box::new(move |request, _| {
                assert!(request.uri().path() != "/panic", "as expected");
                Decision::Accept
            })),
            ..Hooks::default()
        };
        let mut host = Host::with_hooks(Config::default(), hooks, None);
        let (mut peer, id) = host.open();
        let mut web = Web::new(&mut host);
        let _ = host.poll();
        peer.text("hello");
        web.send_request(if upgrade { Peer::REQUEST.replace("/chat", "/panic") } else { get("/") });
        assert!(catch_unwind(AssertUnwindSafe(|| host.poll())).is_err());
        peer.text("there");
        let mut got = messages(&host.poll());
        got.extend(messages(&host.poll()));
        assert_eq!(got, [(id, b"hello".to_vec()), (id, b"there".to_vec())]);
        // The request is answered at its deadline, or its connection is closed.
        host.advance(11 * SEC);
        host.settle();
        host.check();
        let stats = host.engine.stats();
        assert_eq!(stats.rejected.total(), 1, "{stats}");
    }
}

#[test]
fn thousand_requests_are_spread_over_several_polls() {
    let mut host = answering(Config::default());
    let mut webs: Vec<_> = (0..1_000).map(|_| Web::new(&mut host)).collect();
    let (mut peer, id) = host.open();
    for web in &mut webs {
        web.send_request(get("/"));
        web.send_request(get("/"));
    }
    peer.text("hello");
    let (mut most, mut answered, mut received) = (0, 0, vec![]);
    for _ in 0..200 {
        let tick = host.poll();
        host.check();
        received.extend(messages(&tick));
        let now = host.engine.stats().http_requests;
        most = most.max(now - answered);
        answered = now;
        if host.is_quiet() {
            break;
        }
        assert!(tick.next_timeout() == Some(Duration::ZERO) || !tick.more());
    }
    assert_eq!((answered, received), (2_000, vec![(id, b"hello".to_vec())]));
    assert!(most <= 64, "{most} in one poll");
}

#[test]
fn a_large_body_is_read_in_turns() {
    let mut host = asking();
    let mut webs: Vec<_> = (0..2).map(|_| Web::new(&mut host)).collect();
    let _ = host.poll();
    webs[0].send_request(post("/large", &"x".repeat(60_000)));
    webs[1].send_request(post("/small", "x"));
    let paths: Vec<_> = settle_asked(&mut host).into_iter().map(|(_, path, _)| path).collect();
    assert_eq!(paths, ["/small", "/large"]);
}

#[test]
fn last_response_may_leave_slowly() {
    let mut host = serving(Config::default(), |_| ok(vec![7; 20_000]));
    for request in
        ["GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET / HTTP/1.0\r\nHost: a\r\n\r\n"]
    {
        let mut web = Web::new(&mut host);
        web.peer.set_buffers(1_000, 1_000);
        web.send_request(request);
        host.settle();
        while web.peer.read(1_000) > 0 {
            host.check();
            host.advance(900 * MS);
            host.settle();
        }
        assert_eq!(web.response().body, vec![7; 20_000]);
        assert!(web.peer.at_end());
        web.peer.fin();
        host.settle();
    }
    assert_eq!(host.engine.stats().http_only, 2);
    host.check_empty();
}

#[test]
fn rejected_unregistered_connection_is_counted_once() {
    let mut host = Host::new(Config { max_connections: Some(1), ..Config::default() });
    host.open();
    let _refused = host.connect();
    let _ = host.poll();
    assert_eq!(host.engine.stats().rejected.total(), 1);
    let index = host.engine.clients.iter().map(|(index, _)| index).max().unwrap();
    host.engine.abandon(index);
    host.check();
}

#[test]
fn pending_upgrades_are_counted_with_their_headers() {
    let hooks = Hooks { on_upgrade: Some(Box::new(|_, _| Decision::Defer)), ..Hooks::default() };
    let mut host = Host::with_hooks(Config::default(), hooks, None);
    let mut web = Web::new(&mut host);
    let many: String = (0..90).map(|number| format!("a{number}:\r\n")).collect();
    web.send_request(Peer::REQUEST.replace("\r\n\r\n", &format!("\r\n{many}\r\n")));
    host.settle();
    host.check();
    let held = host.engine.total_buffered();
    assert!(held > 90 * 64, "{held} bytes for a table of 95 headers");
}
