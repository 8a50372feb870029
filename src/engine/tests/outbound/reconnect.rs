//! Reconnecting: the times of the attempts, and their ids.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::*;
use crate::LinkId;

/// The time of each attempt, in milliseconds since the start.
fn attempts(host: &Host) -> Vec<u128> {
    host.outbound.log.iter().map(|(at, _)| at.as_millis()).collect()
}

/// The fields of a `Reconnecting` event.
type Next = (ClientId, LinkId, u32, Duration, Option<ConnectError>);

fn reconnects(tick: &Tick) -> Vec<Next> {
    let next = |event: Event<'_>| match event {
        Event::Reconnecting { client, link, attempt, delay, error } => {
            Some((client, link, attempt, delay, error.cloned()))
        }
        _ => None,
    };
    tick.iter().filter_map(next).collect()
}

fn policy() -> Reconnect {
    Reconnect::new().base(SEC).cap(5 * SEC).stable_after(20 * SEC)
}

/// The schedule of one seed, to the millisecond.
#[test]
fn failed_attempts_follow_the_schedule_of_the_seed() {
    let run = |seed| {
        let mut host = Host::new(Config::default());
        host.engine.seed_jitter(seed);
        host.outbound.outcomes.insert(addr(1), Outcome::Refused);
        let id = dial(&mut host, Connect::new(URL).reconnect(policy().max_tries(8)));
        let mut announced = Vec::new();
        let failed = loop {
            let tick = next_tick(&mut host);
            for (client, _, attempt, delay, error) in reconnects(&tick) {
                assert_eq!((client, attempt as usize), (id, announced.len() + 1));
                assert!(matches!(error, Some(ConnectError::Io { .. })));
                let range = (SEC * (1 << (attempt - 1))).min(5 * SEC);
                assert!(delay < range, "{delay:?} of {range:?}");
                announced.push(host.elapsed() + delay);
            }
            if let [(client, error)] = &failures(&tick)[..] {
                break (*client, error.clone());
            }
        };
        assert_eq!(failed.0, id);
        assert!(matches!(failed.1, ConnectError::Io { .. }));
        assert_eq!((announced.len(), host.settle(), host.engine.connection_count()), (8, 0, 0));
        let times = attempts(&host);
        // Each attempt comes when it was announced, to the millisecond of the wheel.
        for (at, announced) in times[1..].iter().zip(&announced) {
            assert!((*at).abs_diff(announced.as_millis()) <= 1, "{at} for {announced:?}");
        }
        times
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
    assert_eq!(run(7), SCHEDULE);
}

/// The attempts of seed 7, in milliseconds since the start.
const SCHEDULE: [u128; 9] = [0, 390, 424, 4028, 6943, 9206, 10454, 12794, 14435];

#[test]
fn a_lost_connection_gets_a_new_id_and_the_same_link() {
    let mut host = host();
    let (id, peer) = open(&mut host, Connect::new(URL).reconnect(policy()));
    let link = host.engine.link(id).unwrap();
    host.engine.join(id, "room".into()).unwrap();
    peer.fin();
    let tick = host.poll();
    // Close first, then what follows from it.
    assert_eq!(closes(&tick), [(id, CloseReason::Eof)]);
    let [(next, same, 1, wait, None)] = reconnects(&tick)[..] else { panic!("{tick:?}") };
    assert_eq!((tick.len(), same), (2, link));
    assert_ne!(next, id);
    assert_eq!(host.engine.link(next), Some(link));
    assert_eq!(host.engine.send(next, "hi".into()), Err(SendError::Connecting(next)));
    let lost = host.now;
    assert_eq!(host.settle(), 0);
    assert_eq!(host.engine.send(id, "hi".into()), Err(SendError::NotConnected(id)));
    host.advance(wait + MS);
    let mut peer = respond(&mut host);
    assert!(host.now - lost <= wait + 2 * MS);
    assert_eq!(host.engine.clients().collect::<Vec<_>>(), [next]);
    host.engine.send(next, "back".into()).unwrap();
    host.settle();
    assert_eq!(unmask(&peer.take_all()), [b"back"]);
}

#[test]
fn attempt_count_resets_only_after_a_stable_connection() {
    let mut host = host();
    host.outbound.outcomes.insert(addr(1), Outcome::Connects);
    dial(&mut host, Connect::new(URL).reconnect(policy()));
    let mut lose = |open_for: Duration| {
        let peer = respond(&mut host);
        // Pings are due in 54 s.
        let _ = host.poll_after(open_for);
        peer.fin();
        let tick = host.poll();
        let [(_, _, attempt, wait, None)] = reconnects(&tick)[..] else { panic!("{tick:?}") };
        host.advance(wait + MS);
        attempt
    };
    assert_eq!([lose(19 * SEC), lose(SEC), lose(19 * SEC), lose(20 * SEC), lose(SEC)], [1, 2, 3, 1, 2]);
}

#[test]
fn an_unstable_server_uses_up_the_tries() {
    let mut host = host();
    let (first, mut peer) = open(&mut host, Connect::new(URL).reconnect(policy().max_tries(1)));
    let link = host.engine.link(first).unwrap();
    peer.fin();
    let tick = host.poll();
    host.advance(reconnects(&tick)[0].3 + MS);
    peer = respond(&mut host);
    peer.fin();
    let tick = host.poll();
    assert_eq!(closes(&tick).len(), 1);
    let Some(Event::ConnectFailed { link: same, error: ConnectError::GaveUp, .. }) = tick.iter().last()
    else {
        panic!("{tick:?}")
    };
    assert_eq!((same, host.settle(), host.engine.connection_count()), (link, 0, 0));
}

#[test]
fn connection_ended_by_the_application_is_not_reconnected() {
    for how in 0..3 {
        let mut host = host();
        let (id, peer) = open(&mut host, Connect::new(URL).reconnect(policy()));
        match how {
            0 => host.engine.close(id, 1000.into(), "", host.now).unwrap(),
            1 => host.engine.disconnect(id).unwrap(),
            _ => host.engine.shutdown(1001.into(), "", SEC, host.now),
        }
        let _ = host.poll();
        peer.raw(b"\x88\x02\x03\xe8");
        peer.fin();
        host.settle();
        assert_eq!(host.engine.connection_count(), 0, "{how}");
        assert_eq!(host.outbound.log.len(), 1);
    }
}

#[test]
fn before_attempt_runs_for_each_attempt_and_may_end_it() {
    let mut host = host();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let connect =
        Connect::new(URL).header("x-token", "old").reconnect(policy()).before_attempt(move |attempt| {
            let failed = attempt.error().map(ToString::to_string);
            log.lock().unwrap().push((attempt.number(), failed));
            if attempt.number() == 2 {
                return Err(ConnectError::Cancelled);
            }
            attempt.header("x-token", &format!("fresh{}", attempt.number()))?;
            attempt.query(&format!("t={}", attempt.number()))
        });
    let id = dial(&mut host, connect);
    for number in 0..2 {
        host.settle();
        let mut peer = host.outbound.peers.pop().unwrap();
        let request = String::from_utf8(peer.take_all()).unwrap();
        assert!(request.starts_with(&format!("GET /chat?t={number} HTTP/1.1\r\n")), "{request}");
        assert_eq!(request.matches("X-Token: ").count(), 1);
        assert!(request.contains(&format!("\r\nX-Token: fresh{number}\r\n")), "{request}");
        peer.raw(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        let tick = next_tick(&mut host);
        let [(same, _, _, wait, Some(ConnectError::Refused(_)))] = &reconnects(&tick)[..] else {
            panic!("{tick:?}")
        };
        assert_eq!(*same, id);
        host.advance(*wait + MS);
    }
    assert_eq!(failures(&next_tick(&mut host)), [(id, ConnectError::Cancelled)]);
    let refused = Some("the server refused: 401 Unauthorized".to_owned());
    assert_eq!(*asked.lock().unwrap(), [(0, None), (1, refused.clone()), (2, refused)]);
}

/// A thousand clients lose their server at one moment, and it stays away for a while.
#[test]
fn thousand_reconnects_are_spread_by_the_policy() {
    const CLIENTS: usize = 1000;
    let mut host = host();
    let mut links = HashMap::new();
    for _ in 0..CLIENTS {
        let (id, peer) = open(&mut host, Connect::new(URL).reconnect(policy()));
        links.insert(host.engine.link(id).unwrap(), peer);
    }
    host.outbound.outcomes.insert(addr(1), Outcome::Refused);
    host.outbound.log.clear();
    let down = host.elapsed();
    for peer in links.values() {
        peer.fin();
    }
    let mut back = Vec::new();
    while back.len() < CLIENTS {
        if host.elapsed() - down > 2 * SEC {
            host.outbound.outcomes.insert(addr(1), Outcome::Connects);
        }
        let tick = host.poll();
        assert_eq!(count(&tick, |event| matches!(event, Event::ConnectFailed { .. })), 0);
        for event in &tick {
            if let Event::Open { client, .. } = event {
                back.push(host.elapsed() - down);
                assert!(links.contains_key(&host.engine.link(client).unwrap()));
            }
        }
        for mut peer in std::mem::take(&mut host.outbound.peers) {
            let request = peer.take_all();
            if request.is_empty() {
                host.outbound.peers.push(peer);
                continue;
            }
            let request = String::from_utf8(request).unwrap();
            let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
            let accept = derive_accept_key(key.as_bytes());
            peer.raw(
                format!(
                    "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {accept}\r\n\r\n"
                )
                .as_bytes(),
            );
        }
        pass(&mut host);
    }
    assert_eq!(host.engine.client_count(), CLIENTS);
    // The first attempts are spread over the first second: no tenth of it has more than 1.5 times
    // its share.
    let tenth = |at: Duration| (at - down).as_millis() / 100;
    let mut herd = [0; 10];
    for (at, _) in host.outbound.log.iter().take(CLIENTS).filter(|(at, _)| *at - down < SEC) {
        herd[tenth(*at) as usize] += 1;
    }
    // Later attempts of other clients are among them, but hardly any in the first tenth.
    assert!((60..150).contains(&herd[0]), "{herd:?}");
    assert!(herd.iter().all(|count| *count < 400), "{herd:?}");
    // No 100 ms have more than a tenth of all reconnections, and all clients are back within twice
    // the cap.
    back.sort();
    let busiest =
        back.iter().map(|at| back.iter().filter(|other| **other >= *at && **other < *at + 100 * MS).count());
    assert!(busiest.max().unwrap() <= CLIENTS / 10, "{:?}", &back[..20]);
    assert!(*back.last().unwrap() < 12 * SEC, "{:?}", back.last());
}
