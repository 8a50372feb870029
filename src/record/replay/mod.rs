//! Replays a recording: makes the recorded calls to an engine, returns the recorded results to it,
//! and compares what the engine does.

mod hooks;
mod reader;
mod stream;

use std::{
    collections::HashMap,
    io::Read,
    time::{Duration, Instant},
};

pub use reader::{Divergence, ReplayError};

use reader::SharedReader;
use stream::ReplayedStream;

use crate::{
    close_code::CloseCode,
    config::connect::{Connect, Plan, WhileDown},
    engine::{Engine, HandshakePart},
    error::ConnectError,
    event::tick::Tick,
    http1::head::upgrade_request,
    outbox::prepared::Prepared,
    record::format::{
        digest::digest_of_tick,
        entry::{Entry, OrderCopy, PlanCopy, room},
        header::Header,
    },
    stats::Stats,
    util::entropy::Entropy,
};

#[derive(Debug)]
pub(crate) struct Replayer {
    header: Header,
    engine: Engine<ReplayedStream>,
    reader: SharedReader,
    start: Instant,
    /// The current time, since the start.
    nanos: i64,
    streams: u32,
    /// The next stream is encrypted, and begins with this part of the handshake.
    handshake: Option<HandshakePart>,
    /// The messages that the application still had, by their numbers.
    prepared: HashMap<u64, Prepared>,
    ended: bool,
}

impl Replayer {
    pub(crate) fn new(input: Box<dyn Read + Send>, start: Instant) -> Result<Self, ReplayError> {
        let reader = SharedReader::open(input)?;
        let mut header = reader.lock().header()?;
        header.config.validate().map_err(|_| reader.lock().corrupt())?;
        let static_files = header.take_static_files().ok_or_else(|| reader.lock().corrupt())?;
        let mut engine =
            Engine::new(header.config.clone(), hooks::replayed(&header, static_files, &reader), start);
        engine.keep_no_buffers();
        Ok(Replayer {
            header,
            engine,
            reader,
            start,
            nanos: 0,
            streams: 0,
            handshake: None,
            prepared: HashMap::new(),
            ended: false,
        })
    }

