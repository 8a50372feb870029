//! Whose a request is, and for which host: what trusted proxies say about it, and the host policy.

use std::time::Instant;

use http::header;

use super::{Engine, Stream, tls::is_secure};
use crate::{
    config::hosts::{self, HostPolicy},
    connection::slot::Stage,
    http1::{
        forwarded::Forwarded,
        head::{RequestHead, check_target, single},
        proxy_protocol::Named,
        rejection::Rejection,
    },
    peer_addr::{Endpoint, PeerAddr},
    util::authority::Authority,
};

/// A connection from a trusted proxy. Kept apart from the slots, as most connections are none.
#[derive(Debug)]
pub(super) struct Proxied {
    /// The other end of the stream.
    pub(super) peer: PeerAddr,
    /// The address that the PROXY header named; without one the peer.
    pub(super) named: PeerAddr,
    /// The PROXY header said that the client's connection is encrypted.
    pub(super) named_secure: bool,
    /// A proxy said so of the connection that the last request came over.
    pub(super) secure: bool,
}

impl Proxied {
    /// A connection from a proxy without a PROXY header.
    fn through(peer: PeerAddr) -> Self {
        Proxied { peer, named: peer, named_secure: false, secure: false }
    }
}

impl<S: Stream> Engine<S> {
    /// The client of a connection, and its other end.
    pub(super) fn endpoint(&self, index: usize) -> Endpoint {
        let client = &self.clients[index];
        let remote = client.remote;
        match self.proxied.get(&index) {
            Some(proxied) => Endpoint { remote, peer: proxied.peer, secure: proxied.secure },
            None => Endpoint { remote, peer: remote, secure: is_secure(client) },
        }
    }

    /// Finds out the client of a request, which a proxy may send for another client than the last
    /// one. Limits per address count the client from here on.
    pub(super) fn identify(&mut self, index: usize, request: &RequestHead) -> Result<Forwarded, Rejection> {
        let named = self.proxied.get(&index).map_or(self.clients[index].remote, |proxied| proxied.named);
        let is_secure = is_secure(&self.clients[index]);
        if !self.config.trusts(named) {
            self.count_address(index, named)?;
            // Without TLS there may be a proxy in front that is not known.
            return Ok(Forwarded { secure: is_secure.then_some(true), ..Forwarded::default() });
        }
        let config = &self.config;
        let forwarded = Forwarded::read(request.headers(), |peer| config.trusts(peer));
        let remote = forwarded.client.unwrap_or(named);
        let proxied = self.proxied.entry(index).or_insert_with(|| Proxied::through(named));
        proxied.secure = forwarded.secure.unwrap_or(proxied.named_secure || is_secure);
        self.count_address(index, remote)?;
        Ok(forwarded)
    }

    /// Takes bytes of the PROXY header with which a connection begins. Returns how many belong to
    /// it.
    pub(super) fn take_proxy_header(&mut self, index: usize, bytes: &[u8], now: Instant) -> usize {
        let client = &mut self.clients[index];
        let Stage::Handshake(reader) = &mut client.stage else { return bytes.len() };
        let Some(header) = &mut reader.proxy_header else { return bytes.len() };
        let Named { client: named, secure, used } = match header.push(bytes) {
            Ok(Some(named)) => named,
            Ok(None) => return bytes.len(),
            Err(rejection) => {
                match header.may_be_head() {
                    true => self.reject_unread(index, rejection, now),
                    false => self.reject_head(index, rejection, now),
                }
                return bytes.len();
            }
        };
        reader.proxy_header = None;
        // The header of a peer that is not trusted is ignored.
        let peer = client.remote;
        if self.config.trusts(peer) {
            let named = named.map_or(peer, PeerAddr::from);
            self.proxied.insert(index, Proxied { peer, named, named_secure: secure, secure });
            if let Err(rejection) = self.count_address(index, named) {
                self.reject_unread(index, rejection, now);
                return bytes.len();
            }
        }
        used
    }

    /// Checks that the request names a host of this server, as protection against DNS rebinding.
    pub(super) fn check_host_policy(
        &self,
        index: usize,
        request: &RequestHead,
        forwarded: &Forwarded,
    ) -> Result<(), Rejection> {
        let policy = &self.config.hosts;
        let peer = self.endpoint(index).peer;
        // No browser connects to a Unix domain socket.
        let exempt = *policy == HostPolicy::Loopback && peer.ip().is_none();
        // A request with a faulty target gets a 400 elsewhere, like one with a faulty Host field.
        if *policy == HostPolicy::Unset || exempt || check_target(request).is_err() {
            return Ok(());
        }
        // A browser always sends Host.
        let Some(host) = requested_host(request) else { return Ok(()) };
        let Some(host) = Authority::parse(host) else {
            return if request.uri().authority().is_none() { Ok(()) } else { Err(Rejection::HostForbidden) };
        };
        let allowed = match &forwarded.host {
            None => policy.allows(&host),
            // A page can add X-Forwarded-Host to requests to its own host, so Host counts too. A
            // proxy may have replaced it by the address of this server.
            Some(outer) => {
                Authority::parse(outer).is_some_and(|outer| policy.allows(&outer))
                    && (policy.allows(&host) || hosts::is_fixed(host.host))
            }
        };
        if allowed { Ok(()) } else { Err(Rejection::HostForbidden) }
    }
}

/// The host that a request names. RFC 9112 §3.2.2: the authority of an absolute request target
/// takes the place of `Host`.
pub(super) fn requested_host(request: &RequestHead) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => single(request, header::HOST)?.to_str().ok(),
    }
}
