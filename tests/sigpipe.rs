//! A client that leaves must not end the program that embeds the server: no write raises SIGPIPE.

#![cfg(unix)]

mod support;

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use support::{PATIENCE, c, dial, raw};
use tungstenite::Message;

/// The C program, linked with the example `c_host`; `None` if there is no C compiler.
fn build() -> Option<PathBuf> {
    let example = Command::new(env!("CARGO")).args(["build", "--quiet", "--example", "c_host"]).status();
    assert!(example.unwrap().success(), "the example c_host does not build");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let library = target.join("debug/examples/libc_host.a");
    let libraries = ["-lpthread", "-ldl", "-lm"].map(OsStr::new);
    c::compile("main.c", "c_host", &[&[library.as_os_str()], &libraries[..]].concat())
}

struct Host {
    child: Child,
    addr: SocketAddr,
}

impl Host {
    fn start(program: &Path) -> Self {
        let mut child = Command::new(program).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Host { child, addr: line.trim().parse().unwrap() }
    }

    /// Connects with a small receive buffer, and completes the handshake.
    fn connect(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&self.addr.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(raw::upgrade_request("/", "").as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream
    }

    /// Ends the program through the protocol, which shows that it still serves, and returns how it
    /// ended.
    fn stop(mut self) {
        let mut client = dial(self.addr, "/");
        // A large echo arrives whole.
        client.send(Message::binary(vec![1; 100_000])).unwrap();
        assert_eq!(client.read().unwrap(), Message::binary(vec![1; 100_000]));
        client.send(Message::text("stop")).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn clients_that_leave_do_not_end_a_c_program() {
    let Some(program) = build() else { return };
    let host = Host::start(&program);
    for _ in 0..4 {
        // The client sends 400 messages, reads nothing, sends FIN, then closes its socket.
        let mut client = host.connect();
        // The server stops reading when the echoes have filled its outbox.
        client.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let message = raw::binary(&[5; 20_000]);
        for _ in 0..400 {
            if client.write_all(&message).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Write);
        drop(client);

        // The client asks for snapshots, sends FIN, and closes while the program sends them.
        let mut client = host.connect();
        client.write_all(&raw::text("snapshots")).unwrap();
        let mut some = [0; 1000];
        client.read_exact(&mut some).unwrap();
        let _ = client.shutdown(Shutdown::Write);
        drop(client);
    }
    host.stop();
}
