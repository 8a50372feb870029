//! An HTTP request that waits for the application's response.

use std::{net::SocketAddr, ops::Deref};

use crate::http1::head::Request;

/// An HTTP request that waits for a response. Borrowed and `Copy`.
///
/// Dereferences to an [`http::Request<()>`](http::Request): `method()`, `uri()` with
/// path and query, `headers()`.
#[derive(Debug, Clone, Copy)]
pub struct HttpRequest<'t> {
    request: &'t Request,
    body: &'t [u8],
    remote: SocketAddr,
}

impl<'t> HttpRequest<'t> {
    pub(crate) fn new(request: &'t Request, body: &'t [u8], remote: SocketAddr) -> Self {
        HttpRequest { request, body, remote }
    }

    /// The whole body. Empty for a GET and for an upgrade.
    pub fn body(&self) -> &'t [u8] {
        self.body
    }

    /// The address of the TCP peer: the client, or a proxy in front of it.
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote
    }
}

impl Deref for HttpRequest<'_> {
    type Target = Request;

    fn deref(&self) -> &Request {
        self.request
    }
}
