//! An engine that records each call before it makes it, if the server is recorded.

use std::{
    io,
    net::SocketAddr,
    ops::Deref,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Response};

use super::{
    format::{
        digest::digest_of_tick,
        entry::{AudienceCopy, Entry, OrderCopy, PlanCopy, copy_room},
        header::Header,
    },
    hooks,
    recorder::{Recorder, Recording},
    stream::RecordedStream,
};
use crate::{
    close_code::CloseCode,
    config::{Config, OverflowPolicy, audience::Audience, connect::Plan, send_options::SendOptions},
    engine::{Engine, Order, Readiness, Stream, Work, hooks::Hooks},
    error::{
        AdoptError, CloseError, ConnectError, JoinError, NotConnectedError, RespondError, SendError,
        UpgradeError,
    },
    event::{delivery::Delivery, tick::Tick},
    http1::head::RequestHead,
    id::{ClientId, ExchangeId, Room, TimerId, UpgradeId},
    net::socket::Socket,
    outbox::outgoing::Outgoing,
    peer_addr::PeerAddr,
    util::entropy::Entropy,
};

#[derive(Debug)]
pub(crate) struct RecordedEngine {
    engine: Engine<RecordedStream>,
    recorder: Option<Recorder>,
}

/// Calls that change nothing need no entry and go straight to the engine.
impl Deref for RecordedEngine {
    type Target = Engine<RecordedStream>;

    fn deref(&self) -> &Engine<RecordedStream> {
        &self.engine
    }
}

/// Calls that are recorded with their arguments.
macro_rules! recorded {
    ($(fn $name:ident(&mut self $(, $arg:ident: $type:ty)*) $(-> $back:ty)? = $entry:expr;)*) => {
        $(#[inline]
        pub(crate) fn $name(&mut self $(, $arg: $type)*) $(-> $back)? {
            if let Some(recorder) = &self.recorder {
                recorder.append(&$entry);
            }
            self.engine.$name($($arg),*)
        })*
    };
}

/// As `recorded!`, for calls that take the current time as their last argument.
macro_rules! recorded_at {
    ($(fn $name:ident(&mut self $(, $arg:ident: $type:ty)*) $(-> $back:ty)? = $entry:expr;)*) => {
        $(#[inline]
        pub(crate) fn $name(&mut self $(, $arg: $type)*, now: Instant) $(-> $back)? {
            if let Some(recorder) = &self.recorder {
                recorder.advance_to(now);
                recorder.append(&$entry);
            }
            self.engine.$name($($arg,)* now)
        })*
    };
}

impl RecordedEngine {
    pub(crate) fn new(config: Config, mut hooks: Hooks, now: Instant) -> Self {
        let Some(sink) = hooks.record.take() else {
            return RecordedEngine { engine: Engine::new(config, hooks, now), recorder: None };
        };
        let recorder = Recorder::new(sink.into_writer(), &Header::new(&config, &hooks), now);
        let mut engine = Engine::new(config, hooks::recorded(hooks, &recorder), now);
        engine.keep_no_buffers();
        let mut recorded = RecordedEngine { engine, recorder: Some(recorder.clone()) };
        match Entropy::new() {
            Some(entropy) => recorded.draw_from(entropy),
            None => recorder.stop("the system has no random numbers"),
        }
        recorded
    }

    pub(crate) fn recording(&self) -> Option<Recording> {
        self.recorder.as_ref().map(Recorder::state)
    }

    pub(crate) fn draw_from(&mut self, entropy: Entropy) {
        let Some(recorder) = &self.recorder else { return self.engine.draw_from(entropy) };
        recorder.append(&Entry::Draw {});
        let recorder = recorder.clone();
        self.engine.draw_from(Entropy::of(move |bytes| {
            for chunk in bytes.chunks_mut(32) {
                chunk.iter_mut().zip(entropy.take::<32>()).for_each(|(to, byte)| *to = byte);
            }
            recorder.append(&Entry::Random { bytes: Bytes::copy_from_slice(bytes) });
        }));
    }

    // ---- calls by the host ----

    recorded_at! {
        fn flush(&mut self) = Entry::Flush {};
        fn fire_timers(&mut self) = Entry::Fire {};
        fn do_handshakes(&mut self) = Entry::DoHandshakes {};
        fn service_next(&mut self) -> bool = Entry::Service {};
        fn step(&mut self, work: Work) -> bool = Entry::Step { work };
        fn write_resumed(&mut self) = Entry::WriteResumed {};
        fn ready(&mut self, index: usize, readiness: Readiness) = Entry::Ready { index, readiness };
        fn resolved(&mut self, client: ClientId, addrs: Result<Vec<SocketAddr>, ConnectError>) =
            Entry::Resolved { client, addrs: addrs.clone().map_err(resolve_error) };
    }

