//! TLS in the loop, with rustls as the peer. The tests of the protocol run over TLS as well, with
//! `TICKWS_TEST_TLS=1`.
#![cfg(feature = "tls")]

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use support::{
    Harness, Seen, echo,
    raw::{self, End, Frame, Raw},
    tls::{self, encrypted, plain, refusal, served, with_certificate},
};
use tickws::{
    AdoptError, ClientCertificates, CloseReason, Decision, Listener, Server, TlsVersion,
    tls::rustls_0_23::rustls,
};

fn harness() -> Harness {
    served(Server::builder(), tls::server())
}

fn with_versions(versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<rustls::ClientConfig> {
    Arc::new(tls::client_config(versions))
}

#[test]
fn both_versions_carry_messages_both_ways_and_end_with_close_notify() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut h = harness();
        let mut raw = encrypted(&h, with_versions(&[version]));
        let id = h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
        for len in [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_536, 300_000] {
            let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
            h.write(&mut raw, &raw::binary(&payload));
            h.until("the message", |h| matches!(h.seen.last(), Some(Seen::Binary(..))));
            assert_eq!(h.take_seen().pop(), Some(Seen::Binary(id, payload.clone())));
            h.server.send(id, &payload).unwrap();
            assert_eq!(h.frame(&mut raw), Frame::new(raw::BINARY, &payload));
        }
        h.write(&mut raw, &raw::close(1000, "done"));
        assert_eq!(h.frame(&mut raw), Frame::close(1000, "done"));
        // Without close_notify the stream would end with an error.
        h.read_to_end(&mut raw);
    }
}

#[test]
fn a_request_tells_what_the_handshake_has_agreed_on() {
    let (sender, seen) = std::sync::mpsc::channel();
    let builder = Server::builder().on_upgrade(move |request, _| {
        sender.send((request.is_secure(), request.tls().cloned())).unwrap();
        Decision::Accept
    });
    let mut h = served(builder, tls::server());
    let mut config = tls::client_config(&[&rustls::version::TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    for is_resumed in [false, true] {
        let mut raw = encrypted(&h, config.clone());
        let id = h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
        let (is_secure, info) = seen.recv().unwrap();
        let info = info.unwrap();
        assert!(is_secure && info.is_resumed() == is_resumed, "{info:?}");
        assert_eq!((info.version(), info.server_name()), (TlsVersion::V1_3, Some("localhost")));
        assert_eq!((info.alpn(), info.peer_certificates().len()), (Some("http/1.1"), 0));
        assert!(info.cipher().starts_with("TLS13_AES_"), "{info:?}");
        // The ticket arrives with the first data.
        h.server.send(id, "hi").unwrap();
        h.frame(&mut raw);
    }
    let stats = h.server.stats();
    assert_eq!((stats.tls_full, stats.tls_resumed), (1, 1));
    assert!(stats.tls_micros > 0);
}

#[test]
fn the_handshake_and_all_that_follows_may_arrive_split_at_any_byte() {
    let mut h = harness();
    // A cut of the client's whole output, counted in bytes from its start: hello, Finished and
    // request together, a message.
    for cut in (0..900).step_by(3) {
        let mut socket = TcpStream::connect(h.addr).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut client =
            rustls::ClientConnection::new(tls::client(), "localhost".try_into().unwrap()).unwrap();
        client.writer().write_all(raw::upgrade_request("/", "").as_bytes()).unwrap();
        let (mut sent, mut plaintext, mut replied) = (0, Vec::new(), false);
        h.until("an echo", |h| {
            let mut out = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut out).unwrap();
            }
            let split = (cut - sent as isize).clamp(0, out.len() as isize) as usize;
            sent += out.len();
            socket.write_all(&out[..split]).unwrap();
            h.step();
            socket.write_all(&out[split..]).unwrap();
            while client.read_tls(&mut socket).is_ok_and(|count| count > 0) {
                client.process_new_packets().unwrap();
            }
            let _ = client.reader().read_to_end(&mut plaintext);
            if !replied && plaintext.ends_with(b"\r\n\r\n") {
                replied = true;
                client.writer().write_all(&raw::text("hello")).unwrap();
            }
            let texts: Vec<_> = h.seen.drain(..).filter(|seen| matches!(seen, Seen::Text(..))).collect();
            if let Some(Seen::Text(id, text)) = texts.into_iter().next() {
                h.server.send(id, text).unwrap();
            }
            plaintext.ends_with(b"\x81\x05hello")
        });
    }
    assert_eq!(h.server.stats().rejected.total(), 0);
}

