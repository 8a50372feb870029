//! Invariants of the engine's state, checked after every poll.

use super::*;
use crate::{Pressure, connection::slot::Stage, engine::Engine, net::sim::SimSocket, proto::frame::Header};

impl Host {
    /// Panics if the engine's state is inconsistent.
    pub(in crate::engine) fn check(&mut self) {
        let engine = &self.engine;
        let stats = engine.stats();
        assert_eq!(stats.opened, stats.open + stats.closed.total(), "{stats}");
        assert_eq!(stats.open, engine.clients().count() as u64);
        let in_handshake = |client: &&crate::connection::slot::Slot<_>| {
            matches!(client.stage, Stage::Handshake(_) | Stage::Request(_))
        };
        let handshakes = engine.clients.iter().map(|(_, client)| client).filter(in_handshake).count() as u64;
        assert_eq!(
            stats.accepted,
            stats.opened + stats.rejected.total() + stats.http_only + handshakes,
            "{stats}"
        );
        assert!(engine.inbound.bytes() <= Engine::<SimSocket>::POOL_BYTES);
        assert!(engine.outbound.bytes() <= Engine::<SimSocket>::POOL_BYTES);

        let memory = |of: &dyn Fn(&crate::connection::slot::Slot<SimSocket>) -> usize| -> usize {
            engine.clients.iter().map(|(_, client)| of(client)).sum()
        };
        assert_eq!(engine.memory_limit.inbound, memory(&|client| client.inbound_memory()));
        assert_eq!(
            engine.outbound.held() - engine.outbound.shared().get(),
            memory(&|client| client.outbox.memory())
        );
        let pending = |client: &crate::connection::slot::Slot<SimSocket>| {
            client.open().and_then(|open| open.pending.as_ref()).map_or(0, |pending| pending.memory())
        };
        assert_eq!(engine.pending_pool.held(), memory(&pending));
        let (total, memory_limit) = (engine.total_buffered(), engine.config.max_total_buffered);
        assert!(memory_limit.is_none_or(|memory_limit| total <= memory_limit), "{total} of {memory_limit:?}");
        let reading = engine.pressure() < Pressure::NotReading;
        assert!(
            !reading || memory_limit.is_none_or(|memory_limit| total <= memory_limit / 8 * 7),
            "{total} of {memory_limit:?}"
        );
        for id in engine.rooms.everyone().chain(engine.users.everyone()) {
            assert!(engine.get(id).is_some_and(|client| client.is_live()), "{id} is gone and still a member");
        }
        let Config { max_messages_per_second, max_bytes_per_second, .. } = engine.config;
        let is_limited = max_messages_per_second.is_some() || max_bytes_per_second.is_some();
        let mut timers = engine.timers.len();
        for (index, client) in &engine.clients {
            let index = index as u32;
            let state = || format!("client {index} of {:?}: {client:?}", self.elapsed());
            let id = ClientId::new(index, client.serial);
            let listed = engine.ready.iter().chain(&engine.postponed).filter(|&&listed| listed == id).count();
            assert_eq!(listed, usize::from(client.in_ready), "in the ready list: {}", state());
            // A client reported closed is left to the next flush.
            let reported = client.open().is_some_and(|open| open.reported);
            assert!(
                !reported || engine.ended.iter().any(|(ended, _)| *ended == id),
                "no final close is due: {}",
                state()
            );
            let resume_at = client.resume_at();
            assert!(resume_at.is_none() || !client.in_ready, "throttled and ready: {}", state());
            // A close handshake is read to its end, without a rate limit.
            let limited = client.open().is_some_and(|open| open.rate_limiter.is_some());
            let closing = client.open().is_some_and(|open| open.pending_reason.is_some());
            assert!(!limited || is_limited && !closing, "a rate limiter without need: {}", state());
            // The response to the current request must leave first.
            let waits =
                matches!(client.stage, Stage::Handshake(_) | Stage::Request(_)) && !client.takes_request();
            if !client.in_ready && !client.held_back && !client.is_paused() && !reported && !waits {
                assert!(!client.readable, "readable and not on the ready list: {}", state());
                let stuck = client.open().is_some() && is_parsable(&client.unparsed);
                assert!(!stuck, "parsable input is not on the ready list: {}", state());
            }
            let pending = client.has_output() && client.failed.is_none();
            assert!(
                !pending || client.in_dirty || client.outbox.is_blocked(),
                "output not listed: {}",
                state()
            );
            let mut queued = engine.dirty.iter().chain(&engine.work[engine.worked..]).chain(&engine.resumed);
            assert!(!client.in_dirty || queued.any(|queued| *queued == index), "{}", state());
            let wanted = client.next_deadline(&engine.config);
            let is_woken_by = |at| client.timer.is_some_and(|key| engine.wheel.fires_by(key, at));
            assert!(resume_at.is_none_or(is_woken_by), "no timer: {}", state());
            assert!(wanted.is_none_or(is_woken_by), "no timer: {}", state());
            timers += usize::from(client.timer.is_some());
            let pending = client.open().and_then(|open| open.pending.as_ref());
            assert!(
                pending.is_none() || client.in_dirty || client.backed_up,
                "pending not listed: {}",
                state()
            );
            if !client.outbox.has_work() {
                assert_eq!(client.outbox.capacity(), 0, "{}", state());
            }
            assert!(client.unparsed.is_empty() == (client.unparsed.capacity() == 0), "{}", state());
            let lingers = matches!(client.stage, Stage::Linger { .. });
            assert!(!lingers || client.inbound_memory() == 0, "input of a closed connection: {}", state());
        }
        assert!(engine.ready.len() + engine.postponed.len() <= 2 * engine.clients.len() + 64, "growth");
        let rest = engine.wheel.len() - timers;
        // A shutdown has its own timer, and so does the memory limit.
        let own = usize::from(engine.shutting_down)
            + usize::from(engine.precedence.has_timer())
            + usize::from(engine.pressure() > Pressure::Refusing);
        assert!(rest <= own, "{rest} timers without an owner");
    }

