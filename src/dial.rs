//! What an outbound connection is besides a client: where it goes, and how far it has come.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

use tungstenite::http::Response;

use crate::{
    backlog::{Backlog, Terms},
    connect::Plan,
    error::{ConnectError, ConnectStep, SendError},
    id::LinkId,
    proto::{
        frame::MAX_HEADER,
        handshake::{Request, client::ResponseReader},
        prepared::Prepared,
    },
    send_options::LatestKey,
};

/// What stays over all attempts and connections of one `connect`.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) plan: Plan,
    /// New attempts since the last stable connection.
    pub(crate) attempt: u32,
}

/// A connection that is being made, or waits until it may be tried again.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) link: Box<Link>,
    pub(crate) step: DialStep,
    /// Of the whole attempt.
    pub(crate) deadline: Instant,
    /// It has passed, and what has arrived by then is read first.
    pub(crate) late: bool,
    /// Addresses that have not been tried.
    pub(crate) addrs: VecDeque<SocketAddr>,
    /// Why the last attempt, or the last address of this one, failed.
    pub(crate) error: Option<ConnectError>,
    /// Of this attempt.
    pub(crate) asked: Option<Asked>,
    pub(crate) kept: Kept,
}

/// What is sent when the connection is there, and what is reported then.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Arc<Request>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) reader: ResponseReader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialStep {
    /// For the next attempt's time.
    Waiting,
    /// An attempt is to begin.
    Begin,
    /// The host resolves the name.
    Resolving,
    /// The next address is to be tried.
    Next,
    /// The host, or the kernel, makes the connection to this address.
    Connecting(SocketAddr),
    /// The request has been queued.
    Asked,
}

impl DialStep {
    /// As the application hears of it when the deadline passes.
    pub(crate) fn public(self) -> ConnectStep {
        match self {
            DialStep::Waiting | DialStep::Begin | DialStep::Resolving => ConnectStep::Resolve,
            DialStep::Next | DialStep::Connecting(_) => ConnectStep::Connect,
            DialStep::Asked => ConnectStep::Handshake,
        }
    }
}

/// What an open outbound connection has besides what every client has.
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
            addrs: VecDeque::new(),
            error: None,
            asked: None,
            kept: Kept::default(),
        }
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.kept.bytes + self.asked.as_ref().map_or(0, |asked| asked.reader.memory())
    }
}

/// Messages that wait for the connection.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    messages: VecDeque<(Prepared, Terms)>,
    bytes: usize,
}

impl Kept {
    /// What a message may take in an outbox, in bytes.
    fn cost(message: &Prepared, terms: &Terms) -> usize {
        message.payload().len()
            + MAX_HEADER
            + Backlog::OVERHEAD
            + terms.latest.as_ref().map_or(0, LatestKey::heap)
    }

    /// Keeps a message, and drops the oldest that are too many. Gives how many; an error: this one, with what
    /// it takes to keep it, never fits.
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

    /// Takes the oldest.
    pub(crate) fn pop(&mut self) -> Option<(Prepared, Terms)> {
        let (message, terms) = self.messages.pop_front()?;
        self.bytes -= Self::cost(&message, &terms);
        Some((message, terms))
    }
}