#[test]
fn a_fin_without_close_notify_is_reported_as_truncation() {
    let mut h = harness();
    let mut cut = encrypted(&h, tls::client());
    let id = h.upgrade(&mut cut, &raw::upgrade_request("/", ""));
    h.write(&mut cut, &raw::text("before"));
    cut.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(h.close_reason(id), CloseReason::Truncated);
    assert_eq!(h.texts(id), ["before"]);
    // An end with close_notify is one without a close frame, and no more.
    let mut ended = encrypted(&h, tls::client());
    let id = h.upgrade(&mut ended, &raw::upgrade_request("/", ""));
    h.write(&mut ended, &raw::text("before"));
    ended.half_close();
    assert_eq!(h.close_reason(id), CloseReason::Eof);
    assert_eq!(h.texts(id), ["before"]);
    // Behind a close frame nothing can be cut off.
    let mut closed = encrypted(&h, tls::client());
    let id = h.upgrade(&mut closed, &raw::upgrade_request("/", ""));
    h.write(&mut closed, &raw::close(1000, ""));
    closed.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(matches!(h.close_reason(id), CloseReason::Peer { .. }));
    let stats = h.server.stats().closed;
    assert_eq!((stats.truncated, stats.eof, stats.peer), (1, 1, 1));
}

#[test]
fn a_close_notify_of_the_peer_ends_reading_only() {
    let mut h = harness();
    let mut raw = encrypted(&h, tls::client());
    h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    h.write(&mut raw, &raw::text("last words"));
    raw.half_close();
    let mut reply = None;
    h.until("the reply", |h| {
        let tick = h.server.poll_for(std::time::Duration::from_millis(1)).unwrap();
        for event in &tick {
            echo(&mut h.server, event);
        }
        raw.read_some();
        reply = raw.take_frame().or(reply.take());
        reply.is_some()
    });
    assert_eq!(reply, Some(Frame::new(raw::TEXT, "last words")));
}

#[test]
fn a_changed_record_ends_the_connection_with_an_alert_and_nothing_else() {
    let mut h = harness();
    let mut raw = encrypted(&h, tls::client());
    let id = h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    let mut other = encrypted(&h, tls::client());
    let healthy = h.upgrade(&mut other, &raw::upgrade_request("/", ""));
    h.write(&mut raw, &raw::text("before"));
    let record = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
    raw.stream().try_clone().unwrap().write_all(&record).unwrap();
    assert_eq!(h.close_reason(id), CloseReason::Io(ErrorKind::InvalidData));
    assert_eq!(h.texts(id), ["before"]);
    h.until("the alert", |_| {
        raw.read_some();
        raw.end.is_some()
    });
    // rustls, the client, reports an alert as invalid data.
    assert_eq!(raw.end, Some(End::Failed(ErrorKind::InvalidData)));
    h.write(&mut other, &raw::text("still here"));
    h.until("the message", |h| !h.texts(healthy).is_empty());
}

