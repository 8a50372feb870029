//! An engine that may be recorded: everything that it is told goes to the tape first.

use std::{
    io,
    net::SocketAddr,
    ops::Deref,
    time::{Duration, Instant},
};

use tungstenite::{
    Bytes,
    http::{HeaderMap, Response},
    protocol::frame::coding::CloseCode,
};

use super::{
    Recording, Tape,
    digest::digest_of_tick,
    entry::{Entry, HostOrder, PlanCopy, Terms, Words, group, room_ref},
    head::Head,
    nanos_between, services,
    stream::Taped,
};
use crate::{
    config::{
        Config, Overflow,
        connect::{Plan, WhileDown},
        send_options::{LatestKey, SendTerms},
    },
    engine::{Engine, Order, Readiness, Whom, hooks::Services},
    error::{CloseError, ConnectError, JoinError, NotConnected, RespondError, SendError, UpgradeError},
    event::{delivery::Delivery, tick::Tick},
    id::{ClientId, RequestId, Room, TimerId, UpgradeId},
    net::socket::Socket,
    outbox::prepared::Outgoing,
    util::entropy::Entropy,
};

#[derive(Debug)]
pub(crate) struct Core {
    engine: Engine<Taped>,
    tape: Option<Tape>,
}

/// Questions; what changes something is below.
impl Deref for Core {
    type Target = Engine<Taped>;

    fn deref(&self) -> &Engine<Taped> {
        &self.engine
    }
}

/// Calls that are recorded as they are.
macro_rules! recorded {
    ($(fn $name:ident(&mut self $(, $arg:ident: $type:ty)*) $(-> $back:ty)? = $entry:expr;)*) => {
        $(#[inline]
        pub(crate) fn $name(&mut self $(, $arg: $type)*) $(-> $back)? {
            if let Some(tape) = &self.tape {
                tape.note(&$entry);
            }
            self.engine.$name($($arg),*)
        })*
    };
}

/// As `recorded`, at a moment.
macro_rules! recorded_at {
    ($(fn $name:ident(&mut self $(, $arg:ident: $type:ty)*) $(-> $back:ty)? = $entry:expr;)*) => {
        $(#[inline]
        pub(crate) fn $name(&mut self $(, $arg: $type)*, now: Instant) $(-> $back)? {
            if let Some(tape) = &self.tape {
                tape.at(now);
                tape.note(&$entry);
            }
            self.engine.$name($($arg,)* now)
        })*
    };
}

impl Core {
    pub(crate) fn new(config: Config, mut services: Services, now: Instant) -> Self {
        let Some(sink) = services.record.take() else {
            return Core { engine: Engine::new(config, services, now), tape: None };
        };
        let tape = Tape::new(sink.0, &Head::new(&config, &services), now);
        let mut engine = Engine::new(config, services::recorded(services, &tape), now);
        engine.keep_no_buffers();
        let mut core = Core { engine, tape: Some(tape) };
        match Entropy::new() {
            Some(entropy) => core.draw_from(entropy),
            None => core.tape.iter().for_each(|tape| tape.give_up("the system has no random numbers")),
        }
        core
    }

    pub(crate) fn recording(&self) -> Option<Recording> {
        self.tape.as_ref().map(Tape::state)
    }

    pub(crate) fn draw_from(&mut self, entropy: Entropy) {
        let Some(tape) = &self.tape else { return self.engine.draw_from(entropy) };
        tape.note(&Entry::Draw {});
        let tape = tape.clone();
        self.engine.draw_from(Entropy::of(move |bytes| {
            for chunk in bytes.chunks_mut(32) {
                chunk.iter_mut().zip(entropy.take::<32>()).for_each(|(to, byte)| *to = byte);
            }
            tape.note(&Entry::Random { bytes: Bytes::copy_from_slice(bytes) });
        }));
    }

    // ---- what happened ----

    recorded_at! {
        fn flush(&mut self) = Entry::Flush {};
        fn fire_timers(&mut self) = Entry::Fire {};
        fn service_next(&mut self) -> bool = Entry::Service {};
        fn ready(&mut self, index: usize, readiness: Readiness) = Entry::Ready { index, what: bits(readiness) };
        fn resolved(&mut self, client: ClientId, addrs: Result<Vec<SocketAddr>, ConnectError>) =
            Entry::Resolved { client, addrs: addrs.clone().map_err(name_error) };
    }

    recorded! {
        fn abandon(&mut self, index: usize) = Entry::Abandon { index };
        fn count_pause(&mut self) = Entry::CountPause {};
        fn count_lost_listener(&mut self) = Entry::CountLostListener {};
        fn count_undelivered(&mut self) = Entry::CountUndelivered {};
    }

