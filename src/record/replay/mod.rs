//! Replays a tape: tells an engine what was told, answers what was answered, and compares what comes of it.

mod tracks;

use std::{
    collections::HashMap,
    io::Read,
    time::{Duration, Instant},
};

use tungstenite::protocol::frame::coding::CloseCode;

use super::{
    code::Decode,
    digest::digest_of_tick,
    entry::{Entry, HostOrder, PlanCopy, room, whom},
    head::Head,
    services,
    stream::Reel,
};
use crate::{
    config::connect::{Connect, Plan, WhileDown},
    engine::{Engine, Readiness},
    error::ConnectError,
    event::tick::Tick,
    outbox::prepared::Prepared,
    stats::Stats,
    util::entropy::Entropy,
};
pub(super) use tracks::Shared;
pub use tracks::{Divergence, ReplayError};

#[derive(Debug)]
pub(crate) struct Player {
    head: Head,
    engine: Engine<Reel>,
    tracks: Shared,
    start: Instant,
    /// Since the start.
    nanos: i64,
    streams: u32,
    /// By their numbers, as long as the application had them.
    prepared: HashMap<u64, Prepared>,
    over: bool,
}

impl Player {
    pub(crate) fn new(input: Box<dyn Read + Send>, start: Instant) -> Result<Self, ReplayError> {
        let tracks = Shared::open(input)?;
        let mut head: Head = tracks.lock().head()?;
        head.config.validate().map_err(|_| tracks.lock().corrupt())?;
        let site = head.take_site().ok_or_else(|| tracks.lock().corrupt())?;
        let mut engine = Engine::new(head.config.clone(), services::replayed(&head, site, &tracks), start);
        engine.keep_no_buffers();
        Ok(Player {
            head,
            engine,
            tracks,
            start,
            nanos: 0,
            streams: 0,
            prepared: HashMap::new(),
            over: false,
        })
    }

