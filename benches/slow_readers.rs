//! Whether clients that do not read delay those that do. Of 10,000 connections each is sent a
//! message four times a second. The delay of each delivery is measured in phases in which all
//! clients read, and in phases in which 100 do not. With `broadcast` at default settings, and with
//! `publish_latest` to a room of all clients.
//!
//! ```sh
//! cargo bench --bench slow_readers [-- CLIENTS [SECONDS]]
//! ```
//!
//! The server is a process of its own, on a core other than the clients' if there are two. The
//! delay of a message is the time from just before `broadcast` until just after the `read` that
//! returned it. The measured clients always read; the slow ones have the smallest receive buffers
//! that the kernel allows. "Waited" is the time for which the process was runnable but other
//! processes had its core: if it is large, the figures mean little.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token};
use rustix::{
    net::{AddressFamily, SocketType, sockopt},
    time::{ClockId, clock_gettime},
};
use support::{Bench, Outcome, cpu_time, frame, median, raise_descriptor_limit, read_head, request};
use tickws::{ClientId, CloseReason, Event, Server, TimeoutKind};

const PAYLOAD: usize = 125;
const EVERY: Duration = Duration::from_millis(250);
/// Time between the first write that would block and the run, so that `write_timeout` (10 s) falls
/// within a run of 8 s.
const BEFORE_RUN: Duration = Duration::from_millis(2500);
/// The phases of each mode: whether the slow clients stall.
const PHASES: [bool; 6] = [false, true, true, false, false, true];
/// No step may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Outcome<()> {
    raise_descriptor_limit();
    if std::env::var_os("TICKWS_BENCH_SERVER").is_some() {
        return serve();
    }
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let clients: usize = args.first().map_or(Ok(10_000), |arg| arg.parse())?;
    let seconds: u64 = args.get(1).map_or(Ok(8), |arg| arg.parse())?;
    let slow = (clients / 100).max(1);
    let bench = Bench::start("slow_readers", &[])?;
    let apart = support::pin(&bench)?;
    println!(
        "{clients} clients of which {slow} are slow, {PAYLOAD} bytes to everyone every {EVERY:?}, runs of \
         {seconds} s{}",
        if apart { "; server and clients have a core each" } else { "" }
    );
    let mut load = Load::new(&bench, clients - slow)?;
    for latest in [false, true] {
        println!("{}:", if latest { "publish_latest to a room" } else { "broadcast at default settings" });
        println!(
            "  slow set   p50 ms   p99 ms   max ms   server+waited  clients+waited  backed up    closed"
        );
        // This phase fills the pools before the slow clients stall for the first time.
        load.phase(slow, false, latest, Duration::from_secs(1))?;
        let (mut reading, mut stalled) = (Vec::new(), Vec::new());
        for stall in PHASES {
            let phase = load.phase(slow, stall, latest, Duration::from_secs(seconds))?;
            println!("  {:>9}   {phase}", if stall { "stall" } else { "read" });
            if stall { &mut stalled } else { &mut reading }.push([phase.p99, phase.per_broadcast]);
        }
        let [reading, stalled] = [reading, stalled].map(|phases: Vec<[f64; 2]>| {
            [0, 1].map(|what| median(phases.iter().map(|phase| phase[what]).collect()))
        });
        for (what, unit) in ["p99 of the others", "the server's CPU time per message to all"].iter().zip(0..)
        {
            let (reading, stalled) = (reading[unit], stalled[unit]);
            println!(
                "  {what}, medians: {reading:.2} ms, with {slow} that do not read {stalled:.2} ms: \
                 {:.3} times",
                stalled / reading
            );
        }
    }
    drop(load);
    bench.stop()
}

/// Nanoseconds of a clock that all processes share.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

// ---- the server ----

/// A run that the control connection has started. Its commands are "run NUMBER LATEST COUNT",
/// "fill" and "count".
#[derive(Debug, Default)]
struct Run {
    number: u64,
    latest: bool,
    left: u32,
    /// Slow clients with queued bytes, at the first message and at the last.
    backed_up: [usize; 2],
    begun: bool,
}

