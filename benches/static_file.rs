//! Requests per second for a file of 1 KiB over HTTP, compared with a bare mio loop that writes the
//! same bytes for any request. Needs `wrk`.
//!
//! ```sh
//! cargo bench --bench static_file [-- SECONDS]
//! ```
//!
//! Server and load have a core each if there are two. The bare loop runs before and after each of
//! the others; a ratio is relative to the mean of the two.

mod support;

use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind, Read, Write},
    path::Path,
    process::Command,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, net::TcpListener};
use support::{Bench, Outcome, median, pin};
use tickws::{CloseCode, Event, Server};

const BODY: [u8; 1024] = [b'x'; 1024];
const CONNECTIONS: usize = 64;
const ROUNDS: usize = 5;

fn main() -> Outcome<()> {
    if let Ok(mode) = std::env::var("TICKWS_BENCH_SERVER") {
        return serve(&mode);
    }
    let seconds: f64 = match std::env::args().skip(1).find(|arg| !arg.starts_with('-')) {
        Some(seconds) => seconds.parse()?,
        None => 3.0,
    };
    if Command::new("wrk").arg("-v").output().is_err() {
        println!("skipped: no wrk (apt-get install wrk)");
        return Ok(());
    }
    println!(
        "GET of {} bytes, {CONNECTIONS} connections, {seconds} s each, medians of {ROUNDS}:",
        BODY.len()
    );
    let mut ratios: HashMap<&str, Vec<(f64, f64)>> = HashMap::new();
    let mut bare = requests_per_second("bare", seconds)?;
    for mode in ["bytes", "folder"].repeat(ROUNDS) {
        let own = requests_per_second(mode, seconds)?;
        let after = requests_per_second("bare", seconds)?;
        ratios.entry(mode).or_default().push((own, own / ((bare + after) / 2.0)));
        bare = after;
    }
    for (mode, name) in [("bytes", "serve_bytes"), ("folder", "serve_dir")] {
        let (rates, ratios): (Vec<f64>, Vec<f64>) =
            ratios.remove(mode).unwrap_or_default().into_iter().unzip();
        println!("  {name:12} {:8.0} requests/s, {:.3} of the bare loop", median(rates), median(ratios));
    }
    println!("  the bare loop, last: {bare:.0} requests/s");
    Ok(())
}

fn requests_per_second(mode: &str, seconds: f64) -> Outcome<f64> {
    let bench = Bench::start(mode, &[])?;
    pin(&bench)?;
    let output = Command::new("wrk")
        .args(["-t", "1", "-c", &CONNECTIONS.to_string(), "-d", &format!("{}s", seconds.max(1.0) as u64)])
        .arg(format!("http://{}/file.txt", bench.addr))
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(text.into());
    }
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).ok_or("no rate from wrk")?;
    Ok(rate.trim().parse()?)
}

fn serve(mode: &str) -> Outcome<()> {
    if mode == "bare" {
        return bare();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("static_file");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("file.txt"), BODY)?;
    let builder = match mode {
        "bytes" => Server::builder().serve_bytes("/file.txt", "text/plain", BODY),
        _ => Server::builder().serve_dir("/", &folder),
    };
    let mut server = builder.bind("127.0.0.1:0")?;
    println!("{}", server.local_addrs()[0]);
    // Ends the server if its parent does not.
    server.set_timer(Duration::from_secs(120));
    server.run(|server, event| {
        if let Event::Timer { .. } = event {
            server.shutdown(CloseCode::GOING_AWAY, "", Duration::ZERO);
        }
    })?;
    Ok(())
}

/// One read and one write of a prebuilt response per request. Only the end of the request is
/// checked.
fn bare() -> Outcome<()> {
    let mut response =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\netag: \"0123456789abcdef-400\"\r\n\
        cache-control: no-cache\r\nx-content-type-options: nosniff\r\ncontent-length: 1024\r\n\r\n"
            .to_vec();
    response.extend_from_slice(&BODY);
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = TcpListener::bind("127.0.0.1:0".parse()?)?;
    println!("{}", listener.local_addr()?);
    poll.registry().register(&mut listener, Token(usize::MAX / 2), Interest::READABLE)?;
    let mut streams = HashMap::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        poll.poll(&mut events, Some(Duration::from_secs(60)))?;
        if events.is_empty() {
            return Ok(());
        }
        for event in &events {
            let Some(stream) = streams.get_mut(&event.token()) else {
                while let Ok((mut stream, _)) = listener.accept() {
                    let token = Token(streams.len());
                    poll.registry().register(&mut stream, token, Interest::READABLE)?;
                    streams.insert(token, stream);
                }
                continue;
            };
            match Read::read(stream, &mut buffer) {
                Ok(count) if buffer[..count].ends_with(b"\r\n\r\n") => stream.write_all(&response)?,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if is_end(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
