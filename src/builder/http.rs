//! What a server answers before, and besides, the socket.

use std::{path::Path, time::Duration};

use tungstenite::{Bytes, http::Response};

use super::ServerBuilder;
use crate::{
    error::ConfigError,
    request::HttpRequest,
    upgrade::{Decision, UpgradeResponse},
};

impl ServerBuilder {
    /// Takes upgrades at this path; may be called several times. A `*` at its end stands for anything: `/rooms/*`.
    /// An upgrade elsewhere is answered with 404. Without any path, upgrades are taken everywhere.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.config.paths.push(path.into());
        self
    }

    /// The subprotocols that the server speaks (RFC 6455 §1.9), its favourite first. Of those that a client
    /// offers the first one here is chosen; [`Server::subprotocol`](crate::Server::subprotocol) tells which.
    /// A client that offers none of them gets none, unless
    /// [`require_subprotocol`](ServerBuilder::require_subprotocol) is set.
    pub fn subprotocols<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.config.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Refuse clients that offer none of the [`subprotocols`](ServerBuilder::subprotocols), with 400. Default
    /// off.
    pub fn require_subprotocol(mut self, required: bool) -> Self {
        self.config.require_subprotocol = required;
        self
    }

    /// Decides on each upgrade that the settings let through: method, path, query, headers and remote address are
    /// those of the request; headers and the subprotocol of the 101 response can be set on the second argument.
    /// Called within a poll, so it must not wait: for what takes time there is [`Decision::Defer`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{Bytes, Decision, Server, http::Response};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder()
    ///     .on_upgrade(|request, response| {
    ///         if request.uri().query() != Some("token=letmein") {
    ///             let mut refusal = Response::new(Bytes::from_static(b"a good token, please"));
    ///             *refusal.status_mut() = tickws::http::StatusCode::UNAUTHORIZED;
    ///             return Decision::Reject(refusal);
    ///         }
    ///         match response.header("Set-Cookie", "session=1; HttpOnly; SameSite=Strict") {
    ///             Ok(()) => Decision::Accept,
    ///             Err(error) => unreachable!("{error}"),
    ///         }
    ///     })
    ///     .bind("127.0.0.1:0")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_upgrade<F>(mut self, decide: F) -> Self
    where
        F: FnMut(&HttpRequest<'_>, &mut UpgradeResponse) -> Decision + Send + 'static,
    {
        self.services.on_upgrade = Some(Box::new(decide));
        self
    }

    /// Hand plain HTTP requests to the application, as [`Event::Http`](crate::Event::Http), if nothing that is
    /// served covers them. Default off: they get a 404, or a 426 where only a WebSocket makes sense.
    pub fn http(mut self, on: bool) -> Self {
        self.config.http = on;
        self
    }

    /// Answers plain HTTP requests at once, if nothing that is served covers them; goes before
    /// [`http`](ServerBuilder::http). Called within a poll, so it must not wait. An answer that cannot be sent (a
    /// status 1xx, a `Transfer-Encoding`) becomes a 500, and the log says why.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{Server, http::Response};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let server = Server::builder()
    ///     .on_http(|request| Response::new(format!("you are {}\n", request.remote_addr()).into()))
    ///     .bind("127.0.0.1:0")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_http<F>(mut self, answer: F) -> Self
    where
        F: FnMut(&HttpRequest<'_>) -> Response<Bytes> + Send + 'static,
    {
        self.services.on_http = Some(Box::new(answer));
        self
    }

    /// Bytes of a plain request's body; more is answered with 413. It must come with a `Content-Length`: a
    /// `Transfer-Encoding` is answered with 501. Default 64 KiB.
    pub fn max_body_size(mut self, bytes: usize) -> Self {
        self.config.max_body_size = bytes;
        self
    }

    /// How long a connection is kept after an answer for its next plain request. From that one's first byte
    /// `handshake_timeout` counts. Default 10 s.
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.config.keep_alive_timeout = timeout;
        self
    }

    /// Serves these bytes at exactly this path, with this content type, to GET and HEAD; a browser that has them
    /// already gets a 304.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::Server;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let server = Server::builder()
    ///     .serve_bytes("/", "text/html", "<!doctype html><p>hello")
    ///     .path("/ws")
    ///     .bind("127.0.0.1:0")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn serve_bytes(mut self, path: &str, mime: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let served = self.services.site.serve_bytes(path, mime, bytes.into());
        self.note(served)
    }

    /// Serves the files of a folder below this path, to GET and HEAD: `index.html` for a path that ends in `/`,
    /// content types by extension, 304 to a browser that has them already. Files are read as they are asked for,
    /// on the server's thread, so the folder should be on a local disk. No path leaves the folder, by `..`,
    /// links or otherwise, and names that begin with a dot are not served. Other methods than GET and HEAD get a
    /// 405, or go to the application if it takes requests.
    pub fn serve_dir(mut self, path: &str, folder: impl AsRef<Path>) -> Self {
        let served = self.services.site.serve_dir(path, folder.as_ref());
        self.note(served)
    }

    /// Answers 200 with the number of open clients at this path, for a load balancer or a supervisor; from the
    /// beginning of a [`shutdown`](crate::Server::shutdown) until the last client has left everyone gets 503.
    pub fn health(mut self, path: impl Into<String>) -> Self {
        self.config.health = Some(path.into());
        self
    }

    /// Serves [`stats`](crate::Server::stats) at this path in the text format of Prometheus. Whoever can reach
    /// the server can read it.
    pub fn metrics(mut self, path: impl Into<String>) -> Self {
        self.config.metrics = Some(path.into());
        self
    }

    /// Keeps the first error for `build`.
    fn note(mut self, outcome: Result<(), ConfigError>) -> Self {
        self.error = self.error.or(outcome.err());
        self
    }
}
