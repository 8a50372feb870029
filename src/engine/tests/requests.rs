//! Plain HTTP under the simulated clock: order, deadlines, slow readers, and all kinds of ends.

mod deadlines;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::{web::*, *};
use crate::{CloseCode, Pressure, RespondError, engine::tests::web::WebResponse};
use deadlines::time_to_end;

const POST_HEAD: &str = "POST /p HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n";

/// A host and a client that got one response at this moment.
fn served() -> (Host, Web) {
    served_with(Config::default())
}

fn served_with(config: Config) -> (Host, Web) {
    let mut host = answering(config);
    let mut web = Web::new(&mut host);
    web.send_request(get("/first"));
    host.settle();
    assert_eq!(web.response().text(), "GET /first ");
    (host, web)
}

fn statuses(responses: &[WebResponse]) -> Vec<u16> {
    responses.iter().map(|response| response.status).collect()
}

// ---- order ----

#[test]
fn pipelined_requests_get_responses_in_order_bodies_included() {
    let mut host = answering(Config::default());
    let mut web = Web::new(&mut host);
    let mut wire = String::new();
    for number in 0..20 {
        let request = if number % 3 == 0 {
            post(&format!("/{number}"), &"b".repeat(number * 40))
        } else {
            get(&format!("/{number}"))
        };
        web.note(request.as_bytes());
        wire += &request;
    }
    web.peer.raw(wire.as_bytes());
    host.settle();
    host.check();
    let responses = web.responses();
    assert_eq!(statuses(&responses), [200; 20]);
    for (number, response) in responses.iter().enumerate() {
        let body = if number % 3 == 0 { "b".repeat(number * 40) } else { String::new() };
        let method = if number % 3 == 0 { "POST" } else { "GET" };
        assert_eq!(response.text(), format!("{method} /{number} {body}"));
        assert!(!response.is_last());
    }
    assert_eq!(host.engine.stats().http_requests, 20);
    web.peer.fin();
    host.settle();
    assert_eq!(host.engine.stats().http_only, 1);
    host.check_empty();
}

#[test]
fn next_request_is_parsed_after_the_previous_response() {
    let mut host = asking();
    let mut web = Web::new(&mut host);
    for request in [get("/1"), post("/2", "two"), get("/3")] {
        web.send_request(request);
    }
    for (path, body) in [("/1", ""), ("/2", "two"), ("/3", "")] {
        let asked = settle_asked(&mut host);
        let [(id, at, came)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!((&at[..], &came[..]), (path, body.as_bytes()));
        assert_eq!(web.responses(), []);
        host.advance(SEC);
        host.engine.respond(*id, ok(format!("to {path}")), host.now).unwrap();
        host.engine.flush(host.now);
        assert_eq!(web.response().text(), format!("to {path}"));
    }
    assert_eq!(settle_asked(&mut host), []);
}

#[test]
fn late_responses_in_any_order_reach_their_clients() {
    let mut host = asking();
    let mut rng = crate::util::test_rng::Rng::new(7);
    let mut webs: Vec<_> = (0..50).map(|_| Web::new(&mut host)).collect();
    for (number, web) in webs.iter_mut().enumerate() {
        for request in 0..4 {
            web.send_request(post(&format!("/{number}/{request}"), "x"));
        }
    }
    let mut waiting = Vec::new();
    for _ in 0..200 {
        waiting.extend(settle_asked(&mut host));
        host.advance(10 * MS);
        let (id, path, _) = waiting.swap_remove(rng.below(waiting.len()));
        host.engine.respond(id, ok(path), host.now).unwrap();
    }
    host.settle();
    for (number, web) in webs.iter_mut().enumerate() {
        let got: Vec<_> = web.responses().iter().map(|response| response.text().to_owned()).collect();
        assert_eq!(got, [0, 1, 2, 3].map(|request| format!("/{number}/{request}")));
    }
}

#[test]
fn valid_request_gets_its_response_before_a_malformed_one() {
    let (mut host, mut web) = served();
    web.send_request(get("/good"));
    web.send_request("GET / HTTP/1.1\nHost: a\n\n");
    web.send_request(get("/never"));
    host.settle();
    let responses = web.responses();
    assert_eq!(statuses(&responses), [200, 400]);
    assert!(!responses[0].is_last() && responses[1].is_last());
    assert!(web.peer.at_end());
    assert_eq!(host.engine.stats().rejected.bad_request, 1);
}

#[test]
fn connection_close_and_http_1_0_end_the_connection() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    ] {
        let (mut host, mut web) = served();
        web.send_request(request);
        web.send_request(get("/never"));
        host.settle();
        let response = web.response();
        assert!(response.status == 200 && response.is_last(), "{response:?}");
        assert!(web.peer.at_end());
        web.peer.fin();
        host.settle();
        assert!(!web.peer.was_aborted());
        assert_eq!((host.engine.stats().http_only, host.engine.stats().http_requests), (1, 2));
        host.check_empty();
    }
}

