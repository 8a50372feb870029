//! Hostile peers over real sockets. Each row of a table is one attack, and a test: the server
//! responds as RFC 6455 asks, holds neither a descriptor nor a byte for the attacker afterwards,
//! and other clients get all their echoes, in order.
//!
//! The cost of each row is printed by
//!
//! ```sh
//! cargo test --release --features deflate --test hostile -- --ignored table --nocapture
//! ```
#![cfg(target_os = "linux")]

mod support;

#[path = "hostile/cost.rs"]
mod cost;
#[path = "hostile/crowd.rs"]
mod crowd;
#[path = "hostile/floods.rs"]
mod floods;
#[path = "hostile/prober.rs"]
mod prober;
#[path = "hostile/server_process.rs"]
mod server_process;
#[path = "hostile/slow.rs"]
mod slow;
#[path = "hostile/wrong.rs"]
mod wrong;

use std::{env, time::Duration};

use cost::Cost;
use server_process::{Healthy, ServerProcess};
use tickws::{Server, ServerBuilder};

const MS: Duration = Duration::from_millis(1);

struct Row {
    does: &'static str,
    /// The server's reaction.
    reaction: &'static str,
    /// The unit that the result of `attack` counts.
    unit: &'static str,
    config: fn(ServerBuilder) -> ServerBuilder,
    attack: fn(&mut ServerProcess) -> u64,
}

