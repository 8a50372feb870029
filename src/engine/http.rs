//! HTTP requests before, or instead of, a WebSocket. A connection handles one request at a time,
//! and parses the next one when the response has left.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};

use super::{
    Engine, Stream,
    identity::requested_host,
    receive::{Turn, after_read, budget_left, drained_by, keep_unparsed, read},
    tls::is_unsecured,
};
use crate::{
    connection::slot::{Exchange, Stage, Step},
    error::RespondError,
    handshake,
    http1::{
        head::{Head, HeadLimits, HeadReader, RequestHead},
        rejection::Rejection,
        request::Request,
        response::{self, Unfit},
        static_files::Content,
    },
    id::ExchangeId,
    outbox::prepared::Prepared,
    util::time::after,
};

impl<S: Stream> Engine<S> {
    /// The bytes of a file that are read at a time.
    const FILE_CHUNK: u64 = 64 * 1024;

    /// The share of the tick's input budget, in bytes, that a request is charged if it gets its
    /// response at once. The request may be small, but a file was looked up or a closure called.
    const RESPONSE: usize = 4 * 1024;

    // ---- input ----

    /// Handles input of a connection that is not a WebSocket yet: unparsed input, or else one read.
    pub(super) fn read_request(&mut self, index: usize, now: Instant) -> Turn {
        let turn = self.turn().min(self.tick.input_left());
        let client = &mut self.clients[index];
        if !client.takes_request() {
            // The connection becomes ready again when its response has left.
            return Turn::Drained;
        }
        if let Some(turn) = self.secure(index, now) {
            return turn;
        }
        let client = &mut self.clients[index];
        if client.unparsed.is_empty() {
            let Some(budget) = budget_left(client, self.poll, self.config.read_budget) else {
                return Turn::Postponed;
            };
            let room = self.tick.room();
            let offered = room.len().min(budget).min(turn);
            let count = match read(&mut client.stream, &mut room[..offered]) {
                Ok(count) => count,
                Err(turn) => return drained_by(client, turn),
            };
            keep_unparsed(&mut client.unparsed, &room[..count], &mut self.inbound);
            self.tick.received(count);
            self.stats.bytes_in += count as u64;
            after_read(client, count, offered, self.config.rearm, now);
        }
        // Parsed outside the tick's block: if a closure panics, the input of other clients must
        // still be there.
        let carried = std::mem::take(&mut self.clients[index].unparsed);
        if self.clients[index].readable {
            // Queued before the closure runs, so that a panic does not stop this client's reads.
            self.make_ready(index);
        }
        let used = self.take_request(index, &carried, now);
        keep_unparsed(&mut self.clients[index].unparsed, &carried[used..], &mut self.inbound);
        self.inbound.give(carried);
        self.next_turn(index)
    }

    /// Whether a connection has more to do after a piece of its input was handled.
    fn next_turn(&mut self, index: usize) -> Turn {
        let client = &mut self.clients[index];
        match &client.stage {
            Stage::Handshake(_) | Stage::Request(_) => {
                let more = client.readable || !client.unparsed.is_empty();
                if more && client.takes_request() { Turn::Again } else { Turn::Drained }
            }
            // Input behind a rejected request is discarded.
            Stage::Linger { .. } => {
                self.inbound.give(std::mem::take(&mut client.unparsed));
                if client.readable { Turn::Again } else { Turn::Drained }
            }
            Stage::Open(_) | Stage::Dialing(_) => {
                if client.readable {
                    Turn::Again
                } else {
                    Turn::Drained
                }
            }
        }
    }

    /// Parses input until a request needs its response first. Returns the number of bytes used.
    fn take_request(&mut self, index: usize, bytes: &[u8], now: Instant) -> usize {
        let mut used = 0;
        while used < bytes.len() && self.clients[index].takes_request() {
            used += self.take_piece(index, &bytes[used..], now);
            // The bytes behind a PROXY header may be those of a TLS handshake.
            if is_unsecured(&self.clients[index]) && !self.clients[index].awaits_proxy_header() {
                break;
            }
        }
        used
    }

