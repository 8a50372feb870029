//! Certificates and other settings of TLS: chosen by name, changed while the server runs, refused
//! if they cannot work.
#![cfg(feature = "tls")]

mod support;

use std::{
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use support::{
    Harness,
    raw::{self, Frame, Raw},
    tls::{self, Certificate, encrypted, plain, refusal, served, with_certificate},
};
use tickws::{
    BindError, ClientCertificates, ConfigError, Decision, Server, Tls, TlsError,
    tls::rustls_0_23::{self, rustls},
};

fn harness() -> Harness {
    served(Server::builder(), tls::server())
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
    let mut config = rustls::ClientConfig::clone(&tls::client());
    config.enable_early_data = true;
    assert!(matches!(rustls_0_23::client(Arc::new(config)), Err(TlsError::EarlyData)));
    let mut config = rustls::ClientConfig::clone(&tls::client());
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert!(matches!(rustls_0_23::client(Arc::new(config)), Err(TlsError::NoHttp11)));
}

#[test]
fn a_configuration_of_the_application_is_used() {
    let mut h = served(Server::builder(), rustls_0_23::server(Arc::new(server_config())).unwrap());
    let mut raw = encrypted(&h, tls::client());
    h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    let mut raw = encrypted(&h, Arc::new(tls::client_config(&[&rustls::version::TLS12])));
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