    /// Checks that nothing is held when no client is left.
    pub(in crate::engine) fn check_empty(&mut self) {
        // Two polls remove stale ids from the lists.
        let _ = self.poll();
        let _ = self.poll();
        self.check();
        let engine = &self.engine;
        assert_eq!((engine.connection_count(), engine.client_count()), (0, 0));
        assert_eq!((engine.ready.len(), engine.postponed.len()), (0, 0));
        assert_eq!((engine.rooms.room_count(), engine.users.room_count()), (0, 0));
        assert_eq!((engine.total_buffered(), engine.outbound.shared().get()), (0, 0));
        assert_eq!((engine.unflushed(), engine.proxied.len(), engine.races.len()), (0, 0, 0));
        assert_eq!((engine.outbound.held(), engine.pending_pool.held()), (0, 0));
        assert_eq!((engine.memory_limit.inbound, engine.lingering, engine.outbound_count), (0, 0, 0));
        assert_eq!((engine.dials.len(), engine.lost.len()), (0, 0));
        assert!(engine.addresses.is_empty(), "{:?}", engine.addresses);
        assert!(engine.tick.is_empty() && engine.sweep.is_none());
    }
}

/// Whether unparsed input holds more than the beginning of a frame.
fn is_parsable(unparsed: &[u8]) -> bool {
    match Header::parse(unparsed) {
        Ok(None) => false,
        Ok(Some((header, size))) => {
            let control = matches!(header.opcode, OpCode::Control(_));
            // A large message is carried over with its header and fewer than 64 bytes of payload.
            let large = header.len >= 16 * 1024 && unparsed.len() - size < 64;
            (!control && !large) || unparsed.len() - size >= header.len as usize
        }
        Err(_) => true,
    }
}
