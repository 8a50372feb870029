//! The duration of single calls with many clients, in CPU time of the server's thread: what one
//! `poll_once` or `flush` takes out of a frame, with and without a time budget.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use tickws::tls::rustls_0_23::rustls::ClientConnection;
use tickws::{Audience, ClientId, CloseCode, Decision, Event, Prepared, SendOptions, Server, ServerBuilder};

use crate::{
    Outcome,
    load::wire::{BINARY, REQUEST, frame},
    probe,
    secure::{self, ClientStream},
};

/// A row that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(120);
const BUDGET: Duration = Duration::from_millis(1);
const FILE: usize = 8 << 20;

pub struct Options {
    pub clients: usize,
    pub rows: Vec<String>,
}

struct Row {
    name: &'static str,
    build: fn(ServerBuilder) -> ServerBuilder,
    run: fn(&mut Bench) -> Outcome<String>,
    /// The share of the clients that take part, as a divisor.
    fewer: usize,
    /// Clients that never become a WebSocket.
    plain: bool,
    tls: bool,
}

const ROW: Row =
    Row { name: "", build: |builder| builder, run: broadcast, fewer: 1, plain: false, tls: false };

const ROWS: [Row; 18] = [
    Row { name: "broadcast-64", ..ROW },
    Row { name: "broadcast-60k", run: broadcast_large, ..ROW },
    Row { name: "different-1k", run: different, ..ROW },
    Row { name: "close-all", run: close_all, ..ROW },
    Row { name: "all-closed", run: all_closed, ..ROW },
    Row { name: "kernel-close", run: kernel_close, plain: true, ..ROW },
    Row { name: "drain", run: drain, fewer: 10, build: |builder| builder.send_buffer(128 << 10), ..ROW },
    Row { name: "downloads", run: downloads, fewer: 10, plain: true, build: with_file, ..ROW },
    Row { name: "download-60hz", run: download, fewer: 10_000, plain: true, build: with_file, ..ROW },
    Row { name: "shutdown-deadline", run: shutdown, ..ROW },
    Row { name: "reset-all", run: reset, ..ROW },
    Row { name: "deferred-expire", run: expire, plain: true, build: deferring, ..ROW },
    Row { name: "pings", run: pings, build: |builder| builder.ping_interval(Duration::from_secs(2)), ..ROW },
    Row { name: "join-leave", run: rooms, ..ROW },
    Row { name: "broadcast-60hz", run: |bench| frames(bench, &SendOptions::new()), ..ROW },
    Row { name: "latest-60hz", run: |bench| frames(bench, &SendOptions::new().latest(1)), ..ROW },
    Row { name: "large-messages", run: large_messages, fewer: 2, ..ROW },
    Row { name: "tls-hellos", run: hellos, fewer: 38, plain: true, tls: true, ..ROW },
];

/// The folder of the file that is served.
fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("tickws-bench-{}", std::process::id()))
}

fn with_file(builder: ServerBuilder) -> ServerBuilder {
    let folder = folder();
    let written =
        std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join("file"), vec![7; FILE]));
    if let Err(error) = written {
        eprintln!("cannot write the file that is served: {error}");
    }
    builder.serve_dir("/files", folder)
}

fn deferring(builder: ServerBuilder) -> ServerBuilder {
    builder.handshake_timeout(Duration::from_secs(3)).on_upgrade(|_, _| Decision::Defer)
}

/// A server and its clients; only calls of the server are measured.
struct Bench {
    server: Server,
    clients: Vec<TcpStream>,
    ids: Vec<ClientId>,
    /// Messages of this client are echoed.
    echo_to: Option<ClientId>,
    calls: Histogram<u64>,
    buffer: Vec<u8>,
    /// The core of the clients.
    core: usize,
    end: Instant,
}

