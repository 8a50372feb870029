//! The step from a request to a WebSocket: the server's checks, then the application's decision,
//! made at once or later.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{Engine, Stream, receive::keep_unparsed};
use crate::{
    connection::{
        Connection, Role,
        deadlines::Deadlines,
        rate_limiter::RateLimiter,
        slot::{Exchange, Open, Provenance, Stage, Step},
    },
    error::{AdoptError, UpgradeError},
    event::tick_buffer::TickBuffer,
    handshake::{
        self,
        decision::{Decision, UpgradeResponse},
        server::Opening,
    },
    http1::{
        forwarded::Forwarded,
        head::{HeadReader, RequestHead},
        head_machine::write_all,
        rejection::Rejection,
        request::Request,
        response::Unfit,
    },
    id::{ClientId, UpgradeId},
    peer_addr::{Endpoint, PeerAddr},
};

impl<S: Stream> Engine<S> {
    /// Decides on an upgrade request that the settings allow: accepts or rejects it, or defers to
    /// the application.
    pub(super) fn decide(
        &mut self,
        index: usize,
        request: RequestHead,
        head: usize,
        (opening, chosen): (Opening, Option<HeaderValue>),
        now: Instant,
    ) {
        let endpoint = self.endpoint(index);
        let Some(on_upgrade) = &mut self.hooks.on_upgrade else {
            let response = UpgradeResponse::new(Vec::new(), chosen);
            return self.upgrade(index, Arc::new(request), opening, response, now);
        };
        let mut response = UpgradeResponse::new(opening.offered.clone(), chosen);
        match on_upgrade(&Request::new(&request, &[], endpoint), &mut response) {
            Decision::Accept => self.upgrade(index, Arc::new(request), opening, response, now),
            Decision::Reject(response) => match self.rejection_bytes(&response, now) {
                Ok(bytes) => self.reject_by_application(index, &bytes, now),
                Err(unfit) => {
                    log::error!(
                        "the application's rejection cannot be sent, so the client gets 500: {unfit:?}"
                    );
                    let bytes = self.rejection_bytes(&internal_error(), now).unwrap_or_default();
                    self.reject_by_application(index, &bytes, now);
                }
            },
            Decision::Defer => {
                self.next_request += 1;
                let id = UpgradeId::new(index as u32, self.next_request);
                let request = Arc::new(request);
                self.tick.upgrade(id, request.clone(), endpoint);
                let step = Step::Upgrade { id, opening, response };
                self.clients[index].stage = Stage::Request(Box::new(Exchange { request, head, step }));
            }
        }
    }

    /// Checks a request against the configuration, and chooses the subprotocol.
    pub(super) fn check(
        &mut self,
        request: &RequestHead,
        forwarded: &Forwarded,
        endpoint: Endpoint,
    ) -> Result<(Opening, Option<HeaderValue>), Rejection> {
        let opening = handshake::server::check(request, forwarded, &self.config.origins)?;
        if let Some(check_origin) = &mut self.hooks.check_origin
            && !check_origin(&Request::new(request, &[], endpoint))
        {
            return Err(Rejection::OriginForbidden);
        }
        if !self.config.takes_upgrades_at(request.uri().path()) {
            return Err(Rejection::NotFound);
        }
        let chosen = handshake::server::choose(&opening.offered, &self.config.subprotocols);
        if chosen.is_none() && self.config.require_subprotocol {
            return Err(Rejection::NoSubprotocol);
        }
        let chosen = chosen.and_then(|name| HeaderValue::from_str(name).ok());
        Ok((opening, chosen))
    }

    /// Accepts a deferred upgrade. `Event::Open` follows in the next tick; messages can be sent to
    /// the id at once.
    pub(crate) fn accept_upgrade(
        &mut self,
        id: UpgradeId,
        headers: HeaderMap,
        now: Instant,
    ) -> Result<ClientId, UpgradeError> {
        self.flush_batch();
        let index = id.index();
        let Some(Step::Upgrade { response, .. }) = self.pending(id) else {
            return Err(UpgradeError::Gone(id));
        };
        response.extend(headers)?;
        let Some((request, opening, response)) = self.take_pending(index) else {
            return Err(UpgradeError::Gone(id));
        };
        self.upgrade(index, request, opening, response, now);
        self.count_inbound(index);
        let client = &self.clients[index];
        if client.readable {
            self.make_ready(index);
        }
        Ok(self.id(index))
    }