    pub(crate) fn next_dial(&mut self, now: Instant) -> Option<Order> {
        let Some(tape) = &self.tape else { return self.engine.next_dial(now) };
        tape.at(now);
        tape.note(&Entry::NextDial {});
        let order = self.engine.next_dial(now);
        if let Some(order) = &order {
            tape.note(&Entry::Ordered { order: HostOrder::of(order) });
        }
        order
    }

    pub(crate) fn next_timeout(&mut self, now: Instant) -> Option<Duration> {
        // What it does to the wheel does not depend on the time.
        if let Some(tape) = &self.tape {
            tape.note(&Entry::Look {});
        }
        self.engine.next_timeout(now)
    }

    pub(crate) fn start_poll(&mut self, called: Instant, now: Instant, partial: bool) {
        if let Some(tape) = &self.tape {
            tape.at(now);
            tape.note(&Entry::Start { waited: now.saturating_duration_since(called), partial });
        }
        self.engine.start_poll(called, now, partial);
    }

    pub(crate) fn accept(&mut self, socket: Socket, remote: SocketAddr, now: Instant) -> Option<usize> {
        if let Some(tape) = &self.tape {
            tape.at(now);
            tape.note(&Entry::Accept { remote });
        }
        self.engine.accept(Taped::new(socket, self.tape.as_ref()), remote, now)
    }

    pub(crate) fn dialed(&mut self, client: ClientId, socket: io::Result<Socket>, now: Instant) {
        if let Some(tape) = &self.tape {
            tape.at(now);
            let outcome = socket.as_ref().map(drop).map_err(io::Error::kind);
            tape.note(&Entry::Dialed { client, outcome });
        }
        let stream = socket.map(|socket| Taped::new(socket, self.tape.as_ref()));
        self.engine.dialed(client, stream, now);
    }

    pub(crate) fn wake_at(&mut self, deadline: Instant) {
        if let Some(tape) = &self.tape {
            tape.note(&Entry::WakeAt { nanos: nanos_between(tape.last(), deadline) });
        }
        self.engine.wake_at(deadline);
    }

    pub(crate) fn finish_tick(&mut self, now: Instant, more: bool) -> Tick {
        if let Some(tape) = &self.tape {
            tape.at(now);
        }
        let tick = self.engine.finish_tick(now, more);
        if let Some(tape) = &self.tape {
            tape.note(&Entry::Finish { more, events: tick.len(), digest: digest_of_tick(&tick) });
            tape.end_poll();
        }
        tick
    }

    // ---- what the application says ----

