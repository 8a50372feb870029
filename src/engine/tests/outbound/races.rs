//! Outbound connections whose data comes all at once, too late, or not at all.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::LinkId;

fn reconnecting(tick: &Tick) -> Vec<LinkId> {
    let link = |event: Event<'_>| match event {
        Event::Reconnecting { link, .. } => Some(link),
        _ => None,
    };
    tick.iter().filter_map(link).collect()
}

/// A server may have sent a lot of data by the time its 101 is read.
#[test]
fn any_amount_of_data_behind_the_101_is_read() {
    for (len, count) in [(100, 2_300), (3_000, 80), (200_000, 1)] {
        let mut host = host();
        let (mut other, other_id) = host.open();
        let id = dial(&mut host, URL);
        host.settle();
        let mut peer = host.outbound.peers.pop().unwrap();
        let accept = accept_of(&mut peer);
        let frames = plain(&"x".repeat(len)).repeat(count);
        peer.raw(&[accept.as_bytes(), &frames].concat());
        let (mut got, mut received) = (0, 0);
        for poll in 0..100 {
            if poll == 2 {
                other.text("me too");
            }
            let tick = host.poll();
            for (client, message) in messages(&tick) {
                match client == id {
                    true => got += usize::from(message.len() == len),
                    false => received += usize::from(client == other_id),
                }
            }
        }
        assert_eq!((got, received), (count, 1), "{count} messages of {len} bytes");
    }
}

#[test]
fn unanswered_local_close_is_not_reconnected() {
    let mut host = host();
    let (id, _peer) = open(&mut host, Connect::new(URL).reconnect(Reconnect::new()));
    host.engine.close(id, 1000.into(), "", host.now).unwrap();
    let tick = next_tick(&mut host);
    assert_eq!(closes(&tick), [(id, CloseReason::Timeout(crate::TimeoutKind::Close))]);
    assert_eq!(reconnecting(&tick), []);
    assert_eq!((host.settle(), host.engine.connection_count()), (0, 0));
}

/// The overflow is reported with the next tick; until then the application may disconnect.
#[test]
fn disconnect_after_an_overflow_is_not_reconnected() {
    for dropped in [false, true] {
        let mut host = host();
        let (id, _peer) = open(&mut host, Connect::new(URL).reconnect(Reconnect::new()));
        let large = vec![0; 600_000];
        host.engine.send(id, (&large).into()).unwrap();
        assert_eq!(host.engine.send(id, (&large).into()), Err(SendError::Overflow(id)));
        if dropped {
            host.engine.disconnect(id).unwrap();
        }
        let tick = host.poll();
        assert_eq!(closes(&tick), [(id, CloseReason::Overflow)]);
        assert_eq!(reconnecting(&tick).len(), usize::from(!dropped));
    }
}

/// The delay counts only from one attempt to the next: waiting for the host is no failure.
#[test]
fn waiting_address_keeps_the_deadline_of_the_attempt() {
    let mut host = host();
    host.outbound.outcomes.insert(addr(1), Outcome::Unreachable);
    let connect = Connect::new(URL).addrs([addr(1), addr(2)]);
    let id = dial(&mut host, connect);
    // The host's budget is used up when the first address has failed.
    let order = host.engine.next_dial(host.now);
    assert_eq!(order, Some(crate::engine::Order::Connect(id, addr(1))));
    host.engine.dialed(id, Err(std::io::ErrorKind::NetworkUnreachable.into()), host.now);
    host.now += 6 * SEC;
    host.engine.start_poll(host.now, host.now, false);
    host.engine.fire_timers(host.now);
    assert_eq!(failures(&host.engine.finish_tick(host.now, false)), []);
    respond(&mut host);
    assert_eq!(host.outbound.log.last().unwrap().1, addr(2));
}

/// A closure may panic: the attempt that it was called for still ends with its event.
#[test]
fn attempt_with_a_panicking_closure_times_out() {
    let mut host = host();
    let connect = Connect::new(URL).before_attempt(|_| panic!("no token"));
    let id = dial(&mut host, connect);
    assert!(catch_unwind(AssertUnwindSafe(|| host.poll())).is_err());
    let tick = next_tick(&mut host);
    assert_eq!(failures(&tick), [(id, ConnectError::Timeout(ConnectStep::Resolve))]);
    assert_eq!((host.settle(), host.engine.connection_count()), (0, 0));
    let stats = host.engine.stats();
    assert_eq!((stats.dialed, stats.dial_failed), (1, 1));
}

/// The host's budget counts attempts, including those that fail at once.
#[test]
fn each_order_begins_one_attempt_even_if_it_fails() {
    let mut host = host();
    for _ in 0..3 {
        dial(&mut host, Connect::new(URL).before_attempt(|_| Err(ConnectError::Cancelled)));
    }
    for left in [2, 1, 0] {
        assert_eq!(host.engine.next_dial(host.now), Some(crate::engine::Order::Nothing));
        assert_eq!(host.engine.connection_count(), left);
    }
    assert_eq!(host.engine.next_dial(host.now), None);
    assert_eq!(failures(&host.poll()).len(), 3);
}