// ---- bodies ----

#[test]
fn expect_continue_gets_100_before_the_body() {
    let mut host = asking();
    let mut web = Web::new(&mut host);
    web.send_request(format!("{POST_HEAD}Expect: 100-continue\r\n\r\n"));
    assert_eq!(settle_asked(&mut host), []);
    assert_eq!((web.responses(), web.continued), (vec![], 1));
    web.peer.raw(b"he");
    assert_eq!(settle_asked(&mut host), []);
    web.peer.raw(b"llo");
    let asked = settle_asked(&mut host);
    assert_eq!(asked[0].2, b"hello");
    host.engine.respond(asked[0].0, ok("thanks"), host.now).unwrap();
    host.settle();
    assert_eq!((web.response().text(), web.continued), ("thanks", 1));

    // A client that sends its body at once gets no 100, and neither does HTTP/1.0.
    web.send_request(format!("{POST_HEAD}Expect: 100-continue\r\n\r\nhello"));
    let asked = settle_asked(&mut host);
    host.engine.respond(asked[0].0, ok("thanks"), host.now).unwrap();
    host.settle();
    assert_eq!((web.responses().len(), web.continued), (1, 1));
    web.send_request("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(settle_asked(&mut host), []);
    assert_eq!((web.responses(), web.continued), (vec![], 1));
}

#[test]
fn rejected_body_gets_no_100_continue() {
    let config = Config { http: true, max_body_size: 4, ..Config::default() };
    let mut host = Host::new(config);
    let mut web = Web::new(&mut host);
    web.send_request(format!("{POST_HEAD}Expect: 100-continue\r\n\r\n"));
    host.settle();
    assert_eq!((web.response().status, web.continued), (413, 0));
    assert!(web.peer.at_end());
    assert_eq!(host.engine.stats().rejected.bad_body, 1);
}

#[test]
fn memory_of_a_body_grows_as_it_arrives() {
    let config = Config { http: true, max_body_size: 1 << 20, ..Config::default() };
    let mut host = Host::new(config);
    let webs: Vec<_> = (0..10).map(|_| Web::new(&mut host)).collect();
    for web in &webs {
        web.peer.raw(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n");
    }
    host.settle();
    host.check();
    assert!(host.engine.total_buffered() < 4_000, "{}", host.engine.total_buffered());
    for web in &webs {
        web.peer.raw(&[b'x'; 10_000]);
    }
    host.settle();
    host.check();
    assert!((100_000..250_000).contains(&host.engine.total_buffered()), "{}", host.engine.total_buffered());
    for web in &webs {
        web.peer.reset(false);
    }
    host.settle();
    assert_eq!(host.engine.stats().rejected.gone, 10);
    host.check_empty();
}

// ---- ends ----

#[test]
fn half_closed_client_gets_its_response() {
    let mut host = asking();
    let mut web = Web::new(&mut host);
    web.send_request(get("/1"));
    web.send_request(post("/2", "two"));
    web.peer.fin();
    for path in ["/1", "/2"] {
        let asked = settle_asked(&mut host);
        assert_eq!(asked[0].1, path);
        host.engine.respond(asked[0].0, ok("here"), host.now).unwrap();
        host.engine.flush(host.now);
        assert_eq!(web.response().text(), "here");
    }
    host.settle();
    assert!(web.peer.at_end() && !web.peer.was_aborted());
    assert_eq!(host.engine.stats().http_only, 1);
    host.check_empty();
}

#[test]
fn client_that_leaves_mid_request_is_freed() {
    let pieces = [get("/")[..20].to_owned(), format!("{POST_HEAD}\r\nhel")];
    for (after_one, piece) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        for reset in [false, true] {
            let (mut host, mut web) = served();
            if !after_one {
                web = Web::new(&mut host);
            }
            web.peer.raw(pieces[piece].as_bytes());
            host.settle();
            if reset {
                web.peer.reset(true)
            } else {
                web.peer.fin()
            }
            host.settle();
            assert!(web.peer.is_dropped());
            assert_eq!(web.responses(), []);
            assert_eq!(host.engine.stats().rejected.gone, 1);
            host.check();
        }
    }
}

#[test]
fn reset_during_a_response_discards_pipelined_requests() {
    // The pipelined requests are unparsed until the first response has left.
    let mut host = serving(Config::default(), |_| ok(vec![7; 20_000]));
    let mut web = Web::new(&mut host);
    web.peer.set_buffers(10_000, 1_000);
    for _ in 0..5 {
        web.send_request(get("/"));
    }
    host.settle();
    host.check();
    web.peer.reset(false);
    host.settle();
    host.check();
    assert!(web.peer.is_dropped(), "it holds its place for nothing");
    assert_eq!((host.engine.stats().http_requests, host.engine.stats().http_only), (1, 1));
    host.check_empty();
}

#[test]
fn request_waits_for_one_valid_response() {
    let mut host = asking();
    let mut web = Web::new(&mut host);
    web.send_request(get("/"));
    let asked = settle_asked(&mut host);
    let id = asked[0].0;
    let mut bad = Vec::new();
    for code in [100, 101, 103, 199] {
        bad.push(status(code, ""));
    }
    for (name, value) in [
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "1"),
        ("Content-Length", "x"),
        ("Content-Length", ""),
        ("Connection", "keep-alive"),
        ("Upgrade", "websocket"),
        ("Trailer", "x"),
        ("Keep-Alive", "timeout=5"),
    ] {
        let mut response = ok("four");
        response
            .headers_mut()
            .append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        bad.push(response);
    }
    let before = host.engine.stats();
    for response in bad {
        let status = response.status().is_informational();
        let error = host.engine.respond(id, response, host.now).unwrap_err();
        assert_eq!(matches!(error, RespondError::Status(_)), status, "{error}");
        assert!(status || matches!(error, RespondError::Header(_)), "{error}");
    }
    assert_eq!(host.engine.stats(), before);
    host.settle();
    assert_eq!(web.responses(), []);
    host.engine.respond(id, status(418, "tea"), host.now).unwrap();
    assert_eq!(host.engine.respond(id, ok("again"), host.now), Err(RespondError::Gone(id)));
    host.settle();
    assert_eq!(web.response().status, 418);
    assert_eq!(host.engine.respond(id, ok("again"), host.now), Err(RespondError::Gone(id)));

    // The next request of this connection, and the next connection of this slot, have new ids.
    web.send_request(get("/next"));
    let next = settle_asked(&mut host)[0].0;
    assert_eq!(next.index(), id.index());
    assert_eq!(host.engine.respond(id, ok("again"), host.now), Err(RespondError::Gone(id)));
    web.peer.reset(true);
    host.engine.respond(next, ok("to nobody"), host.now).unwrap();
    host.settle();
    let mut other = Web::new(&mut host);
    other.send_request(get("/other"));
    assert_eq!(settle_asked(&mut host)[0].0.index(), id.index());
    for stale in [id, next] {
        assert_eq!(host.engine.respond(stale, ok("again"), host.now), Err(RespondError::Gone(stale)));
    }
    assert_eq!(other.responses(), []);
}