#[test]
fn failed_handshakes_are_counted_by_cause() {
    let tls = tls::server().require_known_name().unwrap();
    let authority = tls::new_authority("for clients");
    let tls = tls.client_certificates(authority.pem(), ClientCertificates::Optional).unwrap();
    let mut h = served(Server::builder(), tls);
    let failed = |h: &Harness| h.server.stats().tls_failed;

    // The client does not trust the server.
    let mut strict = tls::client_config(rustls::ALL_VERSIONS);
    strict = {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        drop(strict);
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth()
    };
    let mut raw = encrypted(&h, Arc::new(strict));
    refusal(&mut h, &mut raw);
    h.until("the alert", |h| failed(h).alert == 1);

    // Nothing in common.
    let mut config = tls::client_config(rustls::ALL_VERSIONS);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut raw = encrypted(&h, Arc::new(config));
    assert_eq!(refusal(&mut h, &mut raw), ErrorKind::InvalidData);
    assert_eq!(failed(&h).no_common_parameters, 1);

    // A name of no certificate.
    let mut raw = plain(&h).encrypted(tls::client(), "elsewhere.example");
    refusal(&mut h, &mut raw);
    assert_eq!(failed(&h).unknown_name, 1);

    // A certificate of another authority.
    let stranger = tls::issue(&["client"], tls::authority(), |_| {});
    let config = with_certificate(&stranger);
    let mut raw = encrypted(&h, config);
    refusal(&mut h, &mut raw);
    assert_eq!(failed(&h).peer_certificate, 1);

    // No TLS and no HTTP.
    let mut raw = plain(&h);
    h.write(&mut raw, b"\x00\x01\x02\x03\x04\x05");
    h.until("the end", |_| {
        raw.read_some();
        raw.end.is_some()
    });
    assert_eq!(failed(&h).malformed, 1);
    let stats = h.server.stats();
    assert_eq!((stats.rejected.tls, stats.rejected.total(), stats.tls_full), (5, 5, 0));
}

#[test]
fn plain_http_on_a_tls_port_is_told_so_or_redirected() {
    let mut h = harness();
    let mut raw = plain(&h);
    h.write(&mut raw, b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let response = String::from_utf8(h.read_to_end(&mut raw)).unwrap();
    assert!(
        response.starts_with("HTTP/1.1 400 ") && response.ends_with("use https:// or wss://\n"),
        "{response}"
    );
    let mut raw = plain(&h);
    h.write(&mut raw, raw::upgrade_request("/", "").as_bytes());
    assert!(h.read_to_end(&mut raw).starts_with(b"HTTP/1.1 400 "));
    assert_eq!(h.server.stats().tls_failed.plain_text, 2);

    let mut h = served(Server::builder().redirect_to_https(true), tls::server());
    for (request, location) in [
        ("GET /a?b HTTP/1.1\r\nHost: localhost:7\r\n\r\n", Some("https://localhost:7/a?b")),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some("https://a/")),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", None),
        ("GET / HTTP/1.1\r\n\r\n", None),
    ] {
        // The last byte comes later.
        let mut raw = plain(&h);
        h.write(&mut raw, &request.as_bytes()[..request.len() - 1]);
        h.settle();
        h.write(&mut raw, b"\n");
        let response = String::from_utf8(h.read_to_end(&mut raw)).unwrap().to_lowercase();
        match location {
            Some(location) => {
                assert!(response.starts_with("http/1.1 308 "), "{response}");
                assert!(response.contains(&format!("\r\nlocation: {location}\r\n")), "{response}");
            }
            None => assert!(response.starts_with("http/1.1 400 "), "{response}"),
        }
    }
}

#[test]
fn a_client_hello_on_a_plain_port_is_told_so() {
    let mut h =
        Harness { server: Server::bind("127.0.0.1:0").unwrap(), addr: ([0; 4], 0).into(), seen: vec![] };
    h.addr = h.server.local_addrs()[0];
    let mut raw = plain(&h);
    h.write(&mut raw, &tls::hello());
    let response = String::from_utf8(h.read_to_end(&mut raw)).unwrap();
    assert!(
        response.starts_with("HTTP/1.1 400 ") && response.ends_with("is it TLS to a port without TLS?\n"),
        "{response}"
    );
}

#[test]
fn a_proxy_header_comes_before_the_handshake() {
    // The header and the hello in one piece, in two, and byte by byte.
    for piece in [usize::MAX, 30, 1] {
        let listener = Listener::from(TcpListener::bind("127.0.0.1:0").unwrap()).proxy_protocol().tls();
        let server = Server::builder().trusted_proxies(["127.0.0.1"]).tls(tls::server()).listener(listener);
        let server = server.build().unwrap();
        let addr = server.local_addrs()[0];
        let mut h = Harness { server, addr, seen: Vec::new() };
        let mut socket = TcpStream::connect(addr).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut client =
            rustls::ClientConnection::new(tls::client(), "localhost".try_into().unwrap()).unwrap();
        client.writer().write_all(raw::upgrade_request("/", "").as_bytes()).unwrap();
        let mut out = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n".to_vec();
        h.until("the connection to be open", |h| {
            while client.wants_write() {
                client.write_tls(&mut out).unwrap();
            }
            for piece in std::mem::take(&mut out).chunks(piece) {
                socket.write_all(piece).unwrap();
                h.step();
            }
            while client.read_tls(&mut socket).is_ok_and(|count| count > 0) {
                client.process_new_packets().unwrap();
            }
            h.server.client_count() == 1
        });
        let id = h.server.clients().next().unwrap();
        assert_eq!(h.server.remote_addr(id).unwrap().to_string(), "192.0.2.7:4711");
    }
}

