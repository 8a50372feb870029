//! Decisions on upgrades: by the configuration, by a closure, and by a deferred call.

mod crowd;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use super::{web::*, *};
use crate::{
    CloseCode, Decision, HeaderError, Request, UpgradeError, UpgradeId, UpgradeResponse, engine::hooks::Hooks,
};

/// An upgrade request for a path, with extra header lines.
fn head(path: &str, extra: &str) -> String {
    Peer::REQUEST.replace("/chat?room=1", path).replace("\r\n\r\n", &format!("\r\n{extra}\r\n"))
}

fn deciding(
    config: Config,
    decide: impl FnMut(&Request<'_>, &mut UpgradeResponse) -> Decision + Send + Sync + 'static,
) -> Host {
    let hooks = Hooks { on_upgrade: Some(Box::new(decide)), ..Hooks::default() };
    Host::with_hooks(config, hooks, None)
}

fn deferring(config: Config) -> Host {
    deciding(config, |_, _| Decision::Defer)
}

/// The response to a request, which must come at once.
#[track_caller]
fn response_to(host: &mut Host, request: &str) -> WebResponse {
    let mut web = Web::new(host);
    web.send_request(request);
    host.settle();
    host.check();
    let response = web.response();
    assert_eq!(response.status == 101, !web.peer.at_end());
    response
}

fn subprotocols(names: &[&str]) -> Config {
    Config { subprotocols: names.iter().map(|name| (*name).to_owned()).collect(), ..Config::default() }
}

fn fields(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &[u8])| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
    };
    let mut headers = HeaderMap::new();
    pairs.iter().map(pair).for_each(|(name, value)| _ = headers.append(name, value));
    headers
}

/// A client whose upgrade was deferred to the application.
fn pending(host: &mut Host) -> (Web, UpgradeId) {
    pending_at(host, "/chat")
}

fn pending_at(host: &mut Host, path: &str) -> (Web, UpgradeId) {
    let mut web = Web::new(host);
    web.send_request(head(path, ""));
    for _ in 0..10 {
        let tick = host.poll();
        host.check();
        if let [id] = upgrades(&tick)[..] {
            return (web, id);
        }
    }
    panic!("no upgrade");
}

fn opened(tick: &Tick) -> Vec<ClientId> {
    let open = |event: Event<'_>| match event {
        Event::Open { client, .. } => Some(client),
        _ => None,
    };
    tick.iter().filter_map(open).collect()
}

// ---- by the configuration ----

#[test]
fn an_incomplete_head_counts_with_the_buffers_of_the_machine() {
    let mut host = Host::new(Config::default());
    let peer = host.connect();
    host.settle();
    assert_eq!(host.engine.stats().buffered, 0, "nothing is held before the first byte");
    peer.raw(b"GET / HTTP/1.1\r\n");
    host.settle();
    let buffered = host.engine.stats().buffered as usize;
    assert!((8 << 10..9 << 10).contains(&buffered), "{buffered}");
    peer.raw(&[&b"X: "[..], &[b'x'; 5_000]].concat());
    host.settle();
    assert!(host.engine.stats().buffered as usize >= buffered + 2 * 5_000, "what was fed is there twice");
    peer.raw(b"\r\nHost: a\r\n\r\n");
    host.settle();
    assert_eq!(host.engine.stats().buffered, 0);
}

