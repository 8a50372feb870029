//! Shared by the benchmarks: a server in a process of its own, and raw clients.

#![allow(dead_code, reason = "each benchmark uses a part")]

use std::{
    error::Error,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use rustix::{
    process::{Pid, Resource, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use tickws::{CloseCode, Event, Server};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Runs the server if this process was started as one; `false` otherwise.
pub fn is_server() -> Outcome<bool> {
    let Ok(mode) = std::env::var("TICKWS_BENCH_SERVER") else { return Ok(false) };
    raise_descriptor_limit();
    let broadcast = mode == "broadcast";
    let mut server = Server::builder().ping_interval(None).silence_timeout(None).bind("127.0.0.1:0")?;
    println!("{}", server.local_addrs()[0]);
    // The message "quit", from any client, ends the server.
    server.run(|server, event| {
        if let Event::Message { client, message } = event {
            match message.as_bytes() {
                b"quit" => server.shutdown(CloseCode::GOING_AWAY, "", std::time::Duration::ZERO),
                _ if broadcast => drop(server.broadcast(message)),
                _ => drop(server.send(client, message)),
            }
        }
    })?;
    Ok(true)
}

/// A server process, ended when dropped.
pub struct Bench {
    child: Child,
    pub addr: String,
}

impl Bench {
    /// Starts this program again as a server, under the command `wrapper` if there is one.
    pub fn start(mode: &str, wrapper: &[&str]) -> Outcome<Bench> {
        let own = std::env::current_exe()?;
        let mut command = match wrapper {
            [] => Command::new(&own),
            [program, args @ ..] => {
                let mut command = Command::new(program);
                command.args(args).arg(&own);
                command
            }
        };
        let mut child = command.env("TICKWS_BENCH_SERVER", mode).stdout(Stdio::piped()).spawn()?;
        let mut addr = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut addr)?;
        Ok(Bench { child, addr: addr.trim().to_string() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client with a complete handshake.
    pub fn connect(&self) -> Outcome<TcpStream> {
        let mut stream = TcpStream::connect(&self.addr)?;
        stream.set_nodelay(true)?;
        stream.write_all(request("/").as_bytes())?;
        read_head(&mut stream)?;
        Ok(stream)
    }

    /// Ends the server and waits for it.
    pub fn stop(mut self) -> Outcome<()> {
        self.connect()?.write_all(&frame(b"quit"))?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pins the server to one core and this process to another; `false` if there is only one.
pub fn pin(bench: &Bench) -> Outcome<bool> {
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let (Some(first), Some(second)) = (cores.next(), cores.next()) else { return Ok(false) };
    let pid = Pid::from_raw(bench.pid().try_into()?);
    for (pid, core) in [(pid, first), (None, second)] {
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(pid, &set)?;
    }
    Ok(true)
}

/// An upgrade request.
pub fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Reads the response to [`request`], and nothing after it.
pub fn read_head(stream: &mut TcpStream) -> Outcome<()> {
    // The response always has this length.
    let mut head = [0; 129];
    stream.read_exact(&mut head)?;
    if !head.starts_with(b"HTTP/1.1 101") || !head.ends_with(b"\r\n\r\n") {
        return Err(String::from_utf8_lossy(&head).into_owned().into());
    }
    Ok(())
}

/// User and system time of the first thread of a process, and the time for which it was runnable
/// but had no core; in nanoseconds.
pub fn cpu_time(pid: u32) -> Outcome<[u64; 2]> {
    let line = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let mut words = line.split_whitespace();
    let mut number = || Outcome::Ok(words.next().ok_or("schedstat is short")?.parse()?);
    Ok([number()?, number()?])
}

/// The median; NaN of no values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A masked binary frame with a payload below 64 KiB.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x82];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// The length of the frame that echoes the payload.
pub fn reply_len(payload: usize) -> usize {
    payload
        + match payload {
            0..126 => 2,
            126..65_536 => 4,
            _ => 10,
        }
}

/// Raises the descriptor limit to the hard limit.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("cannot raise the descriptor limit: {error}");
    }
}

/// Anonymous resident memory in bytes, without pages of the program's file.
pub fn resident(pid: u32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find(|line| line.starts_with("RssAnon:")).ok_or("no RssAnon: this needs Linux")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kib * 1024)
}
