//! A terminal client: sends standard input line by line, and prints the messages that it receives.
//!
//! ```sh
//! cargo run --release --example client -- ws://127.0.0.1:9001/ \
//!     [--header 'Name: value'] [--reconnect]
//! ```
//!
//! With `--features tls` it connects to `wss://` too, and `--authority FILE` names the certificate
//! that it trusts, in PEM form.
//!
//! At the end of its input, and on Ctrl-C, it sends all remaining lines and closes the connection.
//! The exit code is 1 if the connection failed or broke.

#[path = "support/stdin.rs"]
mod stdin;

use std::{
    process::exit,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::TryRecvError,
    },
    time::Duration,
};

use signal_hook::consts::SIGINT;
use tickws::{Client, Connect, Event, Message, Reconnect, WhileDown};

const USAGE: &str = "client URL [--header 'Name: value'] [--reconnect] [--authority FILE]";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    // Lines typed before the connection is open are kept for it.
    let mut connect = Connect::new(args.next().ok_or(USAGE)?).while_down(WhileDown::KeepLast(1000));
    while let Some(arg) = args.next() {
        connect = match arg.as_str() {
            "--reconnect" => connect.reconnect(Reconnect::new()),
            #[cfg(feature = "tls")]
            "--authority" => {
                let file = args.next().ok_or(USAGE)?;
                connect.tls(tickws::TlsClient::roots(std::fs::read(file)?)?)
            }
            "--header" => {
                let line = args.next().ok_or(USAGE)?;
                let (name, value) = line.split_once(':').ok_or(USAGE)?;
                connect.header(name, value.trim())
            }
            _ => return Err(USAGE.into()),
        };
    }

    let mut client = Client::connect(connect).unwrap_or_else(|error| {
        eprintln!("{error}");
        exit(1)
    });
    let stop = Arc::new(AtomicBool::new(false));
    // A second Ctrl-C ends the program at once, for a server that does not answer.
    signal_hook::flag::register_conditional_shutdown(SIGINT, 1, stop.clone())?;
    signal_hook::flag::register(SIGINT, stop.clone())?;
    let lines = stdin::lines(client.server_mut().handle());
    let (mut typing, mut closing, mut broken) = (true, false, false);
    while !client.is_over() {
        // The end of the sleep covers a Ctrl-C, which on Windows does not end it.
        for event in &client.poll_for(Duration::from_millis(100))? {
            match event {
                Event::Open { .. } => eprintln!("connected"),
                Event::Message { message: Message::Text(text), .. } => println!("{text}"),
                Event::Message { message, .. } => println!("<{} bytes>", message.len()),
                Event::Close { reason, .. } => {
                    eprintln!("{reason}");
                    broken = reason.is_unexpected();
                }
                Event::Reconnecting { attempt, delay, .. } => eprintln!("attempt {attempt} in {delay:.1?}"),
                Event::ConnectFailed { error, .. } => {
                    eprintln!("{error}");
                    broken = true;
                }
                _ => {}
            }
        }
        while typing {
            match lines.try_recv() {
                Ok(line) => {
                    if let Err(error) = client.send(&line) {
                        eprintln!("not sent: {error}");
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => typing = false,
            }
        }
        if stop.load(Ordering::Relaxed) {
            typing = false;
            if !closing && !client.is_open() {
                break;
            }
        }
        // The close frame follows the queued messages. While there is no connection, the lines wait
        // for one.
        if !typing && !closing && client.is_open() {
            closing = client.close(1000, "").is_ok();
        }
    }
    if broken { exit(1) } else { Ok(()) }
}
