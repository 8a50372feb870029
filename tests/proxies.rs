//! nginx and Caddy in front of a server, with the configurations of the guide's page.
//!
//! A test whose proxy is missing says that it is skipped, or fails if `TICKWS_REQUIRE_PROXIES=1`.
#![cfg(unix)]

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

mod support;

use support::{Deadline, Harness, blocking};
use tickws::{Server, ServerBuilder};
use tungstenite::{Message, client::IntoClientRequest};

const PAGE: &str = include_str!("../src/guide/proxies.md");

/// The first block of the guide's page in this language.
fn block(language: &str) -> &'static str {
    let start = PAGE.find(&format!("```{language}\n")).expect("the page has a block") + 4 + language.len();
    PAGE[start..].split("```").next().unwrap()
}

/// Whether the program is installed.
fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let required = std::env::var_os("TICKWS_REQUIRE_PROXIES").is_some();
    assert!(found || !required, "{program} is not installed, but TICKWS_REQUIRE_PROXIES is set");
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// A running proxy.
struct Proxy {
    child: Child,
    addr: SocketAddr,
    dir: PathBuf,
}

impl Proxy {
    /// Starts a proxy on a port that was free a moment ago, and another one if it is no more.
    fn start(name: &str, command: impl Fn(&Path, SocketAddr) -> Command) -> Proxy {
        for attempt in 0..5 {
            let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", addr.port()));
            fs::create_dir_all(&dir).unwrap();
            let child = command(&dir, addr)
                .current_dir(&dir)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(dir.join("stderr")).unwrap())
                .spawn()
                .unwrap();
            let mut proxy = Proxy { child, addr, dir };
            let deadline = Deadline::new();
            while proxy.child.try_wait().unwrap().is_none() {
                if TcpStream::connect(addr).is_ok() {
                    return proxy;
                }
                deadline.check("the proxy listens");
                thread::sleep(Duration::from_millis(10));
            }
            let stderr = fs::read_to_string(proxy.dir.join("stderr")).unwrap_or_default();
            println!("attempt {attempt}: {name} has ended: {stderr}");
        }
        panic!("{name} does not start");
    }

    fn nginx(config: &str, server: SocketAddr) -> Proxy {
        Proxy::start("nginx", |dir, addr| {
            let config = config
                .replace("listen 8080;", &format!("listen {addr};"))
                .replace("127.0.0.1:9001", &server.to_string());
            let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {}/{kind};", dir.display()))
                .concat();
            let whole = format!(
                "pid {0}/pid; error_log stderr; daemon off; worker_processes 1;\n\
                 events {{}}\nhttp {{ access_log off; {temp}\n{config} }}\n",
                dir.display()
            );
            fs::write(dir.join("nginx.conf"), whole).unwrap();
            let mut command = Command::new("nginx");
            command.arg("-c").arg(dir.join("nginx.conf")).arg("-p").arg(dir).args(["-e", "stderr"]);
            command
        })
    }

    fn caddy(config: &str, server: SocketAddr) -> Proxy {
        Proxy::start("caddy", |dir, addr| {
            let config = config
                .replace(":8080 {", &format!("http://{addr} {{"))
                .replace("127.0.0.1:9001", &server.to_string());
            let whole = format!("{{\n\tadmin off\n\tauto_https off\n}}\n{config}");
            fs::write(dir.join("Caddyfile"), whole).unwrap();
            let mut command = Command::new("caddy");
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(dir.join("Caddyfile"));
            command.env("HOME", dir).env("XDG_DATA_HOME", dir).env("XDG_CONFIG_HOME", dir);
            command
        })
    }

    /// The status of an upgrade request by a page of this origin.
    fn status(&self, origin: &str) -> u16 {
        match self.connect(Some(origin)) {
            Ok(_) => 101,
            Err(status) => status,
        }
    }

    fn connect(
        &self,
        origin: Option<&str>,
    ) -> Result<tungstenite::WebSocket<support::blocking::Blocking>, u16> {
        let mut request = format!("ws://{}/", self.addr).into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("Origin", origin.parse().unwrap());
        }
        match tungstenite::client::client(request, blocking(self.addr).unwrap()) {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                Err(response.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Messages of several sizes come back whole and in order.
    fn echoes(&self) {
        let origin = format!("http://{}", self.addr);
        let mut socket = self.connect(Some(&origin)).expect("a page of the same host may connect");
        let sizes = [0, 1, 125, 126, 65_536, 500_000, 3];
        for size in sizes {
            socket.send(Message::binary(vec![size as u8; size])).unwrap();
        }
        for size in sizes {
            assert_eq!(socket.read().unwrap(), Message::binary(vec![size as u8; size]));
        }
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx ends its worker process on this signal, but not on SIGKILL.
        let id = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn serve<T: Send>(builder: ServerBuilder, client: impl FnOnce(SocketAddr) -> T + Send) -> T {
    Harness::with(builder).serve(support::echo, client)
}

#[test]
fn pages_and_messages_pass_nginx() {
    if !is_installed("nginx") {
        return;
    }
    serve(Server::builder(), |server| {
        let proxy = Proxy::nginx(block("nginx"), server);
        proxy.echoes();
        assert_eq!(proxy.status("http://evil.example"), 403);
        assert!(proxy.connect(None).is_ok(), "a client that is no browser");
    });
}

/// Why the page says `$http_host`: without it nginx names its upstream, and with `$host` the port
/// is missing.
#[test]
fn pages_do_not_pass_nginx_without_the_host_unless_their_origin_is_allowed() {
    if !is_installed("nginx") {
        return;
    }
    let line = "proxy_set_header Host $http_host;";
    assert!(block("nginx").contains(line));
    for other in ["", "proxy_set_header Host $host;"] {
        serve(Server::builder(), |server| {
            let proxy = Proxy::nginx(&block("nginx").replace(line, other), server);
            assert_eq!(proxy.status(&format!("http://{}", proxy.addr)), 403, "{other:?}");
        });
        serve(Server::builder().allow_origins(["https://game.example"]), |server| {
            let proxy = Proxy::nginx(&block("nginx").replace(line, other), server);
            assert_eq!(proxy.status("https://game.example"), 101, "{other:?}");
        });
    }
}

#[test]
fn pages_and_messages_pass_caddy() {
    if !is_installed("caddy") {
        return;
    }
    serve(Server::builder(), |server| {
        let proxy = Proxy::caddy(block("caddy"), server);
        proxy.echoes();
        assert_eq!(proxy.status("http://evil.example"), 403);
    });
}
