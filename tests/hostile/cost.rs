//! The cost of an attack, for the server and for clients other than the attacker.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    panic::resume_unwind,
    thread,
    time::{Duration, Instant},
};

use super::{
    prober::{Delay, Probers},
    server_process::{ATTACKER, ServerProcess, pin, set_realtime_priority},
};

/// Windows with and without the attack alternate on the same connections, so that other load of the
/// machine affects both. A window with the attack lasts until the attack is over; a long attack
/// gets fewer windows.
const WINDOWS: usize = 15;
const FEWEST: usize = 3;
const PATIENCE: Duration = Duration::from_secs(4);
const WINDOW: Duration = Duration::from_millis(100);
/// Left out of the figures, while messages of the previous window still arrive.
const SETTLE: Duration = Duration::from_millis(30);
/// A percentile of fewer samples means little.
const SAMPLES: usize = 100;

pub struct Cost {
    pub units: u64,
    pub cpu: Duration,
    /// Resident bytes at the peak, above those before the attack.
    pub peak: u64,
    /// The 99th percentile and the longest of the server's rounds.
    pub rounds: [Duration; 2],
    /// Delays of the other clients, without the attacker and with it: the median of the windows'
    /// 99th percentiles.
    pub p99: [Duration; 2],
}

/// Begin and end of a measurement.
type Span = (Instant, Instant);

#[derive(Default)]
struct Account {
    units: u64,
    calm_cpu: Duration,
    attack_cpu: Duration,
    peak: u64,
    rounds: [Duration; 2],
    idle: Vec<Span>,
    attacked: Vec<Span>,
    /// New connections per second during the last attack.
    connections: f64,
}

pub fn measure(row: &str, attack: fn(&mut ServerProcess) -> u64) -> Cost {
    let mut server = ServerProcess::new(row, true);
    pin(1);
    let probers = Probers::new(server.addr);
    server.until("the probers to be open", |server| server.stat("open") == Probers::COUNT as u64);
    let account = at_low_priority(|| {
        let mut account = Account::default();
        let begin = Instant::now();
        for window in 0..WINDOWS {
            if window >= FEWEST && begin.elapsed() >= PATIENCE {
                break;
            }
            account.attack(&mut server, attack);
            account.idle(&mut server);
        }
        account
    });
    let delays = probers.stop();
    server.until_only(0);
    let length = |spans: &[Span]| spans.iter().map(|(begin, end)| *end - *begin).sum::<Duration>();
    let idle_rate = account.calm_cpu.as_secs_f64() / length(&account.idle).as_secs_f64();
    Cost {
        units: account.units,
        // Minus the time that the probers cost meanwhile.
        cpu: account.attack_cpu.saturating_sub(length(&account.attacked).mul_f64(idle_rate)),
        peak: account.peak,
        rounds: account.rounds,
        p99: [account.idle, account.attacked].map(|spans| median_p99(&spans, &delays)),
    }
}

impl Account {
    fn idle(&mut self, server: &mut ServerProcess) {
        let (begin, before) = (Instant::now(), server.cpu());
        simulate_attacker_load(SETTLE + 2 * WINDOW, self.connections);
        self.calm_cpu += server.cpu() - before;
        self.idle.push((begin, Instant::now()));
    }

    fn attack(&mut self, server: &mut ServerProcess, attack: fn(&mut ServerProcess) -> u64) {
        server.rounds();
        server.reset_peak();
        let [resident, _] = server.memory();
        let accepted = server.stat("accepted_total");
        let (begin, before) = (Instant::now(), server.cpu());
        while begin.elapsed() < SETTLE + WINDOW {
            self.units += attack(server);
        }
        self.attack_cpu += server.cpu() - before;
        self.attacked.push((begin, Instant::now()));
        let connections = (server.stat("accepted_total") - accepted) as f64;
        self.connections = connections / begin.elapsed().as_secs_f64();
        let [_, peak] = server.memory();
        self.peak = self.peak.max(peak.saturating_sub(resident));
        for (most, round) in self.rounds.iter_mut().zip(server.rounds()) {
            *most = round.max(*most);
        }
    }
}

/// The median of the 99th percentiles of all `WINDOW`-long pieces of the spans, so that a single
/// disturbance does not decide the figure.
fn median_p99(spans: &[Span], delays: &[Delay]) -> Duration {
    let mut found = Vec::new();
    for (begin, end) in spans {
        let mut from = *begin + SETTLE;
        while from + WINDOW <= *end {
            let piece = from..from + WINDOW;
            let within = delays.iter().filter(|(sent, _)| piece.contains(sent));
            let mut within: Vec<Duration> = within.map(|(_, delay)| *delay).collect();
            within.sort_unstable();
            if within.len() < SAMPLES {
                eprintln!("{} samples in a window", within.len());
            } else {
                found.push(within[within.len() * 99 / 100]);
            }
            from = piece.end;
        }
    }
    found.sort_unstable();
    *found.get(found.len() / 2).expect("a window with enough samples")
}

/// Loads the attacker's core as an attack does, with as many new connections per second, but
/// without the server. A real attacker has a machine of its own, so the time that it takes from the
/// probers here, in the kernel too, must not count as the server's.
fn simulate_attacker_load(time: Duration, connections: f64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = || {
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    };
    let (mut near, mut far) = connect();
    let mut block = vec![0; 16 * 1024];
    let (begin, mut opened) = (Instant::now(), 0.0);
    while begin.elapsed() < time {
        if opened < connections * begin.elapsed().as_secs_f64() {
            (near, far) = connect();
            opened += 1.0;
        }
        near.write_all(&block).unwrap();
        far.read_exact(&mut block).unwrap();
    }
}

/// Runs `work` on a thread of lower priority than the probers', which share its core.
fn at_low_priority<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        if !set_realtime_priority(ATTACKER) {
            let _ = rustix::process::nice(19);
        }
        work()
    };
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| resume_unwind(panic))
}
