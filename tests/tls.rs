//! TLS in the loop, with rustls, OpenSSL and curl as peers. The tests of the protocol run over TLS
//! as well, with `TICKWS_TEST_TLS=1`.
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
    tls::{self, Certificate},
};
use tickws::{
    AdoptError, BindError, ClientCertificates, CloseReason, ConfigError, Connect, Decision, Event, Listener,
    Server, ServerBuilder, Tls, TlsClient, TlsError, TlsVersion,
    tls::rustls_0_23::{self, rustls},
};

fn served(builder: ServerBuilder, tls: Tls) -> Harness {
    let server = builder.tls(tls).bind_tls("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0];
    Harness { server, addr, seen: Vec::new() }
}

fn harness() -> Harness {
    served(Server::builder(), tls::server())
}

/// A client that speaks TLS with this configuration.
fn encrypted(h: &Harness, config: Arc<rustls::ClientConfig>) -> Raw {
    plain(h).encrypted(config, "localhost")
}

fn plain(h: &Harness) -> Raw {
    Raw::from_stream(TcpStream::connect(h.addr).unwrap())
}

/// Goes on with the handshake until it has failed, and returns the error.
#[track_caller]
fn refusal(h: &mut Harness, raw: &mut Raw) -> ErrorKind {
    h.until("the end of the handshake", |_| {
        raw.read_some();
        raw.end.is_some()
    });
    match raw.end {
        Some(End::Failed(kind)) => kind,
        other => panic!("{other:?}"),
    }
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

fn with_certificate(certificate: &Certificate) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(tls::authority().der().to_vec())).unwrap();
    let chain = CertificateDer::from_pem_slice(certificate.chain.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![chain], key)
        .unwrap();
    Arc::new(config)
}

