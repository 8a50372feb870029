//! The server's side of TLS: the configuration for new connections, and the names that clients ask
//! for.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::tls::server::Tls;

/// The last question to the resolver of certificates, and its answer. A handshake takes both right
/// after the call that asked: the unbuffered connections of rustls do not keep the name.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) name: Option<Box<str>>,
    /// There is no certificate for the client.
    pub(super) is_unknown: bool,
}

/// Passes the question on, and remembers it.
#[derive(Debug)]
struct Listening {
    inner: Arc<dyn ResolvesServerCert>,
    asked: Arc<Mutex<Asked>>,
}

impl ResolvesServerCert for Listening {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(Into::into);
        let key = self.inner.resolve(hello);
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) =
            Asked { name, is_unknown: key.is_none() };
        key
    }

    fn only_raw_public_keys(&self) -> bool {
        self.inner.only_raw_public_keys()
    }
}

/// The TLS of one server. Connections are made of it in one thread, one step at a time.
#[derive(Debug)]
pub(crate) struct Acceptor {
    tls: Tls,
    /// The configuration of `tls`, and the same with a resolver that remembers.
    current: (Arc<ServerConfig>, Arc<ServerConfig>),
    asked: Arc<Mutex<Asked>>,
}

impl Acceptor {
    pub(crate) fn new(tls: Tls) -> Self {
        let asked = Arc::<Mutex<Asked>>::default();
        let config = tls.current();
        let current = (config.clone(), listening(&config, &asked));
        Acceptor { tls, current, asked }
    }

    /// The configuration for a new connection.
    pub(super) fn config(&mut self) -> Arc<ServerConfig> {
        let config = self.tls.current();
        if !Arc::ptr_eq(&config, &self.current.0) {
            self.current = (config.clone(), listening(&config, &self.asked));
        }
        self.current.1.clone()
    }

    pub(super) fn asked(&self) -> Arc<Mutex<Asked>> {
        self.asked.clone()
    }
}

fn listening(config: &ServerConfig, asked: &Arc<Mutex<Asked>>) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.cert_resolver = Arc::new(Listening { inner: config.cert_resolver.clone(), asked: asked.clone() });
    Arc::new(config)
}
