//! The compared servers. Each runs in a process of its own, prints its address, and serves until it
//! is killed or its parent ends.

#[cfg(feature = "peers")]
mod fastwebsockets;
mod limit;
#[cfg(feature = "peers")]
mod message_io;
mod tickws;
#[cfg(feature = "peers")]
mod tungstenite;
#[cfg(feature = "uws")]
mod uws;
#[cfg(feature = "peers")]
mod ws_rs;

use std::{
    fmt::Display,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::{Outcome, load::Target, probe};

pub const LIMIT: &str = "limit";
/// The limit on the unbuffered connections of rustls, in the rows over TLS.
pub const LIMIT_UNBUFFERED: &str = "limit-unbuffered";
pub const TICKWS: &str = "tickws";
pub const UWS: &str = "uws";
const GORILLA: &str = "gorilla";

/// All names, in the order of the report.
pub const NAMES: [&str; 9] = [
    LIMIT,
    LIMIT_UNBUFFERED,
    TICKWS,
    UWS,
    "tokio-tungstenite",
    "fastwebsockets",
    "ws",
    "message-io",
    GORILLA,
];

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// Sends a message back to its sender.
    Echo,
    /// Sends a message to all clients.
    Broadcast,
}

/// Whether a server sends text messages; if not, text rows are left out for it.
pub fn supports_text(name: &str) -> bool {
    // message-io sends every message as binary.
    name != "message-io"
}

/// Whether a server is compared over TLS.
pub fn speaks_tls(name: &str) -> bool {
    matches!(name, LIMIT | LIMIT_UNBUFFERED | TICKWS | UWS | "tokio-tungstenite")
}

/// Whether a server answers a close frame, as RFC 6455 asks.
pub fn answers_close(name: &str) -> bool {
    // message-io closes the TCP connection instead.
    name != "message-io"
}

/// Whether replies have the content of the messages.
pub fn echoes_content(name: &str) -> bool {
    name != LIMIT && name != LIMIT_UNBUFFERED
}

/// The reason why a server is not available, if it is not.
pub fn is_missing(name: &str) -> Option<String> {
    match name {
        LIMIT | LIMIT_UNBUFFERED | TICKWS => None,
        UWS if !cfg!(feature = "uws") => Some("built without the feature `uws`".into()),
        UWS => None,
        GORILLA => gorilla_binary().err().map(|error| error.to_string()),
        _ if !cfg!(feature = "peers") => Some("built without the feature `peers`".into()),
        _ if NAMES.contains(&name) => None,
        _ => Some(format!("no such server; there are {}", NAMES.join(", "))),
    }
}

/// Serves in this process. Only tickws has further modes.
pub fn serve(name: &str, mode: &str) -> Outcome<()> {
    probe::raise_descriptor_limit();
    // A server ends with its parent, even if the benchmark is killed.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (mode, tls) = mode.strip_suffix("+tls").map_or((mode, false), |mode| (mode, true));
    let mode = match (name, mode) {
        (_, "echo") => Mode::Echo,
        (_, "broadcast") => Mode::Broadcast,
        (TICKWS, special) => return tickws::serve_special(special),
        _ => return Err(format!("{mode:?} is not a mode: echo, broadcast").into()),
    };
    match name {
        LIMIT => limit::serve(mode, tls, false),
        LIMIT_UNBUFFERED => limit::serve(mode, tls, true),
        TICKWS => tickws::serve(mode, tls),
        #[cfg(feature = "uws")]
        UWS => uws::serve(mode, tls),
        #[cfg(feature = "peers")]
        "tokio-tungstenite" => tungstenite::serve(mode, tls),
        #[cfg(feature = "peers")]
        "fastwebsockets" => fastwebsockets::serve(mode),
        #[cfg(feature = "peers")]
        "ws" => ws_rs::serve(mode),
        #[cfg(feature = "peers")]
        "message-io" => message_io::serve(mode),
        _ => Err(is_missing(name).unwrap_or_else(|| format!("{name} is not served by this program")).into()),
    }
}

/// Prints the address of a server before any client connects.
pub fn announce(addr: impl Display) -> Outcome<()> {
    let mut output = std::io::stdout();
    writeln!(output, "{addr}")?;
    Ok(output.flush()?)
}

/// A server process, ended when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub output: BufReader<ChildStdout>,
    target: Target,
}

impl Server {
    /// Starts a server on the first core if there are two, and moves this process to the second.
    pub fn start(name: &str, mode: &str) -> Outcome<Server> {
        Server::start_behind(&[], name, mode)
    }

    /// As [`start`](Server::start), but under a command such as valgrind.
    pub fn start_behind(wrapper: &[&str], name: &str, mode: &str) -> Outcome<Server> {
        let (program, args) = match name {
            GORILLA => (gorilla_binary()?, vec![mode]),
            _ => (std::env::current_exe()?, vec!["serve", name, mode]),
        };
        let mut command = match wrapper {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.args(args).env("GOMAXPROCS", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let cores = probe::cores()?;
        // The child and all its threads inherit the core.
        if let [first, _] = cores[..] {
            probe::pin(None, first)?;
        }
        let child = command.spawn();
        if let [_, second] = cores[..] {
            probe::pin(None, second)?;
        }
        let mut child = child?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let Ok(addr) = line.trim().parse() else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{name} did not start: {line:?}").into());
        };
        let target = Target { addr, pid: Some(child.id()), tls: mode.ends_with("+tls") };
        Ok(Server { child, output, target })
    }

    pub fn target(&self) -> Target {
        self.target
    }

    /// Waits for a server that ends without being killed.
    pub fn wait(mut self) -> Outcome<()> {
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the server failed: {status}").into()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder for output files.
pub fn output_dir() -> Outcome<PathBuf> {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    let dir = target.join("tickws-bench");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Builds the Go server, once per process, if Go and Debian's package are installed.
fn gorilla_binary() -> Outcome<PathBuf> {
    static BINARY: std::sync::OnceLock<Result<PathBuf, String>> = std::sync::OnceLock::new();
    let build = || -> Outcome<PathBuf> {
        let sources = Path::new("/usr/share/gocode");
        if !sources.join("src/github.com/gorilla/websocket").exists() {
            return Err("golang-github-gorilla-websocket-dev is not installed".into());
        }
        let binary = output_dir()?.join("gorilla");
        let output = Command::new("go")
            .args(["build", "-o"])
            .arg(&binary)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("gorilla/main.go"))
            .envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode"), ("GOFLAGS", "")])
            .output()
            .map_err(|error| format!("go: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(binary)
    };
    BINARY.get_or_init(|| build().map_err(|error| error.to_string())).clone().map_err(Into::into)
}
