//! The set-up of a row: a server in a process of its own, and healthy clients beside the attacker.

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

/// Environment variable of the server's process: the row whose configuration it uses.
pub const ROW: &str = "TICKWS_TEST_HOSTILE_ROW";
/// Environment variable of the server's process: pins it to a core of its own.
pub const PIN: &str = "TICKWS_TEST_HOSTILE_PIN";

/// Real-time priorities of threads. The attacker's is below the probers', which share its core.
pub const SERVER: u8 = 5;
pub const HEALTHY: u8 = 4;
pub const ATTACKER: u8 = 3;

/// The server's process: echoes messages, and prints its counters for each line of input.
pub fn serve(builder: ServerBuilder) {
    raise_descriptor_limit();
    let mut server = builder.bind("127.0.0.1:0").expect("binds a free port");
    println!("\n@{}", server.local_addrs()[0]);
    let rounds = Arc::new(Mutex::new(Rounds::new()));
    serve_counters(server.handle(), rounds.clone());
    if env::var_os(PIN).is_some() {
        set_realtime_priority(SERVER);
        pin(0);
    }
    let mut before = cpu_nanos();
    while !server.is_drained() {
        for event in &server.poll_wait(None).expect("polls") {
            if let Event::Message { client, message } = event {
                // A client that reads too slowly is closed with an overflow, so an error is fine
                // here.
                let _ = server.send(client, message);
            }
        }
        let now = cpu_nanos();
        rounds.lock().unwrap().note(now - before);
        before = now;
    }
}

/// The number of polls that took so many microseconds of processor time.
struct Rounds(Vec<u32>);

impl Rounds {
    fn new() -> Self {
        Rounds(vec![0; 100_000])
    }

    fn note(&mut self, nanos: u64) {
        let at = (nanos as usize).div_ceil(1000).min(self.0.len() - 1);
        self.0[at] += 1;
    }

    /// The 99th percentile and the longest poll so far, in nanoseconds; resets the counts.
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

/// Prints the counters for each line of input; for `rounds`, the times of the polls since the last
/// such line. Only the snapshot of the counters is taken on the server's thread, whose polls are
/// measured.
fn serve_counters(handle: Handle, rounds: Arc<Mutex<Rounds>>) {
    thread::spawn(move || {
        if env::var_os(PIN).is_some() {
            set_realtime_priority(SERVER);
            pin(1);
        }
        let (sender, receiver) = mpsc::channel();
        for line in std::io::stdin().lines() {
            if line.as_deref().is_ok_and(|line| line == "rounds") {
                let [p99, longest] = rounds.lock().unwrap().take();
                println!("tickws_p99 {p99}\ntickws_max {longest}\n@");
                continue;
            }
            let sender = sender.clone();
            let snapshot = move |server: &mut Server| {
                let _ = sender.send(server.stats());
            };
            if handle.call(snapshot).is_err() {
                return;
            }
            let Ok(stats) = receiver.recv() else { return };
            println!("{}@", stats.to_prometheus());
        }
        // The end of the input means that the test has ended.
        let _ = handle.shutdown(CloseCode::GOING_AWAY, "", Duration::ZERO);
    });
}

/// Processor time of this thread; sleep and other threads do not count.
fn cpu_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Raises the descriptor limit to the hard limit, and gives it.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Pins this thread, and the threads that it starts, to the n-th allowed core, if there are as
/// many.
pub fn pin(nth: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let mut set = CpuSet::new();
    if let Some(core) = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).nth(nth) {
        set.set(core);
        let _ = sched_setaffinity(None, &set);
    }
}

