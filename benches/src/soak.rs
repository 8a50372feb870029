//! Mixed traffic for a chosen time, and a verdict: no message lost, memory flat, all counters
//! consistent.

mod scripts;
pub mod server;

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use scripts::Tally;
use serde_json::Value;

use crate::{Outcome, probe, secure::Link};

/// Time between two printed lines.
const EVERY: Duration = Duration::from_secs(5);

/// With fewer samples the trend of the memory is chance.
const ENOUGH: usize = 24;

/// The server's figures from the kernel.
#[derive(Debug, Clone, Copy)]
struct Sample {
    resident: u64,
    descriptors: usize,
}

/// State that all client threads share.
#[derive(Debug, Default)]
struct Crowd {
    over: AtomicBool,
    tally: Mutex<Tally>,
    faults: Mutex<Vec<String>>,
}

/// Runs `clients` clients at a time for `time`; an error means that the verdict is no.
/// With `tls` all clients speak TLS, and the server changes its certificate every second.
pub fn run(time: Duration, clients: usize, tls: bool) -> Outcome<()> {
    let upstream = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("ws://{}/", upstream.local_addr()?);
    let (mut child, mut output, addr) = start(&url, tls)?;
    let crowd = Crowd::default();
    let first = sample(child.id())?;
    let seed = fastrand::u64(..);
    println!("{clients} clients at a time for {time:?}, seed {seed}");
    let samples = thread::scope(|scope| {
        scope.spawn(|| run_upstream(&upstream, &crowd, seed));
        for client in 0..clients {
            let crowd = &crowd;
            scope.spawn(move || crowd.run_client(addr, tls, seed.wrapping_add(client as u64)));
        }
        let samples = watch(child.id(), (addr, tls), time, &crowd);
        crowd.over.store(true, Relaxed);
        // This connection wakes the listener, which then sees `over`.
        let _ = TcpStream::connect(upstream.local_addr()?);
        samples
    })?;
    let last = sample(child.id())?;
    // The server shuts down at the end of its input.
    drop(child.stdin.take());
    let mut line = String::new();
    output.read_line(&mut line)?;
    let report: Value = serde_json::from_str(&line)?;
    let status = child.wait()?;
    verdict(&crowd, &samples, first, last, &report, status.success())
}

fn start(upstream: &str, tls: bool) -> Outcome<(Child, BufReader<ChildStdout>, SocketAddr)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["soak-server", upstream, if tls { "tls" } else { "plain" }])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let addr = line.trim().parse()?;
    Ok((child, output, addr))
}

impl Crowd {
    /// Runs one client session after another.
    fn run_client(&self, server: SocketAddr, tls: bool, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        while !self.over.load(Relaxed) {
            match scripts::run_session(server, tls, &mut rng) {
                Ok(tally) => self.tally.lock().expect("no client panics").add(&tally),
                Err(error) => {
                    self.faults.lock().expect("no client panics").push(error.to_string());
                    return;
                }
            }
        }
    }
}

