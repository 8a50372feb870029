//! System calls of the server under load, counted by `strace`, and its CPU time per message without
//! `strace`.
//!
//! ```sh
//! cargo bench --bench syscalls [-- echo|broadcast]
//! ```

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use support::{Bench, Outcome, cpu_time, frame, raise_descriptor_limit, reply_len};

const ECHO: Load = Load { mode: "echo", clients: 64, payload: 125, depth: 32, rounds: 200 };
const BROADCAST: Load = Load { mode: "broadcast", clients: 1000, payload: 64, depth: 1, rounds: 100 };

#[derive(Clone, Copy)]
struct Load {
    mode: &'static str,
    clients: usize,
    payload: usize,
    /// Messages in flight, per client for echo and in all for broadcast.
    depth: usize,
    rounds: usize,
}

fn main() -> Outcome<()> {
    if support::is_server()? {
        return Ok(());
    }
    raise_descriptor_limit();
    let only = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    for load in [ECHO, BROADCAST] {
        if only.as_deref().is_none_or(|mode| mode == load.mode) {
            measure(load)?;
        }
    }
    Ok(())
}

fn measure(load: Load) -> Outcome<()> {
    let Load { mode, clients, payload, depth, rounds } = load;
    println!("{mode}: {clients} clients, {payload} bytes, {depth} in flight, {rounds} rounds");

    let bench = Bench::start(mode, &[])?;
    let mut sockets = connect(&bench, clients)?;
    run(&load, &mut sockets, rounds / 10)?;
    let [before, _] = cpu_time(bench.pid())?;
    run(&load, &mut sockets, rounds)?;
    let delivered = (clients * depth * rounds) as u64;
    let [after, _] = cpu_time(bench.pid())?;
    println!("  {} ns CPU per message delivered", (after - before) / delivered);
    drop(sockets);
    bench.stop()?;

    if Command::new("strace").arg("-V").output().is_err() {
        println!("  (install strace for the system calls)");
        return Ok(());
    }
    // One run without a load: its calls are subtracted.
    let mut counts = Vec::new();
    for rounds in [0, rounds] {
        let log = std::env::temp_dir().join(format!("tickws-strace-{}", std::process::id()));
        let path = log.to_str().ok_or("the temporary folder has no name")?;
        let bench = Bench::start(mode, &["strace", "-c", "-f", "-o", path])?;
        let mut sockets = connect(&bench, clients)?;
        run(&load, &mut sockets, rounds)?;
        drop(sockets);
        bench.stop()?;
        counts.push(calls(&fs::read_to_string(&log)?));
        fs::remove_file(&log)?;
    }
    let messages = if mode == "echo" { delivered } else { (depth * rounds) as u64 };
    println!("  {messages} messages in, {delivered} out; system calls in the steady state:");
    for (name, count) in &counts[1] {
        let idle = counts[0].iter().find(|(other, _)| other == name).map_or(0, |(_, count)| *count);
        let steady = count.saturating_sub(idle);
        if steady > delivered / 10_000 {
            println!(
                "  {name:>14} {steady:>8}  = {:.4} per message delivered",
                steady as f64 / delivered as f64
            );
        }
    }
    let epoll_ctl =
        |counts: &[(String, u64)]| counts.iter().find(|(name, _)| name == "epoll_ctl").map_or(0, |c| c.1);
    println!("       epoll_ctl {:>8}  without the load {}", epoll_ctl(&counts[1]), epoll_ctl(&counts[0]));
    Ok(())
}

fn connect(bench: &Bench, clients: usize) -> Outcome<Vec<TcpStream>> {
    (0..clients).map(|_| bench.connect()).collect()
}

/// Each round writes all messages that are to be in flight, then reads all replies.
fn run(load: &Load, sockets: &mut [TcpStream], rounds: usize) -> Outcome<()> {
    let request = frame(&vec![7; load.payload]).repeat(load.depth);
    let mut reply = vec![0; reply_len(load.payload) * load.depth];
    for _ in 0..rounds {
        let senders = if load.mode == "echo" { sockets.len() } else { 1 };
        for socket in &mut sockets[..senders] {
            socket.write_all(&request)?;
        }
        for socket in &mut *sockets {
            socket.read_exact(&mut reply)?;
        }
    }
    Ok(())
}

/// Names and numbers of calls in the table of `strace -c`.
fn calls(table: &str) -> Vec<(String, u64)> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() >= 5)
        .filter_map(|row| Some((row.last()?.to_string(), row[3].parse().ok()?)))
        .filter(|(name, _)| name != "total")
        .collect()
}