    recorded! {
        fn begin_steps(&mut self) = Entry::BeginSteps {};
        fn count_lost_connection(&mut self) = Entry::CountLostConnection {};
        fn count_cut(&mut self) = Entry::CountCut {};
        fn abandon(&mut self, index: usize) = Entry::Abandon { index };
        fn count_pause(&mut self) = Entry::CountPause {};
        fn count_lost_listener(&mut self) = Entry::CountLostListener {};
        fn count_undelivered(&mut self) = Entry::CountUndelivered {};
    }

    pub(crate) fn next_dial(&mut self, now: Instant) -> Option<Order> {
        let Some(recorder) = &self.recorder else { return self.engine.next_dial(now) };
        recorder.advance_to(now);
        recorder.append(&Entry::NextDial {});
        let order = self.engine.next_dial(now);
        if let Some(order) = &order {
            recorder.append(&Entry::Ordered { order: OrderCopy::of(order) });
        }
        order
    }

    pub(crate) fn next_timeout(&mut self, now: Instant) -> Option<Duration> {
        // The time is not recorded: the effect on the timer wheel does not depend on it.
        if let Some(recorder) = &self.recorder {
            recorder.append(&Entry::Look {});
        }
        self.engine.next_timeout(now)
    }

    pub(crate) fn start_poll(&mut self, called: Instant, now: Instant, partial: bool) {
        if let Some(recorder) = &self.recorder {
            recorder.advance_to(now);
            recorder.append(&Entry::Start { waited: now.saturating_duration_since(called), partial });
        }
        self.engine.start_poll(called, now, partial);
    }

    pub(crate) fn accept(
        &mut self,
        socket: Socket,
        remote: PeerAddr,
        named: bool,
        now: Instant,
    ) -> Option<usize> {
        if let Some(recorder) = &self.recorder {
            recorder.advance_to(now);
            record_encryption(recorder, &socket);
            recorder.append(&match named {
                false => Entry::Accept { remote },
                true => Entry::AcceptNamed { remote },
            });
        }
        self.engine.accept(RecordedStream::new(socket, self.recorder.as_ref()), remote, named, now)
    }

    pub(crate) fn adopt_upgraded(
        &mut self,
        socket: Socket,
        remote: PeerAddr,
        request: RequestHead,
        leftover: &[u8],
        now: Instant,
    ) -> Result<ClientId, AdoptError> {
        if let Some(recorder) = &self.recorder {
            recorder.advance_to(now);
            recorder.append(&Entry::AdoptUpgraded {
                remote,
                target: request.uri().to_string(),
                headers: request.headers().clone(),
                leftover: Bytes::copy_from_slice(leftover),
            });
        }
        let stream = RecordedStream::new(socket, self.recorder.as_ref());
        self.engine.adopt_upgraded(stream, remote, request, leftover, now)
    }

    pub(crate) fn dialed(&mut self, client: ClientId, socket: io::Result<Socket>, now: Instant) {
        if let Some(recorder) = &self.recorder {
            recorder.advance_to(now);
            if let Ok(socket) = &socket {
                record_encryption(recorder, socket);
            }
            let outcome = socket.as_ref().map(drop).map_err(io::Error::kind);
            recorder.append(&Entry::Dialed { client, outcome });
        }
        let stream = socket.map(|socket| RecordedStream::new(socket, self.recorder.as_ref()));
        self.engine.dialed(client, stream, now);
    }

    pub(crate) fn wake_at(&mut self, deadline: Instant) {
        if let Some(recorder) = &self.recorder {
            recorder.append(&Entry::WakeAt { nanos: recorder.nanos_until(deadline) });
        }
        self.engine.wake_at(deadline);
    }

    pub(crate) fn finish_tick(&mut self, now: Instant, more: bool) -> Tick {
        if let Some(recorder) = &self.recorder {
            recorder.advance_to(now);
        }
        let tick = self.engine.finish_tick(now, more);
        if let Some(recorder) = &self.recorder {
            recorder.append(&Entry::Finish { more, events: tick.len(), digest: digest_of_tick(&tick) });
            recorder.end_poll();
        }
        tick
    }

    // ---- calls by the application ----

