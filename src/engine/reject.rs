//! Rejected requests and connections: their response and their count.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};

use super::{Engine, Stream, identity::requested_host, tls::is_unsecured};
use crate::{
    connection::slot::Stage,
    handshake,
    http1::{
        head::RequestHead,
        rejection::Rejection,
        response::{self, Unfit},
    },
    util::authority::Authority,
};

impl<S: Stream> Engine<S> {
    /// Rejects a request, and closes the connection behind the response. `host` is the host that
    /// the client has asked for.
    pub(super) fn reject(
        &mut self,
        index: usize,
        rejection: Rejection,
        request: &RequestHead,
        host: Option<&str>,
        now: Instant,
    ) {
        self.log_refusal(index, rejection, Some(request), host, now);
        self.respond_rejection(index, rejection, *request.method() == Method::HEAD, now);
    }

    /// Answers a request that came in plain text on a port with TLS: with a redirect if the
    /// configuration asks for it, and else with a 400 that says so.
    pub(super) fn answer_plain_text(&mut self, index: usize, request: &RequestHead, now: Instant) {
        match self.redirect_to_https(request, now) {
            Some(response) => self.respond_and_close(index, &response, now),
            None => self.reject(index, Rejection::TlsRequired, request, None, now),
        }
    }

    /// A redirect to the same host and path (RFC 9110 §15.4.9). `None`: it is off, or cannot work.
    fn redirect_to_https(&mut self, request: &RequestHead, now: Instant) -> Option<Vec<u8>> {
        // A WebSocket client follows no redirects (RFC 6455 §4.1 leaves it to the client).
        if !self.config.redirect_to_https || handshake::server::is_upgrade(request) {
            return None;
        }
        let host = Authority::parse(requested_host(request)?).and(requested_host(request))?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let location = HeaderValue::from_str(&format!("https://{host}{path}")).ok()?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        response.headers_mut().insert(header::LOCATION, location);
        self.stats.http_requests += 1;
        self.rejection_bytes(&response, now).ok()
    }

    /// Rejects the request that the connection is handling.
    pub(super) fn reject_current(&mut self, index: usize, rejection: Rejection, now: Instant) {
        let Stage::Request(exchange) = &self.clients[index].stage else { return };
        let request = exchange.request.clone();
        self.reject(index, rejection, &request, None, now);
    }

    /// Rejects a request whose head is malformed or too large.
    pub(super) fn reject_head(&mut self, index: usize, rejection: Rejection, now: Instant) {
        let is_head =
            matches!(&self.clients[index].stage, Stage::Handshake(reader) if reader.rejected_head());
        self.log_refusal(index, rejection, None, None, now);
        self.respond_rejection(index, rejection, is_head, now);
    }

    /// Rejects a connection whose request was not read.
    pub(super) fn reject_unread(&mut self, index: usize, rejection: Rejection, now: Instant) {
        self.stats.rejected.count(rejection);
        self.refuse_connection(index, rejection, now);
    }

    /// As `reject_unread`, but the rejection has been counted.
    pub(super) fn refuse_connection(&mut self, index: usize, rejection: Rejection, now: Instant) {
        self.log_refusal(index, rejection, None, None, now);
        let response = rejection.response_to_unread(self.date(now));
        self.respond_and_close(index, &response, now);
    }

    fn respond_rejection(&mut self, index: usize, rejection: Rejection, is_head: bool, now: Instant) {
        self.stats.rejected.count(rejection);
        let date = self.date(now);
        let response = if is_head { rejection.response_to_head(date) } else { rejection.response(date) };
        self.respond_and_close(index, &response, now);
    }

    /// Rejects an upgrade by decision of the application.
    pub(super) fn reject_by_application(&mut self, index: usize, response: &[u8], now: Instant) {
        self.stats.rejected.application += 1;
        self.respond_and_close(index, response, now);
    }

    /// Queues an HTTP response after which the connection is closed.
    fn respond_and_close(&mut self, index: usize, response: &[u8], now: Instant) {
        // A response would need the handshake first, which costs more than the refused peer is
        // worth: it gets FIN.
        if !is_unsecured(&self.clients[index]) {
            self.clients[index].outbox.push_raw(response, &mut self.outbound);
        }
        self.linger(index, now);
    }

    /// The value of `Date` now; empty if the host has no wall clock.
    pub(super) fn date(&mut self, now: Instant) -> &str {
        match &mut self.hooks.wall_clock {
            Some(wall_clock) => self.date.at(now, wall_clock),
            None => "",
        }
    }

    /// The bytes of a rejection, behind which the connection is closed.
    pub(super) fn rejection_bytes(
        &mut self,
        response: &Response<Bytes>,
        now: Instant,
    ) -> Result<Vec<u8>, Unfit> {
        let status = response.status();
        if status.is_informational() || status.is_success() {
            return Err(Unfit::Status(status));
        }
        let (headers, len) = (response.headers(), response.body().len() as u64);
        let head = response::response_head(status, headers, len, false, true, self.date(now))?;
        let mut bytes = head.bytes;
        if head.has_body {
            bytes.extend_from_slice(response.body());
        }
        Ok(bytes)
    }
}
