//! Outbound connections over TLS, to a server of this library.
#![cfg(feature = "tls")]

mod support;

use support::{
    Harness, Seen,
    tls::{self, served},
};
use tickws::{ClientCertificates, Connect, Event, Server, TlsClient, TlsVersion};

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