#[test]
fn a_client_certificate_reaches_the_application() {
    let authority = tls::new_authority("for clients");
    let member = tls::issue(&["member"], &authority, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let (sender, seen) = std::sync::mpsc::channel();
    let builder = Server::builder().on_upgrade(move |request, _| {
        sender.send(request.peer_certificates().to_vec()).unwrap();
        Decision::Accept
    });
    let tls = tls::server().client_certificates(authority.pem(), ClientCertificates::Required).unwrap();
    let mut h = served(builder, tls);
    let mut raw = encrypted(&h, with_certificate(&member));
    h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    let shown = seen.recv().unwrap();
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let own = CertificateDer::from_pem_slice(member.chain.as_bytes()).unwrap();
    assert_eq!(shown, [own.to_vec()]);
    // A client without one is refused.
    let mut raw = encrypted(&h, tls::client());
    refusal(&mut h, &mut raw);
    assert_eq!(h.server.stats().tls_failed.peer_certificate, 1);
    // An expired one is, too.
    let expired = tls::issue(&["member"], &authority, |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let mut raw = encrypted(&h, with_certificate(&expired));
    refusal(&mut h, &mut raw);
    assert_eq!(h.server.stats().tls_failed.peer_certificate, 2);
}

#[test]
fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let [first, second] = [tls::certificate(&["a.example"]), tls::certificate(&["*.b.example"])];
    let tls = Tls::from_pem(&first.chain, &first.key).unwrap();
    let tls = tls.add_pem(&second.chain, &second.key).unwrap();
    let mut h = served(Server::builder().allow_hosts(["localhost"]), tls);
    for name in ["a.example", "x.b.example"] {
        let mut raw = plain(&h).encrypted(tls::client(), name);
        h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    }
    let mut raw = plain(&h).encrypted(tls::client(), "c.example");
    assert_eq!(
        refusal(&mut h, &mut raw),
        ErrorKind::InvalidData,
        "the first certificate is for another name"
    );
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
    let mut client = rustls::ClientConnection::new(tls::client(), "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut raw = plain(&h);
    h.write(&mut raw, &hello);
    let response = String::from_utf8(h.read_to_end(&mut raw)).unwrap();
    assert!(
        response.starts_with("HTTP/1.1 400 ") && response.ends_with("is it TLS to a port without TLS?\n"),
        "{response}"
    );
}

#[test]
fn plain_and_encrypted_ports_serve_beside_each_other() {
    let plain_port = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut h = served(Server::builder().listener(plain_port), tls::server());
    let addrs = h.server.local_addrs();
    let secure = *addrs.iter().find(|addr| **addr == h.addr).unwrap();
    let mut clients = Vec::new();
    for addr in addrs {
        // Only one of the two speaks TLS.
        let raw = Raw::from_stream(TcpStream::connect(addr).unwrap());
        let mut raw = if addr == secure { raw } else { raw.encrypted(tls::client(), "localhost") };
        h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
        clients.push(raw);
    }
    assert_eq!(h.server.client_count(), 2);
}

#[test]
fn what_cannot_work_is_an_error_when_the_server_is_built() {
    let config = |error: Result<Server, BindError>| match error {
        Err(BindError::Config(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(config(Server::builder().bind_tls("127.0.0.1:0")), ConfigError::NoTls));
    assert!(matches!(
        config(Server::builder().tls(tls::server()).bind("127.0.0.1:0")),
        ConfigError::UnusedTls
    ));
    let (own, other) = (tls::local(), tls::certificate(&["localhost"]));
    assert!(matches!(Tls::from_pem(&own.chain, &other.key), Err(TlsError::KeyMismatch)));
    assert!(matches!(Tls::from_pem("", &own.key), Err(TlsError::NoCertificate)));
    assert!(matches!(Tls::from_pem(&own.chain, ""), Err(TlsError::NoKey)));
    assert!(matches!(Tls::from_pem(&own.chain, own.key.replace('M', "!")), Err(TlsError::Pem(_))));
    assert!(matches!(Tls::from_pem_files("/nowhere", "/nowhere"), Err(TlsError::File { .. })));
    let mut config = server_config();
    config.max_early_data_size = 1;
    assert!(matches!(rustls_0_23::server(Arc::new(config)), Err(TlsError::EarlyData)));
    let mut config = server_config();
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert!(matches!(rustls_0_23::server(Arc::new(config)), Err(TlsError::NoHttp11)));
}

fn server_config() -> rustls::ServerConfig {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let chain = CertificateDer::from_pem_slice(tls::local().chain.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(tls::local().key.as_bytes()).unwrap();
    rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap()
}

#[test]
fn a_configuration_of_the_application_is_used() {
    let mut h = served(Server::builder(), rustls_0_23::server(Arc::new(server_config())).unwrap());
    let mut raw = encrypted(&h, tls::client());
    h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    let mut raw = encrypted(&h, with_versions(&[&rustls::version::TLS12]));
    refusal(&mut h, &mut raw);
    assert_eq!(h.server.stats().tls_failed.no_common_parameters, 1);
}

#[test]
fn certificates_change_while_the_server_runs() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (chain, key) = (dir.join("chain.pem"), dir.join("key.pem"));
    let store = |certificate: &Certificate| {
        std::fs::write(&chain, &certificate.chain).unwrap();
        std::fs::write(&key, &certificate.key).unwrap();
    };
    store(&tls::certificate(&["old.example"]));
    let tls = Tls::from_pem_files(&chain, &key).unwrap();
    let mut h = served(Server::builder(), tls.clone());
    let connect = |h: &mut Harness, name: &'static str| {
        let mut raw = plain(h).encrypted(tls::client(), name);
        let id = h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
        (raw, id)
    };
    let (mut old, id) = connect(&mut h, "old.example");
    assert!(!tls.reload_if_changed().unwrap());
    // A half-written pair is an error, and changes nothing.
    std::fs::write(&key, "-----BEGIN").unwrap();
    assert!(tls.reload_if_changed().is_err());
    connect(&mut h, "old.example");
    store(&tls::certificate(&["renewed.example"]));
    assert!(tls.reload_if_changed().unwrap());
    connect(&mut h, "renewed.example");
    h.server.set_tls(tls::server());
    connect(&mut h, "localhost");
    // The first connection is as it was.
    h.server.send(id, "still here").unwrap();
    assert_eq!(h.frame(&mut old), Frame::new(raw::TEXT, "still here"));
    std::fs::remove_dir_all(dir).unwrap();
}

/// The two directions of an outbound connection: between two servers of this library.
#[test]
fn an_outbound_connection_to_wss_checks_the_server_and_resumes_its_session() {
    let hosts = ["localhost", "127.0.0.1", "elsewhere.example"];
    let mut h = served(Server::builder().allow_hosts(hosts), tls::server());
    let port = h.addr.port();
    let mut client = Server::builder().build().unwrap();
    let trusts = TlsClient::roots(tls::authority().pem()).unwrap();
    let opens = |client: &mut Server, h: &mut Harness, connect: Connect| {
        let id = client.connect(connect).unwrap();
        let mut outcome = None;
        h.until("the outcome of the attempt", |h| {
            let _ = h;
            for event in &client.poll_once().unwrap() {
                outcome = match event {
                    Event::Open { request, .. } => {
                        let tls = request.tls().unwrap();
                        assert!(request.is_secure() && tls.version() == TlsVersion::V1_3);
                        // The server's own certificate; a resumed session keeps it.
                        assert_eq!(tls.peer_certificates().len(), 1);
                        Some(Ok(()))
                    }
                    Event::ConnectFailed { error, .. } => Some(Err(error.to_string())),
                    _ => None,
                };
            }
            outcome.is_some()
        });
        outcome.unwrap().map(|()| id)
    };
    for (host, is_resumed) in [("localhost", false), ("localhost", true), ("127.0.0.1", false)] {
        let connect = Connect::new(format!("wss://{host}:{port}/")).tls(trusts.clone());
        let connect = connect.addrs([h.addr]);
        let id = opens(&mut client, &mut h, connect).unwrap();
        client.send(id, "over TLS").unwrap();
        h.until("the message", |h| {
            let _ = client.poll_once().unwrap();
            matches!(h.seen.last(), Some(Seen::Text(..)))
        });
        h.take_seen();
        let stats = h.server.stats();
        assert_eq!(stats.tls_resumed, u64::from(is_resumed || host == "127.0.0.1"), "{host}");
        let peer = h.server.clients().last().unwrap();
        // The ticket comes with the first data of the server.
        h.server.send(peer, "hi").unwrap();
        h.until("the reply", |_| {
            client.poll_once().unwrap().iter().any(|event| matches!(event, Event::Message { .. }))
        });
    }
    // Mozilla's authorities did not sign the certificate, and it is not for this name.
    let untrusted = Connect::new(format!("wss://localhost:{port}/"));
    let error = opens(&mut client, &mut h, untrusted).unwrap_err();
    assert!(error.starts_with("the TLS handshake failed: invalid peer certificate"), "{error}");
    let misnamed = Connect::new(format!("wss://elsewhere.example:{port}/")).addrs([h.addr]).tls(trusts);
    let error = opens(&mut client, &mut h, misnamed).unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    let anything = Connect::new(format!("wss://elsewhere.example:{port}/")).addrs([h.addr]);
    opens(&mut client, &mut h, anything.tls(TlsClient::danger_trust_anything())).unwrap();
    assert_eq!(client.stats().tls_failed.peer_certificate, 2);
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
fn an_outbound_connection_shows_its_own_certificate() {
    let authority = tls::new_authority("for clients");
    let member = tls::issue(&["member"], &authority, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let tls = tls::server().client_certificates(authority.pem(), ClientCertificates::Required).unwrap();
    let mut h = served(Server::builder(), tls);
    let port = h.addr.port();
    let mut client = Server::builder().build().unwrap();
    let trusts = TlsClient::roots(tls::authority().pem()).unwrap();
    let shows = trusts.clone().certificate(&member.chain, &member.key).unwrap();
    for (tls, opens) in [(shows, true), (trusts, false)] {
        client.connect(Connect::new(format!("wss://localhost:{port}/")).tls(tls)).unwrap();
        let (mut opened, mut ended) = (false, false);
        h.until("the outcome", |_| {
            for event in &client.poll_once().unwrap() {
                opened |= matches!(event, Event::Open { .. });
                ended |= matches!(event, Event::ConnectFailed { .. });
            }
            opened || ended
        });
        assert_eq!((opened, ended), (opens, !opens));
    }
    assert_eq!(h.server.stats().tls_failed.peer_certificate, 1);
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

/// A client in every poll, and another certificate after every third.
#[test]
fn no_client_is_lost_while_certificates_change_under_load() {
    let mut h = harness();
    let certificates = [tls::server(), Tls::from_pem(&tls::local().chain, &tls::local().key).unwrap()];
    let mut raws: Vec<Raw> = Vec::new();
    for number in 0..300 {
        let mut raw = encrypted(&h, tls::client());
        raw.write_some(raw::upgrade_request("/", "").as_bytes()).unwrap();
        raws.push(raw);
        if number % 3 == 2 {
            h.server.set_tls(certificates[number % 2].clone());
        }
        h.step();
        raws.iter_mut().for_each(|raw| _ = raw.is_flushed());
    }
    h.until("all to be open", |h| {
        raws.iter_mut().for_each(|raw| _ = raw.is_flushed());
        h.server.client_count() == 300
    });
    let _ = h.server.broadcast("all here");
    for raw in &mut raws {
        h.head(raw);
        assert_eq!(h.frame(raw), Frame::new(raw::TEXT, "all here"));
    }
    assert_eq!(h.server.stats().rejected.total(), 0);
}
