//! Instructions of tickws in user space, counted by callgrind; the count is the same on a busy
//! machine.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use tickws::{Event, Server};

use crate::{
    Outcome,
    load::{
        connect_with, read_head,
        wire::{REQUEST, Script, close, payload},
    },
    servers::{self, TICKWS},
};

/// Counted rounds, after one that fills the pools.
const ROUNDS: u64 = 10;
/// Functions to print for each task.
const NAMED: usize = 8;
/// A round that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(120);
const IDLE: (usize, u64) = (10_000, 2_000);

/// A server and its clients on one thread.
#[derive(Debug, Clone, Copy)]
struct Task {
    name: &'static str,
    unit: &'static str,
    broadcast: bool,
    /// Each round opens new clients.
    churn: bool,
    clients: usize,
    depth: usize,
    payload: usize,
    text: bool,
}

const TASK: Task = Task {
    name: "echo-16",
    unit: "message",
    broadcast: false,
    churn: false,
    clients: 64,
    depth: 1,
    payload: 16,
    text: false,
};

const TASKS: [Task; 8] = [
    TASK,
    Task { name: "echo-125", payload: 125, depth: 32, ..TASK },
    Task { name: "echo-125-text", payload: 125, depth: 32, text: true, ..TASK },
    Task { name: "echo-1k", payload: 1 << 10, ..TASK },
    Task { name: "echo-64k", payload: 64 << 10, clients: 16, ..TASK },
    Task { name: "fanout-64", unit: "delivery", broadcast: true, clients: 1_000, payload: 64, ..TASK },
    Task { name: "fanout-1k", unit: "delivery", broadcast: true, clients: 1_000, payload: 1 << 10, ..TASK },
    Task { name: "churn", unit: "connection", churn: true, ..TASK },
];

impl Task {
    /// Messages or deliveries per round.
    fn units(&self) -> usize {
        self.clients * self.depth
    }

    fn senders(&self) -> usize {
        if self.broadcast { 1 } else { self.clients }
    }
}

pub fn run(only: &[String]) -> Outcome<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Err("valgrind is not installed".into());
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| name.starts_with(only.as_str()));
    for task in TASKS.iter().filter(|task| wanted(task.name)) {
        let base = profile(task.name, 1)?;
        let counted = profile(task.name, 1 + ROUNDS)?;
        let units = (task.units() as u64 * ROUNDS) as f64;
        print(task.name, task.unit, &counted.without(&base), units);
    }
    if wanted("tick") {
        let costs = idle()?;
        print("tick, 10,000 clients", "poll", &costs, IDLE.1 as f64);
    }
    Ok(())
}

fn print(name: &str, unit: &str, costs: &Costs, units: f64) {
    println!("{name}: {:.1} instructions per {unit}", costs.total as f64 / units);
    let mut functions: Vec<_> = costs.functions.iter().collect();
    functions.sort_by_key(|(_, cost)| std::cmp::Reverse(**cost));
    for (function, cost) in functions.into_iter().take(NAMED) {
        println!("  {:>10.1}  {function}", *cost as f64 / units);
    }
}

/// Runs under valgrind; the arguments are "NAME ROUNDS".
pub fn run_counted(words: &[String]) -> Outcome<()> {
    let [name, rounds] = words else { return Err("NAME ROUNDS".into()) };
    let task = TASKS.iter().find(|task| task.name == name).ok_or("no such task")?;
    let mut world = World::new(task)?;
    for _ in 0..rounds.parse()? {
        world.round()?;
    }
    Ok(())
}

struct World<'a> {
    task: &'a Task,
    server: Server,
    clients: Vec<TcpStream>,
    requests: Vec<u8>,
    reply: Vec<u8>,
}

impl World<'_> {
    fn new(task: &Task) -> Outcome<World<'_>> {
        // Pings and the silence timeout are off, so that there is no other load however long
        // valgrind takes.
        let builder = Server::builder().ping_interval(None).silence_timeout(None).max_buffered(16 << 20);
        let mut server = builder.bind("127.0.0.1:0")?;
        let addr = server.local_addrs()[0];
        let mut clients = Vec::new();
        while !task.churn && clients.len() < task.clients {
            let serve = || {
                drop(server.poll_for(Duration::from_millis(1))?);
                Ok(())
            };
            clients.push(connect_with(addr, clients.len(), serve)?);
        }
        let script = Script::new(&payload(task.payload, task.text, 1), task.text, task.depth);
        let reply = vec![0; script.reply.len() * task.depth];
        Ok(World { task, server, clients, requests: script.requests.to_vec(), reply })
    }

    /// Sends the messages of every sender, and reads what the server sends in turn.
    fn round(&mut self) -> Outcome<()> {
        if self.task.churn {
            return self.churn_round();
        }
        let senders = self.task.senders();
        for client in &mut self.clients[..senders] {
            client.write_all(&self.requests)?;
        }
        serve_round(&mut self.server, self.task.broadcast, senders * self.task.depth)?;
        for client in &mut self.clients {
            client.read_exact(&mut self.reply)?;
        }
        Ok(())
    }

    /// Clients that connect, send one message and close.
    fn churn_round(&mut self) -> Outcome<()> {
        let addr = self.server.local_addrs()[0];
        let clients = self.task.clients;
        let mut streams = Vec::with_capacity(clients);
        for _ in 0..clients {
            let mut stream = TcpStream::connect(addr)?;
            stream.write_all(REQUEST)?;
            streams.push(stream);
        }
        serve_round(&mut self.server, false, clients)?;
        let (close, mut close_reply) = close();
        for stream in &mut streams {
            read_head(stream)?;
            stream.write_all(&self.requests)?;
        }
        serve_round(&mut self.server, false, clients)?;
        for stream in &mut streams {
            stream.read_exact(&mut self.reply)?;
            stream.write_all(&close)?;
        }
        serve_round(&mut self.server, false, clients)?;
        for stream in &mut streams {
            stream.read_exact(&mut close_reply)?;
        }
        drop(streams);
        serve_round(&mut self.server, false, 0)
    }
}

