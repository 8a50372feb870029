//! Certificates for tests, and the addresses to which a test connects over TLS.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, OnceLock},
};

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::CertificateDer};
use tickws::{ServerBuilder, Tls, tls::rustls_0_23::rustls};

use super::{
    Harness,
    raw::{End, Raw},
};

/// The addresses of servers with TLS.
static SERVERS: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());

/// Remembers that the server at this address speaks TLS.
pub fn note(addr: SocketAddr) {
    SERVERS.lock().unwrap().insert(addr);
}

/// Whether the server at this address speaks TLS.
pub fn is_server(addr: SocketAddr) -> bool {
    SERVERS.lock().unwrap().contains(&addr)
}

/// An authority that only the tests trust.
pub fn authority() -> &'static CertifiedIssuer<'static, KeyPair> {
    static AUTHORITY: OnceLock<CertifiedIssuer<'static, KeyPair>> = OnceLock::new();
    AUTHORITY.get_or_init(|| new_authority("tickws tests"))
}

pub fn new_authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of the authority, and its key, as PEM text.
#[derive(Clone)]
pub struct Certificate {
    pub chain: String,
    pub key: String,
}

pub fn certificate(names: &[&str]) -> Certificate {
    issue(names, authority(), |_| {})
}

/// A certificate of this issuer, with further changes.
pub fn issue(
    names: &[&str],
    issuer: &Issuer<'_, impl rcgen::SigningKey>,
    change: impl FnOnce(&mut CertificateParams),
) -> Certificate {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "tickws test");
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    Certificate { chain: certificate.pem(), key: key.serialize_pem() }
}

/// The first bytes of a client: a ClientHello.
pub fn hello() -> Vec<u8> {
    let mut connection = ClientConnection::new(client(), "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// The certificate of the tests' server.
pub fn local() -> &'static Certificate {
    static LOCAL: OnceLock<Certificate> = OnceLock::new();
    LOCAL.get_or_init(|| certificate(&["localhost", "127.0.0.1", "::1"]))
}

/// The server's side.
pub fn server() -> Tls {
    Tls::from_pem(&local().chain, &local().key).unwrap()
}

/// A client's side, which trusts the authority of the tests.
pub fn client() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    CONFIG.get_or_init(|| Arc::new(client_config(rustls::ALL_VERSIONS))).clone()
}

pub fn client_config(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority().der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A server with TLS on a free port.
pub fn served(builder: ServerBuilder, tls: Tls) -> Harness {
    let server = builder.tls(tls).bind_tls("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0];
    note(addr);
    Harness { server, addr, seen: Vec::new() }
}

/// A client that speaks TLS with this configuration.
pub fn encrypted(h: &Harness, config: Arc<rustls::ClientConfig>) -> Raw {
    plain(h).encrypted(config, "localhost")
}

/// A client that speaks no TLS yet.
pub fn plain(h: &Harness) -> Raw {
    Raw::from_stream(TcpStream::connect(h.addr).unwrap())
}

/// Goes on with the handshake until it has failed, and returns the error.
#[track_caller]
pub fn refusal(h: &mut Harness, raw: &mut Raw) -> ErrorKind {
    h.until("the end of the handshake", |_| {
        raw.read_some();
        raw.end.is_some()
    });
    match raw.end {
        Some(End::Failed(kind)) => kind,
        other => panic!("{other:?}"),
    }
}

/// A client's side that shows this certificate.
pub fn with_certificate(certificate: &Certificate) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(authority().der().to_vec())).unwrap();
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
