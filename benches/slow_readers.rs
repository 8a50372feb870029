//! Whether clients that do not read delay those that do: 10,000 connections, everyone is sent a message four
//! times a second, and the delay of each delivery is taken while all read and while 100 do not, in turns. With
//! `broadcast` at default settings, and with `publish_latest` to a room of all.
//!
//! ```sh
//! cargo bench --bench slow_readers [-- CLIENTS [SECONDS]]
//! ```
//!
//! The server is a process of its own, on another core than the clients if there are two. Of each message the
//! delay is from just before `broadcast` to just after the `read` that brought it. The clients whose delays
//! count always read; the slow ones have the smallest receive buffers that the kernel allows. "Waited" is the
//! time for which the process had work but others had its core: with much of it the figures say little.

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
use tickws::{ClientId, CloseReason, Event, Server, Timeout};

const PAYLOAD: usize = 125;
const EVERY: Duration = Duration::from_millis(250);
/// From the first refused byte to the run, so that `write_timeout` (10 s) ends before a run of 8 s does.
const BEFORE_RUN: Duration = Duration::from_millis(2500);
/// Of each kind of phase and mode.
const PHASES: [bool; 6] = [false, true, true, false, false, true];
/// Nothing here is waited for longer.
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
            "  slow ones   p50 ms   p99 ms   max ms   server+waited  clients+waited  backed up    closed"
        );
        // The pools fill; who does not read has not been seen yet.
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
                "  {what}, medians: {reading:.2} ms, beside {slow} that do not read {stalled:.2} ms: \
                 {:.3} times",
                stalled / reading
            );
        }
    }
    drop(load);
    bench.stop()
}

/// Nanoseconds on a clock that all processes share.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

// ---- the server ----

/// What the control connection asks for: "run NUMBER LATEST COUNT", "fill" or "count".
#[derive(Debug, Default)]
struct Run {
    number: u64,
    latest: bool,
    left: u32,
    /// How many slow clients had bytes waiting at the first message, and at the last.
    backed_up: [usize; 2],
    begun: bool,
}

/// At default settings, all of them.
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
                        // One that has failed meanwhile is reported next.
                        let _ = server.join(client, "all");
                        if path == "/slow" {
                            slow.push(client);
                        }
                    }
                },
                Event::Close { client, reason } => {
                    slow.retain(|id| *id != client);
                    let policy =
                        matches!(reason, CloseReason::Overflow | CloseReason::Timeout(Timeout::Write));
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
                            server.send(client, &filled.to_string())?;
                        }
                        ["count"] => server.send(client, &server.client_count().to_string())?,
                        _ => server.shutdown(1001, Duration::ZERO),
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
                server.publish_latest("all", 1, &message);
            } else {
                server.broadcast_except(control.ok_or("nobody asked for it")?, &message);
            }
            server.flush();
            if run.left == 0 {
                let [first, last] = run.backed_up;
                server.send(control.ok_or("nobody asked for it")?, &format!("{first} {last} {closed}"))?;
            }
        }
    }
    Ok(())
}

/// Sends to the slow ones until the kernel takes no more; says how many that were.
fn fill(server: &mut Server, slow: &[ClientId]) -> usize {
    for _ in 0..4096 {
        for id in slow {
            if server.buffered(*id) == 0 {
                let _ = server.send(*id, &[0; 2000]);
            }
        }
        server.flush();
    }
    slow.iter().filter(|id| server.buffered(**id) > 0).count()
}

// ---- the clients ----

struct Client {
    stream: mio::net::TcpStream,
    /// The beginning of a frame.
    partial: Vec<u8>,
    measured: bool,
}

struct Load {
    addr: SocketAddr,
    server: u32,
    poll: Poll,
    events: Events,
    control: TcpStream,
    /// Those whose delays count, and behind them the slow ones.
    clients: Vec<Client>,
    measured: usize,
    block: Vec<u8>,
    delays: Delays,
}

/// Of one run.
#[derive(Default)]
struct Delays {
    run: u64,
    nanos: Vec<u64>,
}

struct Phase {
    p50: f64,
    p99: f64,
    max: f64,
    /// Percent of a core, and of the time for which there was work but no core.
    server: [f64; 2],
    clients: [f64; 2],
    /// The server's, in milliseconds.
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

    /// One run: fresh slow clients, who read or do not.
    fn phase(&mut self, slow: usize, stall: bool, latest: bool, time: Duration) -> Outcome<Phase> {
        self.clients.truncate(self.measured);
        let begin = Instant::now();
        while self.ask("count")? != (self.measured + 1).to_string() {
            self.pump(None, Duration::from_millis(20))?;
            if begin.elapsed() > PATIENCE {
                return Err("the slow ones never left".into());
            }
        }
        for _ in 0..slow {
            self.add("/slow", !stall)?;
        }
        if stall {
            let filled = self.ask("fill")?;
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
        self.tell(&format!("run {} {latest} {count}", self.delays.run))?;
        self.pump(Some(count * self.measured), time)?;
        let (after, elapsed) = (usage(self)?, begin.elapsed().as_nanos() as f64);
        let used = |who: usize, what: usize| (after[who][what] - before[who][what]) as f64;
        let percent = |who| [0, 1].map(|what| 100.0 * used(who, what) / elapsed);
        let answer = self.hear()?;
        let numbers: Vec<usize> = answer.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [first, last, closed] = numbers[..] else { return Err(answer.into()) };
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

    /// Reads what comes, for that time; with a number of deliveries to come until they have, or nothing does.
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
                // One that was replaced may still be told of.
                if let Some(client) = self.clients.get_mut(event.token().0) {
                    client.read(&mut self.block, &mut self.delays)?;
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, what: &str) -> Outcome<String> {
        self.tell(what)?;
        self.hear()
    }

    fn tell(&mut self, what: &str) -> Outcome<()> {
        let mut bytes = frame(what.as_bytes());
        // Text.
        bytes[0] = 0x81;
        Ok(self.control.write_all(&bytes)?)
    }

    /// The next text to the control connection.
    fn hear(&mut self) -> Outcome<String> {
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
    fn note(&mut self, message: &[u8], now: u64) {
        let number = |at: usize| {
            let bytes = message.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_be_bytes)
        };
        // One of the run before is late.
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
                // A slow one that was closed; those that count never are, or their messages are missed.
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
                    return Err("a frame that is none of ours".into());
                }
                let Some(body) = rest.get(..len) else { break };
                match (first, body) {
                    (0x82, body) if self.measured => delays.note(body, now),
                    (0x89, body) => _ = self.stream.write(&pong(body)),
                    _ => {}
                }
                at += 2 + len;
            }
            self.partial.clear();
            self.partial.extend_from_slice(&bytes[at..]);
            if kept + count < block.len() {
                // A short read: the socket is drained.
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

/// A client that has been let in; `small`: with as little room as the kernel allows.
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
