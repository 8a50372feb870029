//! Instructions per echoed message, counted by callgrind, without features and with each. A feature
//! that is compiled in but not configured must cost nothing.
//!
//! ```sh
//! cargo bench --bench echo [-- quick]
//! ```
//!
//! Needs valgrind. Builds this program once for each set of features.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use support::{Outcome, frame, read_head, reply_len, request};
use tickws::{Event, Server};

const CLIENTS: usize = 16;
/// Messages of each client per round.
const AT_ONCE: usize = 32;
const PAYLOAD: [u8; 125] = [7; 125];
/// Environment variable of the process that runs under valgrind: the number of rounds.
const CHILD: &str = "TICKWS_BENCH_ECHO";
/// Environment variable of a run with one set of features, which prints only its count.
const COUNT: &str = "TICKWS_BENCH_ECHO_COUNT";

fn main() -> Outcome<()> {
    if let Ok(rounds) = std::env::var(CHILD) {
        return run_counted(rounds.parse()?);
    }
    if let Ok(rounds) = std::env::var(COUNT) {
        println!("{}", count(rounds.parse()?)?);
        return Ok(());
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("install valgrind for the count of instructions");
        return Ok(());
    }
    let quick = std::env::args().any(|arg| arg == "quick");
    let rounds = if quick { "20" } else { "200" };
    println!("instructions per echoed message of {} bytes:", PAYLOAD.len());
    let mut without = None;
    for features in ["", "deflate", "json", "sim", "deflate json sim"] {
        let output = Command::new(env!("CARGO"))
            .args(["bench", "--locked", "--bench", "echo", "--quiet", "--features", features])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env(COUNT, rounds)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(count) = text.lines().find_map(|line| line.trim().parse::<f64>().ok()) else {
            return Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)).into());
        };
        let base = *without.get_or_insert(count);
        let name = if features.is_empty() { "no features" } else { features };
        let change = (count / base - 1.0) * 100.0;
        println!("  {name:<14} {count:>8.1}  {change:>+6.2} %");
        if change > 1.0 {
            return Err("a feature that is not used costs more than 1 %".into());
        }
    }
    Ok(())
}

/// Echoes all messages. Callgrind finds this function by its name.
#[inline(never)]
fn echo_counted(server: &mut Server, messages: usize) -> Outcome<()> {
    let mut echoed = 0;
    while echoed < messages {
        for event in &server.poll_for(Duration::from_secs(10))? {
            if let Event::Message { client, message } = event {
                server.send(client, message)?;
                echoed += 1;
            }
        }
    }
    server.flush();
    Ok(())
}

/// Runs in the process under valgrind.
fn run_counted(rounds: usize) -> Outcome<()> {
    let mut server = Server::builder().ping_interval(None).silence_timeout(None).bind("127.0.0.1:0")?;
    let mut clients = Vec::new();
    while clients.len() < CLIENTS {
        let mut client = TcpStream::connect(server.local_addrs()[0])?;
        client.write_all(request("/").as_bytes())?;
        while server.client_count() == clients.len() {
            drop(server.poll_for(Duration::from_secs(1))?);
        }
        server.flush();
        read_head(&mut client)?;
        clients.push(client);
    }
    let burst = frame(&PAYLOAD).repeat(AT_ONCE);
    let mut reply = vec![0; AT_ONCE * reply_len(PAYLOAD.len())];
    for _ in 0..rounds {
        for client in &mut clients {
            client.write_all(&burst)?;
        }
        echo_counted(&mut server, CLIENTS * AT_ONCE)?;
        for client in &mut clients {
            client.read_exact(&mut reply)?;
        }
    }
    Ok(())
}

/// Counts the instructions per message.
fn count(rounds: usize) -> Outcome<f64> {
    // Both runs include the first rounds, which fill the pools.
    let total = callgrind(rounds + 5)? - callgrind(5)?;
    Ok(total / (rounds * CLIENTS * AT_ONCE) as f64)
}

fn callgrind(rounds: usize) -> Outcome<f64> {
    let out = std::env::temp_dir().join(format!("tickws-callgrind-{}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*echo_counted*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .env(CHILD, rounds.to_string())
        .output()?;
    let text = fs::read_to_string(&out);
    let _ = fs::remove_file(&out);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let text = text?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.ok_or("no totals")?.trim().parse()?)
}