/// The server, with all settings at their defaults.
fn serve() -> Outcome<()> {
    let mut server = Server::bind("127.0.0.1:0")?;
    println!("{}", server.local_addrs()[0]);
    let (mut control, mut slow, mut closed) = (None, Vec::new(), 0);
    let mut run = Run::default();
    let mut next = Instant::now();
    while !server.is_drained() {
        let wait = (run.left > 0).then(|| next.saturating_duration_since(Instant::now()));
        for event in &server.poll_wait(wait)? {
            match event {
                Event::Open { client, request } => match request.uri().path() {
                    "/control" => control = Some(client),
                    path => {
                        // A client that has failed meanwhile is reported by the next event.
                        let _ = server.join(client, "all");
                        if path == "/slow" {
                            slow.push(client);
                        }
                    }
                },
                Event::Close { client, reason } => {
                    slow.retain(|id| *id != client);
                    let policy =
                        matches!(reason, CloseReason::Overflow | CloseReason::Timeout(TimeoutKind::Write));
                    closed += usize::from(policy);
                }
                Event::Message { client, message } => {
                    let words: Vec<_> = message.as_text().unwrap_or("quit").split(' ').collect();
                    match words[..] {
                        ["run", number, latest, count] => {
                            let (number, left) = (number.parse()?, count.parse()?);
                            run = Run { number, latest: latest == "true", left, ..Run::default() };
                            (next, closed) = (Instant::now(), 0);
                        }
                        ["fill"] => {
                            let filled = fill(&mut server, &slow);
                            server.send(client, filled.to_string())?;
                        }
                        ["count"] => server.send(client, server.client_count().to_string())?,
                        _ => server.shutdown(1001, "", Duration::ZERO),
                    }
                }
                _ => {}
            }
        }
        if run.left > 0 && next <= Instant::now() {
            next += EVERY;
            run.left -= 1;
            if !run.begun || run.left == 0 {
                let waits = slow.iter().filter(|id| server.buffered(**id) > 0).count();
                run.backed_up[usize::from(run.begun)] = waits;
                run.begun = true;
            }
            let mut message = [7; PAYLOAD];
            message[..8].copy_from_slice(&run.number.to_be_bytes());
            message[8..16].copy_from_slice(&now().to_be_bytes());
            if run.latest {
                let _ = server.publish_latest("all", 1, message);
            } else {
                let _ = server.broadcast_except(control.ok_or("there is no control connection")?, message);
            }
            server.flush();
            if run.left == 0 {
                let [first, last] = run.backed_up;
                server.send(
                    control.ok_or("there is no control connection")?,
                    format!("{first} {last} {closed}"),
                )?;
            }
        }
    }
    Ok(())
}

/// Sends to the slow clients until bytes are queued for each; gives the number of clients with
/// queued bytes.
fn fill(server: &mut Server, slow: &[ClientId]) -> usize {
    for _ in 0..4096 {
        for id in slow {
            if server.buffered(*id) == 0 {
                let _ = server.send(*id, [0; 2000]);
            }
        }
        server.flush();
    }
    slow.iter().filter(|id| server.buffered(**id) > 0).count()
}

// ---- the clients ----

struct Client {
    stream: mio::net::TcpStream,
    /// The bytes of an incomplete frame.
    partial: Vec<u8>,
    measured: bool,
}

struct Load {
    addr: SocketAddr,
    server: u32,
    poll: Poll,
    events: Events,
    control: TcpStream,
    /// The measured clients, followed by the slow ones.
    clients: Vec<Client>,
    measured: usize,
    block: Vec<u8>,
    delays: Delays,
}

/// The delays of one run.
#[derive(Default)]
struct Delays {
    run: u64,
    nanos: Vec<u64>,
}

