//! Rejected requests: their response, their count and their line in the log.

use std::time::Instant;

use bytes::Bytes;
use http::{Method, Response};

use super::{Engine, Stream};
use crate::{
    connection::slot::Stage,
    http1::{
        rejection::Rejection,
        response::{self, Unfit},
    },
};

impl<S: Stream> Engine<S> {
    /// Rejects a request, and closes the connection behind the response.
    pub(super) fn reject(&mut self, index: usize, rejection: Rejection, now: Instant) {
        self.stats.rejected.count(rejection);
        let client = &self.clients[index];
        log::debug!("rejected {}: {}", client.remote, rejection.status());
        let response = match &client.stage {
            Stage::Request(exchange) if *exchange.request.method() == Method::HEAD => rejection.head(),
            _ => rejection.response(),
        };
        self.respond_and_close(index, &response, now);
    }

    /// Rejects an upgrade by decision of the application.
    pub(super) fn reject_by_application(&mut self, index: usize, response: &[u8], now: Instant) {
        self.stats.rejected.application += 1;
        self.respond_and_close(index, response, now);
    }

    /// Queues an HTTP response after which the connection is closed.
    pub(super) fn respond_and_close(&mut self, index: usize, response: &[u8], now: Instant) {
        self.clients[index].outbox.push_raw(response, &mut self.outbound);
        self.linger(index, now);
    }
}

/// The bytes of a rejection, behind which the connection is closed.
pub(super) fn rejection_bytes(response: &Response<Bytes>) -> Result<Vec<u8>, Unfit> {
    let status = response.status();
    if status.is_informational() || status.is_success() {
        return Err(Unfit::Status(status));
    }
    let head =
        response::response_head(status, response.headers(), response.body().len() as u64, false, true)?;
    let mut bytes = head.bytes;
    if head.has_body {
        bytes.extend_from_slice(response.body());
    }
    Ok(bytes)
}