pub fn run(options: &Options) -> Outcome<()> {
    if let Some(core) = probe::cores()?.first() {
        probe::pin(None, *core)?;
    }
    if let Some(unknown) = options.rows.iter().find(|name| ROWS.iter().all(|row| row.name != *name)) {
        return Err(format!("{unknown:?} is not a row").into());
    }
    println!("CPU time of single calls in milliseconds, {} clients", options.clients);
    println!(
        "{:<18} {:>7} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "row", "budget", "calls", "p50", "p99", "p99.9", "longest"
    );
    let wanted = |row: &&Row| options.rows.is_empty() || options.rows.iter().any(|name| name == row.name);
    let outcome = ROWS.iter().filter(wanted).try_for_each(|row| measure(row, options.clients));
    let _ = std::fs::remove_dir_all(folder());
    outcome
}

/// Measures one row without a budget and with one, and prints both.
fn measure(row: &Row, clients: usize) -> Outcome<()> {
    for budget in [None, Some(BUDGET)] {
        let mut bench = Bench::new(row, budget, (clients / row.fewer).max(1))?;
        let note = (row.run)(&mut bench).map_err(|error| format!("{}: {error}", row.name))?;
        let millis = |nanos: u64| nanos as f64 / 1e6;
        let calls = &bench.calls;
        println!(
            "{:<18} {:>7} {:>8} {:>8.3} {:>8.3} {:>8.3} {:>8.3} {note}",
            row.name,
            budget.map_or("none".into(), |budget| format!("{budget:?}")),
            calls.len(),
            millis(calls.value_at_quantile(0.5)),
            millis(calls.value_at_quantile(0.99)),
            millis(calls.value_at_quantile(0.999)),
            millis(calls.max()),
        );
    }
    Ok(())
}