/// Serves until so many events have been reported, then flushes. Callgrind finds this function by
/// its name.
#[inline(never)]
fn serve_round(server: &mut Server, broadcast: bool, events: usize) -> Outcome<()> {
    let end = Instant::now() + PATIENCE;
    let mut served = 0;
    loop {
        for event in &server.poll_once()? {
            served += 1;
            if let Event::Message { client, message } = event {
                if broadcast {
                    let _ = server.broadcast(message);
                } else {
                    server.send(client, message)?;
                }
            }
        }
        if served >= events {
            break;
        }
        if Instant::now() > end {
            return Err("the expected events did not occur".into());
        }
    }
    server.flush();
    Ok(())
}

/// Instructions in total, and of each function without its callees.
#[derive(Debug, Default)]
struct Costs {
    total: u64,
    functions: HashMap<String, u64>,
}

impl Costs {
    fn without(mut self, base: &Costs) -> Costs {
        self.total = self.total.saturating_sub(base.total);
        for (function, cost) in &mut self.functions {
            *cost = cost.saturating_sub(base.functions.get(function).copied().unwrap_or(0));
        }
        self
    }

    /// Parses callgrind's output: the line after `calls=` is the cost of the callee.
    fn parse(text: &str) -> Outcome<Costs> {
        let mut costs = Costs::default();
        let (mut function, mut of_callee) = (None, false);
        for line in text.lines() {
            if let Some(total) = line.strip_prefix("totals: ") {
                costs.total = total.trim().parse()?;
            } else if let Some(name) = line.strip_prefix("fn=") {
                function = Some(name.to_owned());
            } else if line.starts_with("calls=") {
                of_callee = true;
            } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
                let cost = line.split_whitespace().nth(1).unwrap_or("0").parse::<u64>()?;
                if let (false, Some(function)) = (of_callee, &function) {
                    *costs.functions.entry(function.clone()).or_default() += cost;
                }
                of_callee = false;
            }
        }
        Ok(costs)
    }
}

fn arguments(function: &str, out: &std::path::Path) -> [String; 5] {
    [
        "--tool=callgrind".into(),
        "--quiet".into(),
        "--compress-strings=no".into(),
        format!("--toggle-collect=*{function}*"),
        format!("--callgrind-out-file={}", out.display()),
    ]
}

fn profile(name: &str, rounds: u64) -> Outcome<Costs> {
    let out = servers::output_dir()?.join(format!("callgrind.{name}"));
    let output = Command::new("valgrind")
        .args(arguments("serve_round", &out))
        .arg(std::env::current_exe()?)
        .args(["counted", name, &rounds.to_string()])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Costs::parse(&fs::read_to_string(out)?)
}

/// The clients are in this process and the server in another: both ends of 10,000 connections need
/// more descriptors than one process may have.
fn idle() -> Outcome<Costs> {
    let out = servers::output_dir()?.join("callgrind.tick");
    let (clients, polls) = IDLE;
    let args = arguments("idle_polls", &out);
    let wrapper: Vec<_> = std::iter::once("valgrind").chain(args.iter().map(String::as_str)).collect();
    let mut server = servers::Server::start_behind(&wrapper, TICKWS, &format!("idle:{clients}:0:{polls}:1"))?;
    let mut open = Vec::with_capacity(clients);
    for index in 0..clients {
        open.push(crate::load::connect(server.target(), index)?);
    }
    server.output.read_line(&mut String::new())?;
    server.wait()?;
    Costs::parse(&fs::read_to_string(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_callee_does_not_count_for_its_caller() {
        let text = "fn=a\n1 10\n+2 5\ncfn=b\ncalls=3 7\n4 100\n* 1\n\nfn=b\n7 100\ntotals: 116\n";
        let costs = Costs::parse(text).unwrap();
        assert_eq!((costs.total, costs.functions["a"], costs.functions["b"]), (116, 16, 100));
    }
}