    /// Parses a piece of a head or of a body. Returns how many bytes belong to it.
    fn take_piece(&mut self, index: usize, bytes: &[u8], now: Instant) -> usize {
        if self.clients[index].is_idle_http() {
            // The connection is no longer idle: from its first byte on, each request has as much
            // time as the first one.
            self.clients[index].deadlines.close_by(after(now, self.config.handshake_timeout));
            self.rearm(index);
        }
        let Engine { config, clients, .. } = self;
        let client = &mut clients[index];
        match &mut client.stage {
            Stage::Handshake(reader) if reader.proxy_header.is_some() => {
                return self.take_proxy_header(index, bytes, now);
            }
            Stage::Handshake(reader) => {
                let limits = HeadLimits { max_bytes: config.max_head_bytes, max_headers: config.max_headers };
                match reader.push(bytes, limits) {
                    Ok(None) => {}
                    Ok(Some(head)) => {
                        let used = head.used;
                        self.requested(index, head, used < bytes.len(), now);
                        return used;
                    }
                    Err(rejection) => self.reject_head(index, rejection, now),
                }
            }
            Stage::Request(exchange) => match &mut exchange.step {
                Step::Body { body, len } => {
                    let count = bytes.len().min(*len - body.len());
                    if body.len() + count > body.capacity() {
                        // The buffer grows with the bytes that arrive, not by what the head claims.
                        let capacity = (2 * body.capacity()).clamp(body.len() + count, *len);
                        body.reserve_exact(capacity - body.len());
                    }
                    body.extend_from_slice(&bytes[..count]);
                    if body.len() == *len {
                        self.serve(index, now);
                    }
                    return count;
                }
                // RFC 6455 §4.1: the client must wait for the response before it sends anything.
                _ => self.reject_current(index, Rejection::JunkAfterRequest, now),
            },
            Stage::Dialing(_) | Stage::Open(_) | Stage::Linger { .. } => {}
        }
        bytes.len()
    }

    /// Handles a complete head. `more`: bytes have arrived behind it.
    fn requested(&mut self, index: usize, head: Head, more: bool, now: Instant) {
        let Head { mut request, len: head, .. } = head;
        if let Some(stream) = self.clients[index].stream.get() {
            if stream.is_plain_by_mistake() {
                return self.answer_plain_text(index, &request, now);
            }
            if let Some(tls) = stream.tls() {
                request.extensions_mut().insert(tls.clone());
            }
        }
        let forwarded = match self.identify(index, &request) {
            Ok(forwarded) => forwarded,
            Err(rejection) => return self.reject(index, rejection, &request, None, now),
        };
        let host = forwarded.host.as_deref().or(requested_host(&request));
        if let Err(rejection) = self.check_host_policy(index, &request, &forwarded) {
            return self.reject(index, rejection, &request, host, now);
        }
        if !self.serves_http() || handshake::server::is_upgrade(&request) {
            if more {
                let rejection = handshake::server::early_data(&request, &forwarded, &self.config.origins);
                return self.reject(index, rejection, &request, host, now);
            }
            return match self.check(&request, &forwarded, self.endpoint(index)) {
                Ok(checked) => self.decide(index, request, head, checked, now),
                Err(rejection) => self.reject(index, rejection, &request, host, now),
            };
        }
        let len = match response::body_len(&request, self.config.max_body_size) {
            Ok(len) => len,
            Err(rejection) => return self.reject(index, rejection, &request, host, now),
        };
        if len > 0 && !more && response::expects_continue(&request) {
            self.clients[index].outbox.push_raw(response::CONTINUE, &mut self.outbound);
            self.make_dirty(index);
        }
        let step = Step::Body { body: Vec::new(), len };
        self.clients[index].stage =
            Stage::Request(Box::new(Exchange { request: Arc::new(request), head, step }));
        if len == 0 {
            return self.serve(index, now);
        }
        // The time of the head does not count.
        self.clients[index].deadlines.close_by(after(now, self.config.body_timeout));
        self.rearm(index);
    }

    // ---- responses ----

    /// Whether any plain request can be served. Otherwise each is rejected as a bad handshake.
    fn serves_http(&self) -> bool {
        let config = &self.config;
        let own = config.http || config.health.is_some() || config.metrics.is_some();
        own || self.hooks.on_http.is_some() || !self.hooks.static_files.is_empty()
    }

