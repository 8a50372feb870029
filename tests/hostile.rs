//! Hostile peers over real sockets, a row of a table each: what it does and what the server does are tested; what it
//! costs is printed by
//!
//! ```sh
//! cargo test --release --features deflate --test hostile -- --ignored table --nocapture
//! ```
//!
//! Of each row: the server answers as RFC 6455 asks, afterwards holds neither a descriptor nor a byte for the
//! attacker, and clients beside it get all their echoes, in order.
#![cfg(target_os = "linux")]

mod support;

#[path = "hostile/crowd.rs"]
mod crowd;
#[path = "hostile/floods.rs"]
mod floods;
#[path = "hostile/ground.rs"]
mod ground;
#[path = "hostile/slow.rs"]
mod slow;
#[path = "hostile/wrong.rs"]
mod wrong;

use std::{
    env,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use ground::{Ground, Healthy};
use tickws::{Server, ServerBuilder};

const MS: Duration = Duration::from_millis(1);

struct Row {
    does: &'static str,
    /// What the server does about it.
    reaction: &'static str,
    /// What there are so many of, as the attack's result says.
    unit: &'static str,
    config: fn(ServerBuilder) -> ServerBuilder,
    attack: fn(&mut Ground) -> u64,
}

/// Makes a test of each row.
macro_rules! rows {
    ($($(#[$meta:meta])* $name:ident: $does:literal => $reaction:literal, $unit:literal, $config:expr, $attack:path;)*) => {
        const ROWS: &[(&str, Row)] = &[$($(#[$meta])* (stringify!($name), Row {
            does: $does, reaction: $reaction, unit: $unit, config: $config, attack: $attack,
        }),)*];

        $($(#[$meta])* #[test]
        fn $name() {
            stand(stringify!($name));
        })*
    };
}

fn default(builder: ServerBuilder) -> ServerBuilder {
    builder
}

/// Short enough to be waited for, long enough that a loaded machine's healthy clients have asked by then.
fn hasty(builder: ServerBuilder) -> ServerBuilder {
    builder.handshake_timeout(1500 * MS)
}

/// Short enough to be waited for, long enough that a loaded machine's healthy clients are not silent for so long.
fn alert(builder: ServerBuilder) -> ServerBuilder {
    builder.ping_interval(500 * MS).silence_timeout(1500 * MS)
}

rows! {
    slow_head: "slowloris: a head, byte by byte, without end" => "dropped at handshake_timeout", "connection", hasty, slow::head;
    silent_in_a_frame: "slowloris: begins a frame and falls silent" => "pinged, dropped at silence_timeout", "connection", alert, slow::silent_in_a_frame;
    a_byte_at_a_time: "slowloris: a frame, a byte now and then" => "legal: served; holds what has come", "byte", alert, slow::a_byte_at_a_time;
    never_reads: "asks for megabytes, never reads" => "1013 at max_buffered", "connection", default, slow::never_reads;
    takes_nothing: "asks for 1 MiB, never reads" => "dropped at write_timeout", "connection", |b| b.write_timeout(400 * MS).max_buffered(4 << 20).send_buffer(8192), slow::takes_nothing;
    reads_a_byte_at_a_time: "reads a byte at a time" => "legal: served", "byte", |b| b.send_buffer(8192), slow::reads_a_byte_at_a_time;
    half_closes: "half-closes behind 20 messages" => "all answered, then FIN", "connection", default, slow::half_closes;
    talks_after_close: "1,000 messages behind its close frame" => "one close frame, FIN, none heard", "connection", default, slow::talks_after_close;
    resets_in_a_message: "RST in the middle of a message" => "forgotten", "connection", default, slow::resets_in_a_message;
    silent_crowd: "opens 5,000 sockets, says nothing" => "dropped at handshake_timeout", "connection", hasty, crowd::silent;
    resetting_crowd: "connects and resets, 10,000 times" => "forgotten", "connection", default, crowd::resets;
    pings: "20,000 pings, reads no pong meanwhile" => "the latest is answered", "ping", default, floods::pings;
    pongs: "50,000 unasked pongs" => "ignored", "pong", default, floods::pongs;
    empty_fragments: "10,000 empty fragments" => "1008 after 64", "fragment", default, floods::empty_fragments;
    tiny_fragments: "a message in 20,000 fragments of a byte" => "legal: served", "fragment", default, floods::tiny_fragments;
    tiny_messages: "50,000 messages of a byte" => "legal: served in turns", "message", default, floods::tiny_messages;
    close_frames: "1,000 close frames" => "the first is answered, FIN", "frame", default, floods::close_frames;
    claims: "claims 16 MiB, sends none" => "1009", "connection", default, floods::claims;
    allowed_claims: "claims 16 MiB where it may, sends none" => "waits; holds what has come", "connection", |b| b.max_message_size(32 << 20), floods::allowed_claims;
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

/// Not a test: the server's side of one, in a process of its own.
#[test]
fn server_process() {
    if let Ok(name) = env::var(ground::ROW) {
        ground::serve((row(&name).config)(Server::builder()));
    }
}

/// One attack, with healthy clients beside it.
#[track_caller]
fn stand(name: &str) {
    let mut ground = Ground::new(name, false);
    let healthy = Healthy::new(ground.addr);
    ground.until("the healthy to be there", |g| g.stat("open") == Healthy::COUNT as u64);
    let [before, _] = ground.memory();
    assert!((row(name).attack)(&mut ground) > 0);
    ground.until_only(Healthy::COUNT);
    let [after, _] = ground.memory();
    // Pools, and what the allocator keeps.
    assert!(after < before + (64 << 20), "{before} resident bytes became {after}");
    healthy.stop();
    ground.until_only(0);
}

/// What an attack costs.
struct Cost {
    units: u64,
    cpu: Duration,
    peak: u64,
    /// The rounds' 99th percentile, and the longest.
    rounds: [Duration; 2],
    /// Of the healthy: without the attacker, and with it.
    p99: [Duration; 2],
}

/// As busy as an attacker, on the same core, and with somebody else: in life it would have a machine of its own, and
/// what it takes from the healthy there is not what the server does to them.
fn be_busy(stop: &AtomicBool) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let mut block = vec![0; 32 * 1024];
    while !stop.load(Ordering::Relaxed) {
        near.write_all(&block).unwrap();
        far.read_exact(&mut block).unwrap();
    }
}

/// Runs it on a thread that gives way to the healthy, which share a core with it.
fn gently<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let nice = || {
        let _ = rustix::process::nice(19);
        work()
    };
    thread::scope(|scope| scope.spawn(nice).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

fn measure(name: &str, time: Duration) -> Cost {
    let mut ground = Ground::new(name, true);
    ground::pin(1);
    let healthy = Healthy::new(ground.addr);
    ground.until("the healthy to be there", |g| g.stat("open") == Healthy::COUNT as u64);
    let (begin, before) = (Instant::now(), ground.cpu());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| gently(|| be_busy(&stop)));
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    let idle = (ground.cpu() - before).as_secs_f64() / begin.elapsed().as_secs_f64();
    healthy.attack_begins();
    ground.rounds();
    ground.forget_peak();
    let [resident, _] = ground.memory();
    let (begin, before) = (Instant::now(), ground.cpu());
    let units = gently(|| {
        let mut units = 0;
        while begin.elapsed() < time {
            units += (row(name).attack)(&mut ground);
        }
        units
    });
    // Without what the healthy have cost meanwhile.
    let cpu = (ground.cpu() - before).saturating_sub(begin.elapsed().mul_f64(idle));
    let rounds = ground.rounds();
    let [_, peak] = ground.memory();
    let delays = healthy.stop();
    ground.until_only(0);
    let p99 = |delays: &Vec<Duration>| delays[(delays.len() * 99 / 100).min(delays.len() - 1)];
    Cost { units, cpu, peak: peak.saturating_sub(resident), rounds, p99: [p99(&delays[0]), p99(&delays[1])] }
}

#[test]
#[ignore = "prints what the rows cost; for a quiet machine"]
fn table() {
    println!(
        "\nEach attack again and again for 1.5 s, beside {} others; for a quiet machine.",
        Healthy::COUNT
    );
    println!(
        "{:<46} {:<36} {:>10} {:>22} {:>10}   {:>17}   p99 of others",
        "attacker", "reaction", "times", "CPU each", "memory", "round: p99, max"
    );
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    for (name, row) in ROWS {
        let Cost { units, cpu, peak, rounds: [round, longest], p99: [without, with] } =
            measure(name, 1500 * MS);
        let each = format!("{:.2} µs/{}", ms(cpu) * 1e3 / units as f64, row.unit);
        println!(
            "{:<46} {:<36} {units:>10} {each:>22} {:>6.1} MiB   {:>6.2}, {:>6.2} ms   {:.2} → {:.2} ms: {:.1} times",
            row.does,
            row.reaction,
            peak as f64 / (1 << 20) as f64,
            ms(round),
            ms(longest),
            ms(without),
            ms(with),
            ms(with) / ms(without),
        );
    }
}
