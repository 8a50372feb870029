//! nginx, Caddy and HAProxy in front of a server, with the configurations of the guide's page.
//!
//! A test whose proxy is missing says that it is skipped, or fails if `TICKWS_REQUIRE_PROXIES=1`.
#![cfg(unix)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

#[path = "browser/devtools.rs"]
mod devtools;
#[path = "support/example.rs"]
mod example;
mod support;

use devtools::Browser;
use example::Example;
use socket2::{Domain, Socket, Type};
use support::{Deadline, Harness, blocking};
use tickws::{Listener, Server, ServerBuilder};
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

    fn haproxy(config: &str, server: SocketAddr) -> Proxy {
        Proxy::start("haproxy", |dir, addr| {
            let config = config
                .replace("bind :8080", &format!("bind {addr}"))
                .replace("127.0.0.1:9001", &server.to_string());
            fs::write(dir.join("haproxy.cfg"), config).unwrap();
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(dir.join("haproxy.cfg"));
            command
        })
    }

    /// The proxies of the guide that are installed.
    fn all(server: SocketAddr) -> Vec<(&'static str, Proxy)> {
        let mut all = Vec::new();
        if is_installed("nginx") {
            all.push(("nginx", Proxy::nginx(block("nginx"), server)));
        }
        if is_installed("caddy") {
            all.push(("Caddy", Proxy::caddy(block("caddy"), server)));
        }
        if is_installed("haproxy") {
            all.push(("HAProxy", Proxy::haproxy(block("haproxy"), server)));
        }
        all
    }

    /// The response to a plain request with these fields, from a client at 127.0.0.2.
    fn get(&self, fields: &str) -> String {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
        socket.connect(&self.addr.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        let host = self.addr;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split_once("\r\n\r\n").expect("a response").1.to_owned()
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

/// A server behind proxies that responds with what it knows of the client.
fn known() -> ServerBuilder {
    Server::builder().trusted_proxies(["127.0.0.1"]).on_http(|request| {
        let peer = request.peer_addr().ip().expect("an IP address");
        let text = format!("{} through {peer}, {}", request.remote_addr(), request.is_secure());
        tickws::http::Response::new(text.into())
    })
}

fn serve<T: Send>(builder: ServerBuilder, client: impl FnOnce(SocketAddr) -> T + Send) -> T {
    Harness::with(builder).serve(support::echo, client)
}

#[test]
fn pages_and_messages_pass_nginx() {
    if !is_installed("nginx") {
        return;
    }
    serve(known(), |server| {
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
    let outer = "proxy_set_header X-Forwarded-Host $http_host;";
    assert!(block("nginx").contains(outer));
    for other in ["", "proxy_set_header Host $host;"] {
        serve(known(), |server| {
            let proxy = Proxy::nginx(&block("nginx").replace(line, other).replace(outer, ""), server);
            assert_eq!(proxy.status(&format!("http://{}", proxy.addr)), 403, "{other:?}");
        });
        serve(known().allow_origins(["https://game.example"]), |server| {
            let proxy = Proxy::nginx(&block("nginx").replace(line, other).replace(outer, ""), server);
            assert_eq!(proxy.status("https://game.example"), 101, "{other:?}");
        });
    }
}

#[test]
fn pages_and_messages_pass_caddy() {
    if !is_installed("caddy") {
        return;
    }
    serve(known(), |server| {
        let proxy = Proxy::caddy(block("caddy"), server);
        proxy.echoes();
        assert_eq!(proxy.status("http://evil.example"), 403);
    });
}

#[test]
fn pages_and_messages_pass_haproxy() {
    if !is_installed("haproxy") {
        return;
    }
    serve(known(), |server| {
        let proxy = Proxy::haproxy(block("haproxy"), server);
        proxy.echoes();
        assert_eq!(proxy.status("http://evil.example"), 403);
    });
}

#[test]
fn the_address_of_a_client_passes_each_proxy_and_cannot_be_forged() {
    serve(known(), |server| {
        for (name, proxy) in Proxy::all(server) {
            for forged in [
                "",
                "X-Forwarded-For: 6.6.6.6\r\n",
                "Forwarded: for=6.6.6.6;proto=https\r\n",
                "X-Forwarded-For: 6.6.6.6, 127.0.0.1\r\nForwarded: for=6.6.6.6, for=\"\r\n",
                "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n",
            ] {
                assert_eq!(proxy.get(forged), "127.0.0.2 through 127.0.0.1, false", "{name} {forged}");
            }
        }
    });
}

#[test]
fn haproxy_names_the_client_with_the_proxy_protocol() {
    if !is_installed("haproxy") {
        return;
    }
    for version in ["send-proxy", "send-proxy-v2"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        serve(known().listener(Listener::from(listener).proxy_protocol()), |_| {
            let line = "server game 127.0.0.1:9001";
            let config = block("haproxy")
                .replace(line, &format!("{line} {version}"))
                .replace("    option forwardfor\n", "");
            let proxy = Proxy::haproxy(&config, addr);
            let text = proxy.get("");
            let (client, rest) = text.split_once(" through ").unwrap();
            let client: SocketAddr = client.parse().unwrap();
            assert_eq!((client.ip().to_string().as_str(), rest), ("127.0.0.2", "127.0.0.1, false"));
            proxy.echoes();
        });
    }
}

/// The guide's `proxy_pass` to a Unix domain socket, where nginx is trusted by the word `unix:`.
#[test]
fn the_address_of_a_client_passes_nginx_to_a_unix_socket() {
    if !is_installed("nginx") {
        return;
    }
    let path = std::env::temp_dir().join(format!("tickws-nginx-{}.sock", std::process::id()));
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    // The worker process of nginx may be of another user.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let builder = Server::builder().trusted_proxies(["unix:"]).listener(listener).on_http(|request| {
        let through = request.peer_addr().ip();
        tickws::http::Response::new(format!("{} {through:?}", request.remote_addr()).into())
    });
    serve(builder, |server| {
        let tcp = "proxy_pass http://127.0.0.1:9001;";
        assert!(block("nginx").contains(tcp));
        let config = block("nginx").replace(tcp, &format!("proxy_pass http://unix:{};", path.display()));
        let proxy = Proxy::nginx(&config, server);
        assert_eq!(proxy.get("X-Forwarded-For: 6.6.6.6\r\n"), "127.0.0.2 None");
        proxy.echoes();
    });
    fs::remove_file(path).unwrap();
}

/// People talk through each proxy, and the chat's log has their addresses, which have no port as
/// the proxy names none.
#[test]
fn a_chat_in_a_browser_passes_each_proxy() {
    let Some(program) = devtools::find() else { return };
    let mut example = Example::start("chat", &["127.0.0.1:0", "--behind", "127.0.0.1"]);
    let url = example.expect_url("http://");
    let server = url.split('/').nth(2).unwrap().parse().unwrap();
    let browser = Browser::start(&program);
    for (name, proxy) in Proxy::all(server) {
        let tabs = ["ada", "bob"].map(|person| {
            let tab = browser.open(&format!("http://{}/", proxy.addr));
            tab.fill("#name", person);
            tab.fill("#token", "letmein");
            tab.press_enter();
            tab.until("document.body.dataset.state === 'online'");
            let line = example.expect("joined from");
            assert!(line.ends_with("joined from 127.0.0.1"), "{name}: {line}");
            tab
        });
        tabs[0].fill("#text", &format!("hello through {name}"));
        tabs[0].press_enter();
        tabs[1].until_text("#log", &format!("hello through {name}"));
    }
}
