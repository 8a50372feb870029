//! What an attack costs the server, and those beside the attacker.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    panic::resume_unwind,
    thread,
    time::{Duration, Instant},
};

use super::{
    ground::{ATTACKER, Ground, outrank, pin},
    prober::{Delay, Probers},
};

/// Windows without and with the attack take turns, on the same connections, so that what else goes on in the machine
/// meets both. One with an attack lasts until the attack is over; there are fewer if it takes its time.
const WINDOWS: usize = 15;
const FEWEST: usize = 3;
const PATIENCE: Duration = Duration::from_secs(4);
const WINDOW: Duration = Duration::from_millis(100);
/// Not in the figures: what an earlier window has on its way arrives.
const SETTLE: Duration = Duration::from_millis(30);
/// A percentile of fewer samples says nothing.
const SAMPLES: usize = 100;

pub struct Cost {
    pub units: u64,
    pub cpu: Duration,
    /// Resident bytes that came on top.
    pub peak: u64,
    /// The rounds' 99th percentile, and the longest.
    pub rounds: [Duration; 2],
    /// Of the others: without the attacker, and with it. The median of the windows' 99th percentiles.
    pub p99: [Duration; 2],
}

/// Begin and end.
type Span = (Instant, Instant);

#[derive(Default)]
struct Account {
    units: u64,
    calm_cpu: Duration,
    attack_cpu: Duration,
    peak: u64,
    rounds: [Duration; 2],
    calm: Vec<Span>,
    attacked: Vec<Span>,
    /// Per second, of the last attack.
    connections: f64,
}

pub fn measure(row: &str, attack: fn(&mut Ground) -> u64) -> Cost {
    let mut ground = Ground::new(row, true);
    pin(1);
    let probers = Probers::new(ground.addr);
    ground.until("the healthy to be there", |g| g.stat("open") == Probers::COUNT as u64);
    let account = gently(|| {
        let mut account = Account::default();
        let begin = Instant::now();
        for window in 0..WINDOWS {
            if window >= FEWEST && begin.elapsed() >= PATIENCE {
                break;
            }
            account.attack(&mut ground, attack);
            account.calm(&mut ground);
        }
        account
    });
    let delays = probers.stop();
    ground.until_only(0);
    let length = |spans: &[Span]| spans.iter().map(|(begin, end)| *end - *begin).sum::<Duration>();
    let idle = account.calm_cpu.as_secs_f64() / length(&account.calm).as_secs_f64();
    Cost {
        units: account.units,
        // Without what the healthy have cost meanwhile.
        cpu: account.attack_cpu.saturating_sub(length(&account.attacked).mul_f64(idle)),
        peak: account.peak,
        rounds: account.rounds,
        p99: [account.calm, account.attacked].map(|spans| middle(&spans, &delays)),
    }
}

impl Account {
    fn calm(&mut self, ground: &mut Ground) {
        let (begin, before) = (Instant::now(), ground.cpu());
        be_busy(SETTLE + 2 * WINDOW, self.connections);
        self.calm_cpu += ground.cpu() - before;
        self.calm.push((begin, Instant::now()));
    }

    fn attack(&mut self, ground: &mut Ground, attack: fn(&mut Ground) -> u64) {
        ground.rounds();
        ground.forget_peak();
        let [resident, _] = ground.memory();
        let accepted = ground.stat("accepted_total");
        let (begin, before) = (Instant::now(), ground.cpu());
        while begin.elapsed() < SETTLE + WINDOW {
            self.units += attack(ground);
        }
        self.attack_cpu += ground.cpu() - before;
        self.attacked.push((begin, Instant::now()));
        let connections = (ground.stat("accepted_total") - accepted) as f64;
        self.connections = connections / begin.elapsed().as_secs_f64();
        let [_, peak] = ground.memory();
        self.peak = self.peak.max(peak.saturating_sub(resident));
        for (most, round) in self.rounds.iter_mut().zip(ground.rounds()) {
            *most = round.max(*most);
        }
    }
}

/// The median of the 99th percentiles of pieces of the spans, each a `WINDOW` long: one disturbance is not the figure.
fn middle(spans: &[Span], delays: &[Delay]) -> Duration {
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

/// As busy as an attacker, on the same core, with as many new connections per second, but with somebody else: in life
/// it would have a machine of its own, and what it takes from the healthy here, in the kernel too, is not what the
/// server does to them.
fn be_busy(time: Duration, connections: f64) {
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

/// Runs it on a thread that gives way to the healthy, which share a core with it.
fn gently<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        if !outrank(ATTACKER) {
            let _ = rustix::process::nice(19);
        }
        work()
    };
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| resume_unwind(panic))
}
