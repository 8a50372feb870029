//! Faults of the host: errors at any call on a client's stream, a stopped process, and panics.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;
use crate::{
    Decision, TimeoutKind,
    engine::hooks::Hooks,
    net::sim::{Call, Fault},
};

/// No signal interrupts a call on Windows.
#[cfg(unix)]
const EINTR: i32 = 4;

/// EIO, ENOMEM, EPIPE, ENETDOWN, ECONNABORTED, ECONNRESET, ENOBUFS, ETIMEDOUT and EHOSTUNREACH on
/// Linux. The numbers are other errors elsewhere, which serve as well.
const ERRORS: [i32; 9] = [5, 12, 32, 100, 103, 104, 105, 110, 113];

/// The events of one of the two clients of a scene.
#[derive(Debug, Default, PartialEq)]
struct Story {
    client: Option<ClientId>,
    heard: Vec<Vec<u8>>,
    closed: Vec<CloseReason>,
    frames: Vec<Frame>,
}

struct Scene {
    host: Host,
    peers: [Peer; 2],
    stories: [Story; 2],
}

impl Scene {
    /// Both clients do the same; the stream of the first one fails.
    fn play(fault: Option<Fault>) -> Scene {
        let mut host = Host::new(Config { max_buffered: 1 << 20, ..Config::default() });
        let peers = [host.connect(), host.connect()];
        if let Some(fault) = fault {
            peers[0].inject_fault(fault);
        }
        let mut scene = Scene { host, peers, stories: [Story::default(), Story::default()] };
        scene.each(|peer| {
            peer.set_buffers(256 * 1024, 20_000);
            // The head arrives in two pieces.
            peer.raw(&Peer::REQUEST.as_bytes()[..40]);
        });
        scene.each(|peer| peer.raw(&Peer::REQUEST.as_bytes()[40..]));
        scene.each(|peer| peer.text("hello"));
        scene.each(|peer| peer.ping(b"are you there?"));
        // Large messages leave and arrive in parts.
        let _ = scene.host.engine.broadcast(crate::Message::Binary(&[7; 100_000]).into(), None);
        scene.settle();
        scene.each(|peer| peer.binary(&[8; 400_000]));
        scene.each(|peer| peer.frame(TEXT, false, b"half a "));
        scene.each(|peer| peer.frame(CONTINUE, true, b"message"));
        scene.each(|peer| peer.close(1000));
        scene.each(|peer| peer.fin());
        scene.host.advance(100 * SEC);
        scene.settle();
        scene.host.check_empty();
        scene
    }

    fn each(&mut self, act: impl Fn(&mut Peer)) {
        self.peers.iter_mut().for_each(act);
        self.settle();
    }

