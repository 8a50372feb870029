//! The cost of publishing, and that it does not depend on the number of rooms: 1,000 connections in
//! this process, and 10 to 10,000 rooms with 10 members each. Each row has the same number of
//! deliveries.
//!
//! ```sh
//! cargo bench --bench publish [-- time|callgrind|quick]
//! ```
//!
//! `callgrind` counts instructions and calls, and needs valgrind; `time` measures time. Without an
//! argument both are done; `quick` does both as a smoke test.

mod support;

use std::{
    collections::HashMap,
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use support::{Outcome, median, raise_descriptor_limit, read_head, reply_len, request};
use tickws::{RoomId, Server};

const CLIENTS: usize = 1_000;
const MEMBERS: usize = 10;
const PAYLOAD: [u8; 64] = [7; 64];
/// Publishes between two flushes: with 100 rooms or more, one message for each client.
const PUBLISHES_PER_FLUSH: usize = CLIENTS / MEMBERS;
/// Environment variable of the process that runs under valgrind: its task.
const CHILD: &str = "TICKWS_BENCH_PUBLISH";

fn main() -> Outcome<()> {
    raise_descriptor_limit();
    if let Ok(task) = std::env::var(CHILD) {
        return run_counted(&task);
    }
    let what = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let what = what.as_deref().unwrap_or("all");
    let flushes = if what == "quick" { 10 } else { 100 };
    let deliveries = flushes * PUBLISHES_PER_FLUSH * MEMBERS;
    println!(
        "{CLIENTS} clients, {MEMBERS} in each room, {} bytes, {deliveries} deliveries for each figure, \
         {CLIENTS} between two flushes",
        PAYLOAD.len()
    );
    if what != "callgrind" {
        measure(flushes, if what == "quick" { 1 } else { 7 })?;
    }
    if what != "time" {
        count(flushes)?;
    }
    Ok(())
}

/// A server and its clients on one thread.
struct World {
    server: Server,
    clients: Vec<TcpStream>,
    names: Vec<String>,
    ids: Vec<RoomId>,
    /// The room to publish to next.
    next: usize,
    reply: Vec<u8>,
}

/// How a room is referred to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    Name,
    Id,
}

impl World {
    fn new(rooms: usize) -> Outcome<World> {
        // Pings and the silence timeout are off, so that there is no other load.
        let mut server = Server::builder().ping_interval(None).silence_timeout(None).bind("127.0.0.1:0")?;
        let addr = server.local_addrs()[0];
        let mut clients = Vec::new();
        while clients.len() < CLIENTS {
            let mut client = TcpStream::connect(addr)?;
            client.write_all(request("/").as_bytes())?;
            while server.client_count() == clients.len() {
                drop(server.poll_for(Duration::from_secs(1))?);
            }
            server.flush();
            read_head(&mut client)?;
            client.set_nonblocking(true)?;
            clients.push(client);
        }
        let ids: Vec<_> = server.clients().collect();
        let names: Vec<_> = (0..rooms).map(|room| format!("room number {room:05}")).collect();
        for (room, name) in names.iter().enumerate() {
            for member in 0..MEMBERS {
                // A prime stride spreads the members of a room, and gives every client one of any
                // 100 rooms in a row.
                let client = (room * MEMBERS + member) * 7919 % CLIENTS;
                server.join(ids[client], name)?;
            }
        }
        let ids = names.iter().filter_map(|name| server.room(name)).collect();
        Ok(World { server, clients, names, ids, next: 0, reply: vec![0; 64 * 1024] })
    }

    /// Publishes to the next rooms in turn; gives the number of deliveries.
    #[inline(always)]
    fn publish(&mut self, by: By, publishes: usize) -> usize {
        let mut queued = 0;
        for _ in 0..publishes {
            let room = self.next;
            self.next = (room + 1) % self.names.len();
            queued += match by {
                By::Name => self.server.publish(&self.names[room], PAYLOAD).queued,
                By::Id => self.server.publish(self.ids[room], PAYLOAD).queued,
            };
        }
        queued
    }

    /// Publishes until the next flush. Callgrind finds this function by its name.
    #[inline(never)]
    fn publish_counted(&mut self, by: By) -> usize {
        self.publish(by, PUBLISHES_PER_FLUSH)
    }