    /// Handles a complete plain request.
    fn serve(&mut self, index: usize, now: Instant) {
        let endpoint = self.endpoint(index);
        let Stage::Request(exchange) = &mut self.clients[index].stage else { return };
        let Step::Body { body, .. } = &mut exchange.step else { return };
        let (request, body) = (exchange.request.clone(), std::mem::take(body));
        self.next_request += 1;
        let id = ExchangeId::new(index as u32, self.next_request);
        // The step changes first: even if a closure panics, the request is over.
        exchange.step = Step::Http { id };
        if let Some(response) = self.builtin_response(&request) {
            self.tick.received(Self::RESPONSE);
            self.respond_or_500(index, response, now);
        } else if let Some(on_http) = &mut self.hooks.on_http {
            self.tick.received(Self::RESPONSE);
            let response = on_http(&Request::new(&request, &body, endpoint));
            self.respond_or_500(index, response.map(content), now);
        } else if self.config.http {
            // The application has as much time as the client had for its request.
            let deadline = after(now, self.config.handshake_timeout);
            self.clients[index].deadlines.close_by(deadline);
            self.tick.http(id, request, body, endpoint);
        } else if self.is_socket_only(request.uri().path()) {
            self.reject_current(index, Rejection::UpgradeRequired, now);
        } else {
            self.respond_or_500(index, plain(StatusCode::NOT_FOUND, "there is nothing here\n"), now);
        }
    }

    /// Whether `path` is for WebSockets only, so that a plain request gets 426.
    fn is_socket_only(&self, path: &str) -> bool {
        self.config.names_path(path) || (self.config.paths.is_empty() && self.hooks.static_files.is_empty())
    }

    /// The response to a request for health, metrics or a static file; `None` if it is none of
    /// these.
    fn builtin_response(&self, request: &RequestHead) -> Option<Response<Content>> {
        let path = request.uri().path();
        let (status, mime, text) = if self.config.has_health_at(path) {
            let text = format!("{{\"status\":\"ok\",\"open\":{}}}\n", self.open);
            (StatusCode::OK, "application/json", text)
        } else if self.config.has_metrics_at(path) {
            (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.stats().to_prometheus())
        } else {
            // A request that cannot be for a file is left to the application, if it takes requests.
            let asks = self.config.http || self.hooks.on_http.is_some();
            let reads = matches!(*request.method(), Method::GET | Method::HEAD);
            let static_files = (reads || !asks).then_some(&self.hooks.static_files)?;
            return static_files.find(request.method(), path, request.headers());
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(response);
        }
        let mut response = with_type(mime, text.into());
        *response.status_mut() = status;
        // Health and metrics are only true now, so caches must not store them.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(response)
    }

    /// Queues the response to the request `id`; the connection then waits for its next request.
    ///
    /// # Errors
    /// The id is stale, or the response cannot be sent as it is. Nothing has changed then.
    pub(crate) fn respond(
        &mut self,
        id: ExchangeId,
        response: Response<Bytes>,
        now: Instant,
    ) -> Result<(), RespondError> {
        self.flush_batch();
        let index = id.index();
        let waits = match self.clients.get(index).map(|client| &client.stage) {
            Some(Stage::Request(exchange)) => {
                matches!(exchange.step, Step::Http { id: waiting } if waiting == id)
            }
            _ => false,
        };
        if !waits {
            return Err(RespondError::Gone(id));
        }
        self.respond_to(index, response.map(content), now).map_err(|unfit| match unfit {
            Unfit::Status(status) => RespondError::Status(status),
            Unfit::Header(error) => RespondError::Header(error),
        })?;
        self.enforce_memory_limit();
        Ok(())
    }

    /// As `respond_to`, but sends 500 in place of a response that cannot be sent.
    pub(super) fn respond_or_500(&mut self, index: usize, response: Response<Content>, now: Instant) {
        if let Err(unfit) = self.respond_to(index, response, now) {
            log::error!("the application's response cannot be sent, so the client gets 500: {unfit:?}");
            let failed = plain(StatusCode::INTERNAL_SERVER_ERROR, "the application failed\n");
            // The 500 response is valid.
            let _ = self.respond_to(index, failed, now);
        }
    }

