//! The library's leaf modules one by one, without sockets: masking, UTF-8, frames, the timer wheel,
//! the room registry. (The outbox depends on too much for this: see `tickws-bench callgrind`.)
//!
//! ```sh
//! cargo bench -p tickws-bench --bench micro [-- FILTER]
//! ```

// The modules are private, so this program compiles their files itself, and uses a part of each.
#![allow(dead_code, unused_imports, unexpected_cfgs)]

#[path = "../src"]
mod library {
    pub(crate) mod engine {
        pub(crate) mod rooms {
            pub(crate) mod registry;
        }
    }
    pub(crate) mod close_code;
    pub(crate) mod error;
    pub(crate) mod id;
    pub(crate) mod message;
    pub(crate) mod peer_addr;
    pub(crate) mod proto {
        pub(crate) mod frame;
        pub(crate) mod mask;
        pub(crate) mod utf8;
    }
    pub(crate) mod util {
        // Cargo compiles a benchmark with `cfg(test)`, so the modules' tests are compiled as well.
        pub(crate) mod test_rng;
        pub(crate) mod timer_wheel;
    }
}

// The paths under which the modules refer to each other.
use library::engine::rooms::registry;
use library::{close_code, error, id, message, peer_addr, proto, util};
use util::timer_wheel;

use std::time::{Duration, Instant};

use divan::{Bencher, black_box, counter::BytesCount};
use tungstenite::protocol::frame::coding::{Data, OpCode};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const SIZES: [usize; 4] = [16, 125, 1 << 10, 64 << 10];

fn main() {
    divan::main();
}

fn binary(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index * 31) as u8).collect()
}

#[divan::bench(args = SIZES)]
fn mask(bencher: Bencher<'_, '_>, size: usize) {
    let mut payload = binary(size);
    bencher
        .counter(BytesCount::new(size))
        .bench_local(|| proto::mask::apply_mask(black_box(&mut payload), black_box(KEY)));
}

#[divan::bench(args = SIZES)]
fn utf8_ascii(bencher: Bencher<'_, '_>, size: usize) {
    let text = "a".repeat(size).into_bytes();
    bencher.counter(BytesCount::new(size)).bench_local(|| proto::utf8::is_valid(black_box(&text)));
}

#[divan::bench(args = SIZES)]
fn utf8_mixed(bencher: Bencher<'_, '_>, size: usize) {
    let text = "aé€b".repeat(size / 7 + 1).into_bytes();
    bencher.counter(BytesCount::new(text.len())).bench_local(|| proto::utf8::is_valid(black_box(&text)));
}

#[divan::bench(args = SIZES)]
fn frame_header_parse(bencher: Bencher<'_, '_>, size: usize) {
    let mut frame = Vec::new();
    proto::frame::write_frame(&mut frame, OpCode::Data(Data::Binary), &binary(size), Some(KEY));
    bencher.bench_local(|| proto::frame::Header::parse(black_box(&frame)));
}

#[divan::bench(args = SIZES)]
fn frame_write(bencher: Bencher<'_, '_>, size: usize) {
    let (payload, mut out) = (binary(size), Vec::with_capacity(size + 14));
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        out.clear();
        proto::frame::write_frame(&mut out, OpCode::Data(Data::Binary), black_box(&payload), None);
    });
}

/// Arms and cancels a timer, beside this many others.
#[divan::bench(args = [0, 100, 10_000])]
fn wheel_insert_and_cancel(bencher: Bencher<'_, '_>, others: u32) {
    let (mut wheel, now) = wheel_of(others);
    bencher.bench_local(|| {
        let key = wheel.insert(black_box(now + Duration::from_secs(54)), 7);
        wheel.cancel(key)
    });
}

/// Advances the clock by a microsecond; no timer fires.
#[divan::bench(args = [0, 100, 10_000])]
fn wheel_idle(bencher: Bencher<'_, '_>, others: u32) {
    let (mut wheel, mut now) = wheel_of(others);
    // The clock wraps around long before the first timer would fire.
    let (begin, end) = (now, now + Duration::from_secs(3_000));
    bencher.bench_local(|| {
        now = if now < end { now + Duration::from_micros(1) } else { begin };
        wheel.pop_expired(black_box(now))
    });
}

fn wheel_of(timers: u32) -> (timer_wheel::Wheel<u32>, Instant) {
    let now = Instant::now();
    let mut wheel = util::timer_wheel::Wheel::new(now);
    for timer in 0..timers {
        wheel.insert(now + Duration::from_secs(3_600) + Duration::from_millis(timer.into()) * 7, timer);
    }
    (wheel, now)
}

/// Iterates over the members of a room of ten, found by name among this many rooms.
#[divan::bench(args = [10, 1_000, 10_000])]
fn registry_publish_to_ten(bencher: Bencher<'_, '_>, rooms: u32) {
    let mut registry = registry_of(rooms);
    let names: Vec<_> = (0..rooms).map(name).collect();
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 7) % names.len();
        registry.members(black_box(names[next].as_str()).into()).map(|client| client.index()).sum::<usize>()
    });
    registry.leave_all(id::ClientId::new(0, id::Serial::new(1)));
}

#[divan::bench(args = [10, 1_000, 10_000])]
fn registry_join_and_leave(bencher: Bencher<'_, '_>, rooms: u32) {
    let mut registry = registry_of(rooms);
    let client = id::ClientId::new(u32::MAX, id::Serial::new(1));
    bencher.bench_local(|| {
        let joined = registry.join(client, black_box("room number 00003").into());
        (joined, registry.leave(client, "room number 00003".into()))
    });
}

fn name(room: u32) -> String {
    format!("room number {room:05}")
}

fn registry_of(rooms: u32) -> registry::RoomRegistry {
    let mut registry = registry::RoomRegistry::new(registry::RegistryLimits {
        rooms: 65_536,
        rooms_per_client: 1_024,
        name: 256,
    });
    for room in 0..rooms {
        for member in 0..10 {
            let client = id::ClientId::new((room * 10 + member) % 1_000, id::Serial::new(1));
            registry.join(client, name(room).as_str().into()).expect("within the limits");
        }
    }
    registry
}