struct Phase {
    p50: f64,
    p99: f64,
    max: f64,
    /// Percent of a core used, and percent of the time in which the process was runnable but had no
    /// core.
    server: [f64; 2],
    clients: [f64; 2],
    /// CPU time of the server, in milliseconds.
    per_broadcast: f64,
    backed_up: [usize; 2],
    closed: usize,
    lost: usize,
}

impl Load {
    fn new(bench: &Bench, measured: usize) -> Outcome<Load> {
        let addr = bench.addr.parse()?;
        let control = connect(addr, "/control", false)?;
        control.set_read_timeout(Some(PATIENCE))?;
        control.set_write_timeout(Some(PATIENCE))?;
        let mut load = Load {
            addr,
            server: bench.pid(),
            poll: Poll::new()?,
            events: Events::with_capacity(4096),
            control,
            clients: Vec::new(),
            measured,
            block: vec![0; 64 * 1024],
            delays: Delays::default(),
        };
        for _ in 0..measured {
            load.add("/", true)?;
        }
        Ok(load)
    }

    fn add(&mut self, path: &str, reads: bool) -> Outcome<()> {
        let stream = connect(self.addr, path, path == "/slow")?;
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        if reads {
            self.poll.registry().register(&mut stream, Token(self.clients.len()), Interest::READABLE)?;
        }
        self.clients.push(Client { stream, partial: Vec::new(), measured: path == "/" });
        Ok(())
    }

    /// Runs one phase with new slow clients, which read or stall.
    fn phase(&mut self, slow: usize, stall: bool, latest: bool, time: Duration) -> Outcome<Phase> {
        self.clients.truncate(self.measured);
        let begin = Instant::now();
        while self.query("count")? != (self.measured + 1).to_string() {
            self.pump(None, Duration::from_millis(20))?;
            if begin.elapsed() > PATIENCE {
                return Err("the slow clients did not disconnect".into());
            }
        }
        for _ in 0..slow {
            self.add("/slow", !stall)?;
        }
        if stall {
            let filled = self.query("fill")?;
            if filled != slow.to_string() {
                return Err(format!("only {filled} of {slow} are backed up").into());
            }
            self.pump(None, BEFORE_RUN.min(time / 3))?;
        }
        let count = (time.as_nanos() / EVERY.as_nanos()) as usize;
        self.delays.run += 1;
        self.delays.nanos.clear();
        let usage = |load: &Load| Outcome::Ok([cpu_time(load.server)?, cpu_time(std::process::id())?]);
        let (begin, before) = (Instant::now(), usage(self)?);
        self.command(&format!("run {} {latest} {count}", self.delays.run))?;
        self.pump(Some(count * self.measured), time)?;
        let (after, elapsed) = (usage(self)?, begin.elapsed().as_nanos() as f64);
        let used = |who: usize, what: usize| (after[who][what] - before[who][what]) as f64;
        let percent = |who| [0, 1].map(|what| 100.0 * used(who, what) / elapsed);
        let numbers = self.receive()?;
        let numbers: Vec<usize> = numbers.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [first, last, closed] = numbers[..] else { return Err("an unexpected reply to a run".into()) };
        let nanos = &mut self.delays.nanos;
        nanos.sort_unstable();
        let at = |part: f64| {
            let index = (nanos.len() as f64 * part) as usize;
            nanos.get(index).or(nanos.last()).map_or(f64::NAN, |nanos| *nanos as f64 / 1e6)
        };
        Ok(Phase {
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
            server: percent(0),
            clients: percent(1),
            per_broadcast: used(0, 0) / count as f64 / 1e6,
            backed_up: [first, last],
            closed,
            lost: count * self.measured - nanos.len(),
        })
    }