#[test]
fn upgrades_are_accepted_only_at_configured_paths() {
    let paths = ["/ws", "/rooms/*", "/a/b"].map(str::to_owned).to_vec();
    let mut host = Host::new(Config { paths, ..Config::default() });
    for (path, status) in [
        ("/ws", 101),
        ("/ws?token=1", 101),
        ("/rooms/", 101),
        ("/rooms/7/left?x", 101),
        ("/a/b", 101),
        ("/", 404),
        ("/ws/", 404),
        ("/ws2", 404),
        ("/WS", 404),
        ("/rooms", 404),
        ("/a", 404),
        ("/%77s", 101),
        ("/rooms%2F7", 404),
        ("//ws", 404),
        ("/x/../ws", 404),
        ("http://a.example/ws", 101),
        ("http://a.example/", 404),
        ("*", 400),
        ("a.example:80", 400),
    ] {
        assert_eq!(response_to(&mut host, &head(path, "")).status, status, "{path}");
    }
    assert_eq!(host.engine.stats().rejected.path, 10);
    // The origin is checked first, so that a foreign page learns nothing about paths.
    assert_eq!(response_to(&mut host, &head("/no", "Origin: https://evil.example\r\n")).status, 403);
    // A plain request to a WebSocket path gets 426, and elsewhere as well if nothing is served.
    assert_eq!(response_to(&mut host, &get("/ws")).status, 426);
}

#[test]
fn server_preference_selects_the_subprotocol() {
    for (offer, chosen) in [
        ("", None),
        ("Sec-WebSocket-Protocol: v1, v2, v3\r\n", Some("v3")),
        ("Sec-WebSocket-Protocol: v1\r\nSec-WebSocket-Protocol: v2\r\n", Some("v2")),
        ("Sec-WebSocket-Protocol: ,,v1,\r\n", Some("v1")),
        ("Sec-WebSocket-Protocol: V1, other\r\n", None),
    ] {
        for required in [false, true] {
            let config = Config { require_subprotocol: required, ..subprotocols(&["v3", "v2", "v1"]) };
            let mut host = Host::new(config);
            let response = response_to(&mut host, &head("/", offer));
            let refused = required && chosen.is_none();
            assert_eq!(response.status, if refused { 400 } else { 101 }, "{offer:?}");
            assert_eq!(response.field("sec-websocket-protocol"), chosen);
            assert_eq!(host.engine.stats().rejected.subprotocol, u64::from(refused));
            if let Some(client) = host.engine.clients().next() {
                assert_eq!(host.engine.subprotocol(client), chosen);
            }
        }
    }
    let mut host = Host::new(subprotocols(&["v1"]));
    assert_eq!(response_to(&mut host, &head("/", "Sec-WebSocket-Protocol: v1, v1\r\n")).status, 400);
}

// ---- by a closure ----

#[test]
fn on_upgrade_sees_the_request_and_adds_headers() {
    let mut host = deciding(subprotocols(&["v2", "v1"]), |request, response| {
        assert_eq!((request.method().as_str(), request.uri().path()), ("GET", "/room"));
        assert_eq!((request.uri().query(), request.body()), (Some("token=7"), &b""[..]));
        assert_eq!(request.headers()["x-token"], "7");
        let addr = request.remote_addr();
        assert!(addr.ip().is_some_and(|ip| ip.is_loopback()) && addr.port() > Some(0));
        assert_eq!(response.offered().collect::<Vec<_>>(), ["v1", "v2", "v9"]);
        response.header("Set-Cookie", "a=1; HttpOnly").unwrap();
        response.header("Set-Cookie", "b=2").unwrap();
        assert!(response.header("X", "a\r\nSet-Cookie: evil").is_err());
        assert!(response.header("Sec-WebSocket-Accept", "mine").is_err());
        response.subprotocol("v1").unwrap();
        Decision::Accept
    });
    let request = head("/room?token=7", "X-Token: 7\r\nSec-WebSocket-Protocol: v1, v2, v9\r\n");
    let response = response_to(&mut host, &request);
    assert_eq!(response.status, 101);
    assert_eq!(response.field("sec-websocket-protocol"), Some("v1"));
    assert_eq!(response.head.matches("Set-Cookie: ").count(), 2, "{}", response.head);
    assert!(!response.head.contains("evil") && !response.head.contains("mine"));
    let client = host.engine.clients().next().unwrap();
    assert_eq!(host.engine.subprotocol(client), Some("v1"));
}