/// Gives this thread a real-time priority, if that is allowed, so that other load of the machine
/// does not distort the figures. Niceness has no effect between sessions.
pub fn set_realtime_priority(priority: u8) -> bool {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", &priority.to_string(), &thread]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

pub struct ServerProcess {
    child: Child,
    output: BufReader<ChildStdout>,
    pub addr: SocketAddr,
    descriptors: usize,
}

impl ServerProcess {
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
        let mut server = ServerProcess { child, output, addr, descriptors: 0 };
        server.stats();
        server.descriptors = server.open_descriptors();
        server
    }

    // ---- the server, from outside ----

    /// The counters under their Prometheus names, without the prefix.
    pub fn stats(&mut self) -> HashMap<String, u64> {
        self.query("counters")
    }

    fn query(&mut self, what: &str) -> HashMap<String, u64> {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{what}").expect("the server's process runs");
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
        fs::read_to_string(format!("/proc/{}/{what}", self.child.id())).expect("the server's process runs")
    }

    fn open_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Resident bytes: now, and the peak since `reset_peak`.
    pub fn memory(&self) -> [u64; 2] {
        let status = self.proc("status");
        ["VmRSS:", "VmHWM:"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
            1024 * line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number")
        })
    }

    pub fn reset_peak(&self) {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    /// Processor time of a poll with the application's part, since the last call: the 99th
    /// percentile and the longest. A client waits no longer than one poll for its turn.
    pub fn rounds(&mut self) -> [Duration; 2] {
        let times = self.query("rounds");
        ["p99", "max"].map(|name| Duration::from_nanos(times[name]))
    }

    /// Processor time of all threads of the server's process.
    pub fn cpu(&self) -> Duration {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap() {
            let line = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            nanos += line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        Duration::from_nanos(nanos)
    }

    /// Asks the server until `done` returns true.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut ServerProcess) -> bool) {
        let deadline = Deadline::new();
        while !done(self) {
            deadline.check(what);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the server holds no descriptor and no byte except for the `healthy` clients.
    #[track_caller]
    pub fn until_only(&mut self, healthy: usize) {
        let descriptors = self.descriptors + healthy;
        self.until("the attacker's descriptors to be closed", |s| s.open_descriptors() == descriptors);
        self.until("the attacker's memory to be freed", |s| {
            let stats = s.stats();
            (stats["open"], stats["buffered_bytes"]) == (healthy as u64, 0)
        });
    }

    // ---- the attacker ----

    /// A TCP connection that has sent nothing yet.
    pub fn dial(&self) -> Raw {
        Raw::connect(self.addr)
    }

    /// A client with a complete handshake; `extra` holds complete header lines.
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

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client with a complete handshake; `extra` holds complete header lines.
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

/// Bytes per write. During a larger copy in the kernel the probers on the same core would have to
/// wait.
const SLICE: usize = 16 * 1024;

/// Writes as much as the kernel's buffer has room for, one slice at most.
pub fn write_slice(raw: &mut Raw, bytes: &[u8]) -> std::io::Result<usize> {
    raw.write_some(&bytes[..bytes.len().min(SLICE)])
}

/// Writes all of `bytes`, and reads nothing meanwhile.
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

/// Writes until the server closes the connection or reads no more.
pub fn write_until_closed(raw: &mut Raw, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        match write_slice(raw, &bytes[at..]) {
            Ok(0) | Err(_) => return,
            Ok(count) => at += count,
        }
    }
}

/// Waits for the next frame that is not a ping.
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

/// Waits for FIN or RST, and gives which of them came.
#[track_caller]
pub fn end(raw: &mut Raw) -> End {
    until("the end of a connection", || {
        raw.read_some();
        raw.end.is_some()
    });
    raw.end.unwrap()
}

/// Checks that the server sends a close frame with `code` and nothing more, and then FIN.
#[track_caller]
pub fn assert_closed_with(raw: &mut Raw, code: u16, what: &str) {
    let close = frame(raw);
    let got = close.payload.get(..2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    assert_eq!((close.opcode, got), (raw::CLOSE, Some(code)), "{what}: {:?}", close.payload);
    assert_eq!(end(raw), End::Fin, "{what}");
    assert_eq!(raw.input(), b"", "{what}: data after the close frame");
}

/// Checks that the server still echoes.
#[track_caller]
pub fn assert_echoes(raw: &mut Raw, text: &str) {
    write(raw, &raw::text(text));
    assert_eq!(frame(raw), Frame::new(raw::TEXT, text));
}

/// Well-behaved clients (tungstenite) whose numbered messages must be echoed whole and in order.
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
                // At least one round, however short the attack is.
                loop {
                    let texts: Vec<String> =
                        (0..3).map(|i| format!("number {round}.{i} of {number}")).collect();
                    for text in &texts {
                        socket.write(Message::text(text)).expect("a healthy client is served");
                    }
                    socket.flush().expect("a healthy client is served");
                    for text in texts {
                        let echo = next_text(&mut socket);
                        assert_eq!(echo, text, "a healthy client's echoes come in order");
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

    /// Stops after all messages have been echoed.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            threads::join(client, "a healthy client");
        }
    }
}

fn next_text(socket: &mut tungstenite::WebSocket<Blocking>) -> String {
    loop {
        match socket.read().expect("a healthy client is served") {
            Message::Text(text) => return text.to_string(),
            Message::Ping(_) => {}
            other => panic!("a healthy client received {other:?}"),
        }
    }
}