    /// Echoes messages and reads what the peers get, until nothing changes.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let tick = self.host.poll();
            self.host.check();
            for event in &tick {
                self.note(event);
            }
            let mut read = 0;
            for (peer, story) in self.peers.iter_mut().zip(&mut self.stories) {
                read += peer.read(usize::MAX);
                story.frames.extend(peer.parse());
            }
            if read == 0 && self.host.is_quiet() {
                return;
            }
        }
        panic!("it is never idle");
    }

    fn note(&mut self, event: Event<'_>) {
        match event {
            Event::Open { client, .. } => {
                let port = self.host.engine.remote_addr(client).and_then(|addr| addr.port());
                // The first one may be gone in the tick of its `Open`.
                let who = self.peers.iter().position(|peer| Some(peer.port) == port).unwrap_or(0);
                assert_eq!(self.stories[who].client.replace(client), None);
            }
            Event::Message { client, message } => {
                self.story(client).heard.push(message.as_bytes().to_vec());
                // A reply to the last message of a client that is gone is not queued.
                let _ = self.host.engine.send(client, message.into());
            }
            Event::Close { client, reason } => self.story(client).closed.push(reason.clone()),
            Event::Drained { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn story(&mut self, client: ClientId) -> &mut Story {
        self.stories.iter_mut().find(|story| story.client == Some(client)).expect("it has opened")
    }
}

#[test]
fn io_error_at_any_call_ends_only_that_client() {
    let calm = Scene::play(None);
    let [victim, witness] = &calm.stories;
    assert_eq!((victim.heard.len(), &victim.closed), (3, &witness.closed));
    let (reads, writes) = calm.peers[0].calls();
    assert!(reads > 10 && writes > 10, "{reads} reads, {writes} writes");
    let mut failures = 0;
    for (call, count) in [(Call::Read, reads), (Call::Write, writes), (Call::Shutdown, 1)] {
        for after in 0..count {
            for errno in ERRORS {
                let fault = Fault { call, after, errno };
                let scene = Scene::play(Some(fault));
                assert!(!scene.peers[0].has_pending_fault(), "{fault:?} never came");
                let [story, other] = &scene.stories;
                assert!(other == witness, "{fault:?} has struck the other: {other:?}");
                assert!(victim.heard.starts_with(&story.heard), "{fault:?}: {story:?}");
                assert!(victim.frames.starts_with(&story.frames), "{fault:?}: {story:?}");
                assert_eq!(story.closed.len(), usize::from(story.client.is_some()), "{fault:?}: {story:?}");
                let kind = std::io::Error::from_raw_os_error(errno).kind();
                match story.closed.first() {
                    Some(CloseReason::Io(of)) => assert_eq!(*of, kind),
                    // The peer had sent its close frame before the fault.
                    Some(reason) => assert_eq!(*reason, victim.closed[0], "{fault:?}"),
                    None => assert_eq!(scene.host.engine.stats().rejected.gone, 1, "{fault:?}"),
                }
                failures += usize::from(story != victim);
            }
        }
    }
    assert!(failures > 100, "{failures} made a difference");
}

#[cfg(unix)]
#[test]
fn eintr_at_any_call_changes_nothing() {
    let calm = Scene::play(None);
    let (reads, writes) = calm.peers[0].calls();
    for (call, count) in [(Call::Read, reads), (Call::Write, writes)] {
        for after in 0..count {
            let scene = Scene::play(Some(Fault { call, after, errno: EINTR }));
            assert!(!scene.peers[0].has_pending_fault());
            assert!(scene.stories == calm.stories, "{call:?} {after}");
        }
    }
}

/// SIGSTOP, a debugger, or a closed laptop lid: the clock jumps between two polls.
#[test]
fn input_during_a_process_stop_is_in_time() {
    let mut host = Host::new(Config::default());
    let (mut asking, closing) = (host.connect(), host.open());
    let (mut leaving, client) = closing;
    asking.raw(&Peer::REQUEST.as_bytes()[..40]);
    host.engine.close(client, 4000.into(), "enough", host.now).unwrap();
    host.settle();
    // The rest of a head and the reply to a close frame arrive in time, but unread.
    asking.raw(&Peer::REQUEST.as_bytes()[40..]);
    leaving.close(4000);
    host.advance(30 * SEC);
    let mut ends = Vec::new();
    for _ in 0..5 {
        ends.extend(closes(&host.poll()));
        host.check();
    }
    assert_eq!(ends, [(client, CloseReason::Local { code: 4000.into(), text: "enough".into() })]);
    asking.frames();
    assert_eq!(asking.status(), Some(101));
    assert_eq!((host.engine.stats().rejected.total(), host.engine.stats().closed.timeouts()), (0, 0));
}

#[test]
fn repeated_process_stops_do_not_extend_a_deadline_forever() {
    let mut host = Host::new(Config::default());
    let slow = host.connect();
    for byte in Peer::REQUEST.as_bytes().chunks(1).take(5) {
        slow.raw(byte);
        host.advance(30 * SEC);
        host.settle();
    }
    assert!(slow.is_dropped(), "a byte for each stop");
    assert_eq!(host.engine.stats().rejected.timeout, 1);
}

#[test]
fn output_taken_during_a_process_stop_is_in_time() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    peer.set_buffers(1_000, 1_000);
    host.engine.send(client, crate::Message::Binary(&[7; 1_500]).into()).unwrap();
    host.settle();
    host.advance(SEC);
    peer.read(usize::MAX);
    host.advance(30 * SEC);
    host.settle();
    assert_eq!(peer.frames(), [Frame::Binary(vec![7; 1_500])]);
    assert_eq!(host.engine.stats().closed.total(), 0);
}

#[test]
fn panicking_closure_loses_only_its_own_request() {
    let mut calls = 0;
    let on_upgrade = move |_: &crate::Request<'_>, _: &mut crate::UpgradeResponse| {
        calls += 1;
        if calls == 2 { resume_unwind(Box::new("on purpose")) } else { Decision::Accept }
    };
    let hooks = Hooks { on_upgrade: Some(Box::new(on_upgrade)), ..Hooks::default() };
    let mut host = Host::with_hooks(Config::default(), hooks, None);
    let (mut first, id) = host.open();
    let mut second = host.connect();
    second.handshake();
    first.text("in the same tick");
    let mut heard = Vec::new();
    let mut panics = 0;
    for _ in 0..5 {
        match catch_unwind(AssertUnwindSafe(|| host.poll())) {
            Ok(tick) => heard.extend(messages(&tick)),
            Err(_) => panics += 1,
        }
        host.check();
    }
    assert_eq!((panics, heard), (1, vec![(id, b"in the same tick".to_vec())]));
    // The request whose closure panicked gets no response, and ends at its deadline.
    host.advance(11 * SEC);
    host.settle();
    assert!(second.is_dropped() && second.take_all().is_empty());
    assert_eq!(host.engine.stats().rejected.timeout, 1);
    let (mut third, _) = host.open();
    let _ = host.engine.broadcast(crate::Message::Text("all here").into(), None);
    host.settle();
    assert_eq!([first.frames(), third.frames()], [[text("all here")], [text("all here")]]);
}

#[test]
fn only_silent_clients_are_dropped_after_a_process_stop() {
    let mut host = Host::new(Config::default());
    let mut peers: Vec<(Peer, ClientId)> = (0..20).map(|_| host.open()).collect();
    host.advance(180 * SEC);
    host.settle();
    // All clients are pinged, and half of them reply.
    for (peer, _) in peers.iter_mut().step_by(2) {
        let [Frame::Ping(ping)] = &peer.frames()[..] else { panic!("no ping") };
        peer.pong(&ping.clone());
    }
    host.advance(6 * SEC);
    let mut ends = closes(&host.poll());
    ends.sort_by_key(|(client, _)| *client);
    let dead = peers.iter().skip(1).step_by(2);
    let dead: Vec<_> = dead.map(|(_, id)| (*id, CloseReason::Timeout(TimeoutKind::Silence))).collect();
    assert_eq!(ends, dead);
}
