//! Where a row of the table is fought out: a server in a process of its own, and healthy clients beside the attacker.

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit, setrlimit};
use tickws::{CloseCode, Event, Handle, Server, ServerBuilder};
use tungstenite::Message;

use super::support::{
    Deadline,
    blocking::Blocking,
    dial,
    raw::{self, End, Frame, Raw},
    threads,
};

/// In the environment of the server's process: the row whose configuration it has.
pub const ROW: &str = "TICKWS_TEST_HOSTILE_ROW";
/// As well: the server has a core for itself.
pub const PIN: &str = "TICKWS_TEST_HOSTILE_PIN";

/// The server's process: echoes, and prints its counters for each line that it is sent.
pub fn serve(builder: ServerBuilder) {
    raise_descriptor_limit();
    if env::var_os(PIN).is_some() {
        pin(0);
    }
    let mut server = builder.bind("127.0.0.1:0").expect("binds a free port");
    println!("\n@{}", server.local_addrs()[0]);
    let rounds = Arc::<Mutex<Vec<u64>>>::default();
    obey(server.handle(), rounds.clone());
    let mut before = cpu_nanos();
    while !server.is_drained() {
        for event in &server.poll_wait(None).expect("polls") {
            if let Event::Message { client, message } = event {
                // One that reads too slowly is closed for it.
                let _ = server.send(client, message);
            }
        }
        let now = cpu_nanos();
        rounds.lock().unwrap().push(now - before);
        before = now;
    }
}

/// Prints the counters for each line of input; for `rounds` those of the polls since the last such line.
fn obey(handle: Handle, rounds: Arc<Mutex<Vec<u64>>>) {
    thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let rounds = rounds.clone();
            let print = move |server: &mut Server| match line.as_deref() {
                Ok("rounds") => {
                    let mut rounds = std::mem::take(&mut *rounds.lock().unwrap());
                    rounds.sort_unstable();
                    let p99 = rounds.get(rounds.len() * 99 / 100).unwrap_or(&0);
                    println!("tickws_p99 {p99}\ntickws_max {}\n@", rounds.last().unwrap_or(&0));
                }
                _ => println!("{}@", server.stats().to_prometheus()),
            };
            if handle.call(print).is_err() {
                return;
            }
        }
        // The other side has let go.
        let _ = handle.shutdown(CloseCode::Away, Duration::ZERO);
    });
}

/// What this thread has used of the processor: the sleep and the work of others do not count.
fn cpu_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// As many descriptors as the hard limit allows. Gives their number.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Leaves this thread, and those that it starts, the n-th core only, if there are so many.
pub fn pin(nth: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let mut set = CpuSet::new();
    if let Some(core) = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).nth(nth) {
        set.set(core);
        let _ = sched_setaffinity(None, &set);
    }
}

pub struct Ground {
    child: Child,
    output: BufReader<ChildStdout>,
    pub addr: SocketAddr,
    descriptors: usize,
}