#[test]
fn invalid_response_of_a_closure_becomes_500() {
    let mut host = serving(Config::default(), |request| {
        let mut response = ok("four");
        match request.uri().path() {
            "/status" => *response.status_mut() = http::StatusCode::CONTINUE,
            _ => _ = response.headers_mut().insert("content-length", 17.into()),
        }
        response
    });
    let mut web = Web::new(&mut host);
    for path in ["/status", "/length"] {
        web.send_request(get(path));
        host.settle();
        assert_eq!((web.response().status, web.peer.at_end()), (500, false));
    }
}

/// The read that brings the request fills its room, so that the stream holds more input.
#[test]
fn panicking_closure_stops_no_read_of_its_own_connection() {
    let mut host = serving(Config::default(), |request| match request.uri().path() {
        "/panic" => resume_unwind(Box::new("on purpose")),
        _ => ok("fine"),
    });
    let web = Web::new(&mut host);
    // The turn of a client is short while another one behind it is ready.
    let (mut other, _) = host.open();
    let requests = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".repeat(2_000);
    web.peer.raw(format!("GET /panic HTTP/1.1\r\nHost: a.example\r\n\r\n{requests}").as_bytes());
    other.text("also ready");
    let mut panics = 0;
    for _ in 0..5 {
        panics += usize::from(catch_unwind(AssertUnwindSafe(|| host.poll())).is_err());
    }
    host.check();
    assert_eq!(panics, 1);
}

