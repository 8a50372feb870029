//! Where a row of the table is fought out: a server in a process of its own, and healthy clients beside the attacker.

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
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

/// Ranks of threads: the attacker's is below the healthy, which share a core with it.
pub const SERVER: u8 = 5;
pub const HEALTHY: u8 = 4;
pub const ATTACKER: u8 = 3;

/// The server's process: echoes, and prints its counters for each line that it is sent.
pub fn serve(builder: ServerBuilder) {
    raise_descriptor_limit();
    let mut server = builder.bind("127.0.0.1:0").expect("binds a free port");
    println!("\n@{}", server.local_addrs()[0]);
    let rounds = Arc::new(Mutex::new(Rounds::new()));
    obey(server.handle(), rounds.clone());
    if env::var_os(PIN).is_some() {
        outrank(SERVER);
        pin(0);
    }
    let mut before = cpu_nanos();
    while !server.is_drained() {
        for event in &server.poll_wait(None).expect("polls") {
            if let Event::Message { client, message } = event {
                // One that reads too slowly is closed for it.
                let _ = server.send(client, message);
            }
        }
        let now = cpu_nanos();
        rounds.lock().unwrap().note(now - before);
        before = now;
    }
}

/// How many polls took how many microseconds.
struct Rounds(Vec<u32>);

impl Rounds {
    fn new() -> Self {
        Rounds(vec![0; 100_000])
    }

    fn note(&mut self, nanos: u64) {
        let at = (nanos as usize).div_ceil(1000).min(self.0.len() - 1);
        self.0[at] += 1;
    }

    /// The 99th percentile and the longest, in nanoseconds, and forgets them.
    fn take(&mut self) -> [u64; 2] {
        let all: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        let (mut seen, mut p99, mut longest) = (0, None, 0);
        for (micros, count) in self.0.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
            seen += u64::from(std::mem::take(count));
            longest = micros as u64 * 1000;
            if seen * 100 >= all * 99 {
                p99 = p99.or(Some(longest));
            }
        }
        [p99.unwrap_or(0), longest]
    }
}

/// Prints the counters for each line of input; for `rounds` those of the polls since the last such line. The server's
/// thread does no more for it than it must: its polls are measured.
fn obey(handle: Handle, rounds: Arc<Mutex<Rounds>>) {
    thread::spawn(move || {
        if env::var_os(PIN).is_some() {
            outrank(SERVER);
            pin(1);
        }
        let (found, ask) = mpsc::channel();
        for line in std::io::stdin().lines() {
            if line.as_deref().is_ok_and(|line| line == "rounds") {
                let [p99, longest] = rounds.lock().unwrap().take();
                println!("tickws_p99 {p99}\ntickws_max {longest}\n@");
                continue;
            }
            let found = found.clone();
            let look = move |server: &mut Server| {
                let _ = found.send(server.stats());
            };
            if handle.call(look).is_err() {
                return;
            }
            let Ok(stats) = ask.recv() else { return };
            println!("{}@", stats.to_prometheus());
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

/// Real-time priority for this thread, where that is allowed, so that whatever else the machine does is not in the
/// figures. Niceness is of no use against other sessions.
pub fn outrank(priority: u8) -> bool {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", &priority.to_string(), &thread]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
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
        open(self.addr, extra)
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

/// A connection that has been let in; `extra` is whole header lines.
#[track_caller]
pub fn open(addr: SocketAddr, extra: &str) -> Raw {
    let mut raw = Raw::connect(addr);
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
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Deadline::new();
    while !done() {
        deadline.check(what);
        thread::sleep(Duration::from_micros(100));
    }
}

/// Written at a time: while the kernel copies, the healthy on the same core would have to wait.
const SLICE: usize = 16 * 1024;

/// Writes what the kernel takes, up to a slice.
pub fn write_slice(raw: &mut Raw, bytes: &[u8]) -> std::io::Result<usize> {
    raw.write_some(&bytes[..bytes.len().min(SLICE)])
}

/// Writes all of it, and reads nothing.
#[track_caller]
pub fn write(raw: &mut Raw, bytes: &[u8]) {
    let mut at = 0;
    until("the server to read", || {
        while at < bytes.len() {
            match write_slice(raw, &bytes[at..]).expect("the server listens") {
                0 => return false,
                count => at += count,
            }
        }
        true
    });
}

/// Writes until the server has had enough.
pub fn write_until_closed(raw: &mut Raw, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        match write_slice(raw, &bytes[at..]) {
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
    clients: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Healthy {
    pub const COUNT: usize = 4;

    pub fn new(addr: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let client = |number| {
            let stop = stop.clone();
            let mut socket = dial(addr, "/");
            thread::spawn(move || {
                let mut round = 0;
                // At least once, however short the attack was.
                loop {
                    let texts: Vec<String> =
                        (0..3).map(|i| format!("number {round}.{i} of {number}")).collect();
                    for text in &texts {
                        socket.write(Message::text(text)).expect("a healthy client is served");
                    }
                    socket.flush().expect("a healthy client is served");
                    for text in texts {
                        let answer = answer(&mut socket);
                        assert_eq!(answer, text, "a healthy client's echoes come in order");
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    round += 1;
                    thread::sleep(Duration::from_millis(3));
                }
                socket.close(None).expect("a healthy client is served to its end");
            })
        };
        Healthy { clients: (0..Self::COUNT).map(client).collect(), stop }
    }

    /// When all that they have said is answered.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            threads::join(client, "a healthy client");
        }
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
