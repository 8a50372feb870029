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
//! At the end of its input it sends all remaining lines and closes the connection. The exit code is
//! 1 if the connection failed or broke.

#[cfg(unix)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::{
        io::{self, Read},
        process::exit,
    };

    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        io::Errno,
    };
    use tickws::{Client, Connect, Event, Message, Reconnect, WhileDown};

    const USAGE: &str = "client URL [--header 'Name: value'] [--reconnect] [--authority FILE]";
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
    let (mut typed, mut typing, mut closing, mut broken) = (Vec::new(), true, false, false);
    while !client.is_over() {
        let timeout = client.next_timeout().map(Timespec::try_from).transpose()?;
        let keyboard = {
            let stdin = io::stdin();
            let mut fds = [PollFd::new(&client, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut fds[..if typing { 2 } else { 1 }], timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            typing && !fds[1].revents().is_empty()
        };
        if keyboard {
            let mut bytes = [0; 8192];
            let count = io::stdin().read(&mut bytes)?;
            typing = count > 0;
            typed.extend_from_slice(&bytes[..count]);
            if !typing && !typed.is_empty() {
                typed.push(b'\n'); // the last line may lack a line feed
            }
            while let Some(end) = typed.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = typed.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Err(error) = client.send(line.trim_end_matches(['\r', '\n'])) {
                    eprintln!("not sent: {error}");
                }
            }
        }
        for event in &client.poll_once()? {
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
        // The close frame follows the queued messages. While there is no connection, the lines wait
        // for one.
        if !typing && !closing && client.is_open() {
            closing = client.close(1000, "").is_ok();
        }
    }
    if broken { exit(1) } else { Ok(()) }
}

#[cfg(not(unix))]
fn main() {
    eprintln!("this example polls file descriptors and runs on Unix only");
}
