//! Random clients join, leave, end in every way, and are replaced. Membership, recipients and the
//! received messages are compared with plain sets by name.
//!
//! Set `TICKWS_ROOM_SEEDS=20000 cargo test --lib rooms` to try more; a failure prints the seed that
//! repeats it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::visited::Visited;
use super::*;
use crate::{
    OverflowPolicy, ProtocolError, Room, RoomId, SendOptions, config::audience::Audience, engine::Engine,
    net::sim::SimSocket, util::test_rng::Rng,
};

/// The members of each room, or the connections of each user. No set is empty.
type Rooms = BTreeMap<String, BTreeSet<ClientId>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Shaking,
    Open,
    /// The server sent its close frame: the client is still a member, but gets no messages.
    Closing,
    /// Its `Close` was reported after this many flushes; its id is known until the next flush.
    Leaving(u32),
    /// Its id is stale.
    Gone,
}

#[derive(Debug)]
struct Member {
    peer: Peer,
    id: Option<ClientId>,
    state: State,
    overflow: OverflowPolicy,
    /// Messages that were queued for it and not read yet.
    expected: VecDeque<String>,
    /// The member reads nothing at present.
    stuck: bool,
    /// The member has stopped sending.
    done_sending: bool,
    /// Messages in flight to the member may be lost.
    may_miss: bool,
    close_seen: bool,
}

struct World<'v> {
    host: Host,
    rng: Rng,
    /// Nothing takes time under calm conditions: messages queued before a poll are read after it.
    calm: bool,
    members: Vec<Member>,
    by_id: HashMap<ClientId, usize>,
    rooms: Rooms,
    users: Rooms,
    /// Every room that ever existed, oldest first. The last one of a name is current if the room
    /// exists.
    given: Vec<(RoomId, String)>,
    flushes: u32,
    number: usize,
    totals: Delivery,
    visited: &'v mut Visited,
}

fn leave_rooms(rooms_by_name: &mut Rooms, id: ClientId) -> usize {
    let before: usize = rooms_by_name.values().map(BTreeSet::len).sum();
    rooms_by_name.retain(|_, members| {
        members.remove(&id);
        !members.is_empty()
    });
    before - rooms_by_name.values().map(BTreeSet::len).sum::<usize>()
}

fn by_client(rooms_by_name: &Rooms) -> BTreeMap<ClientId, BTreeSet<&str>> {
    let mut of = BTreeMap::<_, BTreeSet<_>>::new();
    for (name, members) in rooms_by_name {
        for id in members {
            of.entry(*id).or_default().insert(name.as_str());
        }
    }
    of
}

