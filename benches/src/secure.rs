//! TLS for the load and for the servers: a certificate of P-256, and a non-blocking stream on the
//! buffered connections of rustls.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    ops::DerefMut,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use mio::net::TcpStream;
use tickws::tls::rustls_0_23::rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData, StreamOwned,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{Outcome, servers::output_dir, unbuffered::Unbuffered};

/// The folder of another certificate, `certificate.pem` and `key.pem`, for instance one of RSA.
const FOLDER: &str = "TICKWS_BENCH_CERTIFICATE";

/// The certificate and the key of the servers, which are made once.
pub fn files() -> Outcome<(PathBuf, PathBuf)> {
    let dir = std::env::var_os(FOLDER).map_or_else(output_dir, |dir| Ok(dir.into()))?;
    let (chain, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    if !chain.exists() || !key.exists() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
        std::fs::write(&chain, made.cert.pem())?;
    }
    Ok((chain, key))
}

/// The cryptography of the servers that are written in Rust: that of ring, or with the feature
/// `aws-lc-rs` and `TICKWS_BENCH_PROVIDER=aws-lc-rs` the other one.
fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    if std::env::var_os("TICKWS_BENCH_PROVIDER").is_some_and(|name| name == "aws-lc-rs") {
        return Arc::new(tickws::tls::rustls_0_23::rustls::crypto::aws_lc_rs::default_provider());
    }
    Arc::new(ring::default_provider())
}

/// The configuration of the servers that are written in Rust: TLS 1.3, AES-128, one ticket.
pub fn server_config() -> Outcome<Arc<ServerConfig>> {
    let (chain, key) = files()?;
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.send_tls13_tickets = 1;
    config.ticketer = ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// The configuration of the load. It offers AES-128 first, as the servers follow its order, and
/// trusts anything. It resumes sessions only if asked to.
pub fn client_config(resumes: bool) -> Arc<ClientConfig> {
    static FRESH: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    static RESUMING: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let cell = if resumes { &RESUMING } else { &FRESH };
    cell.get_or_init(|| {
        let mut config = ClientConfig::clone(&tickws_client());
        if !resumes {
            config.resumption = tickws::tls::rustls_0_23::rustls::client::Resumption::disabled();
        }
        Arc::new(config)
    })
    .clone()
}

fn tickws_client() -> Arc<ClientConfig> {
    use tickws::tls::rustls_0_23::rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map(|builder| builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything)));
    match config {
        Ok(builder) => Arc::new(builder.with_no_client_auth()),
        Err(error) => panic!("ring speaks TLS 1.3: {error}"),
    }
}

/// Accepts every certificate and checks no signature, so that the load costs less than the server.
#[derive(Debug)]
struct Anything;

mod verifier {
    use tickws::tls::rustls_0_23::rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::ring,
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    impl ServerCertVerifier for super::Anything {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}

/// A non-blocking stream, encrypted or not.
#[derive(Debug)]
pub enum Stream<C> {
    Plain(TcpStream),
    Encrypted { socket: TcpStream, tls: Box<C> },
    Unbuffered(Box<Unbuffered>),
}

pub type ClientStream = Stream<ClientConnection>;
pub type ServerStream = Stream<ServerConnection>;

impl ClientStream {
    /// A client's end: encrypted if the server is.
    pub fn client(socket: TcpStream, tls: bool, resumes: bool) -> Outcome<ClientStream> {
        if !tls {
            return Ok(Stream::Plain(socket));
        }
        let tls = ClientConnection::new(client_config(resumes), "localhost".try_into()?)?;
        Ok(Stream::Encrypted { socket, tls: Box::new(tls) })
    }
}

impl<C> Stream<C> {
    pub fn socket(&mut self) -> &mut TcpStream {
        match self {
            Stream::Plain(socket) | Stream::Encrypted { socket, .. } => socket,
            Stream::Unbuffered(stream) => stream.socket(),
        }
    }
}

impl<C: DerefMut<Target = ConnectionCommon<S>>, S: SideData> Stream<C> {
    pub fn encrypted(socket: TcpStream, tls: C) -> Self {
        Stream::Encrypted { socket, tls: Box::new(tls) }
    }

    /// Writes ciphertext until the socket would block. Returns whether all has left.
    pub fn push(&mut self) -> io::Result<bool> {
        let (socket, tls) = match self {
            Stream::Plain(_) => return Ok(true),
            Stream::Encrypted { socket, tls } => (socket, tls),
            Stream::Unbuffered(stream) => return stream.push(),
        };
        while tls.wants_write() {
            match tls.write_tls(socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl<C: DerefMut<Target = ConnectionCommon<S>>, S: SideData> Read for Stream<C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (socket, tls) = match self {
            Stream::Plain(socket) => return socket.read(buffer),
            Stream::Encrypted { socket, tls } => (socket, tls),
            Stream::Unbuffered(stream) => return stream.read(buffer),
        };
        let mut filled = 0;
        loop {
            match tls.reader().read(&mut buffer[filled..]) {
                Ok(0) => return Ok(filled),
                Ok(count) => {
                    filled += count;
                    if filled == buffer.len() {
                        return Ok(filled);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) if filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            }
            match tls.read_tls(socket) {
                Ok(0) if filled > 0 => return Ok(filled),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            }
            tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            while tls.wants_write() {
                tls.write_tls(socket)?;
            }
        }
    }
}

impl<C: DerefMut<Target = ConnectionCommon<S>>, S: SideData> Write for Stream<C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => return socket.write_vectored(slices),
            Stream::Unbuffered(stream) => return stream.write_vectored(slices),
            Stream::Encrypted { .. } => {}
        }
        if !self.push()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let Stream::Encrypted { tls, .. } = self else { return Ok(0) };
        let count = tls.writer().write_vectored(slices)?;
        self.push()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.push()? { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    }
}

/// The TLS of tickws, with the same settings as the other servers.
pub fn tickws_tls() -> Outcome<tickws::Tls> {
    Ok(tickws::tls::rustls_0_23::server(server_config()?)?)
}

/// A new certificate with each call.
pub fn renewed_tls() -> Outcome<tickws::Tls> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    Ok(tickws::Tls::from_pem(made.cert.pem(), made.signing_key.serialize_pem())?)
}

/// A blocking stream, encrypted or not.
#[derive(Debug)]
pub enum Link {
    Plain(std::net::TcpStream),
    Encrypted(Box<StreamOwned<ClientConnection, std::net::TcpStream>>),
}

impl Link {
    pub fn new(socket: std::net::TcpStream, tls: bool) -> Outcome<Link> {
        if !tls {
            return Ok(Link::Plain(socket));
        }
        let tls = ClientConnection::new(client_config(true), "localhost".try_into()?)?;
        Ok(Link::Encrypted(Box::new(StreamOwned::new(tls, socket))))
    }

    pub fn socket(&self) -> &std::net::TcpStream {
        match self {
            Link::Plain(socket) => socket,
            Link::Encrypted(stream) => &stream.sock,
        }
    }

    /// Ends the client's direction.
    pub fn half_close(&mut self) -> io::Result<()> {
        if let Link::Encrypted(stream) = self {
            stream.conn.send_close_notify();
            stream.flush()?;
        }
        self.socket().shutdown(std::net::Shutdown::Write)
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => socket.read(buffer),
            // A server that drops a connection sends no close_notify.
            Link::Encrypted(stream) => match stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
                outcome => outcome,
            },
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => socket.write(bytes),
            Link::Encrypted(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Link::Plain(socket) => socket.flush(),
            Link::Encrypted(stream) => stream.flush(),
        }
    }
}