    pub(crate) fn version(&self) -> &str {
        &self.head.version
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.nanos.unsigned_abs())
    }

    pub(crate) fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Goes on to the end of the next poll; `None`: the server was dropped then.
    pub(crate) fn next_tick(&mut self) -> Result<Option<Tick>, ReplayError> {
        while !self.over {
            let entry = self.tracks.lock().next()?;
            let done = self.apply(entry)?;
            // What a stream or a closure could not say in the call.
            self.tracks.lock().check()?;
            if done.is_some() {
                return Ok(done);
            }
        }
        Ok(None)
    }

    fn now(&self) -> Instant {
        // Checked when it was set.
        self.start.checked_add(self.elapsed()).unwrap_or(self.start)
    }

    fn apply(&mut self, entry: Entry) -> Result<Option<Tick>, ReplayError> {
        match entry {
            Entry::At { nanos } => {
                let nanos = self.nanos.checked_add(nanos).filter(|nanos| *nanos >= 0);
                let nanos = nanos.filter(|nanos| {
                    self.start.checked_add(Duration::from_nanos(nanos.unsigned_abs())).is_some()
                });
                self.nanos = nanos.ok_or_else(|| self.tracks.lock().corrupt())?;
            }
            Entry::Finish { more, events, digest: recorded } => {
                let tick = self.engine.finish_tick(self.now(), more);
                if (tick.len(), digest_of_tick(&tick)) != (events, recorded) {
                    let what = format!("another tick than the recorded one of {events} events: {tick:?}");
                    return Err(self.tracks.lock().diverged(what));
                }
                return Ok(Some(tick));
            }
            Entry::End {} => {
                self.over = true;
                self.tracks.lock().end()?;
            }
            entry => match self.happens(entry) {
                None => {}
                Some(entry) => self.says(entry)?,
            },
        }
        Ok(None)
    }

    /// Tells the engine what happened; gives back what is something else.
    fn happens(&mut self, entry: Entry) -> Option<Entry> {
        let (now, engine) = (self.now(), &mut self.engine);
        match entry {
            Entry::Accept { remote } => {
                self.streams = self.streams.wrapping_add(1);
                engine.accept(Reel::new(&self.tracks, self.streams), remote, now);
            }
            Entry::Abandon { index } => engine.abandon(index),
            Entry::Ready { index, what } => {
                let bit = |number: u8| what >> number & 1 == 1;
                let (readable, writable, read_closed, urgent) = (bit(0), bit(1), bit(2), bit(3));
                engine.ready(index, Readiness { readable, writable, read_closed, urgent }, now);
            }
            Entry::Flush {} => engine.flush(now),
            Entry::Start { waited, partial } => {
                engine.start_poll(now.checked_sub(waited).unwrap_or(now), now, partial);
            }
            Entry::Fire {} => engine.fire_timers(now),
            Entry::Service {} => _ = engine.service_next(now),
            Entry::NextDial {} => {
                if let Some(order) = engine.next_dial(now) {
                    self.tracks.lock().ordered(&HostOrder::of(&order));
                }
            }
            Entry::Dialed { client, outcome } => {
                let stream = outcome.map_err(Into::into).map(|()| {
                    self.streams = self.streams.wrapping_add(1);
                    Reel::new(&self.tracks, self.streams)
                });
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
                let tracks = self.tracks.clone();
                engine.draw_from(Entropy::of(move |bytes| tracks.lock().random(bytes)));
            }
            entry => return Some(entry),
        }
        None
    }

    /// Tells the engine what the application said. What came of it, the application was told, and the tape was
    /// not: a message that was refused is refused again.
    fn says(&mut self, entry: Entry) -> Result<(), ReplayError> {
        let (now, engine) = (self.now(), &mut self.engine);
        let corrupt = || self.tracks.lock().corrupt();
        match entry {
            Entry::Send { client, words, terms } => {
                let message = words.outgoing(&mut self.prepared).ok_or_else(corrupt)?;
                let _ = engine.send_with(client, message, terms.terms(), now);
            }
            Entry::Deliver { whom: group, words, latest, except } => {
                let message = words.outgoing(&mut self.prepared).ok_or_else(corrupt)?;
                engine.deliver(whom(&group), message, latest, except);
            }
            Entry::Ping { client } => _ = engine.ping(client, now),
            Entry::Close { client, code, reason } => {
                let _ = engine.close(client, CloseCode::from(code), &reason, now);
            }
            Entry::Disconnect { client } => _ = engine.disconnect(client),
            Entry::Shutdown { code, deadline } => engine.shutdown(CloseCode::from(code), deadline, now),
            Entry::SetOverflow { client, overflow } => _ = engine.set_overflow(client, overflow),
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
            Entry::Connect { plan } => {
                let plan = connect(plan, &self.tracks).ok_or_else(corrupt)?;
                let _ = engine.connect(plan, now);
            }
            _ => {
                return Err(self
                    .tracks
                    .lock()
                    .diverged("nothing: the engine has gone on without".to_owned()));
            }
        }
        Ok(())
    }
}

fn connect(copy: PlanCopy, tracks: &Shared) -> Option<Plan> {
    let PlanCopy { url, headers, subprotocols, addrs, timeout, reconnect, keeps, has_closure } = copy;
    let mut plan = Connect::new(url).timeout(timeout).into_plan().ok()?;
    // Not by `Connect::subprotocols`, which looks for each among all before it: of forged ones there may be many.
    (plan.headers, plan.subprotocols, plan.addrs) = (headers, subprotocols, addrs);
    plan.while_down = keeps.map_or(WhileDown::Refuse, WhileDown::KeepLast);
    plan.reconnect = reconnect;
    plan.before = has_closure.then(|| services::replayed_attempts(tracks));
    Some(plan)
}

impl Shared {
    fn open(input: Box<dyn Read + Send>) -> Result<Self, ReplayError> {
        tracks::Tracks::open(input).map(Shared::new)
    }
}

impl tracks::Tracks {
    fn head(&mut self) -> Result<Head, ReplayError> {
        self.decode(Head::get)
    }
}