impl Ground {
    pub fn new(row: &str, pinned: bool) -> Self {
        raise_descriptor_limit();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "server_process", "--nocapture", "--test-threads", "1"]);
        command.env(ROW, row).stdin(Stdio::piped()).stdout(Stdio::piped());
        if pinned {
            command.env(PIN, "1");
        }
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with('@') {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the server's process has ended");
        }
        let addr = line[1..].trim().parse().unwrap();
        let mut ground = Ground { child, output, addr, descriptors: 0 };
        ground.stats();
        ground.descriptors = ground.open_descriptors();
        ground
    }

    // ---- the server, from outside ----

    /// The counters by their names in Prometheus' format, without the prefix.
    pub fn stats(&mut self) -> HashMap<String, u64> {
        self.ask("counters")
    }

    fn ask(&mut self, what: &str) -> HashMap<String, u64> {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{what}").expect("the server's process lives");
        let mut stats = HashMap::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the server's process has ended");
            if line.starts_with('@') {
                return stats;
            }
            if let Some((name, value)) = line.strip_prefix("tickws_").and_then(|line| line.split_once(' ')) {
                stats.insert(name.to_owned(), value.trim().parse().unwrap());
            }
        }
    }

    pub fn stat(&mut self, name: &str) -> u64 {
        self.stats()[name]
    }

    pub fn closed(&mut self, cause: &str) -> u64 {
        self.stat(&format!("closed_total{{cause=\"{cause}\"}}"))
    }

    pub fn rejected(&mut self, cause: &str) -> u64 {
        self.stat(&format!("rejected_total{{cause=\"{cause}\"}}"))
    }

    fn proc(&self, what: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{what}", self.child.id())).expect("the server's process lives")
    }

    fn open_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Resident bytes: now, and the most since `forget_peak`.
    pub fn memory(&self) -> [u64; 2] {
        let status = self.proc("status");
        ["VmRSS:", "VmHWM:"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
            1024 * line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number")
        })
    }

    pub fn forget_peak(&self) {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    /// How long its polls have taken since the last look, with what the application did, in time of the processor: the
    /// 99th percentile and the longest. Nobody waits for more than one of them.
    pub fn rounds(&mut self) -> [Duration; 2] {
        let answer = self.ask("rounds");
        ["p99", "max"].map(|name| Duration::from_nanos(answer[name]))
    }

    /// What all its threads have used of the processor.
    pub fn cpu(&self) -> Duration {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap() {
            let line = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            nanos += line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        Duration::from_nanos(nanos)
    }

    /// Waits for something that the server does.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Ground) -> bool) {
        let deadline = Deadline::new();
        while !done(self) {
            deadline.check(what);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the server holds nothing of anyone but the `healthy`.
    #[track_caller]
    pub fn until_only(&mut self, healthy: usize) {
        let descriptors = self.descriptors + healthy;
        self.until("every descriptor of the attacker's to be closed", |g| {
            g.open_descriptors() == descriptors
        });
        self.until("nothing to be held for the attacker", |g| {
            let stats = g.stats();
            (stats["open"], stats["buffered_bytes"]) == (healthy as u64, 0)
        });
    }

    // ---- the attacker ----

    /// A TCP connection, and not a byte more.
    pub fn dial(&self) -> Raw {
        Raw::connect(self.addr)
    }

    /// One that has been let in; `extra` is whole header lines.
    #[track_caller]
    pub fn open_with(&self, extra: &str) -> Raw {
        let mut raw = self.dial();
        write(&mut raw, raw::upgrade_request("/", extra).as_bytes());
        let mut head = None;
        until("a 101", || {
            raw.read_some();
            head = raw.take_head();
            head.is_some()
        });
        assert!(head.as_ref().is_some_and(|head| head.starts_with("HTTP/1.1 101 ")), "{head:?}");
        raw
    }

    #[track_caller]
    pub fn open(&self) -> Raw {
        self.open_with("")
    }

    pub fn open_many(&self, count: usize) -> Vec<Raw> {
        (0..count).map(|_| self.open()).collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Deadline::new();
    while !done() {
        deadline.check(what);
        thread::sleep(Duration::from_micros(100));
    }
}

/// Writes all of it, and reads nothing.
#[track_caller]
pub fn write(raw: &mut Raw, bytes: &[u8]) {
    let mut at = 0;
    until("the server to read", || {
        at += raw.write_some(&bytes[at..]).expect("the server listens");
        at == bytes.len()
    });
}

/// Writes until the server has had enough.
pub fn write_until_closed(raw: &mut Raw, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        match raw.write_some(&bytes[at..]) {
            Ok(0) | Err(_) => return,
            Ok(count) => at += count,
        }
    }
}

/// Waits for the next frame that is no ping.
#[track_caller]
pub fn frame(raw: &mut Raw) -> Frame {
    let mut frame = None;
    until("a frame", || {
        raw.read_some();
        frame = std::iter::from_fn(|| raw.take_frame()).find(|frame| frame.opcode != raw::PING);
        assert!(frame.is_some() || raw.end.is_none(), "{:?} instead of a frame", raw.end);
        frame.is_some()
    });
    frame.unwrap()
}

/// Waits for FIN or RST; gives which.
#[track_caller]
pub fn end(raw: &mut Raw) -> End {
    until("the end of a connection", || {
        raw.read_some();
        raw.end.is_some()
    });
    raw.end.unwrap()
}

/// The server says goodbye with `code`, sends nothing more, and hangs up in an orderly way.
#[track_caller]
pub fn closed_with(raw: &mut Raw, code: u16, what: &str) {
    let close = frame(raw);
    let got = close.payload.get(..2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    assert_eq!((close.opcode, got), (raw::CLOSE, Some(code)), "{what}: {:?}", close.payload);
    assert_eq!(end(raw), End::Fin, "{what}");
    assert_eq!(raw.input(), b"", "{what}: something came behind the close frame");
}

/// It is still served.
#[track_caller]
pub fn echoes(raw: &mut Raw, text: &str) {
    write(raw, &raw::text(text));
    assert_eq!(frame(raw), Frame::new(raw::TEXT, text));
}

/// Clients that mean well: tungstenite's own. What they say is numbered, and has to come back whole and in order.
pub struct Healthy {
    clients: Vec<JoinHandle<[Vec<Duration>; 2]>>,
    stop: Arc<AtomicBool>,
    phase: Arc<AtomicUsize>,
}

impl Healthy {
    pub const COUNT: usize = 4;

    pub fn new(addr: SocketAddr) -> Self {
        let (stop, phase) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = |number| {
            let (stop, phase) = (stop.clone(), phase.clone());
            let mut socket = dial(addr, "/");
            thread::spawn(move || {
                let mut delays = [Vec::new(), Vec::new()];
                let mut round = 0;
                // At least once, however short the attack was.
                loop {
                    let texts: Vec<String> =
                        (0..3).map(|i| format!("number {round}.{i} of {number}")).collect();
                    let (phase, begin) = (phase.load(Ordering::Relaxed), Instant::now());
                    for text in &texts {
                        socket.write(Message::text(text)).expect("a healthy client is served");
                    }
                    socket.flush().expect("a healthy client is served");
                    for text in texts {
                        let answer = answer(&mut socket);
                        assert_eq!(answer, text, "a healthy client's echoes come in order");
                        delays[phase].push(begin.elapsed());
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    round += 1;
                    thread::sleep(Duration::from_millis(3));
                }
                socket.close(None).expect("a healthy client is served to its end");
                delays
            })
        };
        Healthy { clients: (0..Self::COUNT).map(client).collect(), stop, phase }
    }

    /// What is measured from here on is told apart from what was before.
    pub fn attack_begins(&self) {
        self.phase.store(1, Ordering::Relaxed);
    }

    /// Their delays, sorted: before the attack, and since.
    pub fn stop(self) -> [Vec<Duration>; 2] {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = [Vec::new(), Vec::new()];
        for client in self.clients {
            let delays = threads::join(client, "a healthy client");
            for (all, own) in all.iter_mut().zip(delays) {
                all.extend(own);
            }
        }
        all.iter_mut().for_each(|delays| delays.sort());
        all
    }
}

fn answer(socket: &mut tungstenite::WebSocket<Blocking>) -> String {
    loop {
        match socket.read().expect("a healthy client is answered") {
            Message::Text(text) => return text.to_string(),
            Message::Ping(_) => {}
            other => panic!("a healthy client was sent {other:?}"),
        }
    }
}