#[test]
fn panicking_closure_loses_no_message_of_other_clients() {
    let on_http = |_: &crate::Request<'_>| panic!("a bug of the application's");
    let on_upgrade = |request: &crate::Request<'_>, _: &mut crate::UpgradeResponse| {
        assert_eq!(request.uri().path(), "/chat", "a bug of the application's");
        crate::Decision::Accept
    };
    let hooks = crate::engine::hooks::Hooks {
        on_http: Some(Box::new(on_http)),
        on_upgrade: Some(Box::new(on_upgrade)),
        ..Default::default()
    };
    let mut host = Host::with_hooks(Config::default(), hooks, None);
    let (mut one, first) = host.open();
    let (mut two, second) = host.open();
    let mut webs = [Web::new(&mut host), Web::new(&mut host)];
    let _ = host.poll();
    one.text("before");
    webs[0].send_request(get("/"));
    webs[1].send_request(Peer::REQUEST.replace("/chat", "/bug"));
    two.text("behind");
    let mut received = Vec::new();
    for _ in 0..6 {
        // The host goes on polling after a panic.
        let poll = AssertUnwindSafe(|| host.poll());
        received.extend(catch_unwind(poll).map(|tick| messages(&tick)).unwrap_or_default());
    }
    host.engine.flush(host.now);
    assert_eq!(received, [(first, b"before".to_vec()), (second, b"behind".to_vec())]);
    for web in &mut webs {
        time_to_end(&mut host, web);
    }
    assert_eq!((webs[0].response().status, webs[1].responses()), (503, vec![]));
    assert_eq!(host.engine.client_count(), 2);
}