/// The server's upstream: repeatedly echoes for a while and then disconnects.
fn run_upstream(listener: &TcpListener, crowd: &Crowd, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    while !crowd.over.load(Relaxed) {
        let Ok((stream, _)) = listener.accept() else { return };
        let end = Instant::now() + Duration::from_millis(rng.u64(0..5000));
        // Now and then the connection ends before the handshake.
        let Ok(mut socket) = tungstenite::accept(stream) else { continue };
        while Instant::now() < end && !crowd.over.load(Relaxed) {
            match socket.read() {
                Ok(message) if message.is_binary() => {
                    if socket.send(message).is_err() {
                        break;
                    }
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        if rng.bool() {
            // The response to the close frame is not awaited.
            let _ = socket.close(None);
        }
    }
}

/// Prints a line every few seconds until the time is up: figures of the kernel, the server's
/// counters, and the clients' counts.
fn watch(pid: u32, (server, tls): (SocketAddr, bool), time: Duration, crowd: &Crowd) -> Outcome<Vec<Sample>> {
    let begin = Instant::now();
    let mut samples = Vec::new();
    let columns = ["open", "opened_total", "messages_in_total", "messages_out_total", "buffered_bytes"];
    println!(
        "{:>6} {:>12} {:>5} {:>6} {:>9} {:>9} {:>10} {:>10} | {:>8} {:>10} {:>10}",
        "s", "resident", "files", "open", "opened", "in", "out", "buffered", "sessions", "sent", "received"
    );
    while begin.elapsed() < time {
        thread::sleep(EVERY.min(time.saturating_sub(begin.elapsed())));
        let now = sample(pid)?;
        // One connection per request: the server drops a connection that is idle for as long as the
        // interval between two requests.
        let (_, metrics) = scripts::get(&mut Link::new(TcpStream::connect(server)?, tls)?, "/metrics")?;
        crowd.tally.lock().expect("no client panics").plain += 1;
        let counters = columns.map(|name| metric(&metrics, name).unwrap_or("?"));
        let [open, opened, messages_in, messages_out, buffered] = counters;
        let tally = *crowd.tally.lock().expect("no client panics");
        println!(
            "{:>6.0} {:>8} KiB {:>5} {open:>6} {opened:>9} {messages_in:>9} {messages_out:>10} {buffered:>10} | {:>8} {:>10} {:>10}",
            begin.elapsed().as_secs_f64(),
            now.resident / 1024,
            now.descriptors,
            tally.sessions,
            tally.sent,
            tally.received
        );
        samples.push(now);
        if !crowd.faults.lock().expect("no client panics").is_empty() {
            break;
        }
    }
    Ok(samples)
}

/// The value of a metric without labels.
fn metric<'m>(metrics: &'m str, name: &str) -> Option<&'m str> {
    metrics.lines().find_map(|line| line.strip_prefix("tickws_")?.strip_prefix(name)?.strip_prefix(' '))
}

fn sample(pid: u32) -> Outcome<Sample> {
    Ok(Sample {
        resident: probe::resident(pid)?,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
    })
}

fn verdict(
    crowd: &Crowd,
    samples: &[Sample],
    first: Sample,
    last: Sample,
    report: &Value,
    exited_cleanly: bool,
) -> Outcome<()> {
    let tally = *crowd.tally.lock().expect("no client panics");
    let faults = crowd.faults.lock().expect("no client panics");
    let of = |key: &str| report[key].as_u64().ok_or_else(|| format!("the server did not report {key:?}"));
    println!("\nserver: {}", report["stats"].as_str().unwrap_or("?"));
    println!("clients: {tally:?}");
    println!("counters: {report}");
    for fault in faults.iter() {
        println!("fault: {fault}");
    }
    let mut verdicts = vec![
        ("no client saw a message lost, doubled, out of order or wrong", faults.is_empty()),
        ("the application saw no fault", of("faults")? == 0),
        ("the server shut down cleanly", exited_cleanly),
        ("upstream answered", of("upstream")? > 0),
        ("nothing is open, and nothing buffered", of("open")? == 0 && of("buffered")? == 0),
        ("every connection that opened has closed", of("opened")? == of("closed")?),
        ("every descriptor is closed", last.descriptors <= first.descriptors + 1),
    ];
    let inbound = of("opened")?.saturating_sub(of("dialed")? - of("dial_failed")?);
    verdicts.extend([
        ("every Open belongs to a client or an outbound connection", inbound == tally.opened),
        (
            "every connection accepted is accounted for",
            of("accepted")? == inbound + of("rejected")? + of("http_only")?,
        ),
        (
            "plain HTTP connections are counted as such",
            of("http_only")? == tally.plain && of("rejected")? == 0,
        ),
        ("every dropped message was counted", of("dropped")? >= tally.dropped),
    ]);
    let upstream = of("upstream")?;
    let least = tally.sent;
    let most = tally.sent + tally.maybe + upstream;
    verdicts.push(("messages in: all that were sent", (least..=most).contains(&of("messages_in")?)));
    match is_flat(samples) {
        Some((early, late, flat)) => {
            println!(
                "memory: at most {} KiB in the second quarter, {} KiB in the last",
                early / 1024,
                late / 1024
            );
            verdicts.push(("memory is flat", flat));
        }
        None => println!("memory: the run is too short to tell"),
    }
    for (what, holds) in &verdicts {
        println!("{} {what}", if *holds { "ok  " } else { "FAIL" });
    }
    if verdicts.iter().all(|(_, holds)| *holds) { Ok(()) } else { Err("the verdict is no".into()) }
}

/// The memory peaks of the second and the last quarter, and whether they are equal except for
/// noise.
fn is_flat(samples: &[Sample]) -> Option<(u64, u64, bool)> {
    let quarter = samples.len() / 4;
    let most = |samples: &[Sample]| samples.iter().map(|sample| sample.resident).max();
    let early = most(samples.get(quarter..2 * quarter)?)?;
    let late = most(samples.get(3 * quarter..)?)?;
    (samples.len() >= ENOUGH).then_some((early, late, late <= early + early / 10 + (2 << 20)))
}
