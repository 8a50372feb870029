//! Builder methods for the handshake and for plain HTTP.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::Response;

use super::ServerBuilder;
use crate::{
    error::ConfigError,
    handshake::decision::{Decision, UpgradeResponse},
    http1::request::Request,
    util::exclusive::Exclusive,
};

impl ServerBuilder {
    /// Accepts upgrades at this path. May be called several times. A `*` at the end matches any
    /// rest: `/rooms/*`. An upgrade at another path gets a 404. Without a call, all paths accept
    /// upgrades. Percent-encoding makes no difference: `/bücher` is `/b%C3%BCcher`.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.config.paths.push(path.into());
        self
    }

    /// Sets the supported subprotocols (RFC 6455 §1.9), in order of preference. The first one that
    /// a client offers is chosen; [`Server::subprotocol`](crate::Server::subprotocol) returns it. A
    /// client that offers none of them connects without one, unless
    /// [`require_subprotocol`](ServerBuilder::require_subprotocol) is set.
    pub fn subprotocols<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.config.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets whether clients that offer none of the [`subprotocols`](ServerBuilder::subprotocols)
    /// are rejected with 400. Default off.
    pub fn require_subprotocol(mut self, required: bool) -> Self {
        self.config.require_subprotocol = required;
        self
    }

    /// Sets whether the 101 response leaves in a write of its own, and messages only after it.
    /// Frames behind it in the same TCP segment are legal (RFC 6455 §4.1), but some clients, mostly
    /// on small devices, lose them. Default off, which saves a system call per client.
    pub fn isolate_upgrade_response(mut self, on: bool) -> Self {
        self.config.isolate_upgrade_response = on;
        self
    }

    /// Sets a closure that decides on each upgrade that the settings allow. Its first argument is
    /// the request with method, path, query, headers and remote address. On the second one it can
    /// set headers and the subprotocol of the 101 response. It is called within a poll, so it must
    /// not block; for slow decisions return [`Decision::Defer`].
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
    ///             let mut refusal = Response::new(Bytes::from_static(b"a token is required"));
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
        F: FnMut(&Request<'_>, &mut UpgradeResponse) -> Decision + Send + 'static,
    {
        let mut decide = Exclusive::new(decide);
        self.hooks.on_upgrade =
            Some(Box::new(move |request, response| (decide.get_mut())(request, response)));
        self
    }

    /// Sets whether plain HTTP requests that match no built-in path or static file are reported to
    /// the application as [`Event::Http`](crate::Event::Http). Default off: they get a 404, or a
    /// 426 at a path for upgrades.
    pub fn http(mut self, on: bool) -> Self {
        self.config.http = on;
        self
    }

    /// Sets a closure that responds to plain HTTP requests that match no built-in path or static
    /// file. It takes precedence over [`http`](ServerBuilder::http). It is called within a poll, so
    /// it must not block. An invalid response (a status 1xx, a `Transfer-Encoding`) is replaced by
    /// a 500, and the log says why.
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
    pub fn on_http<F>(mut self, response: F) -> Self
    where
        F: FnMut(&Request<'_>) -> Response<Bytes> + Send + 'static,
    {
        let mut response = Exclusive::new(response);
        self.hooks.on_http = Some(Box::new(move |request| (response.get_mut())(request)));
        self
    }

    /// Sets the largest body of a plain request in bytes. A larger one gets a 413. A body needs a
    /// `Content-Length`: a `Transfer-Encoding` gets a 501. Default 64 KiB.
    pub fn max_body_size(mut self, bytes: usize) -> Self {
        self.config.max_body_size = bytes;
        self
    }

    /// Sets the time in which the body of a plain request must arrive, from the end of its head. A
    /// slower one gets a 408. Default 10 s.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.config.body_timeout = timeout;
        self
    }

    /// Sets how long a connection is kept open for its next plain request. From the first byte of
    /// that request `handshake_timeout` applies. Default 10 s.
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.config.keep_alive_timeout = timeout;
        self
    }

    /// Serves these bytes at exactly this path, with this content type, to GET and HEAD. A request
    /// with a matching `If-None-Match` gets a 304.
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
        let served = self.hooks.static_files.serve_bytes(path, mime, bytes.into());
        self.note(served)
    }

    /// Serves the files of a folder below this path, to GET and HEAD: `index.html` for a path that
    /// ends in `/`, content types by extension, and 304 for a file that has not changed. Files are
    /// read on request, on the server's thread, so the folder should be on a local disk. No path
    /// leaves the folder, by `..`, links or otherwise, and names that begin with a dot are not
    /// served. Other methods get a 405, or are passed to the application if it handles requests.
    ///
    /// # Portability
    ///
    /// Where the file system ignores the case of names, as on Windows and by default on macOS, a
    /// path in any case finds the file.
    pub fn serve_dir(mut self, path: &str, folder: impl AsRef<Path>) -> Self {
        let served = self.hooks.static_files.serve_dir(path, folder.as_ref());
        self.note(served)
    }

    /// Serves a health check at this path, for a load balancer or a supervisor: 200 with the number
    /// of open clients, or 503 from the beginning of a [`shutdown`](crate::Server::shutdown) until
    /// the last client has left.
    pub fn health(mut self, path: impl Into<String>) -> Self {
        self.config.health = Some(path.into());
        self
    }

    /// Serves [`stats`](crate::Server::stats) at this path in the text format of Prometheus. The
    /// path needs no authentication.
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
