//! TLS on the sockets of a server.

use std::io;
#[cfg(feature = "tls")]
use std::sync::Arc;

use super::Server;
#[cfg(feature = "tls")]
use crate::{
    error::AdoptError,
    net::{
        socket::AdoptedStream,
        tls::{Acceptor, Blocks, TlsSocket},
    },
    tls::{client::TlsClient, server::Tls},
    util::rearm::Rearm,
};
use crate::{id::ClientId, net::socket::Socket};

/// State that all encrypted connections of a server share.
#[cfg(feature = "tls")]
#[derive(Debug)]
pub(super) struct Encryption {
    acceptor: Option<Acceptor>,
    blocks: Arc<Blocks>,
}

#[cfg(feature = "tls")]
impl Encryption {
    pub(super) fn new(rearm: Rearm) -> Self {
        Encryption { acceptor: None, blocks: Arc::new(Blocks::new(rearm)) }
    }
}

#[cfg(feature = "tls")]
impl Server {
    /// Uses these certificates and settings for the connections that are accepted from now on. Open
    /// ones stay as they are, and none is lost. Sessions of the old one are not resumed.
    ///
    /// To renew a certificate that is in files, [`Tls::reload_if_changed`] is enough.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use tickws::{Server, Tls};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tls = Tls::from_pem_files("old.pem", "old.key")?;
    /// let mut server = Server::builder().tls(tls).bind_tls("0.0.0.0:443")?;
    /// server.poll_once()?;
    /// server.set_tls(Tls::from_pem_files("new.pem", "new.key")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_tls(&mut self, tls: Tls) {
        self.encryption.acceptor = Some(Acceptor::new(tls));
    }

    /// As [`adopt`](Server::adopt), for a connection that begins with a TLS handshake.
    ///
    /// # Errors
    ///
    /// [`AdoptError::NoTls`]: the server has no certificates. [`AdoptError::Io`]: the stream is not
    /// connected.
    pub fn adopt_tls(&mut self, stream: impl Into<AdoptedStream>) -> Result<(), AdoptError> {
        if self.encryption.acceptor.is_none() {
            return Err(AdoptError::NoTls);
        }
        let (socket, peer) = stream.into().into_socket()?;
        let socket = self.encrypted(socket);
        self.register(socket, peer, false, self.now());
        Ok(())
    }

    /// Encrypts with these certificates. A simulated server encrypts all connections then.
    pub(crate) fn with_tls(mut self, tls: Option<Tls>) -> Server {
        #[cfg(feature = "sim")]
        if let (Some(_), crate::net::host::Host::Simulated(host)) = (&tls, &self.host) {
            host.encrypt();
        }
        self.encryption.acceptor = tls.map(Acceptor::new);
        self
    }

    /// The server's end of an encrypted connection.
    pub(super) fn encrypted(&mut self, socket: Socket) -> Socket {
        let Encryption { acceptor, blocks } = &mut self.encryption;
        match acceptor {
            Some(acceptor) => Socket::Tls(Box::new(TlsSocket::server(socket, acceptor, blocks.clone()))),
            // The builder has checked that there are certificates.
            None => socket,
        }
    }

    /// The client's end of a connection to a server, encrypted if the URL begins with `wss`.
    pub(super) fn encrypted_if_wss(&self, id: ClientId, socket: Socket) -> io::Result<Socket> {
        let Some(plan) = self.engine.plan(id).filter(|plan| plan.target.secure) else { return Ok(socket) };
        let name = plan.target.host.clone().try_into();
        let name = name.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let config = plan.tls.as_ref().map_or_else(|| TlsClient::new().config(), TlsClient::config);
        let blocks = self.encryption.blocks.clone();
        Ok(Socket::Tls(Box::new(TlsSocket::client(socket, config, name, blocks))))
    }
}

#[cfg(not(feature = "tls"))]
impl Server {
    pub(super) fn encrypted(&mut self, socket: Socket) -> Socket {
        socket
    }

    pub(super) fn encrypted_if_wss(&self, _: ClientId, socket: Socket) -> io::Result<Socket> {
        Ok(socket)
    }
}