impl World<'_> {
    fn new(seed: u64, visited: &mut Visited) -> World<'_> {
        let mut rng = Rng::new(seed);
        let calm = !seed.is_multiple_of(3);
        let config = Config {
            time_budget: (seed % 5 == 4).then_some(Duration::ZERO),
            max_rooms: rng.pick(&[3, 1000]),
            max_rooms_per_client: rng.pick(&[2, 100]),
            max_room_name: rng.pick(&[3, 255]),
            max_buffered: rng.pick(&[150, 4_000, 1 << 20]),
            overflow: rng.pick(&[OverflowPolicy::Disconnect, OverflowPolicy::DropNewest]),
            ..Config::default()
        };
        let host = Host::with_chaos(config, (!calm).then(|| Rng::new(rng.next())));
        World {
            host,
            rng,
            calm,
            members: Vec::new(),
            by_id: HashMap::new(),
            rooms: Rooms::new(),
            users: Rooms::new(),
            given: Vec::new(),
            flushes: 0,
            number: 0,
            totals: Delivery::default(),
            visited,
        }
    }

    // ---- model ----

    fn current(&self, name: &str) -> Option<RoomId> {
        let latest = self.given.iter().rev().find(|(_, given)| given == name);
        self.rooms.contains_key(name).then(|| latest.expect("it was given an id").0)
    }

    /// The name of `room`, if it exists or would be created.
    fn meant(&self, room: Room<'_>) -> Option<String> {
        match room {
            Room::Name(name) => Some(name.to_owned()),
            Room::Id(id) => {
                let name = &self.given.iter().find(|(given, _)| *given == id)?.1;
                (self.current(name) == Some(id)).then(|| name.clone())
            }
        }
    }

    fn members_of(&self, room: Room<'_>) -> BTreeSet<ClientId> {
        self.meant(room).and_then(|name| self.rooms.get(&name)).cloned().unwrap_or_default()
    }

    fn state(&self, id: ClientId) -> State {
        match self.members[self.by_id[&id]].state {
            State::Leaving(flushes) if flushes != self.flushes && !self.host.awaits_close(id) => State::Gone,
            state => state,
        }
    }

    /// `Ok(false)`: its `Close` was reported, and calls have no effect.
    fn is_live(&mut self, id: ClientId) -> Result<bool, NotConnectedError> {
        match self.state(id) {
            State::Open | State::Closing => Ok(true),
            State::Leaving(_) => Ok(false),
            State::Shaking | State::Gone => {
                self.visited.stale_clients += 1;
                Err(NotConnectedError(id))
            }
        }
    }

    /// Removes a client from all rooms and from its user.
    fn forget(&mut self, id: ClientId, state: State) {
        leave_rooms(&mut self.rooms, id);
        leave_rooms(&mut self.users, id);
        self.members[self.by_id[&id]].state = state;
    }

    // ---- calls of the application ----

    fn join(&mut self, id: ClientId, room: Room<'_>) {
        let Config { max_rooms, max_rooms_per_client, max_room_name, .. } = *self.host.engine.config();
        let live = self.is_live(id);
        let name = self.meant(room);
        let (is_new, is_in) = (self.members_of(room).is_empty(), self.members_of(room).contains(&id));
        let len = name.as_ref().map_or(0, String::len);
        let expected = match (live, &name, room) {
            (Err(NotConnectedError(id)), ..) => Err(JoinError::NotConnected(id)),
            (Ok(false), ..) => {
                self.visited.joined_while_leaving += 1;
                Ok(())
            }
            _ if is_in => Ok(()),
            _ if by_client(&self.rooms).get(&id).map_or(0, BTreeSet::len) == max_rooms_per_client => {
                self.visited.refused[0] += 1;
                Err(JoinError::TooManyForClient { client: id, max: max_rooms_per_client })
            }
            (_, None, Room::Id(stale)) => {
                self.visited.refused[1] += 1;
                Err(JoinError::NoSuchRoom(stale))
            }
            _ if is_new && len > max_room_name => {
                self.visited.refused[2] += 1;
                Err(JoinError::NameTooLong { len, max: max_room_name })
            }
            _ if is_new && self.rooms.len() == max_rooms => {
                self.visited.refused[3] += 1;
                Err(JoinError::TooManyRooms { max: max_rooms })
            }
            _ => Ok(()),
        };
        assert_eq!(self.host.engine.join(id, room), expected, "{id} joins {room:?}");
        if expected.is_ok() && live == Ok(true) {
            let name = name.expect("it could be joined");
            if is_new {
                let id = self.host.engine.rooms().find(&name).expect("it was joined");
                assert!(self.given.last().is_none_or(|(last, _)| *last < id), "ids order by age");
                self.given.push((id, name.clone()));
            }
            self.rooms.entry(name).or_default().insert(id);
        }
    }

    fn leave(&mut self, id: ClientId, room: Room<'_>) {
        let is_in = self.members_of(room).contains(&id);
        let expected = self.is_live(id).map(|live| live && is_in);
        assert_eq!(self.host.engine.leave(id, room), expected, "{id} leaves {room:?}");
        if is_in && let Some(members) = self.meant(room).and_then(|name| self.rooms.get_mut(&name)) {
            members.remove(&id);
            self.rooms.retain(|_, members| !members.is_empty());
        }
    }

    fn leave_all(&mut self, id: ClientId) {
        let expected = self.is_live(id).map(|_| leave_rooms(&mut self.rooms, id));
        assert_eq!(self.host.engine.leave_all(id), expected);
    }

    fn set_user(&mut self, id: ClientId, key: &str) {
        let live = self.is_live(id);
        assert_eq!(self.host.engine.set_user(id, key), live.map(|_| ()));
        if live == Ok(true) {
            leave_rooms(&mut self.users, id);
            self.users.entry(key.to_owned()).or_default().insert(id);
        }
    }

    fn clear_user(&mut self, id: ClientId) {
        let expected = self.is_live(id).map(|_| leave_rooms(&mut self.users, id) > 0);
        assert_eq!(self.host.engine.clear_user(id), expected);
    }

    fn publish(&mut self, audience: Audience<'_>, except: Option<ClientId>) {
        let mut to = match audience {
            Audience::Everyone => self.by_id.keys().copied().collect(),
            Audience::Room(room) => self.members_of(room),
            Audience::User(key) => self.users.get(key).cloned().unwrap_or_default(),
            Audience::Client(id) => BTreeSet::from([id]),
            Audience::Clients(ids) => ids.iter().copied().collect(),
        };
        let listed = to.clone();
        to.retain(|id| except != Some(*id) && self.state(*id) == State::Open);
        self.number += 1;
        let len = self.rng.pick(&[0, 0, 20, 60, 125, 126, 1_500]);
        let text = format!("{:1$}", self.number, len);
        let frame = text.len() + if text.len() < 126 { 2 } else { 4 };
        let max = self.host.engine.config().max_buffered;
        let mut expected = Delivery::default();
        let mut overflowed = Vec::new();
        for &id in &to {
            let client = &self.host.engine.clients[id.index()];
            let waiting = client.outbox.frames_len();
            let excused = self.host.awaits_turn(id);
            let member = &mut self.members[self.by_id[&id]];
            if frame <= max && waiting + frame <= max {
                expected.queued += 1;
                member.expected.push_back(text.clone());
            } else if frame > max || excused || member.overflow == OverflowPolicy::DropNewest {
                expected.dropped += 1;
            } else {
                expected.overflowed += 1;
                overflowed.push(id);
            }
        }
        if matches!(audience, Audience::Client(_) | Audience::Clients(_)) {
            let listed = listed.iter().filter(|id| except != Some(**id)).count();
            expected.not_open = listed - to.len();
            self.visited.not_open += expected.not_open;
        }
        let options = SendOptions { except, ..SendOptions::new() };
        let delivery = self.host.engine.deliver(audience, text.as_str().into(), &options, None);
        assert_eq!(delivery, expected, "{audience:?} except {except:?}, {} bytes to {to:?}", text.len());
        for id in overflowed {
            self.forget(id, State::Leaving(self.flushes));
        }
        self.totals.queued += delivery.queued;
        self.totals.dropped += delivery.dropped;
        self.visited.dropped += delivery.dropped;
        self.visited.overflowed += delivery.overflowed;
    }

    fn close(&mut self, id: ClientId) {
        let state = self.state(id);
        let closed = self.host.engine.close(id, CloseCode::NORMAL_CLOSURE, "bye", self.host.now);
        assert_eq!(closed.is_ok(), state == State::Open);
        if closed.is_ok() {
            self.members[self.by_id[&id]].state = State::Closing;
        }
    }

    fn disconnect(&mut self, id: ClientId) {
        let state = self.state(id);
        self.read(self.by_id[&id]);
        let known = matches!(state, State::Open | State::Closing | State::Leaving(_));
        assert_eq!(self.host.engine.disconnect(id).is_ok(), known);
        // A client that was reported closed gets what it is owed.
        if matches!(state, State::Open | State::Closing) {
            self.forget(id, State::Gone);
            let member = &mut self.members[self.by_id[&id]];
            // Queued messages are discarded: no more of them may arrive.
            member.expected.clear();
            member.may_miss |= !self.calm || member.stuck;
        }
    }

    /// Any client that ever existed, mostly an open one.
    fn anyone(&mut self) -> Option<ClientId> {
        let here = |member: &&Member| matches!(member.state, State::Open | State::Closing);
        let all = self.rng.one_in(5);
        let ids = self.members.iter().filter(|member| all || here(member)).filter_map(|member| member.id);
        let ids: Vec<_> = ids.collect();
        (!ids.is_empty()).then(|| self.rng.pick(&ids))
    }

    fn act(&mut self) {
        let Some(id) = self.anyone() else { return };
        let name = self.rng.pick(&["", "a", "b", "c", "d", "ü", "long"]);
        let stale = (!self.given.is_empty() && self.rng.one_in(8))
            .then(|| self.given[self.rng.below(self.given.len())].0);
        let by_id = stale.or_else(|| self.current(name).filter(|_| self.rng.one_in(2)));
        self.visited.stale_rooms += usize::from(by_id.is_some_and(|id| self.meant(id.into()).is_none()));
        let room = by_id.map_or(Room::Name(name), Room::Id);
        let user = self.rng.pick(&["ada", "bob", "", "a"]);
        match self.rng.below(100) {
            0..30 => self.join(id, room),
            30..38 => self.leave(id, room),
            38..41 => self.leave_all(id),
            41..57 => self.publish(Audience::Room(room), None),
            57..65 => self.publish(Audience::Room(room), Some(id)),
            65..75 => self.set_user(id, user),
            75..78 => self.clear_user(id),
            78..86 => self.publish(Audience::User(user), None),
            86 => self.publish(Audience::Everyone, Some(id)),
            87 if !matches!(self.state(id), State::Leaving(_)) => self.publish(Audience::Client(id), None),
            87 => {}
            88 => {
                // A client whose close was reported in this tick may still be sent to, or not.
                let ids: BTreeSet<_> = self.by_id.keys().copied().collect();
                let is_leaving = |id: &ClientId| matches!(self.state(*id), State::Leaving(_));
                let ids: Vec<_> = ids.into_iter().filter(|id| !is_leaving(id)).step_by(2).collect();
                self.publish(Audience::Clients(&ids), Some(id));
            }
            89..92 => self.close(id),
            92..94 => self.disconnect(id),
            94..97 => {
                self.flushes += 1;
                self.host.engine.flush(self.host.now);
            }
            _ => {
                let policy = self.rng.pick(&[OverflowPolicy::Disconnect, OverflowPolicy::DropNewest]);
                if self.host.engine.set_overflow(id, policy).is_ok() {
                    self.members[self.by_id[&id]].overflow = policy;
                }
            }
        }
    }

    // ---- actions of the peers ----

    fn peer_acts(&mut self) {
        let here = |member: &&Member| member.state != State::Gone;
        if self.members.iter().filter(here).count() < 8 && self.rng.one_in(3) {
            let mut peer = self.host.connect();
            peer.handshake();
            return self.members.push(Member {
                peer,
                id: None,
                state: State::Shaking,
                overflow: self.host.engine.config().overflow,
                expected: VecDeque::new(),
                stuck: false,
                done_sending: false,
                may_miss: false,
                close_seen: false,
            });
        }
        let Some(id) = self.anyone() else { return };
        let at = self.by_id[&id];
        self.read(at);
        let member = &mut self.members[at];
        if self.calm && !member.may_miss && self.rng.one_in(4) {
            member.stuck = !member.stuck && member.state == State::Open;
            member.peer.set_buffers(256 * 1024, if member.stuck { 0 } else { 256 * 1024 });
        }
        if member.done_sending {
            return;
        }
        // The application may let it join because of this message, in the tick of its `Close`.
        if self.rng.one_in(2) {
            member.peer.text("let me in");
        }
        let way = self.rng.below(40);
        member.done_sending = way < 5;
        member.may_miss |= matches!(way, 3 | 4);
        match way {
            0 => member.peer.close(1000),
            1 => member.peer.fin(),
            2 => member.peer.raw(b"\x81\x01a"),
            3 => member.peer.reset(self.rng.one_in(2)),
            4 => member.peer.close_socket(),
            _ => {}
        }
    }

    /// Reads messages, which must be exactly those that were queued, in order.
    fn read(&mut self, at: usize) {
        let member = &mut self.members[at];
        if member.may_miss {
            return;
        }
        for frame in member.peer.frames() {
            match frame {
                Frame::Text(text) => {
                    assert_eq!(Some(text), member.expected.pop_front(), "{:?}", member.id);
                    self.visited.queued += 1;
                }
                Frame::Close(code, _) => {
                    if !std::mem::replace(&mut member.done_sending, true) {
                        member.peer.close(code);
                    }
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    // ---- one poll ----

    fn poll(&mut self) {
        self.flushes += 1;
        let tick = self.host.poll();
        self.host.check();
        for at in 0..self.members.len() {
            self.read(at);
            let member = &self.members[at];
            // With a time budget a client may have to wait for its turn.
            let waits = self.host.engine.config().time_budget.is_some();
            let complete =
                !self.calm || member.stuck || member.may_miss || waits || member.expected.is_empty();
            assert!(complete, "not received: {:?}", member.expected);
        }
        // A client reported closed has left its rooms before the application gets the event.
        for (id, reason) in closes(&tick) {
            self.note_close(id, &reason);
        }
        let known: Vec<_> = self.by_id.keys().copied().collect();
        self.compare();
        for event in &tick {
            match event {
                Event::Pressure { .. } => unreachable!("the memory limit is far"),
                Event::Open { client, .. } => {
                    assert!(!known.contains(&client));
                    let addr = self.host.engine.remote_addr(client);
                    let port = addr.and_then(|addr| addr.port()).expect("a connected client");
                    let at = self.members.iter().position(|member| member.peer.port == port).expect("known");
                    let again = self.by_id.keys().any(|id| id.index() == client.index());
                    self.visited.slots_used_again += usize::from(again);
                    self.by_id.insert(client, at);
                    (self.members[at].id, self.members[at].state) = (Some(client), State::Open);
                    self.join(client, "a".into());
                }
                Event::Message { client, .. } => {
                    let name = self.rng.pick(&["a", "b"]);
                    self.join(client, name.into());
                    self.set_user(client, "ada");
                    let except = self.rng.one_in(2).then_some(client);
                    self.publish(Audience::Room(name.into()), except);
                }
                Event::Close { client, .. } => {
                    let engine = &self.host.engine;
                    assert!(engine.rooms().rooms(client).len() + engine.users().rooms(client).len() == 0);
                    self.join(client, "a".into());
                    self.leave(client, "a".into());
                    self.leave_all(client);
                    self.set_user(client, "ada");
                    self.clear_user(client);
                    self.publish(Audience::Room("a".into()), None);
                }
                Event::Drained { .. } => {}
                other => panic!("{other:?}"),
            }
            self.compare();
        }
    }

    fn note_close(&mut self, id: ClientId, reason: &CloseReason) {
        let member = &mut self.members[self.by_id[&id]];
        assert!(!std::mem::replace(&mut member.close_seen, true), "closed twice");
        let (name, state) = match reason {
            CloseReason::Peer { .. } => ("peer", State::Leaving(self.flushes)),
            CloseReason::Eof => ("eof", State::Leaving(self.flushes)),
            CloseReason::Protocol(violation) => {
                assert_eq!(*violation, ProtocolError::UnmaskedFrame);
                ("protocol", State::Leaving(self.flushes))
            }
            // With a time budget the end may wait for its turn after the publish that reported it.
            CloseReason::Overflow if self.host.engine.get(id).is_none() => ("overflow", State::Gone),
            CloseReason::Overflow => ("overflow", State::Leaving(self.flushes)),
            CloseReason::Disconnected => ("disconnected", State::Gone),
            CloseReason::Io(_) => {
                assert!(member.may_miss);
                ("io", State::Gone)
            }
            // The peer replied in time, or the connection failed.
            CloseReason::Local { .. } => match self.host.engine.get(id) {
                Some(_) => ("local", State::Leaving(self.flushes)),
                None => ("local, cut short", State::Gone),
            },
            other => panic!("unexpected reason {other}"),
        };
        *self.visited.reasons.entry(name).or_default() += 1;
        self.forget(id, state);
    }

    // ---- all queries ----

    fn compare(&mut self) {
        let Engine::<SimSocket> { rooms, users, .. } = &self.host.engine;
        for (registry, rooms_by_name) in [(rooms, &self.rooms), (users, &self.users)] {
            assert_eq!(registry.room_count(), rooms_by_name.len());
            for (name, expected) in rooms_by_name {
                let members = registry.members(name.into());
                assert_eq!((members.len(), registry.room_len(name.into())), (expected.len(), expected.len()));
                assert_eq!(members.collect::<BTreeSet<_>>(), *expected, "{name:?}");
            }
            let expected = by_client(rooms_by_name);
            for id in self.by_id.keys() {
                let (of, expected) = (registry.rooms(*id), expected.get(id));
                assert_eq!(of.len(), expected.map_or(0, BTreeSet::len), "{id}");
                assert!(expected.is_none_or(|expected| of.collect::<BTreeSet<_>>() == *expected), "{id}");
            }
        }
        for (id, name) in &self.given {
            let current = self.current(name) == Some(*id);
            assert_eq!(rooms.name(*id), current.then_some(name.as_str()));
            assert_eq!(rooms.room_len(Room::Id(*id)), if current { self.rooms[name].len() } else { 0 });
            assert_eq!(rooms.find(name), self.current(name));
        }
        let stats = self.host.engine.stats();
        let totals = (self.totals.queued as u64, self.totals.dropped as u64);
        assert_eq!((stats.messages_out, stats.dropped), totals);
    }

    /// Polls until nothing is under way any more.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.poll();
            if self.host.is_quiet() && self.members.iter().all(|m| m.may_miss || m.peer.unread() == 0) {
                return;
            }
        }
        panic!("never at rest: {:?}", self.host);
    }

    fn run(&mut self) {
        for _ in 0..120 {
            for _ in 0..self.rng.below(4) {
                self.act();
                self.compare();
            }
            for _ in 0..self.rng.below(3) {
                self.peer_acts();
            }
            if !self.rng.one_in(4) {
                self.poll();
            }
        }
        for member in &mut self.members {
            member.peer.set_buffers(256 * 1024, 256 * 1024);
            member.stuck = false;
        }
        // All clients read their messages, then all leave.
        self.settle();
        for member in &mut self.members {
            assert!(member.may_miss || member.expected.is_empty(), "not received: {:?}", member.expected);
            member.peer.fin();
        }
        self.settle();
        self.host.check_empty();
        assert!(self.members.iter().all(|member| member.id.is_none() || member.close_seen));
        assert!(self.rooms.is_empty() && self.users.is_empty());
    }
}

#[test]
fn rooms_and_users_behave_like_named_sets() {
    let seeds = std::env::var("TICKWS_ROOM_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let mut visited = Visited::default();
    for seed in 0..seeds.unwrap_or(200) {
        println!("seed {seed}");
        World::new(seed, &mut visited).run();
    }
    visited.check();
}
