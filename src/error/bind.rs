//! The errors of building a server.

use std::{io, net::SocketAddr, path::PathBuf};

use thiserror::Error;

use super::ConfigError;

/// Why a server was not built. [`Server::bind`](crate::Server::bind) and the builder return it.
///
/// It converts to an [`io::Error`] of the same [`kind`](BindError::kind), so that `?` works in
/// functions that return `io::Result`.
///
/// # Examples
///
/// ```
/// use tickws::{BindError, Server};
///
/// let taken = Server::bind("127.0.0.1:0").unwrap();
/// match Server::bind(taken.local_addrs()[0]) {
///     Err(BindError::Listen { addr, error }) => println!("{addr} is in use: {error}"),
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// A setting is invalid.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The name of the address does not resolve.
    #[error("the address does not resolve: {0}")]
    Resolve(#[source] io::Error),
    /// The list of addresses is empty.
    #[error("there is no address to listen on")]
    NoAddress,
    /// The socket cannot listen on the address.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The error of the operating system.
        #[source]
        error: io::Error,
    },
    /// The Unix domain socket cannot listen at its path.
    #[error("cannot listen on {}: {error}", path.display())]
    ListenUnix {
        /// The path; an abstract name has `@` in front.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        error: io::Error,
    },
    /// The operating system's poller cannot be created.
    #[error("cannot create a poller: {0}")]
    Poller(#[source] io::Error),
}

impl BindError {
    /// The kind of the operating system's error;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for an invalid setting or no address.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            BindError::Config(_) | BindError::NoAddress => io::ErrorKind::InvalidInput,
            BindError::Resolve(error)
            | BindError::Listen { error, .. }
            | BindError::ListenUnix { error, .. }
            | BindError::Poller(error) => error.kind(),
        }
    }
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        io::Error::new(error.kind(), error)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn the_source_and_the_kind_survive_the_conversion() {
        let refused = || io::Error::from(io::ErrorKind::AddrInUse);
        let addr = SocketAddr::from(([127, 0, 0, 1], 80));
        let error = io::Error::from(BindError::Listen { addr, error: refused() });
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with("cannot listen on 127.0.0.1:80: "));
        let inner = error.get_ref().and_then(|error| error.downcast_ref::<BindError>());
        assert!(inner.is_some_and(|error| error.source().is_some_and(|source| source.is::<io::Error>())));
        let config = BindError::from(ConfigError::Zero("max_rooms"));
        assert!(config.source().is_some_and(|source| source.is::<ConfigError>()));
        assert_eq!(io::Error::from(config).kind(), io::ErrorKind::InvalidInput);
    }
}
