//! The application's answers to requests: upgrades that were deferred, and plain HTTP.

use tungstenite::{
    Bytes,
    http::{HeaderMap, Response},
};

use super::Server;
use crate::{
    error::{RespondError, UpgradeError},
    id::{ClientId, RequestId, UpgradeId},
};

impl Server {
    /// Accepts an upgrade that was deferred: the 101 response leaves at the next flush,
    /// [`Event::Open`](crate::Event::Open) is in the next tick, and the client can be sent to at once.
    ///
    /// # Errors
    ///
    /// [`UpgradeError::Gone`]: it was answered already, or [`Event::UpgradeGone`](crate::Event::UpgradeGone) is on
    /// its way or has come.
    ///
    /// # Examples
    ///
    /// A token is looked up elsewhere, and nobody waits for it:
    ///
    /// ```no_run
    /// use tickws::{Decision, Event, Server, UpgradeId, http};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # fn look_up(_: UpgradeId, _: Option<&str>) {}
    /// # fn looked_up() -> Option<(UpgradeId, bool)> { None }
    /// let mut server = Server::builder().on_upgrade(|_, _| Decision::Defer).bind("127.0.0.1:9001")?;
    /// loop {
    ///     for event in &server.poll_wait(None)? {
    ///         match event {
    ///             Event::Upgrade { upgrade, request } => look_up(upgrade, request.uri().query()),
    ///             Event::UpgradeGone { upgrade } => println!("{upgrade} need not be looked up any more"),
    ///             _ => {}
    ///         }
    ///     }
    ///     while let Some((upgrade, good)) = looked_up() {
    ///         if good {
    ///             server.accept(upgrade)?;
    ///         } else {
    ///             server.reject(upgrade, http::Response::builder().status(401).body("who are you?")?)?;
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    pub fn accept(&mut self, upgrade: UpgradeId) -> Result<ClientId, UpgradeError> {
        self.accept_with(upgrade, HeaderMap::new())
    }

    /// As [`accept`](Server::accept), with headers for the 101 response, for instance `Set-Cookie`. A
    /// `Sec-WebSocket-Protocol` among them picks the subprotocol.
    ///
    /// # Errors
    ///
    /// As [`accept`](Server::accept), and [`UpgradeError::Header`]: a value is not ASCII, a header is the
    /// handshake's own, or the client did not offer the subprotocol. Then the upgrade still waits.
    pub fn accept_with(&mut self, upgrade: UpgradeId, headers: HeaderMap) -> Result<ClientId, UpgradeError> {
        self.engine.accept_upgrade(upgrade, headers, self.now())
    }

    /// Rejects an upgrade that was deferred, with this answer, and closes its connection. Programs see the
    /// answer; of a page the browser hides it, who sees only close code 1006 before any `open`.
    ///
    /// # Errors
    ///
    /// [`UpgradeError::Gone`] as [`accept`](Server::accept). [`UpgradeError::Status`] and
    /// [`UpgradeError::Header`]: the answer cannot be sent like this, and the upgrade still waits.
    pub fn reject(
        &mut self,
        upgrade: UpgradeId,
        response: Response<impl Into<Bytes>>,
    ) -> Result<(), UpgradeError> {
        self.engine.reject_upgrade(upgrade, &response.map(Into::into), self.now())
    }

    /// Answers a plain HTTP request from [`Event::Http`](crate::Event::Http). `Content-Length` is added, and the
    /// connection is kept for the client's next request unless the client or a header `Connection: close` of
    /// yours says otherwise. To a HEAD only the head is sent. The answer's bytes count for
    /// `max_total_buffered`; a slow client is given up after `write_timeout`.
    ///
    /// # Errors
    ///
    /// [`RespondError::Gone`]: it was answered already, or the client is gone. [`RespondError::Status`] and
    /// [`RespondError::Header`]: the answer cannot be sent like this, and the request still waits.
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
    ///         if let Event::Http { request_id, request } = event {
    ///             let text = format!("{} {}\n", request.method(), request.uri().path());
    ///             if let Err(error) = server.respond(request_id, Response::new(text)) {
    ///                 println!("no answer: {error}"); // it is gone
    ///             }
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    pub fn respond(
        &mut self,
        request: RequestId,
        response: Response<impl Into<Bytes>>,
    ) -> Result<(), RespondError> {
        self.engine.respond(request, response.map(Into::into), self.now())
    }
}