    /// Queues the response to the current request.
    fn respond_to(&mut self, index: usize, response: Response<Content>, now: Instant) -> Result<(), Unfit> {
        let shutting_down = self.shutting_down;
        self.date(now);
        let Engine { clients, outbound, date, .. } = self;
        let client = &mut clients[index];
        let Stage::Request(exchange) = &mut client.stage else { return Ok(()) };
        let request = &exchange.request;
        let (parts, content) = response.into_parts();
        let to_head = *request.method() == Method::HEAD;
        let last = shutting_down || response::is_last(request);
        let head = response::response_head(
            parts.status,
            &parts.headers,
            content.len(),
            to_head,
            last,
            date.value(),
        )?;
        client.outbox.push_raw(&head.bytes, outbound);
        self.stats.http_requests += 1;
        match content {
            Content::Shared(body) if head.has_body && body.is_shared() => {
                client.outbox.push_shared(&body, outbound);
            }
            Content::Shared(body) if head.has_body => client.outbox.push_raw(body.frame(), outbound),
            Content::File { file, len } if head.has_body => {
                exchange.step = Step::File { file, left: len, close: head.close };
                // Only the write timeout applies: a file has no deadline of its own.
                client.deadlines.close_by(after(now, Duration::MAX));
                // Opening the file and reading its first piece cost more than other responses.
                self.tick.received(2 * Self::RESPONSE);
                self.pump_file(index, now);
                return Ok(());
            }
            _ => {}
        }
        self.after_response_queued(index, head.close, now);
        Ok(())
    }

    /// Ends the current request, whose whole response is queued.
    fn after_response_queued(&mut self, index: usize, close: bool, now: Instant) {
        let client = &mut self.clients[index];
        if let Stage::Request(exchange) = &mut client.stage
            && close
        {
            exchange.step = Step::Last;
            client.deadlines.close_by(after(now, Duration::MAX));
        } else {
            client.stage = Stage::Handshake(HeadReader::default());
            client.served = true;
            client.deadlines.close_by(after(now, self.config.keep_alive_timeout));
            self.count_inbound(index);
            self.rearm(index);
        }
        self.make_dirty(index);
    }

    /// Queues the next piece of a file. A piece is read when the peer has taken the last one, so
    /// that memory holds one at a time.
    pub(super) fn pump_file(&mut self, index: usize, now: Instant) {
        let Engine { clients, outbound, .. } = self;
        let client = &mut clients[index];
        let Stage::Request(exchange) = &mut client.stage else { return };
        let Step::File { file, left, close } = &mut exchange.step else { return };
        let piece = (*left).min(Self::FILE_CHUNK);
        if let Err(error) = client.outbox.push_raw_from(file, piece as usize, outbound) {
            // `Content-Length` was sent, so the only way out is to close the connection.
            log::warn!(
                "a file became shorter or unreadable while it was served, its connection is closed: {error}"
            );
            self.stats.http_only += 1;
            return self.linger(index, now);
        }
        *left -= piece;
        if *left == 0 {
            let close = *close;
            self.after_response_queued(index, close, now);
        } else {
            self.resume_output(index);
        }
    }

    /// Continues after a response, or a piece of one, was written.
    pub(super) fn after_response(&mut self, index: usize, now: Instant) {
        let keep_alive = self.config.keep_alive_timeout;
        let client = &mut self.clients[index];
        match &client.stage {
            Stage::Request(exchange) if matches!(exchange.step, Step::File { .. }) => {
                self.pump_file(index, now)
            }
            Stage::Request(exchange) if matches!(exchange.step, Step::Last) => {
                self.stats.http_only += 1;
                self.linger(index, now);
                self.after_last_byte(index, now);
            }
            Stage::Handshake(_) if client.served => {
                client.deadlines.close_by(after(now, keep_alive));
                let has_input = client.readable || !client.unparsed.is_empty();
                self.rearm(index);
                if has_input {
                    self.make_ready(index);
                }
            }
            _ => {}
        }
    }
}

fn content(bytes: Bytes) -> Content {
    if bytes.is_empty() { Content::Empty } else { Content::Shared(Prepared::raw(bytes.into())) }
}

fn with_type(mime: &'static str, text: Bytes) -> Response<Content> {
    let mut response = Response::new(content(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(mime));
    response
}

/// A text response of one line.
fn plain(status: StatusCode, text: &'static str) -> Response<Content> {
    let mut response = with_type("text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response
}
