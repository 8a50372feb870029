//! Two network namespaces and a link between them, with delay and loss on request.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The address of the server's end.
pub const SERVER: &str = "10.77.0.1";
const CLIENT: &str = "10.77.0.2";

pub struct Line {
    /// The names of the namespaces, and of the device in each.
    ends: [String; 2],
    relay: Option<Child>,
}

/// Runs a command; the error says what is missing.
fn run(command: &str) -> Result<(), String> {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("`{command}`: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

impl Line {
    /// `delay` and `loss` apply to each direction, in milliseconds and per cent.
    pub fn new(delay: u32, loss: u32) -> Result<Line, String> {
        static LINES: AtomicUsize = AtomicUsize::new(0);
        let line = LINES.fetch_add(1, Ordering::Relaxed);
        let ends = ["a", "b"].map(|end| format!("tw{}-{line}{end}", std::process::id()));
        let mut line = Line { ends, relay: None };
        for end in &line.ends {
            run(&format!("ip netns add {end}"))?;
        }
        if (delay, loss) == (0, 0) {
            line.add_veth()?;
        } else if let Err(no_netem) = line.add_veth().and_then(|()| line.add_netem(delay, loss)) {
            // Deleting one device of a pair deletes the other as well.
            line.delete_link();
            let relay = line.start_relay(delay, loss);
            relay.map_err(|no_relay| format!("neither netem ({no_netem}) nor a relay ({no_relay})"))?;
            eprintln!("no netem here ({no_netem}): using a relay between two TUN devices");
        }
        Ok(line)
    }

    fn add_veth(&self) -> Result<(), String> {
        let [a, b] = &self.ends;
        run(&format!("ip -n {a} link add {a} type veth peer name {b} netns {b}"))?;
        self.bring_up()
    }

    fn bring_up(&self) -> Result<(), String> {
        for (end, addr) in self.ends.iter().zip([SERVER, CLIENT]) {
            run(&format!("ip -n {end} addr add {addr}/24 dev {end}"))?;
            run(&format!("ip -n {end} link set {end} up"))?;
            run(&format!("ip -n {end} link set lo up"))?;
        }
        Ok(())
    }

    fn add_netem(&self, delay: u32, loss: u32) -> Result<(), String> {
        for end in &self.ends {
            run(&format!("tc -n {end} qdisc add dev {end} root netem delay {delay}ms loss {loss}%"))?;
        }
        Ok(())
    }

    fn delete_link(&self) {
        let [a, _] = &self.ends;
        let _ = run(&format!("ip -n {a} link del {a}"));
    }

    fn start_relay(&mut self, delay: u32, loss: u32) -> Result<(), String> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netem/relay.py");
        let mut command = Command::new("python3");
        command.arg(script).args(&self.ends).args([delay.to_string(), loss.to_string(), "7".to_owned()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let relay = self.relay.insert(command.spawn().map_err(|error| format!("python3: {error}"))?);
        let mut line = String::new();
        let _ = BufReader::new(relay.stdout.take().ok_or("no output")?).read_line(&mut line);
        if line.trim() != "ready" {
            let errors =
                relay.stderr.take().map(|errors| BufReader::new(errors).lines().map_while(Result::ok));
            return Err(errors.and_then(Iterator::last).unwrap_or_default());
        }
        for end in &self.ends {
            run(&format!("ip link set {end} netns {end}"))?;
        }
        self.bring_up()
    }

    /// Takes the link down. Neither end is notified.
    pub fn cut(&self) {
        let [_, b] = &self.ends;
        run(&format!("ip -n {b} link set {b} down")).expect("a link can be taken down");
    }

    /// Runs `work` in the server's namespace; sockets that it opens stay there.
    pub fn at_server<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.at(0, work)
    }

    /// Connects from the client's namespace.
    pub fn connect(&self, addr: SocketAddr) -> TcpStream {
        self.at(1, || TcpStream::connect(addr)).expect("connects")
    }

    fn at<T: Send>(&self, end: usize, work: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/run/netns/{}", self.ends[end])).expect("the namespace exists");
        let work = || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).expect("may enter");
            work()
        };
        thread::scope(|scope| scope.spawn(work).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(relay) = &mut self.relay {
            let _ = relay.kill();
            let _ = relay.wait();
        }
        for end in &self.ends {
            let _ = run(&format!("ip netns del {end}"));
        }
    }
}