    recorded! {
        fn disconnect(&mut self, client: ClientId) -> Result<(), NotConnectedError> = Entry::Disconnect { client };
        fn set_overflow(&mut self, client: ClientId, overflow: OverflowPolicy) -> Result<(), NotConnectedError> =
            Entry::SetOverflow { client, overflow };
        fn set_max_message_size(&mut self, client: ClientId, bytes: usize) -> Result<(), NotConnectedError> =
            Entry::SetMaxMessageSize { client, bytes };
        fn pause_reading(&mut self, client: ClientId) -> Result<(), NotConnectedError> = Entry::Pause { client };
        fn cancel_timer(&mut self, timer: TimerId) -> bool = Entry::CancelTimer { timer };
        fn join(&mut self, client: ClientId, room: Room<'_>) -> Result<(), JoinError> =
            Entry::Join { client, room: copy_room(room) };
        fn leave(&mut self, client: ClientId, room: Room<'_>) -> Result<bool, NotConnectedError> =
            Entry::Leave { client, room: copy_room(room) };
        fn leave_all(&mut self, client: ClientId) -> Result<usize, NotConnectedError> = Entry::LeaveAll { client };
        fn set_user(&mut self, client: ClientId, key: &str) -> Result<(), NotConnectedError> =
            Entry::SetUser { client, key: key.to_owned() };
        fn clear_user(&mut self, client: ClientId) -> Result<bool, NotConnectedError> = Entry::ClearUser { client };
    }

    recorded_at! {
        fn ping(&mut self, client: ClientId) -> Result<(), SendError> = Entry::Ping { client };
        fn close(&mut self, client: ClientId, code: CloseCode, reason: &str) -> Result<(), CloseError> =
            Entry::Close { client, code: code.into(), reason: reason.to_owned() };
        fn shutdown(&mut self, code: CloseCode, reason: &str, deadline: Duration) =
            Entry::Shutdown { code: code.into(), reason: reason.to_owned(), deadline };
        fn resume_reading(&mut self, client: ClientId) -> Result<(), NotConnectedError> = Entry::Resume { client };
        fn set_timer(&mut self, delay: Duration, repeat: bool) -> TimerId = Entry::SetTimer { delay, repeat };
        fn accept_upgrade(&mut self, upgrade: UpgradeId, headers: HeaderMap) -> Result<ClientId, UpgradeError> =
            Entry::AcceptUpgrade { upgrade, headers: headers.clone() };
        fn reject_upgrade(&mut self, upgrade: UpgradeId, response: &Response<Bytes>) -> Result<(), UpgradeError> =
            Entry::RejectUpgrade { upgrade, response: response.clone() };
        fn respond(&mut self, request: ExchangeId, response: Response<Bytes>) -> Result<(), RespondError> =
            Entry::Respond { request, response: response.clone() };
    }

    #[inline]
    pub(crate) fn send(&mut self, client: ClientId, message: Outgoing<'_>) -> Result<(), SendError> {
        // Nothing may borrow the message here, or the compiler copies it before the plain send.
        match self.recorder {
            None => self.engine.send(client, message),
            Some(_) => self.send_recorded(client, message),
        }
    }

    #[cold]
    fn send_recorded(&mut self, client: ClientId, message: Outgoing<'_>) -> Result<(), SendError> {
        if let Some(recorder) = &self.recorder {
            record_sent(recorder, client, &message, &SendOptions::new());
        }
        self.engine.send(client, message)
    }

    pub(crate) fn send_with(
        &mut self,
        client: ClientId,
        message: Outgoing<'_>,
        options: &SendOptions,
        now: Option<Instant>,
    ) -> Result<(), SendError> {
        if let Some(recorder) = &self.recorder {
            now.inspect(|now| recorder.advance_to(*now));
            record_sent(recorder, client, &message, options);
        }
        self.engine.send_with(client, message, options, now)
    }

    pub(crate) fn deliver(
        &mut self,
        audience: Audience<'_>,
        message: Outgoing<'_>,
        options: &SendOptions,
        now: Option<Instant>,
    ) -> Delivery {
        if let Some(recorder) = &self.recorder {
            now.inspect(|now| recorder.advance_to(*now));
            let (audience, options) = (AudienceCopy::of(audience), options.clone());
            let message = recorder.copy_message(&message);
            recorder.append(&Entry::Deliver { audience, message, options });
        }
        self.engine.deliver(audience, message, options, now)
    }

    pub(crate) fn connect(&mut self, mut plan: Plan, now: Instant) -> Result<ClientId, ConnectError> {
        if let Some(recorder) = &self.recorder {
            recorder.advance_to(now);
            recorder.append(&Entry::Connect { plan: PlanCopy::of(&plan) });
            plan.before = plan.before.take().map(|before| hooks::recorded_attempts(before, recorder));
        }
        self.engine.connect(plan, now)
    }

    pub(crate) fn stream_mut(&mut self, index: usize) -> Option<&mut Socket> {
        self.engine.stream_mut(index).map(|stream| &mut stream.socket)
    }
}

/// Records that the stream which the next entry adds is encrypted.
fn record_encryption(recorder: &Recorder, socket: &Socket) {
    if let Some(handshake) = socket.needs_handshake() {
        recorder.append(&Entry::Secure { handshake });
    }
}

fn record_sent(recorder: &Recorder, client: ClientId, message: &Outgoing<'_>, options: &SendOptions) {
    let (message, options) = (recorder.copy_message(message), options.clone());
    recorder.append(&Entry::Send { client, message, options });
}

/// The name and the error of the resolver; `None` if it was too busy.
fn resolve_error(error: ConnectError) -> Option<(String, String)> {
    match error {
        ConnectError::Resolve { host, error } => Some((host, error)),
        _ => None,
    }
}