#[test]
fn shutdown_responds_to_all_requests_and_closes() {
    let mut host = asking();
    let mut webs: Vec<_> = (0..4).map(|_| Web::new(&mut host)).collect();
    let [idle, waiting, body, head] = &mut webs[..] else { unreachable!() };
    idle.send_request(get("/"));
    waiting.send_request(get("/"));
    let asked = settle_asked(&mut host);
    host.engine.respond(asked[0].0, ok("done"), host.now).unwrap();
    body.send_request(format!("{POST_HEAD}\r\nhel"));
    head.send_request(&get("/")[..20]);
    host.settle();
    host.engine.shutdown(CloseCode::GOING_AWAY, "", 60 * SEC, host.now);
    let late = host.engine.respond(asked[1].0, ok("late"), host.now);
    assert_eq!(late, Err(RespondError::Gone(asked[1].0)));
    host.settle();
    host.check();
    assert_eq!(idle.response().status, 200);
    for web in [waiting, body, head] {
        let response = web.response();
        assert!(response.status == 503 && response.is_last(), "{response:?}");
    }
    for web in &webs {
        assert!(web.peer.at_end());
        web.peer.fin();
    }
    host.settle();
    assert_eq!((host.engine.stats().http_only, host.engine.stats().rejected.at_capacity), (1, 3));
    host.check_empty();
    assert!(host.engine.is_drained());
}

#[test]
fn response_above_the_memory_limit_ends_only_its_connection() {
    for len in [30_000, 3_000_000] {
        let config = Config { max_total_buffered: Some(20_000), ..Config::default() };
        let mut host = serving(config, move |_| ok(vec![7; len]));
        let mut web = Web::new(&mut host);
        web.send_request(get("/"));
        web.send_request(get("/"));
        host.settle();
        host.check();
        assert_eq!((web.responses(), web.peer.is_dropped()), (vec![], true));
        assert_eq!(host.engine.stats().rejected.overloaded, 1);
        assert_eq!(host.engine.pressure(), Pressure::Low);
        host.check_empty();
    }
    // This also holds for a response of the application.
    let config = Config { max_total_buffered: Some(20_000), http: true, ..Config::default() };
    let mut host = Host::new(config);
    let mut web = Web::new(&mut host);
    web.send_request(get("/"));
    let asked = settle_asked(&mut host);
    host.engine.respond(asked[0].0, ok(vec![7; 30_000]), host.now).unwrap();
    host.settle();
    assert!(web.peer.is_dropped());
    host.check_empty();
}

// ---- an upgrade on the same connection ----

#[test]
fn upgrade_after_plain_requests_ends_http() {
    for pipelined in [false, true] {
        let (mut host, mut web) = served();
        web.send_request(get("/1"));
        if !pipelined {
            host.settle();
        }
        web.send_request(Peer::REQUEST);
        let mut opened = None;
        for _ in 0..20 {
            let tick = host.poll();
            host.check();
            let open = |event: Event<'_>| match event {
                Event::Open { client, .. } => Some(client),
                _ => None,
            };
            opened = opened.or(tick.iter().find_map(open));
        }
        let client = opened.expect("an upgrade");
        let responses = web.responses();
        assert_eq!(statuses(&responses), [200, 101]);
        web.peer.text("hello");
        let tick = host.poll();
        assert_eq!(messages(&tick), [(client, b"hello".to_vec())]);
        host.engine.send(client, "hi".into()).unwrap();
        host.settle();
        assert_eq!(web.peer.frames(), [text("hi")]);
        assert_eq!((host.engine.stats().http_only, host.engine.stats().opened), (0, 1));

        // An HTTP request is an invalid frame now.
        web.peer.raw(get("/2").as_bytes());
        let mut ends = Vec::new();
        (0..5).for_each(|_| ends.extend(closes(&host.poll())));
        assert!(matches!(&ends[..], [(id, CloseReason::Protocol(_))] if *id == client), "{ends:?}");
        assert!(matches!(web.peer.frames()[..], [Frame::Close(1002, _)]));
        assert_eq!(host.engine.stats().http_requests, 2);
    }
}

#[test]
fn upgrade_clears_the_http_deadlines() {
    let (mut host, mut web) = served();
    web.send_request(Peer::REQUEST);
    host.settle();
    assert_eq!(statuses(&web.responses()), [101]);
    host.advance(53 * SEC);
    host.settle();
    host.check();
    assert_eq!(host.engine.client_count(), 1);
}