    /// Rejects a deferred upgrade with a response of the application.
    pub(crate) fn reject_upgrade(
        &mut self,
        id: UpgradeId,
        response: &Response<Bytes>,
        now: Instant,
    ) -> Result<(), UpgradeError> {
        self.flush_batch();
        if self.pending(id).is_none() {
            return Err(UpgradeError::Gone(id));
        }
        let bytes = self.rejection_bytes(response, now).map_err(|unfit| match unfit {
            Unfit::Status(status) => UpgradeError::Status(status),
            Unfit::Header(error) => UpgradeError::Header(error),
        })?;
        self.take_pending(id.index());
        self.reject_by_application(id.index(), &bytes, now);
        Ok(())
    }

    /// The step of a request that waits for the application's decision on this upgrade.
    fn pending(&mut self, id: UpgradeId) -> Option<&mut Step> {
        match &mut self.clients.get_mut(id.index())?.stage {
            Stage::Request(exchange) => match &mut exchange.step {
                Step::Upgrade { id: waiting, .. } if *waiting == id => Some(&mut exchange.step),
                _ => None,
            },
            _ => None,
        }
    }

    /// Takes the deferred upgrade out of its connection, because the application has decided.
    fn take_pending(&mut self, index: usize) -> Option<(Arc<RequestHead>, Opening, UpgradeResponse)> {
        let stage = &mut self.clients[index].stage;
        match std::mem::replace(stage, Stage::Handshake(HeadReader::default())) {
            Stage::Request(exchange) => match *exchange {
                Exchange { request, step: Step::Upgrade { opening, response, .. }, .. } => {
                    Some((request, opening, response))
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn upgrade(
        &mut self,
        index: usize,
        request: Arc<RequestHead>,
        opening: Opening,
        response: UpgradeResponse,
        now: Instant,
    ) {
        let (mut headers, subprotocol) = response.into_parts();
        let deflate = self.codec.negotiate(request.headers()).map(|(deflate, response)| {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, response);
            deflate
        });
        // Every header value was checked when it was added.
        let Ok(response) = opening.accept(&request, &headers) else {
            let rejection = Rejection::BadRequest("the request head is malformed");
            return self.reject(index, rejection, &request, None, now);
        };
        let Engine { clients, outbound, config, .. } = self;
        if config.isolate_upgrade_response {
            clients[index].apart = u16::try_from(response.len()).unwrap_or(u16::MAX);
        }
        write_all(response, |bytes| clients[index].outbox.push_raw(bytes, outbound));
        let provenance = Provenance {
            subprotocol: subprotocol.as_ref().and_then(|name| name.to_str().ok()).map(Into::into),
            request: self.config.keep_requests.then(|| request.clone()),
            outbound: None,
        };
        let connection = Connection::new(Role::Server).with_deflate(deflate);
        self.open_connection(index, connection, provenance, request, now);
    }

    /// Adds an open connection whose opening handshake was made elsewhere, without extensions.
    /// `leftover` was read behind its request.
    pub(crate) fn adopt_upgraded(
        &mut self,
        stream: S,
        remote: PeerAddr,
        request: RequestHead,
        leftover: &[u8],
        now: Instant,
    ) -> Result<ClientId, AdoptError> {
        if leftover.len() > TickBuffer::BLOCK {
            return Err(AdoptError::LeftoverTooLarge { len: leftover.len(), max: TickBuffer::BLOCK });
        }
        let index = self.adopt(stream, remote, now)?;
        if self.identify(index, &request).is_err() {
            self.stats.rejected.per_ip += 1;
            self.free(index);
            return Err(AdoptError::AtLimit);
        }
        keep_unparsed(&mut self.clients[index].unparsed, leftover, &mut self.inbound);
        let request = Arc::new(request);
        let provenance = Provenance {
            subprotocol: None,
            request: self.config.keep_requests.then(|| request.clone()),
            outbound: None,
        };
        self.open_connection(index, Connection::new(Role::Server), provenance, request, now);
        self.count_inbound(index);
        self.make_ready(index);
        Ok(self.id(index))
    }

    /// Opens the connection at `index`, whose handshake with this `request` is complete.
    #[inline]
    pub(super) fn open_connection(
        &mut self,
        index: usize,
        connection: Connection,
        provenance: Provenance,
        request: Arc<RequestHead>,
        now: Instant,
    ) {
        let id = self.id(index);
        let client = &mut self.clients[index];
        client.stage = Stage::Open(Open::new(connection, RateLimiter::new(&self.config, now), provenance));
        client.deadlines = Deadlines::new(now);
        // Downloads over plain HTTP before this need a large buffer.
        if let (Some(bytes), Some(stream)) = (self.config.send_buffer, client.stream.get_mut()) {
            stream.set_send_buffer(bytes);
        }
        self.open += 1;
        self.stats.opened += 1;
        let endpoint = self.endpoint(index);
        self.tick.open(id, request, endpoint);
        self.rearm(index);
        self.make_dirty(index);
    }
}

fn internal_error() -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(b"the application failed\n"));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}