fn cpu() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Bench {
    fn new(row: &Row, budget: Option<Duration>, clients: usize) -> Outcome<Bench> {
        let server = Server::builder().time_budget(budget).max_connections_per_ip(None);
        let server = (row.build)(server);
        let server = match row.tls {
            true => server.tls(secure::tickws_tls()?).bind_tls("127.0.0.1:0")?,
            false => server.bind("127.0.0.1:0")?,
        };
        let mut bench = Bench {
            server,
            clients: Vec::new(),
            ids: Vec::new(),
            echo_to: None,
            calls: Histogram::new(3)?,
            buffer: vec![0; 1 << 20],
            core: probe::cores()?.last().copied().unwrap_or(0),
            end: Instant::now() + PATIENCE,
        };
        let addr = bench.server.local_addrs()[0];
        while bench.clients.len() < clients {
            let mut stream = TcpStream::connect(addr)?;
            stream.set_nodelay(true)?;
            if !row.plain {
                stream.write_all(REQUEST)?;
            }
            stream.set_nonblocking(true)?;
            bench.clients.push(stream);
            if bench.clients.len().is_multiple_of(32) {
                bench.poll()?;
            }
        }
        while !row.plain && bench.ids.len() < clients {
            bench.poll()?;
            bench.check()?;
        }
        bench.settle(|_| {})?;
        bench.read_all();
        bench.calls.reset();
        Ok(bench)
    }

    fn check(&self) -> Outcome<()> {
        if Instant::now() > self.end { Err("it takes too long".into()) } else { Ok(()) }
    }

    /// One measured poll. Returns whether there is more to do, now or after a flush.
    fn poll(&mut self) -> Outcome<bool> {
        let before = self.server.stats().messages_in;
        let more = self.poll_more()?;
        let received = self.server.stats().messages_in > before;
        Ok(more || received || self.server.next_timeout() == Some(Duration::ZERO))
    }

    /// One poll, measured if it did anything. Returns what the tick says: whether there is more to
    /// do.
    fn poll_more(&mut self) -> Outcome<bool> {
        let stats = self.server.stats();
        let before = cpu();
        let tick = self.server.poll_once()?;
        let taken = cpu() - before;
        if tick.more() || !tick.is_empty() || self.server.stats() != stats {
            self.calls.record(taken)?;
        }
        for event in &tick {
            match event {
                Event::Open { client, .. } => self.ids.push(client),
                Event::Message { client, message } if self.echo_to == Some(client) => {
                    self.server.send(client, message)?;
                }
                _ => {}
            }
        }
        if self.echo_to.is_some() {
            self.server.flush();
        }
        Ok(tick.more())
    }

    /// Measured flushes until everything is written.
    fn flush(&mut self) -> Outcome<()> {
        loop {
            let before = cpu();
            let left = self.server.flush();
            self.calls.record(cpu() - before)?;
            if left == 0 {
                return Ok(());
            }
            self.check()?;
        }
    }

    /// Polls until nothing is left to do.
    fn settle(&mut self, mut between: impl FnMut(&mut Bench)) -> Outcome<()> {
        let mut idle = 0;
        while idle < 3 {
            idle = if self.poll()? { 0 } else { idle + 1 };
            between(self);
            self.check()?;
        }
        Ok(())
    }

    /// Reads what has arrived, and returns its length.
    fn read_all(&mut self) -> usize {
        self.with_clients(|clients, buffer| clients.iter_mut().map(|client| read(client, buffer)).sum())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Outcome<()> {
        let written =
            self.with_clients(|clients, _| clients.iter_mut().try_for_each(|client| client.write_all(bytes)));
        Ok(written?)
    }

    /// Uses the clients on another core, so that the kernel's work for them is not measured.
    fn with_clients<R: Send>(
        &mut self,
        use_them: impl FnOnce(&mut Vec<TcpStream>, &mut [u8]) -> R + Send,
    ) -> R {
        let Bench { clients, buffer, core, .. } = self;
        let thread = || {
            if let Err(error) = probe::pin(None, *core) {
                eprintln!("the clients are not pinned: {error}");
            }
            use_them(clients, buffer)
        };
        std::thread::scope(|scope| match scope.spawn(thread).join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

fn read(client: &mut TcpStream, buffer: &mut [u8]) -> usize {
    let mut total = 0;
    loop {
        match client.read(buffer) {
            Ok(count) if count > 0 => total += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return total,
        }
    }
}

fn broadcast(bench: &mut Bench) -> Outcome<String> {
    for _ in 0..5 {
        let _ = bench.server.broadcast(vec![1; 64]);
        bench.flush()?;
        bench.settle(|_| {})?;
        bench.read_all();
    }
    Ok(String::new())
}

fn broadcast_large(bench: &mut Bench) -> Outcome<String> {
    for _ in 0..3 {
        let _ = bench.server.broadcast(vec![1; 60_000]);
        bench.flush()?;
        bench.settle(|bench| _ = bench.read_all())?;
    }
    Ok(String::new())
}

fn different(bench: &mut Bench) -> Outcome<String> {
    for _ in 0..5 {
        for (number, id) in bench.ids.iter().enumerate() {
            bench.server.send(*id, vec![number as u8; 1024])?;
        }
        bench.flush()?;
        bench.settle(|_| {})?;
        bench.read_all();
    }
    Ok(String::new())
}

fn close_all(bench: &mut Bench) -> Outcome<String> {
    for id in &bench.ids {
        bench.server.close(*id, 1000, "bye")?;
    }
    bench.flush()?;
    Ok(String::new())
}

/// All clients answer the close frame, and disconnect.
fn all_closed(bench: &mut Bench) -> Outcome<String> {
    close_all(bench)?;
    bench.read_all();
    bench.calls.reset();
    bench.write_all(&frame(8, &1000_u16.to_be_bytes(), true))?;
    bench.settle(|_| {})?;
    bench.with_clients(|clients, _| clients.clear());
    bench.settle(|_| {})?;
    let stats = bench.server.stats();
    Ok(format!("{} closed", stats.closed.total()))
}

/// The time of `close(2)` alone, on sockets that no server has seen. No call of a server that
/// closes a socket can be bounded by less.
fn kernel_close(bench: &mut Bench) -> Outcome<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (mut accepted, mut clients) = (Vec::new(), Vec::new());
    let count = bench.clients.len();
    bench.with_clients(|clients, _| clients.clear());
    bench.settle(|_| {})?;
    for _ in 0..count {
        clients.push(TcpStream::connect(listener.local_addr()?)?);
        accepted.push(listener.accept()?.0);
    }
    bench.calls.reset();
    for stream in accepted {
        let before = cpu();
        drop(stream);
        bench.calls.record(cpu() - before)?;
    }
    Ok("single calls of close(2)".into())
}

fn drain(bench: &mut Bench) -> Outcome<String> {
    // One shared frame: freeing a copy for each client would measure the allocator, which returns
    // hundreds of megabytes to the system in one call.
    let message = Prepared::new(vec![1; 700_000]);
    for id in &bench.ids {
        bench.server.send(*id, &message)?;
    }
    bench.flush()?;
    bench.settle(|_| {})?;
    bench.calls.reset();
    let before = bench.server.stats().bytes_out;
    loop {
        bench.read_all();
        bench.settle(|_| {})?;
        if bench.ids.iter().all(|id| bench.server.buffered(*id) == 0) {
            break;
        }
        bench.check()?;
    }
    Ok(format!("{} MB drained", (bench.server.stats().bytes_out - before) / 1_000_000))
}

const GET: &[u8] = b"GET /files/file HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

fn downloads(bench: &mut Bench) -> Outcome<String> {
    bench.write_all(GET)?;
    let want = FILE * bench.clients.len() / 4;
    let mut got = 0;
    while got < want {
        for _ in 0..50 {
            bench.poll()?;
        }
        got += bench.read_all();
        bench.check()?;
    }
    Ok(format!("{} MB", got / 1_000_000))
}

/// One download in a loop of 60 frames per second that polls while there is more.
fn download(bench: &mut Bench) -> Outcome<String> {
    let client = bench.clients.first_mut().ok_or("no client")?;
    client.write_all(GET)?;
    let (start, mut got) = (Instant::now(), 0);
    while got < FILE {
        let frame = Instant::now() + Duration::from_micros(16_667);
        let mut budget = 200;
        while bench.poll_more()? && budget > 0 {
            budget -= 1;
            got += bench.read_all();
        }
        std::thread::sleep(frame.saturating_duration_since(Instant::now()));
        got += bench.read_all();
        bench.check()?;
    }
    Ok(format!("{:.1} MB/s", got as f64 / 1e6 / start.elapsed().as_secs_f64()))
}

fn shutdown(bench: &mut Bench) -> Outcome<String> {
    bench.server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(5));
    while !bench.server.is_drained() {
        bench.poll()?;
        bench.check()?;
    }
    Ok(String::new())
}

fn reset(bench: &mut Bench) -> Outcome<String> {
    bench.with_clients(|clients, _| {
        for client in clients.drain(..) {
            // Closing it then sends RST.
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        }
        std::io::Result::Ok(())
    })?;
    bench.settle(|_| {})?;
    Ok(format!("{} closed", bench.server.stats().closed.total()))
}

/// All clients begin a TLS handshake at the same time, while another client waits for echoes.
fn hellos(bench: &mut Bench) -> Outcome<String> {
    let mut other = established(bench)?;
    let mut client = ClientConnection::new(secure::client_config(false), "localhost".try_into()?)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    let before = bench.server.stats().tls_micros;
    bench.write_all(&hello)?;
    bench.calls.reset();
    let (mut longest, mut idle) = (0, 0);
    while idle < 3 {
        let micros = bench.server.stats().tls_micros;
        longest = longest.max(echo(bench, &mut other)?);
        idle = if bench.server.stats().tls_micros > micros { 0 } else { idle + 1 };
    }
    let each = (bench.server.stats().tls_micros - before) / bench.clients.len() as u64;
    let answered = bench.read_all() > 0;
    let (count, longest) = (bench.clients.len(), longest as f64 / 1e6);
    Ok(format!(
        "{count} hellos, {each} µs each, answered: {answered}; longest echo of another client {longest:.3} ms"
    ))
}

/// Connects a client over TLS, whose messages are echoed from then on.
fn established(bench: &mut Bench) -> Outcome<ClientStream> {
    let socket = TcpStream::connect(bench.server.local_addrs()[0])?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let mut client = ClientStream::client(mio::net::TcpStream::from_std(socket), true, false)?;
    client.write_all(REQUEST)?;
    while bench.ids.is_empty() {
        bench.poll()?;
        receive(bench, &mut client)?;
        bench.check()?;
    }
    bench.settle(|_| {})?;
    receive(bench, &mut client)?;
    bench.echo_to = bench.ids.last().copied();
    Ok(client)
}

/// Sends a message, and returns the CPU time until its echo is there, in nanoseconds.
fn echo(bench: &mut Bench, client: &mut ClientStream) -> Outcome<u64> {
    let begin = cpu();
    client.write_all(&frame(BINARY, &[1; 64], true))?;
    let mut left = frame(BINARY, &[1; 64], false).len();
    while left > 0 {
        bench.poll()?;
        left = left.saturating_sub(receive(bench, client)?);
        bench.check()?;
    }
    Ok(cpu() - begin)
}

/// Reads what has arrived for this client, and returns its length.
fn receive(bench: &mut Bench, client: &mut ClientStream) -> Outcome<usize> {
    match client.read(&mut bench.buffer) {
        Ok(0) => Err("the server has closed the connection".into()),
        Ok(count) => Ok(count),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn expire(bench: &mut Bench) -> Outcome<String> {
    bench.write_all(REQUEST)?;
    bench.settle(|_| {})?;
    bench.calls.reset();
    std::thread::sleep(Duration::from_secs(4));
    bench.settle(|_| {})?;
    Ok(format!("{} expired", bench.server.stats().rejected.unanswered))
}

fn pings(bench: &mut Bench) -> Outcome<String> {
    let before = bench.server.stats().pings;
    std::thread::sleep(Duration::from_secs(3));
    bench.settle(|_| {})?;
    Ok(format!("{} pings", bench.server.stats().pings - before))
}

fn rooms(bench: &mut Bench) -> Outcome<String> {
    for _ in 0..3 {
        for id in &bench.ids {
            bench.server.join(*id, "everybody")?;
        }
        let room = Audience::Room("everybody".into());
        let _ = bench.server.deliver(room, vec![1; 64], &SendOptions::new());
        for id in &bench.ids {
            bench.server.leave(*id, "everybody")?;
        }
        bench.flush()?;
        bench.settle(|_| {})?;
        bench.read_all();
    }
    Ok(String::new())
}

/// Two seconds of a game that broadcasts in each of its 60 frames per second. The flush of a frame
/// goes on in the polls of the next one.
fn frames(bench: &mut Bench, options: &SendOptions) -> Outcome<String> {
    let echo = frame(BINARY, &[1; 16], true);
    let mut most = 0;
    for number in 0..120 {
        if let Some(client) = bench.clients.get_mut(number) {
            client.write_all(&echo)?;
        }
        let _ = bench.server.deliver(Audience::Everyone, vec![1; 64], options);
        let before = cpu();
        let left = bench.server.flush();
        bench.calls.record(cpu() - before)?;
        most = most.max(left);
        for _ in 0..4 {
            bench.poll()?;
        }
        if number % 10 == 0 {
            bench.read_all();
        }
    }
    Ok(format!("at most {most} clients waited, {} values replaced", bench.server.stats().replaced))
}

/// Each client sends one message of 1 MiB, all at the same time.
fn large_messages(bench: &mut Bench) -> Outcome<String> {
    let message = frame(BINARY, &vec![1; 1 << 20], true);
    let mut sent = vec![0; bench.clients.len()];
    let before = bench.server.stats().messages_in;
    loop {
        let left = bench.with_clients(|clients, _| {
            for (client, sent) in clients.iter_mut().zip(&mut sent) {
                let end = message.len().min(*sent + 64 * 1024);
                // A client that was closed, or whose buffer is full, sends nothing now.
                *sent += client.write(&message[*sent..end]).unwrap_or(0);
            }
            sent.iter().filter(|sent| **sent < message.len()).count()
        });
        for _ in 0..50 {
            bench.poll()?;
        }
        let stats = bench.server.stats();
        let (received, shed) = (stats.messages_in - before, stats.closed.total());
        if received + shed >= bench.clients.len() as u64 {
            return Ok(format!("{received} received, {shed} closed"));
        }
        bench
            .check()
            .map_err(|error| format!("{error}: {received} received, {shed} closed, {left} sending"))?;
    }
}
