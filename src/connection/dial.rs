//! Outbound connections: their plan, and the state of an attempt.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

use http::Response;

use crate::{
    config::{connect::Plan, send_options::LatestKey},
    error::{ConnectError, ConnectStep, SendError},
    handshake::client::ResponseReader,
    http1::head::RequestHead,
    id::LinkId,
    outbox::{
        pending::{Pending, Terms},
        prepared::Prepared,
    },
    peer_addr::PeerAddr,
    proto::frame::MAX_HEADER,
};

/// The state that is kept over all attempts and connections of one `connect`.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) plan: Plan,
    /// New attempts since the last stable connection.
    pub(crate) attempt: u32,
}

/// An outbound connection that is being opened, or waits for its next attempt.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) link: Box<Link>,
    pub(crate) step: DialStep,
    /// The deadline of the whole attempt.
    pub(crate) deadline: Instant,
    /// The deadline has passed, and input that arrived before it is read first.
    pub(crate) late: bool,
    /// The poll in which this connection was the first of several to succeed.
    pub(crate) raced_in: Option<u32>,
    /// Addresses that have not been tried yet.
    pub(crate) addrs: VecDeque<SocketAddr>,
    /// Why the last attempt, or the last address of this one, failed.
    pub(crate) error: Option<ConnectError>,
    /// The request of this attempt.
    pub(crate) asked: Option<Asked>,
    pub(crate) kept: Kept,
}

/// The request to send once TCP is connected, and the reader of its response.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Arc<RequestHead>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) reader: ResponseReader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialStep {
    /// Waiting for the time of the next attempt.
    Waiting,
    /// The next attempt can begin.
    Begin,
    /// The host is resolving the name.
    Resolving,
    /// The next address can be tried.
    Next,
    /// The host or the kernel is connecting to this address.
    Connecting(PeerAddr),
    /// The request has been queued.
    Asked,
}

impl DialStep {
    /// The step as reported to the application when the deadline passes.
    pub(crate) fn public(self) -> ConnectStep {
        match self {
            DialStep::Waiting | DialStep::Begin | DialStep::Resolving => ConnectStep::Resolve,
            DialStep::Next | DialStep::Connecting(_) => ConnectStep::Connect,
            DialStep::Asked => ConnectStep::Handshake,
        }
    }
}

/// The state of an open outbound connection in addition to that of every client.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) link: Box<Link>,
    pub(crate) response: Response<()>,
    pub(crate) opened: Instant,
}

impl Dial {
    pub(crate) fn new(link: Box<Link>, now: Instant) -> Self {
        Dial {
            link,
            step: DialStep::Begin,
            deadline: now,
            late: false,
            raced_in: None,
            addrs: VecDeque::new(),
            error: None,
            asked: None,
            kept: Kept::default(),
        }
    }

    /// Memory of the attempt, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.kept.bytes + self.asked.as_ref().map_or(0, |asked| asked.reader.memory())
    }
}

/// Messages kept until the connection is open.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    messages: VecDeque<(Prepared, Terms)>,
    bytes: usize,
}

impl Kept {
    /// The most bytes that a message takes in an outbox.
    fn cost(message: &Prepared, terms: &Terms) -> usize {
        message.payload().len()
            + MAX_HEADER
            + Pending::OVERHEAD
            + terms.latest.as_ref().map_or(0, LatestKey::heap)
    }

    /// Keeps a message, and drops the oldest while there are too many. Returns how many were
    /// dropped, or an error if the message alone exceeds `max`.
    pub(crate) fn push(
        &mut self,
        message: Prepared,
        terms: Terms,
        count: usize,
        max: usize,
    ) -> Result<u64, SendError> {
        let cost = Self::cost(&message, &terms);
        if cost > max {
            return Err(SendError::TooLarge { len: cost, max });
        }
        self.messages.push_back((message, terms));
        self.bytes += cost;
        let mut dropped = 0;
        while (self.messages.len() > count || self.bytes > max) && self.pop().is_some() {
            dropped += 1;
        }
        Ok(dropped)
    }

    /// Takes the oldest message.
    pub(crate) fn pop(&mut self) -> Option<(Prepared, Terms)> {
        let (message, terms) = self.messages.pop_front()?;
        self.bytes -= Self::cost(&message, &terms);
        Some((message, terms))
    }
}
