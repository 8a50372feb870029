//! The application's responses to requests: deferred upgrades, and plain HTTP.

use bytes::Bytes;
use http::{HeaderMap, Response};

use super::Server;
use crate::{
    error::{RespondError, UpgradeError},
    id::{ClientId, ExchangeId, UpgradeId},
};

impl Server {
    /// Accepts a deferred upgrade. The 101 response leaves at the next flush,
    /// [`Event::Open`](crate::Event::Open) is in the next tick, and messages can be queued for the
    /// client at once.
    ///
    /// # Errors
    ///
    /// [`UpgradeError::Gone`]: the upgrade was accepted or rejected already, or
    /// [`Event::UpgradeGone`](crate::Event::UpgradeGone) has been reported or is about to be.
    ///
    /// # Examples
    ///
    /// A token is looked up elsewhere, while the server goes on polling:
    ///
    /// ```no_run
    /// use tickws::{Decision, Event, Server, UpgradeId, http};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # fn look_up(_: UpgradeId, _: Option<&str>) {}
    /// # fn looked_up() -> Option<(UpgradeId, bool)> { None }
    /// let builder = Server::builder().on_upgrade(|_, _| Decision::Defer);
    /// let mut server = builder.bind("127.0.0.1:9001")?;
    /// loop {
    ///     for event in &server.poll_wait(None)? {
    ///         match event {
    ///             Event::Upgrade { upgrade, request } => look_up(upgrade, request.uri().query()),
    ///             Event::UpgradeGone { upgrade } => println!("{upgrade} is gone"),
    ///             _ => {}
    ///         }
    ///     }
    ///     while let Some((upgrade, good)) = looked_up() {
    ///         if good {
    ///             server.accept(upgrade)?;
    ///         } else {
    ///             let response = http::Response::builder().status(401).body("unknown token")?;
    ///             server.reject(upgrade, response)?;
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    pub fn accept(&mut self, upgrade: UpgradeId) -> Result<ClientId, UpgradeError> {
        self.accept_with(upgrade, HeaderMap::new())
    }

    /// As [`accept`](Server::accept), with headers for the 101 response, for instance `Set-Cookie`.
    /// A `Sec-WebSocket-Protocol` header chooses the subprotocol.
    ///
    /// # Errors
    ///
    /// As [`accept`](Server::accept), and [`UpgradeError::Header`]: a value is not ASCII, a header
    /// belongs to the handshake itself, or the client did not offer the subprotocol. The upgrade
    /// still waits then.
    pub fn accept_with(&mut self, upgrade: UpgradeId, headers: HeaderMap) -> Result<ClientId, UpgradeError> {
        self.engine.accept_upgrade(upgrade, headers, self.now())
    }

    /// Rejects a deferred upgrade with this response, and closes its connection. Native clients see
    /// the response. A browser hides it from its page, which sees close code 1006 without an `open`
    /// event.
    ///
    /// # Errors
    ///
    /// [`UpgradeError::Gone`] as for [`accept`](Server::accept). [`UpgradeError::Status`] and
    /// [`UpgradeError::Header`]: the response cannot be sent as it is, and the upgrade still waits.
    pub fn reject(
        &mut self,
        upgrade: UpgradeId,
        response: Response<impl Into<Bytes>>,
    ) -> Result<(), UpgradeError> {
        self.engine.reject_upgrade(upgrade, &response.map(Into::into), self.now())
    }

    /// Responds to a plain HTTP request from [`Event::Http`](crate::Event::Http). `Content-Length`
    /// is added, and to a HEAD request only the head is sent. The connection is kept for the
    /// client's next request, unless the request or the response has a header `Connection: close`.
    /// The response counts towards `max_total_buffered`; a client that does not take it within
    /// `write_timeout` is dropped.
    ///
    /// # Errors
    ///
    /// [`RespondError::Gone`]: the request has its response already, or the client is gone.
    /// [`RespondError::Status`] and [`RespondError::Header`]: the response cannot be sent as it is,
    /// and the request still waits.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use tickws::{Event, Server, http::Response};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut server = Server::builder().http(true).bind("127.0.0.1:9001")?;
    /// loop {
    ///     for event in &server.poll_wait(None)? {
    ///         if let Event::Http { exchange, request } = event {
    ///             let text = format!("{} {}\n", request.method(), request.uri().path());
    ///             if let Err(error) = server.respond(exchange, Response::new(text)) {
    ///                 println!("no response: {error}"); // the client is gone
    ///             }
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    pub fn respond(
        &mut self,
        request: ExchangeId,
        response: Response<impl Into<Bytes>>,
    ) -> Result<(), RespondError> {
        self.engine.respond(request, response.map(Into::into), self.now())
    }
}