    recorded! {
        fn disconnect(&mut self, client: ClientId) -> Result<(), NotConnected> = Entry::Disconnect { client };
        fn set_overflow(&mut self, client: ClientId, overflow: Overflow) -> Result<(), NotConnected> =
            Entry::SetOverflow { client, overflow };
        fn pause_reading(&mut self, client: ClientId) -> Result<(), NotConnected> = Entry::Pause { client };
        fn cancel_timer(&mut self, timer: TimerId) -> bool = Entry::CancelTimer { timer };
        fn join(&mut self, client: ClientId, room: Room<'_>) -> Result<(), JoinError> =
            Entry::Join { client, room: room_ref(room) };
        fn leave(&mut self, client: ClientId, room: Room<'_>) -> Result<bool, NotConnected> =
            Entry::Leave { client, room: room_ref(room) };
        fn leave_all(&mut self, client: ClientId) -> Result<usize, NotConnected> = Entry::LeaveAll { client };
        fn set_user(&mut self, client: ClientId, key: &str) -> Result<(), NotConnected> =
            Entry::SetUser { client, key: key.to_owned() };
        fn clear_user(&mut self, client: ClientId) -> Result<bool, NotConnected> = Entry::ClearUser { client };
    }

    recorded_at! {
        fn ping(&mut self, client: ClientId) -> Result<(), SendError> = Entry::Ping { client };
        fn close(&mut self, client: ClientId, code: CloseCode, reason: &str) -> Result<(), CloseError> =
            Entry::Close { client, code: code.into(), reason: reason.to_owned() };
        fn shutdown(&mut self, code: CloseCode, deadline: Duration) =
            Entry::Shutdown { code: code.into(), deadline };
        fn resume_reading(&mut self, client: ClientId) -> Result<(), NotConnected> = Entry::Resume { client };
        fn set_timer(&mut self, delay: Duration, repeat: bool) -> TimerId = Entry::SetTimer { delay, repeat };
        fn accept_upgrade(&mut self, upgrade: UpgradeId, headers: HeaderMap) -> Result<ClientId, UpgradeError> =
            Entry::AcceptUpgrade { upgrade, headers: headers.clone() };
        fn reject_upgrade(&mut self, upgrade: UpgradeId, response: &Response<Bytes>) -> Result<(), UpgradeError> =
            Entry::RejectUpgrade { upgrade, response: response.clone() };
        fn respond(&mut self, request: RequestId, response: Response<Bytes>) -> Result<(), RespondError> =
            Entry::Respond { request, response: response.clone() };
    }

    #[inline]
    pub(crate) fn send(&mut self, client: ClientId, message: Outgoing<'_>) -> Result<(), SendError> {
        // Nothing borrows the message before: or it would be copied first.
        match self.tape {
            None => self.engine.send(client, message),
            Some(_) => self.send_recorded(client, message),
        }
    }

    #[cold]
    fn send_recorded(&mut self, client: ClientId, message: Outgoing<'_>) -> Result<(), SendError> {
        if let Some(tape) = &self.tape {
            note_sent(tape, client, &message, SendTerms::default());
        }
        self.engine.send(client, message)
    }

    pub(crate) fn send_latest(
        &mut self,
        client: ClientId,
        key: LatestKey,
        message: Outgoing<'_>,
    ) -> Result<(), SendError> {
        if let Some(tape) = &self.tape {
            let mut terms = SendTerms::default();
            terms.options.latest = Some(key.clone());
            note_sent(tape, client, &message, terms);
        }
        self.engine.send_latest(client, key, message)
    }

    pub(crate) fn send_with(
        &mut self,
        client: ClientId,
        message: Outgoing<'_>,
        terms: impl Into<SendTerms>,
        now: Instant,
    ) -> Result<(), SendError> {
        let terms = terms.into();
        if let Some(tape) = &self.tape {
            tape.at(now);
            note_sent(tape, client, &message, terms.clone());
        }
        self.engine.send_with(client, message, terms, now)
    }

    pub(crate) fn broadcast(&mut self, message: Outgoing<'_>, except: Option<ClientId>) -> Delivery {
        if let Some(tape) = &self.tape {
            let words = Words::of(&message, tape);
            tape.note(&Entry::Deliver { whom: None, words, latest: None, except });
        }
        self.engine.broadcast(message, except)
    }

    pub(crate) fn deliver(
        &mut self,
        whom: Whom<'_>,
        message: Outgoing<'_>,
        latest: Option<LatestKey>,
        except: Option<ClientId>,
    ) -> Delivery {
        if let Some(tape) = &self.tape {
            let (whom, latest) = (group(whom), latest.clone());
            let words = Words::of(&message, tape);
            tape.note(&Entry::Deliver { whom, words, latest, except });
        }
        self.engine.deliver(whom, message, latest, except)
    }

    pub(crate) fn connect(&mut self, mut plan: Plan, now: Instant) -> Result<ClientId, ConnectError> {
        if let Some(tape) = &self.tape {
            tape.at(now);
            tape.note(&Entry::Connect { plan: copy(&plan) });
            plan.before = plan.before.take().map(|before| services::recorded_attempts(before, tape));
        }
        self.engine.connect(plan, now)
    }

    pub(crate) fn stream_mut(&mut self, index: usize) -> Option<&mut Socket> {
        self.engine.stream_mut(index).map(|stream| &mut stream.socket)
    }
}

fn note_sent(tape: &Tape, client: ClientId, message: &Outgoing<'_>, terms: SendTerms) {
    tape.note(&Entry::Send { client, words: Words::of(message, tape), terms: Terms::of(&terms) });
}

fn bits(readiness: Readiness) -> u8 {
    let Readiness { readable, writable, read_closed, urgent } = readiness;
    let bits = [readable, writable, read_closed, urgent];
    bits.iter().rev().fold(0, |what, bit| what << 1 | u8::from(*bit))
}

/// What a resolver may say.
fn name_error(error: ConnectError) -> Option<(String, String)> {
    match error {
        ConnectError::Resolve { host, error } => Some((host, error)),
        _ => None,
    }
}

fn copy(plan: &Plan) -> PlanCopy {
    PlanCopy {
        url: format!("ws://{}{}", plan.target.authority, plan.target.path.as_str()),
        headers: plan.headers.clone(),
        subprotocols: plan.subprotocols.clone(),
        addrs: plan.addrs.clone(),
        timeout: plan.timeout,
        reconnect: plan.reconnect,
        keeps: match plan.while_down {
            WhileDown::Refuse => None,
            WhileDown::KeepLast(count) => Some(count),
        },
        has_closure: plan.before.is_some(),
    }
}