/// Makes a test of each row.
macro_rules! rows {
    ($($(#[$meta:meta])* $name:ident: $does:literal => $reaction:literal, $unit:literal, $config:expr, $attack:path;)*) => {
        const ROWS: &[(&str, Row)] = &[$($(#[$meta])* (stringify!($name), Row {
            does: $does, reaction: $reaction, unit: $unit, config: $config, attack: $attack,
        }),)*];

        $($(#[$meta])* #[test]
        fn $name() {
            run_row(stringify!($name));
        })*
    };
}

fn default(builder: ServerBuilder) -> ServerBuilder {
    builder
}

/// Short enough to wait for, and long enough for the healthy clients' handshakes on a loaded
/// machine.
fn short_handshake_timeout(builder: ServerBuilder) -> ServerBuilder {
    builder.handshake_timeout(1500 * MS)
}

/// Short enough to wait for, and longer than the healthy clients on a loaded machine are ever
/// silent.
fn short_silence_timeout(builder: ServerBuilder) -> ServerBuilder {
    builder.ping_interval(500 * MS).silence_timeout(1500 * MS)
}

rows! {
    slow_head: "slowloris: a request head, byte by byte, without end" => "dropped at handshake_timeout", "connection", short_handshake_timeout, slow::head;
    silent_in_a_frame: "slowloris: begins a frame, then sends nothing" => "pinged, dropped at silence_timeout", "connection", short_silence_timeout, slow::silent_in_a_frame;
    a_byte_at_a_time: "slowloris: a frame, a byte now and then" => "legal: served; holds the bytes received", "byte", short_silence_timeout, slow::a_byte_at_a_time;
    never_reads: "asks for megabytes, never reads" => "1013 at max_buffered", "connection", default, slow::never_reads;
    takes_nothing: "asks for 1 MiB, never reads" => "dropped at write_timeout", "connection", |b| b.write_timeout(400 * MS).max_buffered(4 << 20).send_buffer(8192), slow::takes_nothing;
    reads_a_byte_at_a_time: "reads a byte at a time" => "legal: served", "byte", |b| b.send_buffer(8192), slow::reads_a_byte_at_a_time;
    half_closes: "half-closes after 20 messages" => "all echoed, then FIN", "connection", default, slow::half_closes;
    sends_after_close: "1,000 messages after its close frame" => "one close frame, FIN, none delivered", "connection", default, slow::sends_after_close;
    resets_in_a_message: "RST in the middle of a message" => "dropped", "connection", default, slow::resets_in_a_message;
    silent_crowd: "opens 5,000 sockets, sends nothing" => "dropped at handshake_timeout", "connection", short_handshake_timeout, crowd::silent;
    resetting_crowd: "connects and resets, 10,000 times" => "dropped", "connection", default, crowd::resets;
    pings: "20,000 pings, reads no pong until all are sent" => "the latest is answered", "ping", default, floods::pings;
    pongs: "50,000 unsolicited pongs" => "ignored", "pong", default, floods::pongs;
    empty_fragments: "10,000 empty fragments" => "1008 after 64", "fragment", default, floods::empty_fragments;
    tiny_fragments: "a message in 20,000 fragments of a byte" => "legal: served", "fragment", default, floods::tiny_fragments;
    tiny_messages: "50,000 messages of a byte" => "legal: served in turns", "message", default, floods::tiny_messages;
    close_frames: "1,000 close frames" => "the first is answered, FIN", "frame", default, floods::close_frames;
    claims: "claims 16 MiB, sends none" => "1009", "connection", default, floods::claims;
    allowed_claims: "claims an allowed 16 MiB, sends none" => "waits; holds the bytes received", "connection", |b| b.max_message_size(32 << 20), floods::allowed_claims;
    #[cfg(feature = "deflate")]
    bombs: "compressed bombs: 64 MiB in 64 KiB" => "1009", "bomb", |b| b.deflate(tickws::Deflate::default()), floods::bombs;
    utf8: "invalid UTF-8 at every offset" => "1007", "connection", default, wrong::utf8;
    close_reasons: "invalid UTF-8 in close reasons" => "1007", "connection", default, wrong::close_reasons;
    opcodes: "every reserved opcode" => "1002", "connection", default, wrong::opcodes;
    reserved_bits: "every combination of reserved bits" => "1002", "connection", default, wrong::reserved_bits;
    unmasked: "unmasked frames" => "1002", "connection", default, wrong::unmasked;
    zero_masks: "masks of zero" => "legal: served", "message", default, wrong::zero_masks;
    framing: "bad lengths, fragments and close codes" => "1002", "connection", default, wrong::framing;
    other_protocols: "TLS, HTTP/2, SSH, frames without handshake" => "400, FIN", "connection", default, wrong::other_protocols;
    header_bombs: "header bombs" => "431, FIN", "connection", default, wrong::header_bombs;
}

fn row(name: &str) -> &'static Row {
    &ROWS.iter().find(|(row, _)| *row == name).expect("a row of that name").1
}

/// This test is the server process of a row; on its own it does nothing.
#[test]
fn server_process() {
    if let Ok(name) = env::var(server_process::ROW) {
        server_process::serve((row(&name).config)(Server::builder()));
    }
}

/// Runs one attack with healthy clients beside it.
#[track_caller]
fn run_row(name: &str) {
    let mut server = ServerProcess::new(name, false);
    let healthy = Healthy::new(server.addr);
    server.until("the healthy clients to be open", |server| server.stat("open") == Healthy::COUNT as u64);
    let [before, _] = server.memory();
    assert!((row(name).attack)(&mut server) > 0);
    server.until_only(Healthy::COUNT);
    let [after, _] = server.memory();
    // 64 MiB allow for pools and for memory that the allocator keeps.
    assert!(after < before + (64 << 20), "{before} resident bytes became {after}");
    healthy.stop();
    server.until_only(0);
}

#[test]
#[ignore = "prints what the rows cost; for a quiet machine"]
fn table() {
    println!(
        "\n{:<46} {:<36} {:>8} {:>22} {:>10}   {:>17}   p99 of others",
        "attacker", "reaction", "times", "CPU each", "memory", "round: p99, max"
    );
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    // `TICKWS_TEST_HOSTILE_ONLY` selects the rows whose name contains it.
    let wanted = env::var("TICKWS_TEST_HOSTILE_ONLY").unwrap_or_default();
    let (mut rows, mut fair) = (0, 0);
    for (name, row) in ROWS.iter().filter(|(name, _)| name.contains(&wanted)) {
        let Cost { units, cpu, peak, rounds: [round, longest], p99: [without, with] } =
            cost::measure(name, row.attack);
        let each = format!("{:.2} µs/{}", ms(cpu) * 1e3 / units as f64, row.unit);
        let times = ms(with) / ms(without);
        println!(
            "{:<46} {:<36} {units:>8} {each:>22} {:>6.1} MiB   {:>6.2}, {:>6.2} ms   {:.3} → {:.3} ms: {times:.1} times",
            row.does,
            row.reaction,
            peak as f64 / (1 << 20) as f64,
            ms(round),
            ms(longest),
            ms(without),
            ms(with),
        );
        rows += 1;
        fair += usize::from(times <= 2.0);
    }
    println!(
        "In {fair} of {rows} rows the p99 of the others is at most twice what it is without the attacker."
    );
}
