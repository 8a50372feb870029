//! Figures from the kernel: CPU time, memory, and the load of other processes; also pinning to
//! cores.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Resource, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::Outcome;

/// The unit of `/proc/stat`.
const JIFFY_NS: u64 = 10_000_000;

/// The cost of a measured interval.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub wall: Duration,
    /// CPU time of the server, all its threads, in nanoseconds; 0 if its process is not known.
    pub server: u64,
    /// CPU time of this process.
    pub own: u64,
    /// The larger of two shares of the wall time: the time that the cores spent on other processes,
    /// and the time for which the two processes waited for a core.
    pub others: f64,
}

/// A measurement in progress.
#[derive(Debug)]
pub struct Probe {
    pid: Option<u32>,
    begin: Instant,
    at: Counters,
}

#[derive(Debug, Clone, Copy)]
struct Counters {
    server: [u64; 2],
    own: [u64; 2],
    busy: u64,
}

impl Counters {
    fn read(pid: Option<u32>) -> Outcome<Counters> {
        Ok(Counters { server: pid.map_or(Ok([0; 2]), cpu_time)?, own: cpu_time("self")?, busy: busy()? })
    }
}

impl Probe {
    pub fn begin(pid: Option<u32>) -> Outcome<Probe> {
        let at = Counters::read(pid)?;
        Ok(Probe { pid, begin: Instant::now(), at })
    }

    pub fn end(self) -> Outcome<Usage> {
        let wall = self.begin.elapsed();
        let now = Counters::read(self.pid)?;
        let [server, server_delay] = [0, 1].map(|i| now.server[i].saturating_sub(self.at.server[i]));
        let [own, own_delay] = [0, 1].map(|i| now.own[i].saturating_sub(self.at.own[i]));
        let elsewhere = (now.busy - self.at.busy).saturating_sub(server + own);
        let others = elsewhere.max(server_delay).max(own_delay) as f64 / wall.as_nanos() as f64;
        Ok(Usage { wall, server, own, others })
    }
}

/// CPU time of all threads of a process, and the time for which they waited for a core; in
/// nanoseconds.
fn cpu_time(pid: impl std::fmt::Display) -> Outcome<[u64; 2]> {
    let mut sum = [0, 0];
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended meanwhile.
        let Ok(line) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let mut words = line.split_whitespace();
        for value in &mut sum {
            *value += words.next().ok_or("schedstat is short")?.parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// The time for which the allowed cores were not idle, including stolen time.
fn busy() -> Outcome<u64> {
    let cores = cores()?;
    let mut jiffies = 0;
    for line in fs::read_to_string("/proc/stat")?.lines() {
        let mut words = line.split_whitespace();
        let Some(core) = words.next().and_then(|name| name.strip_prefix("cpu")) else { continue };
        if core.parse().is_ok_and(|core: usize| cores.contains(&core)) {
            let values: Vec<u64> = words.map(|word| word.parse().unwrap_or(0)).collect();
            // The fields are user, nice, system, idle, iowait, irq, softirq and steal; guest time
            // is part of user.
            jiffies += values.iter().take(8).sum::<u64>() - values[3] - values[4];
        }
    }
    Ok(jiffies * JIFFY_NS)
}

/// Anonymous resident memory, without pages of the program's file.
pub fn resident(pid: u32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).ok_or("no RssAnon")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kib * 1024)
}

/// The first two cores that this process was allowed to use at the first call.
pub fn cores() -> Outcome<Vec<usize>> {
    static CORES: std::sync::OnceLock<Vec<usize>> = std::sync::OnceLock::new();
    if let Some(cores) = CORES.get() {
        return Ok(cores.clone());
    }
    let allowed = sched_getaffinity(None)?;
    let cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).take(2).collect();
    Ok(CORES.get_or_init(|| cores).clone())
}

/// Pins a process, or this one, to a core. Processes that it starts later inherit the core.
pub fn pin(pid: Option<u32>, core: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(core);
    let pid = match pid {
        Some(pid) => Pid::from_raw(pid.try_into()?),
        None => None,
    };
    Ok(sched_setaffinity(pid, &set)?)
}

/// Raises the descriptor limit to the hard limit.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("cannot raise the descriptor limit: {error}");
    }
}

/// Processor and kernel, for the report.
pub fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let model = model.map_or("unknown processor", |(_, model)| model);
    // The suffix after the kernel's version is a build name, which is left out.
    let kernel = kernel.trim().split('-').next().unwrap_or("").to_owned();
    format!("{count} × {model}, Linux {kernel}")
}