    /// Reads for `time`. With a number of deliveries: until all have arrived, or none has for 3 s.
    fn pump(&mut self, deliveries: Option<usize>, time: Duration) -> Outcome<()> {
        let (begin, mut last) = (Instant::now(), Instant::now());
        while deliveries.is_none_or(|count| self.delays.nanos.len() < count) {
            let since = if deliveries.is_some() { last } else { begin };
            let quiet = if deliveries.is_some() { Duration::from_secs(3) } else { time };
            let left = (begin + time).max(since + quiet).saturating_duration_since(Instant::now());
            if left.is_zero() || begin.elapsed() > time + PATIENCE {
                break;
            }
            match self.poll.poll(&mut self.events, Some(left)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &self.events {
                last = Instant::now();
                // The event may be of a client that has been replaced.
                if let Some(client) = self.clients.get_mut(event.token().0) {
                    client.read(&mut self.block, &mut self.delays)?;
                }
            }
        }
        Ok(())
    }

    fn query(&mut self, what: &str) -> Outcome<String> {
        self.command(what)?;
        self.receive()
    }

    fn command(&mut self, what: &str) -> Outcome<()> {
        let mut bytes = frame(what.as_bytes());
        // Opcode text, with FIN.
        bytes[0] = 0x81;
        Ok(self.control.write_all(&bytes)?)
    }

    /// Reads the next text from the control connection; answers pings.
    fn receive(&mut self) -> Outcome<String> {
        loop {
            let mut header = [0; 2];
            self.control.read_exact(&mut header)?;
            let mut body = vec![0; header[1].into()];
            self.control.read_exact(&mut body)?;
            match header[0] {
                0x81 => return Ok(String::from_utf8(body)?),
                0x89 => self.control.write_all(&pong(&body))?,
                other => return Err(format!("the server sent a frame {other:#x}").into()),
            }
        }
    }
}

impl Delays {
    fn record(&mut self, message: &[u8], now: u64) {
        let number = |at: usize| {
            let bytes = message.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_be_bytes)
        };
        // Messages of an earlier run do not count.
        if number(0) == self.run {
            self.nanos.push(now.saturating_sub(number(8)));
        }
    }
}

impl Client {
    /// Reads once and notes the delay of every whole message.
    fn read(&mut self, block: &mut [u8], delays: &mut Delays) -> Outcome<()> {
        loop {
            let kept = self.partial.len();
            block[..kept].copy_from_slice(&self.partial);
            let count = match self.stream.read(&mut block[kept..]) {
                // A slow client was closed. A measured client is never closed; if it were, its
                // messages would be counted as missing.
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let now = now();
            let bytes = &block[..kept + count];
            let mut at = 0;
            while let [first, len, rest @ ..] = &bytes[at..] {
                let len = usize::from(*len);
                if len > 125 {
                    return Err("an unexpected frame".into());
                }
                let Some(body) = rest.get(..len) else { break };
                match (first, body) {
                    (0x82, body) if self.measured => delays.record(body, now),
                    (0x89, body) => _ = self.stream.write(&pong(body)),
                    _ => {}
                }
                at += 2 + len;
            }
            self.partial.clear();
            self.partial.extend_from_slice(&bytes[at..]);
            if kept + count < block.len() {
                // After a short read the socket is drained.
                return Ok(());
            }
        }
    }
}

fn pong(body: &[u8]) -> Vec<u8> {
    let mut bytes = frame(body);
    bytes[0] = 0x8a;
    bytes
}

/// A client with a complete handshake; `small` gives it the smallest receive buffer.
fn connect(addr: SocketAddr, path: &str, small: bool) -> Outcome<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    if small {
        sockopt::set_socket_recv_buffer_size(&socket, 1)?;
    }
    rustix::net::connect(&socket, &addr)?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.write_all(request(path).as_bytes())?;
    read_head(&mut stream)?;
    Ok(stream)
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Phase { p50, p99, max, server, clients, backed_up: [first, last], closed, lost, .. } = self;
        write!(f, "{p50:>6.2}   {p99:>6.2}   {max:>6.1}   ")?;
        for [cpu, waited] in [server, clients] {
            write!(f, "{cpu:>3.0} % + {waited:>2.0} %   ")?;
        }
        write!(f, "{first:>3}, then {last:<3}   {closed:>3}")?;
        if *lost > 0 {
            write!(f, "   ({lost} messages replaced or missing)")?;
        }
        Ok(())
    }
}