#[test]
fn a_connection_accepted_elsewhere_is_taken_over_before_its_handshake() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = elsewhere.local_addr().unwrap();
    let mut h =
        Harness { server: Server::builder().tls(tls::server()).build().unwrap(), addr, seen: Vec::new() };
    let mut raw = encrypted(&h, tls::client());
    h.server.adopt_tls(elsewhere.accept().unwrap().0).unwrap();
    h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    let mut plain = Server::builder().build().unwrap();
    let _pending = TcpStream::connect(addr).unwrap();
    assert!(matches!(plain.adopt_tls(elsewhere.accept().unwrap().0), Err(AdoptError::NoTls)));
}

#[test]
fn with_a_time_budget_handshakes_take_turns_with_all_other_work() {
    let budget = std::time::Duration::from_micros(300);
    let mut h = served(Server::builder().time_budget(budget), tls::server());
    let mut raws: Vec<Raw> = (0..32).map(|_| encrypted(&h, tls::client())).collect();
    for raw in &mut raws {
        raw.write_some(raw::upgrade_request("/", "").as_bytes()).unwrap();
    }
    h.until("all to be open", |h| {
        raws.iter_mut().for_each(|raw| _ = raw.is_flushed());
        h.server.client_count() == 32
    });
    let _ = h.server.broadcast("hello");
    for raw in &mut raws {
        h.head(raw);
        assert_eq!(h.frame(raw), Frame::new(raw::TEXT, "hello"));
    }
}

/// A key update of the client asks the server to update its own keys, and data follows.
#[test]
fn keys_are_updated_in_both_directions() {
    let mut h = harness();
    let mut raw = encrypted(&h, tls::client());
    let id = h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    for round in 0..5 {
        raw.tls().unwrap().refresh_traffic_keys().unwrap();
        h.write(&mut raw, &raw::text(&format!("{round}")));
        h.until("the message", |h| h.texts(id).len() == round + 1);
        h.server.send(id, format!("{round}")).unwrap();
        assert_eq!(h.frame(&mut raw), Frame::new(raw::TEXT, format!("{round}")));
    }
}

#[test]
fn a_connection_above_a_limit_is_closed_without_a_handshake() {
    let mut h = served(Server::builder().max_connections(1), tls::server());
    let mut first = encrypted(&h, tls::client());
    let id = h.upgrade(&mut first, &raw::upgrade_request("/", ""));
    let mut second = encrypted(&h, tls::client());
    assert_eq!(refusal(&mut h, &mut second), ErrorKind::UnexpectedEof);
    assert_eq!((h.server.stats().rejected.at_capacity, h.server.stats().tls_full), (1, 1));
    h.write(&mut first, &raw::text("still here"));
    h.until("the message", |h| !h.texts(id).is_empty());
}

#[test]
fn a_bad_proxy_header_before_tls_ends_its_own_connection() {
    let listener = Listener::from(TcpListener::bind("127.0.0.1:0").unwrap()).proxy_protocol().tls();
    let builder = Server::builder().trusted_proxies(["127.0.0.1"]).tls(tls::server());
    let server = builder.listener(listener).build().unwrap();
    let addr = server.local_addrs()[0];
    let mut h = Harness { server, addr, seen: Vec::new() };
    for bytes in [&b"PROXY nonsense\r\n"[..], b"\x16\x03\x01\x00\x05hello", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut raw = plain(&h);
        h.write(&mut raw, bytes);
        assert_eq!(h.read_to_end(&mut raw), b"");
    }
    assert_eq!(h.server.stats().rejected.bad_request, 3);
}