#[test]
fn on_upgrade_is_called_only_for_acceptable_requests() {
    let config = Config { paths: vec!["/ws".into()], ..Config::default() };
    let mut host = deciding(config, |_, _| panic!("asked"));
    for (request, status) in [
        (head("/no", ""), 404),
        (head("/ws", "Origin: https://evil.example\r\n"), 403),
        (head("/ws", "").replace("13", "8"), 426),
        (get("/ws"), 426),
        (post("/ws", "x"), 405),
    ] {
        assert_eq!(response_to(&mut host, &request).status, status);
    }
}

#[test]
fn on_upgrade_may_reject_with_any_valid_response() {
    let mut host = deciding(Config::default(), |request, _| {
        let path = request.uri().path();
        let mut response = Response::new(Bytes::from_static(b"who are you?\n"));
        *response.status_mut() = path[1..4].parse().unwrap();
        let (name, value) = match &path[4..] {
            "/te" => ("transfer-encoding", "chunked"),
            "/long" => ("content-length", "14"),
            "/keep" => ("connection", "keep-alive"),
            _ => ("www-authenticate", "Bearer"),
        };
        response.headers_mut().insert(name, value.parse().unwrap());
        Decision::Reject(response)
    });
    for (path, status, body) in [
        ("/401", 401, "who are you?\n"),
        ("/302", 302, "who are you?\n"),
        ("/503", 503, "who are you?\n"),
        ("/304", 304, ""),
        ("/100", 500, "the application failed\n"),
        ("/101", 500, "the application failed\n"),
        ("/200", 500, "the application failed\n"),
        ("/204", 500, "the application failed\n"),
        ("/401/te", 500, "the application failed\n"),
        ("/401/long", 500, "the application failed\n"),
        ("/401/keep", 500, "the application failed\n"),
    ] {
        let response = response_to(&mut host, &head(path, ""));
        assert_eq!((response.status, response.text(), response.is_last()), (status, body, true), "{path}");
        assert_eq!(response.field("www-authenticate").is_some(), status != 500);
    }
    let stats = host.engine.stats();
    assert_eq!((stats.rejected.application, stats.opened), (11, 0));
}

// ---- by a deferred call ----

#[test]
fn a_deferred_upgrade_is_accepted_later_with_all_headers() {
    let mut host = deciding(subprotocols(&["v1"]), |_, response| {
        response.header("Set-Cookie", "early=1").unwrap();
        Decision::Defer
    });
    let mut web = Web::new(&mut host);
    web.send_request(head("/chat", "Sec-WebSocket-Protocol: v2, v1\r\n"));
    let _ = host.poll();
    let tick = host.poll();
    let Some(Event::Upgrade { upgrade, request }) = tick.iter().next() else { panic!("{tick:?}") };
    assert_eq!((request.uri().path(), tick.len()), ("/chat", 1));
    for _ in 0..5 {
        host.advance(SEC);
        assert_eq!(host.settle(), 0);
        host.check();
    }
    assert_eq!((web.responses(), host.engine.client_count()), (vec![], 0));
    let headers =
        fields(&[("set-cookie", b"late=1"), ("set-cookie", b"late=2"), ("sec-websocket-protocol", b"v2")]);
    let client = host.engine.accept_upgrade(upgrade, headers, host.now).unwrap();
    assert_eq!(host.engine.next_timeout(host.now), Some(Duration::ZERO), "Open is to be handed out");
    host.engine.send(client, "welcome".into()).unwrap();
    host.check();
    assert_eq!(opened(&host.poll()), [client]);
    host.settle();
    let response = web.response();
    assert_eq!((response.status, response.field("sec-websocket-protocol")), (101, Some("v2")));
    for cookie in ["early=1", "late=1", "late=2"] {
        assert!(response.head.contains(&format!("Set-Cookie: {cookie}\r\n")), "{}", response.head);
    }
    assert_eq!(web.peer.frames(), [text("welcome")]);
    // Frames may follow the 101 at once, and the handshake deadline no longer applies.
    web.peer.text("hello");
    assert_eq!(messages(&host.poll()), [(client, b"hello".to_vec())]);
    host.advance(30 * SEC);
    host.settle();
    host.check();
    assert_eq!(host.engine.client_count(), 1);
}

