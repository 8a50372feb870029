//! The handshake of a connection, step by step.

use std::{
    io::ErrorKind,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{Error, ProtocolVersion};

use super::{
    Origin, RECEIVE, RECORD_MAX, Shared, State, TlsSocket,
    acceptor::Asked,
    missing,
    session::{Next, Session, cause_of},
};
use crate::{
    engine::{HandshakePart, HandshakeState, HandshakeStep, Stream},
    net::kernel,
    tls::info::TlsFailure,
};

/// The type of a record with handshake messages (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// Reads of one step. A handshake takes a few; who sends more only keeps the server busy.
const READS: usize = 16;

/// A handshake under way.
#[derive(Debug)]
pub(super) struct Handshaking {
    session: Session,
    /// The last question to the resolver of certificates. `None` for a client.
    asked: Option<Arc<Mutex<Asked>>>,
    server_name: Option<Box<str>>,
    is_unknown_name: bool,
    /// This side has sent its first flight.
    has_replied: bool,
}

impl<S: Stream> TlsSocket<S> {
    pub(crate) fn needs_handshake(&self) -> Option<HandshakePart> {
        match &self.state {
            State::Fresh(Origin::Server(..)) => Some(HandshakePart::Costly),
            State::Handshaking(handshaking) if !handshaking.has_replied => Some(HandshakePart::Costly),
            State::Fresh(Origin::Client(..)) | State::Handshaking(_) => Some(HandshakePart::Cheap),
            State::Open(_) | State::Plain | State::Broken => None,
        }
    }

    pub(crate) fn handshake(&mut self, ahead: &[u8]) -> HandshakeStep {
        let began = kernel::clock();
        self.received.ciphertext.extend_from_slice(ahead);
        let was_due = self.needs_handshake() == Some(HandshakePart::Costly);
        let blocks = self.blocks.clone();
        let mut shared = blocks.lock();
        let state = self.handshake_state(&mut shared);
        self.received.ciphertext.shrink_to_fit();
        self.keep(&mut shared);
        let was_costly = was_due && self.needs_handshake() != Some(HandshakePart::Costly);
        let spent = kernel::clock().saturating_duration_since(began);
        HandshakeStep { state, spent, was_costly, is_congested: self.is_congested }
    }

    fn handshake_state(&mut self, shared: &mut Shared) -> HandshakeState {
        self.take_block(shared);
        for _ in 0..READS {
            match self.advance(shared) {
                Ok(None) => {}
                Ok(Some(state)) => return state,
                Err(error) => return self.handshake_failed(&error, shared),
            }
            match self.read_ciphertext(shared, RECORD_MAX) {
                Ok(0) => return self.gone(ErrorKind::UnexpectedEof),
                // rustls takes messages of 64 KiB. In tiny pieces they take many times as much.
                Ok(_) if self.received.ciphertext.len() > RECEIVE => {
                    return self.handshake_failed(&other("a message of the handshake is too long"), shared);
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return HandshakeState::Waiting,
                Err(error) => return self.gone(error.kind()),
            }
        }
        self.handshake_failed(&other("the peer sends too much before the end of the handshake"), shared)
    }

    /// Writes what is to be sent, unless a writable event has to come first. A broken socket is
    /// found by the next read.
    fn push_unless_congested(&mut self, shared: &mut Shared) {
        if !self.is_congested {
            let _ = self.push(shared);
        }
    }

    fn gone(&mut self, kind: ErrorKind) -> HandshakeState {
        self.state = State::Broken;
        HandshakeState::Gone(kind)
    }

    fn handshake_failed(&mut self, error: &Error, shared: &mut Shared) -> HandshakeState {
        let is_unknown = matches!(&self.state, State::Handshaking(state) if state.is_unknown_name);
        let (cause, error) = match is_unknown {
            true => (TlsFailure::UnknownName, "there is no certificate for the name".to_owned()),
            false => (cause_of(error), error.to_string()),
        };
        self.state = State::Broken;
        self.push_unless_congested(shared);
        HandshakeState::Failed { cause, error }
    }

    /// Goes on with what was read. `None`: more is needed.
    fn advance(&mut self, shared: &mut Shared) -> Result<Option<HandshakeState>, Error> {
        if let State::Fresh(origin) = &self.state {
            let (session, asked) = match origin {
                Origin::Client(config, name) => (Session::client(config.clone(), name.clone())?, None),
                Origin::Server(config, asked) => {
                    match self.received.ciphertext.first() {
                        Some(byte) if byte.is_ascii_alphabetic() => {
                            self.state = State::Plain;
                            return Ok(Some(HandshakeState::PlainText));
                        }
                        Some(byte) if *byte != HANDSHAKE => {
                            return Err(other("the first byte is of neither TLS nor HTTP"));
                        }
                        _ => {}
                    }
                    // A peer that only pretends to begin costs no more than its bytes.
                    if missing(&self.received.ciphertext) > 0 {
                        return Ok(None);
                    }
                    (Session::server(config.clone())?, Some(asked.clone()))
                }
            };
            let (server_name, is_unknown_name, has_replied) = (None, false, false);
            let state = Handshaking { session, asked, server_name, is_unknown_name, has_replied };
            self.state = State::Handshaking(state);
        }
        let State::Handshaking(state) = &mut self.state else { return Ok(None) };
        if let Some(asked) = &state.asked {
            *lock(asked) = Asked::default();
        }
        let mut used = 0;
        let plaintext = &mut self.received.plaintext;
        let outcome = loop {
            let input = self.received.ciphertext.get_mut(used..).unwrap_or_default();
            let (consumed, next) = state
                .session
                .receive(input, &mut self.unsent, |payload| plaintext.extend_from_slice(payload));
            used += consumed;
            match next {
                Next::Again => {}
                Next::Input => break Ok(()),
                Next::Closed => return Ok(Some(self.gone(ErrorKind::UnexpectedEof))),
                Next::Failed(error) => break Err(error),
            }
        };
        self.received.ciphertext.drain(..used);
        if let Some(asked) = &state.asked {
            let asked = std::mem::take(&mut *lock(asked));
            state.server_name = asked.name.or(state.server_name.take());
            state.is_unknown_name |= asked.is_unknown;
        }
        outcome?;
        state.has_replied |= !self.unsent.unsent().is_empty();
        if state.session.is_handshaking() {
            self.push_unless_congested(shared);
            self.take_block(shared);
            return Ok(None);
        }
        Ok(Some(self.complete(shared)))
    }

    fn complete(&mut self, shared: &mut Shared) -> HandshakeState {
        let State::Handshaking(mut state) = std::mem::replace(&mut self.state, State::Broken) else {
            return HandshakeState::Waiting;
        };
        let info = Arc::new(state.session.info(state.server_name.take()));
        self.info = Some(info.clone());
        // Tickets, and the end of a client's handshake, leave together with what is written next. A
        // server of TLS 1.2 has to finish first, and if no request is there, nothing is written
        // soon.
        let is_server = matches!(state.session, Session::Server(_));
        if is_server
            && (self.received.ciphertext.is_empty()
                || state.session.version() == Some(ProtocolVersion::TLSv1_2))
        {
            self.push_unless_congested(shared);
        }
        self.state = State::Open(state.session);
        HandshakeState::Complete(info)
    }
}

fn lock(asked: &Mutex<Asked>) -> std::sync::MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

fn other(text: &str) -> Error {
    Error::General(text.to_owned())
}