    /// The clients read everything that was published.
    fn drain(&mut self, deliveries: usize) -> Outcome<()> {
        let mut left = deliveries * reply_len(PAYLOAD.len());
        let end = Instant::now() + Duration::from_secs(60);
        while left > 0 {
            for client in &mut self.clients {
                match client.read(&mut self.reply) {
                    Ok(0) => return Err("the server hung up".into()),
                    Ok(count) => left = left.checked_sub(count).ok_or("received more than was published")?,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if Instant::now() > end {
                return Err(format!("{left} bytes did not arrive within 60 s").into());
            }
        }
        Ok(())
    }

    /// Nanoseconds per delivery: queueing alone, and queueing with flushing.
    fn round(&mut self, by: By, flushes: usize) -> Outcome<[f64; 2]> {
        let (mut queueing, mut flushing, mut deliveries) = (Duration::ZERO, Duration::ZERO, 0);
        for _ in 0..flushes {
            let begin = Instant::now();
            let queued = self.publish(by, PUBLISHES_PER_FLUSH);
            let middle = Instant::now();
            self.server.flush();
            flushing += middle.elapsed();
            queueing += middle - begin;
            deliveries += queued;
            self.drain(queued)?;
        }
        check(deliveries, flushes)?;
        let per = |time: Duration| time.as_nanos() as f64 / deliveries as f64;
        Ok([per(queueing), per(queueing + flushing)])
    }
}

fn check(deliveries: usize, flushes: usize) -> Outcome<()> {
    let expected = flushes * PUBLISHES_PER_FLUSH * MEMBERS;
    if deliveries != expected {
        return Err(format!("{deliveries} deliveries instead of {expected}").into());
    }
    Ok(())
}

/// Prints the time per delivery. The rows take turns, so that other load affects all of them alike.
fn measure(flushes: usize, rounds: usize) -> Outcome<()> {
    let mut rows = Vec::new();
    for rooms in [10, 100, 1_000, 10_000] {
        let mut world = World::new(rooms)?;
        world.round(By::Name, flushes / 10)?;
        rows.push((rooms, world, [By::Name, By::Id].map(|by| (by, Vec::new()))));
    }
    for _ in 0..rounds {
        for (_, world, columns) in &mut rows {
            for (by, figures) in columns {
                figures.push(world.round(*by, flushes)?);
            }
        }
    }
    println!("ns per delivery, medians of {rounds} rounds:");
    println!("   rooms   publish by name     by id   with flush: by name     by id");
    for (rooms, _, columns) in rows {
        let [name, id] = columns.map(|(_, figures)| {
            [0, 1].map(|part| median(figures.iter().map(|figure: &[f64; 2]| figure[part]).collect()))
        });
        println!("  {rooms:>6}  {:>16.1}  {:>8.1}  {:>20.1}  {:>8.1}", name[0], id[0], name[1], id[1]);
    }
    println!("  (10 rooms have 100 clients: each gets 10 messages in one write)");
    Ok(())
}

/// Runs in the process under valgrind; the task is "ROOMS name|id FLUSHES".
fn run_counted(task: &str) -> Outcome<()> {
    let words: Vec<_> = task.split(' ').collect();
    let [rooms, by, flushes] = words[..] else { return Err("ROOMS BY FLUSHES".into()) };
    let (rooms, flushes) = (rooms.parse()?, flushes.parse()?);
    let by = if by == "id" { By::Id } else { By::Name };
    let mut world = World::new(rooms)?;
    // These rounds fill the pools.
    world.round(by, 2)?;
    let mut deliveries = 0;
    for _ in 0..flushes {
        let queued = world.publish_counted(by);
        deliveries += queued;
        world.server.flush();
        world.drain(queued)?;
    }
    check(deliveries, flushes)
}

/// Prints the instructions and calls per delivery.
fn count(flushes: usize) -> Outcome<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("  (install valgrind for the count of instructions and calls)");
        return Ok(());
    }
    let deliveries = (flushes * PUBLISHES_PER_FLUSH * MEMBERS) as f64;
    println!("publish alone, counted by callgrind, per delivery:");
    println!("   rooms   by    instructions     calls   name lookups");
    for by in ["name", "id"] {
        let mut few = 0.0;
        for rooms in [100, 1_000, 10_000] {
            let counts = callgrind(rooms, by, flushes)?;
            let [instructions, calls, hashes] = counts.map(|count| count as f64 / deliveries);
            println!("  {rooms:>6} {by:>4}  {instructions:>14.2}  {calls:>8.3}  {hashes:>13.3}");
            if rooms == 100 {
                few = instructions;
            } else if rooms == 10_000 {
                println!("  by {by}: 10,000 rooms / 100 rooms = {:.4} in instructions", instructions / few);
            }
        }
    }
    Ok(())
}

/// Instructions, calls, and calls of the hasher while publishing.
fn callgrind(rooms: usize, by: &str, flushes: usize) -> Outcome<[u64; 3]> {
    // Callgrind also counts calls outside the collected function, so the counts of a short run are
    // subtracted.
    let (before, base) = profile(&format!("{rooms} {by} 1"))?;
    let (after, instructions) = profile(&format!("{rooms} {by} {}", flushes + 1))?;
    let (mut calls, mut hashes) = (0, 0);
    for (edge, (count, cost)) in after {
        // A call without cost was never made while publishing.
        if cost > 0 {
            let count = count.saturating_sub(before.get(&edge).map_or(0, |(count, _)| *count));
            calls += count;
            hashes += if edge.1.contains("hash_one") { count } else { 0 };
        }
    }
    Ok([instructions - base.min(instructions), calls, hashes])
}

/// For each caller and callee: the number of calls and their cost while publishing.
type Edges = HashMap<(String, String), (u64, u64)>;

/// Runs a task under callgrind; gives its calls and its instructions.
fn profile(task: &str) -> Outcome<(Edges, u64)> {
    let out = std::env::temp_dir().join(format!("tickws-callgrind-{}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*publish_counted*", "--compress-strings=no"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .env(CHILD, task)
        .output()?;
    let text = fs::read_to_string(&out);
    let _ = fs::remove_file(&out);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let (mut edges, mut instructions) = (Edges::new(), 0);
    let (mut caller, mut callee, mut calls) = ("", "", 0);
    // The value is the last word of a line, except in `calls=COUNT POSITION`, whose cost is on the
    // next line.
    for line in text?.lines() {
        let last = || line.rsplit(' ').next().unwrap_or("").parse();
        if line.starts_with("totals: ") {
            instructions = last()?;
        } else if let Some(name) = line.strip_prefix("fn=") {
            caller = name;
        } else if let Some(name) = line.strip_prefix("cfn=") {
            callee = name;
        } else if let Some(call) = line.strip_prefix("calls=") {
            calls = call.split(' ').next().unwrap_or("").parse()?;
        } else if calls > 0 {
            let edge = edges.entry((caller.to_owned(), callee.to_owned())).or_default();
            (edge.0, edge.1) = (edge.0 + calls, edge.1 + last()?);
            calls = 0;
        }
    }
    Ok((edges, instructions))
}