#[test]
fn deferred_upgrade_is_decided_once() {
    let mut host = deferring(Config::default());
    let no = || status(401, "no");
    let (mut web, id) = pending(&mut host);
    host.engine.accept_upgrade(id, HeaderMap::new(), host.now).unwrap();
    for _ in 0..2 {
        let again = host.engine.accept_upgrade(id, HeaderMap::new(), host.now);
        assert_eq!(again, Err(UpgradeError::Gone(id)));
        assert_eq!(host.engine.reject_upgrade(id, &no(), host.now), Err(UpgradeError::Gone(id)));
        host.settle();
    }
    assert_eq!(web.response().status, 101);

    let (mut web, id) = pending(&mut host);
    host.engine.reject_upgrade(id, &no(), host.now).unwrap();
    for _ in 0..2 {
        let again = host.engine.accept_upgrade(id, HeaderMap::new(), host.now);
        assert_eq!(again, Err(UpgradeError::Gone(id)));
        assert_eq!(host.engine.reject_upgrade(id, &no(), host.now), Err(UpgradeError::Gone(id)));
        assert_eq!(host.settle(), 0, "no UpgradeGone for what was answered");
    }
    let response = web.response();
    assert_eq!((response.status, response.text(), response.is_last()), (401, "no", true));
    assert!(web.peer.at_end());
    assert_eq!((host.engine.stats().opened, host.engine.stats().rejected.application), (1, 1));

    // The next upgrade in this slot has a new id.
    web.peer.fin();
    host.settle();
    let (_, next) = pending(&mut host);
    assert_eq!(next.index(), id.index());
    assert_eq!(host.engine.reject_upgrade(id, &no(), host.now), Err(UpgradeError::Gone(id)));
    let nobody = UpgradeId::new(4_000_000, 1);
    assert_eq!(host.engine.reject_upgrade(nobody, &no(), host.now), Err(UpgradeError::Gone(nobody)));
}

