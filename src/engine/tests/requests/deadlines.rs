//! Deadlines of a plain request, of its response, and of the time between two requests.

use super::*;

/// The time until the server closes the connection, if nothing else happens.
#[track_caller]
pub(super) fn time_to_end(host: &mut Host, web: &mut Web) -> Duration {
    let start = host.now;
    loop {
        web.peer.read(usize::MAX);
        if web.peer.at_end() {
            return host.now - start;
        }
        let timeout = host.engine.next_timeout(host.now).expect("something is due");
        host.advance(timeout);
        let _ = host.poll();
        host.check();
        assert!(host.now < start + 100 * SEC, "it never ends");
    }
}

#[track_caller]
fn assert_about(time: Duration, due: Duration) {
    assert!(due <= time && time < due + 2 * MS, "{time:?}, not {due:?}");
}

#[test]
fn idle_connection_is_kept_for_keep_alive_timeout() {
    let config = Config { keep_alive_timeout: 7 * SEC, ..Config::default() };
    let (mut host, mut web) = served_with(config);
    for _ in 0..5 {
        host.advance(6 * SEC + 990 * MS);
        web.send_request(get("/again"));
        host.settle();
        assert_eq!(web.response().status, 200);
    }
    assert_about(time_to_end(&mut host, &mut web), 7 * SEC);
    assert_eq!(host.engine.stats().http_only, 1);
    assert!(!web.peer.was_aborted());
    host.check_empty();
}

#[test]
fn request_during_a_host_pause_keeps_its_connection() {
    let (mut host, mut web) = served();
    let mut idle = Web::new(&mut host);
    idle.send_request(get("/"));
    host.settle();
    assert_eq!(idle.response().status, 200);
    web.send_request(get("/again"));
    host.advance(60 * SEC);
    host.settle();
    assert_eq!(web.response().text(), "GET /again ");
    assert!(idle.peer.is_dropped() && !web.peer.is_dropped());
}

#[test]
fn dripping_head_ends_at_handshake_timeout() {
    for keep_alive in [SEC, 10 * SEC, 3_600 * SEC] {
        let config =
            Config { keep_alive_timeout: keep_alive, handshake_timeout: 4 * SEC, ..Config::default() };
        let (mut host, mut web) = served_with(config);
        host.advance(keep_alive / 2);
        let start = host.now;
        for byte in get("/slow").as_bytes().chunks(1).take(35) {
            if host.now - start + 110 * MS < 4 * SEC {
                web.peer.raw(byte);
                host.settle();
                host.check();
                host.advance(100 * MS);
            }
        }
        let so_far = host.now - start;
        assert_about(so_far + time_to_end(&mut host, &mut web), 4 * SEC);
        assert_eq!(host.engine.stats().rejected.timeout, 1);
        host.check_empty();
    }
}

#[test]
fn dripping_body_has_a_deadline_of_its_own() {
    let mut host = asking();
    let mut web = Web::new(&mut host);
    host.advance(9 * SEC);
    web.peer.raw(format!("{POST_HEAD}\r\n").as_bytes());
    let start = host.now;
    for byte in b"hell".chunks(1) {
        host.settle();
        host.check();
        host.advance(2 * SEC);
        web.peer.raw(byte);
    }
    host.settle();
    let so_far = host.now - start;
    assert_about(so_far + time_to_end(&mut host, &mut web), 10 * SEC);
    let response = web.response();
    assert_eq!((response.status, response.is_last()), (408, true));
    assert_eq!(host.engine.stats().rejected.timeout, 1);
    web.peer.fin();
    host.settle();
    host.check_empty();
}

#[test]
fn body_timeout_begins_at_the_end_of_the_head() {
    let config = Config { http: true, body_timeout: 3 * SEC, ..Config::default() };
    let mut host = Host::new(config);
    let mut web = Web::new(&mut host);
    web.peer.raw(&POST_HEAD.as_bytes()[..5]);
    host.settle();
    host.advance(8 * SEC);
    web.peer.raw(&format!("{POST_HEAD}\r\n").as_bytes()[5..]);
    host.settle();
    assert_about(time_to_end(&mut host, &mut web), 3 * SEC);
    assert_eq!(web.response().status, 408);
}

#[test]
fn request_without_a_response_gets_503() {
    for head in [false, true] {
        let mut host = asking();
        let mut web = Web::new(&mut host);
        host.advance(SEC);
        web.send_request(if head { get("/").replace("GET", "HEAD") } else { get("/") });
        web.send_request(get("/never"));
        let asked = settle_asked(&mut host);
        assert_eq!(asked.len(), 1);
        assert_about(time_to_end(&mut host, &mut web), 10 * SEC);
        let response = web.response();
        assert_eq!((response.status, response.is_last()), (503, true));
        assert_eq!(web.peer.rest(), b"", "RFC 9110 §9.3.2: nothing behind the response to a HEAD");
        assert_eq!(host.engine.stats().rejected.unanswered, 1);
        let late = host.engine.respond(asked[0].0, ok("late"), host.now);
        assert_eq!(late, Err(RespondError::Gone(asked[0].0)));
        web.peer.fin();
        host.settle();
        host.check_empty();
    }
}

#[test]
fn slow_response_does_not_count_as_idle_time() {
    let config = Config { keep_alive_timeout: SEC, ..Config::default() };
    let mut host = serving(config, |_| ok(vec![7; 20_000]));
    let mut web = Web::new(&mut host);
    web.peer.set_buffers(1_000, 1_000);
    web.send_request(get("/large"));
    host.settle();
    // The client reads a thousand bytes every 900 ms.
    while web.peer.read(1_000) > 0 {
        host.check();
        host.advance(900 * MS);
        host.settle();
    }
    assert_eq!(web.response().body, vec![7; 20_000]);
    // The keep-alive time counts from the last byte of the response.
    web.send_request(get("/again"));
    host.settle();
    assert!(web.peer.unread() > 0);
}

#[test]
fn client_that_does_not_read_its_response_is_dropped() {
    let mut host = serving(Config::default(), |_| ok(vec![7; 20_000]));
    let mut web = Web::new(&mut host);
    web.peer.set_buffers(1_000, 1_000);
    web.send_request(get("/large"));
    host.settle();
    let start = host.now;
    while !web.peer.is_dropped() {
        let timeout = host.engine.next_timeout(host.now).expect("a deadline");
        host.advance(timeout);
        let _ = host.poll();
        host.check();
    }
    assert_about(host.now - start, 10 * SEC);
    assert_eq!(host.engine.stats().http_only, 1);
    host.check_empty();
}