    /// The version of the library that recorded.
    pub(crate) fn version(&self) -> &str {
        &self.header.library
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.nanos.unsigned_abs())
    }

    pub(crate) fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Replays to the end of the next poll. `None` if the server was dropped instead.
    pub(crate) fn next_tick(&mut self) -> Result<Option<Tick>, ReplayError> {
        while !self.ended {
            let entry = self.reader.lock().next()?;
            let done = self.apply(entry)?;
            // A stream or a closure cannot return the error of the replay from within the call.
            self.reader.lock().check()?;
            if done.is_some() {
                return Ok(done);
            }
        }
        Ok(None)
    }

    fn now(&self) -> Instant {
        // `At` has checked that this does not overflow.
        self.start.checked_add(self.elapsed()).unwrap_or(self.start)
    }

    fn apply(&mut self, entry: Entry) -> Result<Option<Tick>, ReplayError> {
        match entry {
            Entry::At { nanos } => {
                let nanos = self.nanos.checked_add(nanos).filter(|nanos| *nanos >= 0);
                let nanos = nanos.filter(|nanos| {
                    self.start.checked_add(Duration::from_nanos(nanos.unsigned_abs())).is_some()
                });
                self.nanos = nanos.ok_or_else(|| self.reader.lock().corrupt())?;
            }
            Entry::Finish { more, events, digest: recorded } => {
                let tick = self.engine.finish_tick(self.now(), more);
                if (tick.len(), digest_of_tick(&tick)) != (events, recorded) {
                    let found =
                        format!("a tick that differs from the recorded one of {events} events: {tick:?}");
                    return Err(self.reader.lock().diverged(found));
                }
                return Ok(Some(tick));
            }
            Entry::End {} => {
                self.ended = true;
                self.reader.lock().end()?;
            }
            entry => match self.host_calls(entry) {
                None => {}
                Some(entry) => self.application_calls(entry)?,
            },
        }
        Ok(None)
    }

    /// Makes a call of the host. Gives back an entry that is none.
    fn host_calls(&mut self, entry: Entry) -> Option<Entry> {
        let (now, engine) = (self.now(), &mut self.engine);
        match entry {
            Entry::Accept { remote } => {
                let stream = next_stream(&self.reader, &mut self.streams, &mut self.handshake);
                engine.accept(stream, remote, false, now);
            }
            Entry::AcceptNamed { remote } => {
                let stream = next_stream(&self.reader, &mut self.streams, &mut self.handshake);
                engine.accept(stream, remote, true, now);
            }
            Entry::Secure { handshake } => self.handshake = Some(handshake),
            Entry::DoHandshakes {} => engine.do_handshakes(now),
            Entry::Abandon { index } => engine.abandon(index),
            Entry::Ready { index, readiness } => engine.ready(index, readiness, now),
            Entry::Flush {} => engine.flush(now),
            Entry::Start { waited, partial } => {
                engine.start_poll(now.checked_sub(waited).unwrap_or(now), now, partial);
            }
            Entry::Fire {} => engine.fire_timers(now),
            Entry::Service {} => _ = engine.service_next(now),
            Entry::Step { work } => _ = engine.step(work, now),
            Entry::BeginSteps {} => engine.begin_steps(),
            Entry::WriteResumed {} => engine.write_resumed(now),
            Entry::CountCut {} => engine.count_cut(),
            Entry::CountLostConnection {} => engine.count_lost_connection(),
            Entry::NextDial {} => {
                if let Some(order) = engine.next_dial(now) {
                    self.reader.lock().ordered(&OrderCopy::of(&order));
                }
            }
            Entry::Dialed { client, outcome } => {
                let stream = outcome
                    .map_err(Into::into)
                    .map(|()| next_stream(&self.reader, &mut self.streams, &mut self.handshake));
                engine.dialed(client, stream, now);
            }
            Entry::Resolved { client, addrs } => {
                let addrs = addrs.map_err(|error| match error {
                    Some((host, error)) => ConnectError::Resolve { host, error },
                    None => ConnectError::ResolverBusy,
                });
                engine.resolved(client, addrs, now);
            }
            Entry::WakeAt { nanos } => {
                let wait = Duration::from_nanos(nanos.unsigned_abs());
                let deadline = if nanos < 0 { now.checked_sub(wait) } else { now.checked_add(wait) };
                engine.wake_at(deadline.unwrap_or(now));
            }
            Entry::Look {} => _ = engine.next_timeout(now),
            Entry::CountPause {} => engine.count_pause(),
            Entry::CountLostListener {} => engine.count_lost_listener(),
            Entry::CountUndelivered {} => engine.count_undelivered(),
            Entry::Forget { shared } => _ = self.prepared.remove(&shared),
            Entry::Draw {} => {
                let reader = self.reader.clone();
                engine.draw_from(Entropy::of(move |bytes| reader.lock().random(bytes)));
            }
            entry => return Some(entry),
        }
        None
    }

    /// Makes a call of the application. Its result is not in the recording: a message that was
    /// refused is refused again.
    fn application_calls(&mut self, entry: Entry) -> Result<(), ReplayError> {
        let (now, engine) = (self.now(), &mut self.engine);
        let corrupt = || self.reader.lock().corrupt();
        match entry {
            Entry::Send { client, message, options } => {
                let message = message.outgoing(&mut self.prepared).ok_or_else(corrupt)?;
                let _ = engine.send_with(client, message, &options, Some(now));
            }
            Entry::Deliver { audience, message, options } => {
                let message = message.outgoing(&mut self.prepared).ok_or_else(corrupt)?;
                let _ = engine.deliver(audience.audience(), message, &options, Some(now));
            }
            Entry::Ping { client } => _ = engine.ping(client, now),
            Entry::Close { client, code, reason } => {
                let _ = engine.close(client, CloseCode::from(code), &reason, now);
            }
            Entry::Disconnect { client } => _ = engine.disconnect(client),
            Entry::Shutdown { code, reason, deadline } => {
                engine.shutdown(CloseCode::from(code), &reason, deadline, now);
            }
            Entry::SetOverflow { client, overflow } => _ = engine.set_overflow(client, overflow),
            Entry::SetMaxMessageSize { client, bytes } => {
                let _ = engine.set_max_message_size(client, bytes);
            }
            Entry::Pause { client } => _ = engine.pause_reading(client),
            Entry::Resume { client } => _ = engine.resume_reading(client, now),
            Entry::SetTimer { delay, repeat } => _ = engine.set_timer(delay, repeat, now),
            Entry::CancelTimer { timer } => _ = engine.cancel_timer(timer),
            Entry::Join { client, room: name } => _ = engine.join(client, room(&name)),
            Entry::Leave { client, room: name } => _ = engine.leave(client, room(&name)),
            Entry::LeaveAll { client } => _ = engine.leave_all(client),
            Entry::SetUser { client, key } => _ = engine.set_user(client, &key),
            Entry::ClearUser { client } => _ = engine.clear_user(client),
            Entry::AcceptUpgrade { upgrade, headers } => _ = engine.accept_upgrade(upgrade, headers, now),
            Entry::RejectUpgrade { upgrade, response } => _ = engine.reject_upgrade(upgrade, &response, now),
            Entry::Respond { request, response } => _ = engine.respond(request, response, now),
            Entry::AdoptUpgraded { remote, target, headers, leftover } => {
                let target = target.parse().map_err(|_| corrupt())?;
                let stream = next_stream(&self.reader, &mut self.streams, &mut self.handshake);
                let request = upgrade_request(target, headers);
                let _ = engine.adopt_upgraded(stream, remote, request, &leftover, now);
            }
            Entry::Connect { plan } => {
                let plan = self::plan(plan, &self.reader).ok_or_else(corrupt)?;
                let _ = engine.connect(plan, now);
            }
            _ => {
                let found = "no call that returns this".to_owned();
                return Err(self.reader.lock().diverged(found));
            }
        }
        Ok(())
    }
}

/// The next stream, which is encrypted if `handshake` says so.
fn next_stream(
    reader: &SharedReader,
    streams: &mut u32,
    handshake: &mut Option<HandshakePart>,
) -> ReplayedStream {
    *streams = streams.wrapping_add(1);
    ReplayedStream::new(reader, *streams, handshake.take())
}

/// The plan of an outbound connection. `None` if its URL is invalid.
fn plan(copy: PlanCopy, reader: &SharedReader) -> Option<Plan> {
    let PlanCopy { url, headers, subprotocols, addrs, timeout, reconnect, keeps, has_closure } = copy;
    let mut plan = Connect::new(url).timeout(timeout).into_plan().ok()?;
    // `Connect::subprotocols` compares each with all before it: too slow for a forged plan with
    // many.
    (plan.headers, plan.subprotocols, plan.addrs) = (headers, subprotocols, addrs);
    plan.while_down = keeps.map_or(WhileDown::Refuse, WhileDown::KeepLast);
    plan.reconnect = reconnect;
    plan.before = has_closure.then(|| hooks::replayed_attempts(reader));
    Some(plan)
}