#[test]
fn invalid_response_leaves_the_upgrade_waiting() {
    let mut host = deferring(Config::default());
    let (mut web, id) = pending(&mut host);
    for (name, value) in [
        ("connection", "close"),
        ("upgrade", "h2c"),
        ("sec-websocket-accept", "x"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("content-length", "0"),
        ("transfer-encoding", "chunked"),
    ] {
        let headers = fields(&[("set-cookie", b"half=1"), (name, value.as_bytes())]);
        let error = host.engine.accept_upgrade(id, headers, host.now).unwrap_err();
        assert!(matches!(error, UpgradeError::Header(HeaderError::Reserved(_))), "{name}: {error}");
    }
    let headers = fields(&[("set-cookie", b"half=1"), ("x-name", b"J\xfcrgen")]);
    let error = host.engine.accept_upgrade(id, headers, host.now).unwrap_err();
    assert!(matches!(error, UpgradeError::Header(HeaderError::Invalid(_))), "{error}");
    let error = host.engine.accept_upgrade(id, fields(&[("sec-websocket-protocol", b"v1")]), host.now);
    assert!(matches!(error, Err(UpgradeError::Header(HeaderError::NotOffered(_)))));
    for code in [100, 101, 200, 204] {
        let error = host.engine.reject_upgrade(id, &status(code, ""), host.now);
        assert!(matches!(error, Err(UpgradeError::Status(_))), "{error:?}");
    }
    let mut chunked = status(401, "no");
    chunked.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
    let error = host.engine.reject_upgrade(id, &chunked, host.now);
    assert!(matches!(error, Err(UpgradeError::Header(_))), "{error:?}");

    assert_eq!(host.settle(), 0);
    host.check();
    assert_eq!(web.responses(), []);
    host.engine.accept_upgrade(id, fields(&[("x-good", b"1")]), host.now).unwrap();
    host.settle();
    let response = web.response();
    assert_eq!((response.status, response.field("x-good")), (101, Some("1")));
    assert_eq!(response.field("set-cookie"), None, "all of a set of headers, or none");
}

#[test]
fn client_that_leaves_or_sends_early_is_reported_gone_once() {
    enum Leave {
        Fin,
        Reset,
        Junk,
        Request,
    }
    for (how, response) in
        [(Leave::Fin, None), (Leave::Reset, None), (Leave::Junk, Some(400)), (Leave::Request, Some(400))]
    {
        let mut host = deferring(Config::default());
        let (mut web, id) = pending(&mut host);
        match how {
            Leave::Fin => web.peer.fin(),
            Leave::Reset => web.peer.reset(true),
            Leave::Junk => web.peer.text("too early"),
            Leave::Request => web.send_request(get("/")),
        }
        let mut ends = Vec::new();
        for _ in 0..5 {
            ends.extend(gone(&host.poll()));
            host.check();
        }
        assert_eq!(ends, [id]);
        let error = host.engine.accept_upgrade(id, HeaderMap::new(), host.now);
        assert_eq!(error, Err(UpgradeError::Gone(id)));
        let responses: Vec<_> = web.responses().iter().map(|response| response.status).collect();
        assert_eq!(responses, response.into_iter().collect::<Vec<_>>());
        web.peer.fin();
        host.settle();
        let stats = host.engine.stats();
        assert_eq!(stats.rejected.bad_request, u64::from(response.is_some()));
        assert_eq!(stats.rejected.gone, u64::from(response.is_none()));
        host.check_empty();
    }
}

#[test]
fn upgrade_and_upgrade_gone_may_share_a_tick() {
    let mut host = deferring(Config::default());
    let mut web = Web::new(&mut host);
    web.send_request(Peer::REQUEST);
    web.peer.fin();
    let _ = host.poll();
    let tick = host.poll();
    let ids = upgrades(&tick);
    assert_eq!((ids.len(), gone(&tick)), (1, ids.clone()));
    let error = host.engine.accept_upgrade(ids[0], HeaderMap::new(), host.now);
    assert_eq!(error, Err(UpgradeError::Gone(ids[0])));
    host.check_empty();
}

#[test]
fn accepted_client_that_already_left_is_opened_and_closed() {
    for (event_budget, reset) in [(1, false), (16_384, false), (1, true), (16_384, true)] {
        let mut host = deferring(Config { event_budget, ..Config::default() });
        let (web, id) = pending(&mut host);
        if reset {
            web.peer.reset(true)
        } else {
            web.peer.fin()
        }
        let client = host.engine.accept_upgrade(id, HeaderMap::new(), host.now).unwrap();
        host.check();
        let mut events = Vec::new();
        for _ in 0..6 {
            let tick = host.poll();
            host.check();
            events.extend(opened(&tick).iter().map(|id| (*id, true)));
            events.extend(closes(&tick).iter().map(|(id, _)| (*id, false)));
            assert_eq!(gone(&tick), []);
        }
        assert_eq!(events, [(client, true), (client, false)]);
        host.check_empty();
    }
}

#[test]
fn undecided_upgrade_gets_503_at_handshake_timeout() {
    let config = Config { handshake_timeout: 4 * SEC, keep_alive_timeout: 60 * SEC, ..Config::default() };
    for served in [false, true] {
        let hooks = Hooks {
            on_upgrade: Some(Box::new(|_, _| Decision::Defer)),
            on_http: Some(Box::new(|_| ok("plain"))),
            ..Hooks::default()
        };
        let mut host = Host::with_hooks(config.clone(), hooks, None);
        let mut web = Web::new(&mut host);
        if served {
            web.send_request(get("/"));
            host.settle();
            assert_eq!(web.response().status, 200);
            host.advance(30 * SEC);
        }
        let start = host.now;
        web.send_request(Peer::REQUEST);
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.extend(upgrades(&host.poll()));
            host.check();
        }
        let mut ends = Vec::new();
        while ends.is_empty() {
            let timeout = host.engine.next_timeout(host.now).expect("a deadline");
            host.advance(timeout);
            ends.extend(gone(&host.poll()));
            host.check();
        }
        assert_eq!(ends, ids);
        let waited = host.now - start;
        assert!(4 * SEC <= waited && waited < 4 * SEC + 2 * MS, "{waited:?}");
        host.settle();
        let response = web.response();
        assert_eq!((response.status, response.is_last()), (503, true));
        assert_eq!((host.engine.stats().rejected.unanswered, host.engine.stats().http_only), (1, 0));
        let late = host.engine.reject_upgrade(ids[0], &status(401, ""), host.now);
        assert_eq!(late, Err(UpgradeError::Gone(ids[0])));
    }
}

