//! Requests through trusted proxies, and the hosts that requests may name.

use http::Response;

use super::{web::*, *};
use crate::{
    CloseReason, Decision, PeerAddr,
    config::{OriginPolicy, hosts::HostPolicy},
    engine::hooks::Hooks,
};

/// The statements of a request about its client.
type Said = (String, String, bool);

/// A server that responds with what it knows of the client. The network of the simulated clients is
/// `10.0.0.0/8` or `127.0.0.0/8`, so `trusted` says whether they are trusted proxies.
fn asked(config: Config, trusted: bool) -> Host {
    let trusted_proxies = if trusted { ["0.0.0.0/0"] } else { ["203.0.113.0/24"] };
    let trusted_proxies = trusted_proxies.map(|proxy| proxy.parse().unwrap()).to_vec();
    // 192.0.2.0/24 and 198.51.100.0/24 are clients, and everything else of IPv4 is a proxy.
    let trusted_proxies = match trusted {
        true => ["10.0.0.0/8", "127.0.0.0/8"].map(|proxy| proxy.parse().unwrap()).to_vec(),
        false => trusted_proxies,
    };
    let hooks = Hooks {
        on_http: Some(Box::new(|request| {
            let said: Said =
                (request.remote_addr().to_string(), request.peer_addr().to_string(), request.is_secure());
            Response::new(format!("{said:?}").into())
        })),
        on_upgrade: Some(Box::new(|_, _| Decision::Accept)),
        ..Hooks::default()
    };
    Host::with_hooks(Config { trusted_proxies, ..config }, hooks, None)
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

/// The response to a request, sent in two pieces that are split at `at`.
fn response_split(host: &mut Host, request: &[u8], at: usize) -> WebResponse {
    let mut web = Web::new(host);
    web.note(request);
    web.peer.raw(&request[..at]);
    host.settle();
    web.peer.raw(&request[at..]);
    host.settle();
    host.check();
    let response = web.response();
    web.peer.fin();
    host.settle();
    response
}

fn response_to(host: &mut Host, request: &str) -> WebResponse {
    response_split(host, request.as_bytes(), request.len())
}

fn remote(response: &WebResponse) -> String {
    response.text().split('"').nth(1).unwrap_or_else(|| panic!("{response:?}")).to_owned()
}

#[test]
fn the_fields_of_a_trusted_proxy_name_the_client_however_the_head_is_split() {
    let mut host = asked(Config::default(), true);
    let request = get("X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.9.9.9\r\nX-Forwarded-Proto: https\r\n");
    for at in 0..request.len() {
        let response = response_split(&mut host, request.as_bytes(), at);
        assert_eq!(remote(&response), "192.0.2.7", "{at}");
        assert!(response.text().ends_with("true)") && !response.text().starts_with("(\"192.0.2.7\", \"192"));
    }
    let response = response_to(&mut host, &get("Forwarded: for=\"192.0.2.7:80\";proto=http\r\n"));
    assert!(response.text().contains("192.0.2.7:80") && response.text().ends_with("false)"));
}

#[test]
fn the_fields_of_other_peers_are_ignored_and_never_an_error() {
    let mut host = asked(Config::default(), false);
    let direct = remote(&response_to(&mut host, &get("")));
    let direct = direct.split(':').next().unwrap();
    for fields in [
        "X-Forwarded-For: 192.0.2.7\r\n",
        "Forwarded: for=192.0.2.7;proto=https;host=b.example\r\n",
        "Forwarded: for=\"\r\nX-Forwarded-For: ,,\r\nX-Forwarded-Proto: https\r\n",
        "X-Forwarded-Host: b.example\r\nX-Forwarded-Proto: https\r\n",
    ] {
        let response = response_to(&mut host, &get(fields));
        assert_eq!(remote(&response).split(':').next(), Some(direct), "{fields}");
        assert!(response.text().ends_with("false)"), "{fields}");
    }
}

/// A proxy sends the requests of several clients over one connection.
#[test]
fn each_request_of_a_connection_has_its_own_client() {
    let mut host = asked(Config { max_connections_per_ip: Some(1), ..Config::default() }, true);
    let mut web = Web::new(&mut host);
    for last in [7, 8, 8, 9] {
        web.send_request(get(&format!("X-Forwarded-For: 192.0.2.{last}\r\n")));
        host.settle();
        assert_eq!(remote(&web.response()), format!("192.0.2.{last}"));
    }
    // The proxy has sent a request of its own.
    web.send_request(get(""));
    host.settle();
    assert!(!remote(&web.response()).starts_with("192."));
    web.peer.fin();
    host.settle();
    host.check_empty();
}

#[test]
fn the_limit_per_address_counts_the_clients_of_a_proxy() {
    let mut host = asked(Config { max_connections_per_ip: Some(2), ..Config::default() }, true);
    let upgrade = |client: &str| {
        Peer::REQUEST.replace("\r\n\r\n", &format!("\r\nX-Forwarded-For: 6.6.6.6, {client}\r\n\r\n"))
    };
    let mut open = Vec::new();
    for (client, status) in [
        ("192.0.2.7", 101),
        ("192.0.2.7", 101),
        ("192.0.2.7", 503),
        ("192.0.2.8", 101),
        ("2001:db8::1", 101),
        ("2001:db8::2", 101),
        ("2001:db8::ffff:0:0:3", 503),
        ("2001:db8:0:1::1", 101),
    ] {
        let mut web = Web::new(&mut host);
        web.send_request(upgrade(client));
        host.settle();
        host.check();
        assert_eq!(web.response().status, status, "{client}");
        open.push(web);
    }
    assert_eq!(host.engine.stats().rejected.per_ip, 2);
    // A client that leaves makes room.
    open[0].peer.fin();
    host.settle();
    let mut web = Web::new(&mut host);
    web.send_request(upgrade("192.0.2.7"));
    host.settle();
    assert_eq!(web.response().status, 101);
    for peer in open.into_iter().chain([web]) {
        peer.peer.reset(false);
    }
    host.settle();
    host.check_empty();
}

#[test]
fn a_thousand_addresses_of_one_ipv6_prefix_share_a_limit() {
    let mut host = asked(Config { max_connections_per_ip: Some(10), ..Config::default() }, true);
    let mut webs = Vec::new();
    for number in 0..1_000 {
        let mut web = Web::new(&mut host);
        let client = format!("\r\nX-Forwarded-For: 2001:db8::{number:x}:0:1\r\n\r\n");
        web.send_request(Peer::REQUEST.replace("\r\n\r\n", &client));
        host.settle();
        assert_eq!(web.response().status, if number < 10 { 101 } else { 503 }, "{number}");
        match number {
            0..10 => webs.push(web),
            _ => web.peer.fin(),
        }
    }
    assert_eq!(host.engine.stats().rejected.per_ip, 990);
}

#[test]
fn a_proxy_header_names_the_client_however_it_is_split() {
    let mut host = asked(Config { max_connections_per_ip: Some(1), ..Config::default() }, true);
    host.named = true;
    let request = [b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n", get("").as_bytes()].concat();
    for at in 0..request.len() {
        let response = response_split(&mut host, &request, at);
        assert_eq!(remote(&response), "192.0.2.7:5000", "{at}");
    }
    // A trusted proxy behind the one that has sent the header.
    let behind = b"PROXY TCP4 10.7.7.7 10.0.0.1 5000 443\r\n";
    let request = [&behind[..], get("X-Forwarded-For: 6.6.6.6, 192.0.2.9\r\n").as_bytes()].concat();
    assert_eq!(remote(&response_split(&mut host, &request, 3)), "192.0.2.9");
    let local = [b"PROXY UNKNOWN\r\n", get("").as_bytes()].concat();
    assert!(!remote(&response_split(&mut host, &local, 3)).starts_with("192."));
    host.check_empty();
}

#[test]
fn a_listener_for_proxy_headers_takes_nothing_else() {
    for trusted in [true, false] {
        let mut host = asked(Config::default(), trusted);
        host.named = true;
        let request = get("");
        for at in [1, request.len()] {
            let response = response_split(&mut host, request.as_bytes(), at);
            assert_eq!((response.status, response.is_last()), (400, true));
        }
        // The header of a peer that is not trusted is read and ignored.
        let request = [b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n", get("").as_bytes()].concat();
        let response = response_split(&mut host, &request, 5);
        assert_eq!(remote(&response).starts_with("192.0.2.7"), trusted);
    }
    // The response to a HEAD has no body here either, nor has one to an unread request.
    let mut host = asked(Config { max_connections_per_ip: Some(1), ..Config::default() }, true);
    host.named = true;
    let proxy_header = "PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n";
    let first = host.connect();
    first.raw(proxy_header.as_bytes());
    host.settle();
    for request in
        ["HEAD / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), format!("{proxy_header}HEAD / HTTP/1.1\r\n")]
    {
        let mut peer = host.connect();
        peer.raw(request.as_bytes());
        host.settle();
        let text = String::from_utf8(peer.take_all()).unwrap();
        assert!(text.ends_with("Content-Length: 0\r\n\r\n"), "{text}");
    }
    // And elsewhere a header is never looked for.
    let mut host = asked(Config::default(), true);
    let request = [b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n", get("").as_bytes()].concat();
    assert_eq!(response_split(&mut host, &request, 5).status, 400);
}

#[test]
fn a_connection_without_its_proxy_header_ends_at_handshake_timeout() {
    let mut host = asked(Config::default(), true);
    host.named = true;
    let web = Web::new(&mut host);
    web.peer.raw(b"PROXY TCP4 192.0.2.7 ");
    host.settle();
    host.advance(11 * SEC);
    host.settle();
    assert!(web.peer.is_dropped());
    assert_eq!(host.engine.stats().rejected.timeout, 1);
    host.check_empty();
}

/// The status of an upgrade request by a page of this origin.
fn status(host: &mut Host, request_host: &str, origin: &str, fields: &str) -> u16 {
    let request = Peer::REQUEST
        .lines()
        .filter(|line| !line.starts_with("Host:") && !line.starts_with("Origin:") && !line.is_empty())
        .map(|line| format!("{line}\r\n"))
        .collect::<String>();
    let request = format!("{request}Host: {request_host}\r\nOrigin: {origin}\r\n{fields}\r\n");
    response_to(host, &request).status
}

#[test]
fn the_origin_is_compared_with_host_and_scheme_as_the_proxy_got_them() {
    let mut host = asked(Config::default(), true);
    let outer = "X-Forwarded-Host: game.example\r\nX-Forwarded-Proto: https\r\n";
    for (origin, fields, expected) in [
        ("https://game.example", outer, 101),
        ("http://game.example", outer, 403),
        ("https://game.example:8443", outer, 403),
        ("http://inner:9001", outer, 403),
        ("http://inner:9001", "", 101),
        ("https://inner:9001", "", 101),
        ("https://inner:9001", "X-Forwarded-Proto: http\r\n", 403),
        ("https://game.example", "Forwarded: for=192.0.2.1;host=game.example;proto=https\r\n", 101),
        ("https://game.example", "Forwarded: for=192.0.2.1;host=game.example;proto=http\r\n", 403),
    ] {
        assert_eq!(status(&mut host, "inner:9001", origin, fields), expected, "{origin} {fields}");
    }
    let mut host = asked(Config::default(), false);
    assert_eq!(status(&mut host, "inner:9001", "https://game.example", outer), 403);
}

#[test]
fn only_allowed_hosts_are_served() {
    let list = |names: &[&str]| HostPolicy::AllowList(names.iter().map(|name| (*name).to_owned()).collect());
    let evil = "http://evil.example";
    for origins in [OriginPolicy::SameOrigin, OriginPolicy::Any] {
        let config = Config { hosts: HostPolicy::Loopback, origins, ..Config::default() };
        let mut host = asked(config, false);
        assert_eq!(status(&mut host, "evil.example", evil, ""), 421);
        assert_eq!(status(&mut host, "evil.example:80", evil, ""), 421);
        assert_eq!(status(&mut host, "localhost:9001", "http://localhost:9001", ""), 101);
        assert_eq!(status(&mut host, "[::1]", "http://[::1]", ""), 101);
        // A peer that is not trusted cannot say that it asked for another host.
        assert_eq!(status(&mut host, "evil.example", evil, "X-Forwarded-Host: localhost\r\n"), 421);
        assert_eq!(host.engine.stats().rejected.host, 3);
    }
    let config = Config { hosts: HostPolicy::Loopback, health: Some("/healthz".into()), ..Config::default() };
    let mut host = asked(Config { metrics: Some("/metrics".into()), ..config }, false);
    for path in ["/", "/healthz", "/metrics"] {
        for (name, status) in [("evil.example", 421), ("127.0.0.1:1", 200), ("app.localhost", 200)] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n");
            assert_eq!(response_to(&mut host, &request).status, status, "{path} {name}");
            let absolute = format!("GET http://{name}{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(response_to(&mut host, &absolute).status, status, "{path} {name}");
        }
        // No browser leaves Host out, but load balancers do.
        assert_eq!(response_to(&mut host, &format!("GET {path} HTTP/1.0\r\n\r\n")).status, 200);
    }
    // Behind a proxy the outer name counts, and the inner one must not be that of another site: a
    // page can add X-Forwarded-Host to requests to its own host.
    let mut host = asked(Config { hosts: list(&["game.example"]), ..Config::default() }, true);
    let game = "http://game.example";
    for (name, fields, expected) in [
        ("game.example", "", 101),
        ("127.0.0.1:9001", "X-Forwarded-Host: game.example\r\n", 101),
        ("127.0.0.1:9001", "", 421),
        ("evil.example", "X-Forwarded-Host: game.example\r\n", 421),
        ("game.example", "X-Forwarded-Host: evil.example\r\n", 421),
    ] {
        let origin = if expected == 101 { game } else { evil };
        assert_eq!(status(&mut host, name, origin, fields), expected, "{name} {fields}");
    }
}

#[test]
fn a_head_gets_no_body_wherever_it_is_refused() {
    let full = Config { max_connections: Some(1), ..Config::default() };
    let small = Config { max_head_bytes: 200, max_headers: 3, ..Config::default() };
    let allowed = Config { hosts: HostPolicy::Loopback, ..Config::default() };
    let long = "x".repeat(300);
    for (config, request, status) in [
        (full, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 503),
        (small.clone(), &*format!("HEAD /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 431),
        (small, "HEAD / HTTP/1.1\r\nHost: a\r\na: 1\r\na: 1\r\na: 1\r\n\r\n", 431),
        (allowed, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 421),
        (Config::default(), "HEAD / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (Config::default(), "HEAD / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
        (Config::default(), "\r\nHEAD / HTTP/1.1\r\nHost: a\r\nx\r\n\r\n", 400),
        (Config::default(), "HEAD /#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (Config::default(), "HEAD / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", 426),
        (Config::default(), "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", 413),
        (Config::default(), "HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    ] {
        let mut host = asked(config, false);
        let _other = host.connect();
        host.settle();
        let mut web = Web::new(&mut host);
        web.peer.raw(request.as_bytes());
        host.settle();
        web.peer.read(usize::MAX);
        let text = String::from_utf8(web.peer.take_all()).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {text}");
        assert!(text.ends_with("\r\n\r\n") && text.matches("\r\n\r\n").count() == 1, "{request}: {text}");
    }
}

/// The 101 leaves in a write of its own, and the messages behind it in the next.
#[test]
fn an_isolated_101_is_written_alone() {
    for isolate_upgrade_response in [false, true] {
        let config = Config { isolate_upgrade_response, ..Config::default() };
        let mut host = Host::with_hooks(
            config,
            Hooks { on_upgrade: Some(Box::new(|_, _| Decision::Defer)), ..Hooks::default() },
            None,
        );
        let mut web = Web::new(&mut host);
        web.send_request(Peer::REQUEST);
        let _ = host.poll();
        let tick = host.poll();
        let upgrades = tick.iter().filter_map(|event| match event {
            crate::Event::Upgrade { upgrade, .. } => Some(upgrade),
            _ => None,
        });
        let upgrade = upgrades.collect::<Vec<_>>()[0];
        let id = host.engine.accept_upgrade(upgrade, http::HeaderMap::new(), host.now).unwrap();
        host.engine.send(id, "first".into()).unwrap();
        host.engine.send(id, "second".into()).unwrap();
        let before = web.peer.calls().1;
        host.settle();
        assert_eq!(web.peer.calls().1 - before, if isolate_upgrade_response { 2 } else { 1 });
        assert_eq!(web.response().status, 101);
        let texts = ["first", "second"].map(|text| Frame::Text(text.to_owned()));
        assert_eq!(web.peer.parse(), texts);
        assert!(host.engine.is_open(id));
    }
}

#[test]
fn an_adopted_connection_of_a_proxy_counts_for_its_client() {
    let mut host = asked(Config { max_connections_per_ip: Some(1), ..Config::default() }, true);
    let proxy: PeerAddr = std::net::SocketAddr::from(([10, 0, 0, 9], 9)).into();
    let mut peers = Vec::new();
    for (client, fits) in [("192.0.2.7", true), ("192.0.2.7", false), ("192.0.2.8", true)] {
        let (peer, socket) = host.accept_elsewhere();
        let end = socket.id;
        let fields = [("x-forwarded-for", client)].map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).unwrap())
        });
        let request = crate::http1::head::upgrade_request("/".parse().unwrap(), fields.into_iter().collect());
        let adopted = host.engine.adopt_upgraded(socket, proxy, request, b"", host.now);
        assert_eq!(adopted.is_ok(), fits, "{client}");
        if let Ok(id) = adopted {
            host.watch(end, id.index());
            let addrs = (host.engine.remote_addr(id), host.engine.peer_addr(id));
            assert_eq!(addrs, (Some(PeerAddr::Portless(client.parse().unwrap())), Some(proxy)));
        }
        peers.push(peer);
        host.settle();
        host.check();
    }
    peers.iter().for_each(|peer| peer.reset(false));
    host.settle();
    host.check_empty();
}

#[test]
fn an_adopted_connection_is_open_with_its_leftover() {
    let mut host = Host::new(Config { max_connections_per_ip: Some(1), ..Config::default() });
    let (mut peer, socket) = host.accept_elsewhere();
    let end = socket.id;
    let request = crate::http1::head::upgrade_request("/chat?x".parse().unwrap(), http::HeaderMap::new());
    let mut frames = Vec::new();
    for text in ["one", "two"] {
        frames.extend(crate::net::sim::masked(OpCode::Data(Data::Text), true, text.as_bytes(), 7));
    }
    let peer_addr: PeerAddr = std::net::SocketAddr::from(([192, 0, 2, 1], 9)).into();
    let (early, late) = frames.split_at(11);
    let id = host.engine.adopt_upgraded(socket, peer_addr, request, early, host.now).unwrap();
    host.watch(end, id.index());
    host.engine.send(id, "welcome".into()).unwrap();
    let tick = host.poll();
    let events: Vec<_> = tick.iter().map(|event| format!("{event:?}")).collect();
    assert!(events[0].starts_with("Open") && events[1].contains("one"), "{events:?}");
    peer.raw(late);
    host.settle();
    assert_eq!(peer.take_all(), [&[0x81, 7][..], b"welcome"].concat());
    assert_eq!(host.engine.remote_addr(id), Some(peer_addr));
    peer.fin();
    let tick = host.poll();
    assert_eq!(closes(&tick), [(id, CloseReason::Eof)]);
    host.settle();
    host.check_empty();
}