#[test]
fn shutdown_ends_pending_upgrades() {
    let mut host = deferring(Config::default());
    let (mut web, id) = pending(&mut host);
    host.engine.shutdown(CloseCode::GOING_AWAY, "", 60 * SEC, host.now);
    let error = host.engine.accept_upgrade(id, HeaderMap::new(), host.now);
    assert_eq!(error, Err(UpgradeError::Gone(id)));
    assert_eq!(gone(&host.poll()), [id]);
    host.settle();
    assert_eq!(web.response().status, 503);
    web.peer.fin();
    host.settle();
    assert_eq!(host.engine.stats().rejected.at_capacity, 1);
    host.check_empty();
    assert!(host.engine.is_drained());
}

#[test]
fn memory_limit_sheds_pending_upgrades_and_reports_them() {
    let filler = format!("X-Filler: {}\r\n", "x".repeat(3_000));
    let mut host = deferring(Config { max_total_buffered: Some(80_000), ..Config::default() });
    let mut webs: Vec<_> = (0..20).map(|_| Web::new(&mut host)).collect();
    for web in &mut webs {
        web.send_request(head("/", &filler));
    }
    let (mut ids, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let tick = host.poll();
        host.check();
        ids.extend(upgrades(&tick));
        ends.extend(gone(&tick));
    }
    assert_eq!((ids.len(), ends.len()), (20, 0));
    assert!(host.engine.total_buffered() > 60_000, "{}", host.engine.total_buffered());
    let mut more: Vec<_> = (0..20).map(|_| Web::new(&mut host)).collect();
    for web in &mut more {
        web.send_request(head("/", &filler));
    }
    for _ in 0..100 {
        let tick = host.poll();
        host.check();
        ids.extend(upgrades(&tick));
        ends.extend(gone(&tick));
        host.advance(10 * MS);
    }
    // An accepted client takes the memory in which the others wait.
    let client = host.engine.accept_upgrade(ids[0], HeaderMap::new(), host.now).unwrap();
    host.engine.send(client, (&vec![7; 70_000]).into()).unwrap();
    webs[0].peer.set_buffers(1_000, 100);
    for _ in 0..100 {
        let tick = host.poll();
        host.check();
        ends.extend(gone(&tick));
        host.advance(10 * MS);
    }
    let stats = host.engine.stats();
    assert!(stats.rejected.overloaded > 0 && !ends.is_empty(), "{stats}");
    for id in &ends {
        let error = host.engine.accept_upgrade(*id, HeaderMap::new(), host.now);
        assert_eq!(error, Err(UpgradeError::Gone(*id)));
    }
    // All other upgrades can still be decided.
    for id in ids.iter().filter(|id| !ends.contains(id) && **id != ids[0]) {
        host.engine.reject_upgrade(*id, &status(401, ""), host.now).unwrap();
    }
    let reported = ends.len();
    ends.sort();
    ends.dedup();
    assert_eq!(ends.len(), reported, "gone twice");
    assert!(stats.rejected.overloaded >= reported as u64, "{stats}");
}
