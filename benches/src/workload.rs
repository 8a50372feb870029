//! The workloads, and the targets of tickws.

use std::time::Duration;

use crate::load::{Load, Mode};

/// The main figure of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Metric {
    /// CPU time of the server per message, delivery or connection, relative to the limit on both
    /// sides.
    Cpu,
    /// Resident bytes per client.
    Bytes,
    /// The p99 of the quiet clients with a flood, divided by the p99 without.
    Flood,
    /// Nanoseconds of an idle poll, for tickws only.
    Tick,
}

/// The largest allowed ratio to another server; `strict` means less than that.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    pub most: f64,
    pub strict: bool,
}

impl Bound {
    pub fn is_met(self, value: f64) -> bool {
        if self.strict { value < self.most } else { value <= self.most }
    }

    pub fn sign(self) -> &'static str {
        if self.strict { "<" } else { "≤" }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    pub what: &'static str,
    pub metric: Metric,
    pub load: Load,
    /// Latency is measured at this share of the limit's throughput.
    pub share: f64,
    pub limit: Option<Bound>,
    pub uws: Option<Bound>,
    /// A bound on the figure itself.
    pub itself: Option<Bound>,
}

impl Workload {
    /// The mode in which the server is started.
    pub fn server_mode(&self) -> &'static str {
        match (self.load.mode == Mode::Fanout, self.load.tls) {
            (true, false) => "broadcast",
            (true, true) => "broadcast+tls",
            (false, false) => "echo",
            (false, true) => "echo+tls",
        }
    }
}

/// Samples of this length are steady; a quick run takes a third of it.
const LOAD: Load = Load {
    mode: Mode::Echo,
    clients: 64,
    depth: 1,
    payload: 16,
    text: false,
    tls: false,
    resumes: false,
    verify: false,
    rate: None,
    warm: Duration::from_millis(300),
    time: Duration::from_millis(1500),
    count: u64::MAX,
};

const TLS: Load = Load { tls: true, ..LOAD };

const fn most(most: f64) -> Option<Bound> {
    Some(Bound { most, strict: false })
}

const fn below(most: f64) -> Option<Bound> {
    Some(Bound { most, strict: true })
}

const ROW: Workload = Workload {
    name: "",
    what: "",
    metric: Metric::Cpu,
    load: LOAD,
    share: 0.4,
    limit: None,
    uws: None,
    itself: None,
};

/// The rows, with their targets.
pub const WORKLOADS: [Workload; 23] = [
    Workload { name: "echo-16", what: "echo 64 × 16 B, depth 1", limit: most(1.05), uws: below(1.0), ..ROW },
    Workload {
        name: "echo-125",
        what: "echo 64 × 125 B, depth 32, binary",
        load: Load { payload: 125, depth: 32, ..LOAD },
        share: 0.05,
        limit: most(1.10),
        uws: below(1.0),
        ..ROW
    },
    Workload {
        name: "echo-125-text",
        what: "echo 64 × 125 B, depth 32, text",
        load: Load { payload: 125, depth: 32, text: true, ..LOAD },
        share: 0.05,
        limit: most(1.10),
        uws: below(1.0),
        ..ROW
    },
    Workload {
        name: "echo-1k",
        what: "echo 500 × 1 KiB, depth 1",
        load: Load { clients: 500, payload: 1 << 10, ..LOAD },
        limit: most(1.05),
        uws: below(1.0),
        ..ROW
    },
    Workload {
        name: "echo-64k",
        what: "echo 16 × 64 KiB, depth 4",
        load: Load { clients: 16, payload: 64 << 10, depth: 4, ..LOAD },
        share: 0.3,
        limit: most(1.20),
        uws: below(0.80),
        ..ROW
    },
    Workload {
        name: "echo-1m",
        what: "echo 4 × 1 MiB, depth 1",
        load: Load { clients: 4, payload: 1 << 20, ..LOAD },
        share: 0.3,
        limit: most(1.25),
        uws: below(0.85),
        ..ROW
    },
    Workload {
        name: "fanout-64",
        what: "fanout 1,000 × 64 B, window 1",
        load: Load { mode: Mode::Fanout, clients: 1_000, payload: 64, ..LOAD },
        limit: most(1.05),
        uws: below(1.0),
        ..ROW
    },
    Workload {
        name: "fanout-64-w16",
        what: "fanout 1,000 × 64 B, window 16",
        load: Load { mode: Mode::Fanout, clients: 1_000, payload: 64, depth: 16, ..LOAD },
        share: 0.2,
        limit: most(1.05),
        uws: below(1.0),
        ..ROW
    },
    Workload {
        name: "fanout-1k",
        what: "fanout 1,000 × 1 KiB, window 1",
        load: Load { mode: Mode::Fanout, clients: 1_000, payload: 1 << 10, ..LOAD },
        limit: most(1.05),
        uws: below(0.90),
        ..ROW
    },
    Workload {
        name: "churn",
        what: "churn, 64 at a time",
        load: Load { mode: Mode::Churn, ..LOAD },
        limit: most(1.15),
        uws: below(1.0),
        ..ROW
    },
    Workload {
        name: "idle",
        what: "idle 10,000: bytes per client",
        metric: Metric::Bytes,
        load: Load { mode: Mode::Idle, clients: 10_000, ..LOAD },
        uws: below(1.0),
        ..ROW
    },
    Workload {
        name: "tick",
        what: "an idle tick with 10,000 clients, ns",
        metric: Metric::Tick,
        load: Load { mode: Mode::Idle, clients: 10_000, ..LOAD },
        itself: most(1_000.0),
        ..ROW
    },
    Workload {
        name: "flood",
        what: "flood: p99 of 32 others, with / without",
        metric: Metric::Flood,
        // A window lasts 100 ms: its p99 is the fourth longest of 400 latencies, so many windows
        // are needed.
        load: Load {
            mode: Mode::Flood,
            clients: 32,
            payload: 125,
            depth: 4_096,
            time: Duration::from_millis(3_600),
            ..LOAD
        },
        itself: most(1.5),
        ..ROW
    },
    Workload {
        name: "tls-echo-125",
        what: "TLS: echo 64 × 125 B, depth 1",
        load: Load { payload: 125, ..TLS },
        uws: most(0.78),
        ..ROW
    },
    Workload {
        name: "tls-echo-125-d32",
        what: "TLS: echo 64 × 125 B, depth 32",
        load: Load { payload: 125, depth: 32, ..TLS },
        share: 0.05,
        uws: most(0.60),
        ..ROW
    },
    Workload {
        name: "tls-echo-1k",
        what: "TLS: echo 500 × 1 KiB, depth 1",
        load: Load { clients: 500, payload: 1 << 10, ..TLS },
        uws: most(0.70),
        ..ROW
    },
    Workload {
        name: "tls-echo-64k",
        what: "TLS: echo 16 × 64 KiB, depth 4",
        load: Load { clients: 16, payload: 64 << 10, depth: 4, ..TLS },
        share: 0.3,
        uws: most(0.52),
        ..ROW
    },
    Workload {
        name: "tls-fanout-64",
        what: "TLS: fanout 1,000 × 64 B, window 1",
        load: Load { mode: Mode::Fanout, clients: 1_000, payload: 64, ..TLS },
        uws: most(0.65),
        ..ROW
    },
    Workload {
        name: "tls-fanout-64-w16",
        what: "TLS: fanout 1,000 × 64 B, window 16",
        load: Load { mode: Mode::Fanout, clients: 1_000, payload: 64, depth: 16, ..TLS },
        share: 0.2,
        uws: most(0.75),
        ..ROW
    },
    Workload {
        name: "tls-fanout-1k",
        what: "TLS: fanout 1,000 × 1 KiB, window 1",
        load: Load { mode: Mode::Fanout, clients: 1_000, payload: 1 << 10, ..TLS },
        uws: most(0.68),
        ..ROW
    },
    Workload {
        name: "tls-churn",
        what: "TLS: churn with full handshakes, 64 at a time",
        load: Load { mode: Mode::Churn, ..TLS },
        uws: most(0.46),
        ..ROW
    },
    Workload {
        name: "tls-churn-resumed",
        what: "TLS: churn with resumed sessions, 64 at a time",
        load: Load { mode: Mode::Churn, resumes: true, ..TLS },
        uws: most(0.45),
        ..ROW
    },
    Workload {
        name: "tls-idle",
        what: "TLS: idle 5,000: bytes per client",
        metric: Metric::Bytes,
        load: Load { mode: Mode::Idle, clients: 5_000, ..TLS },
        itself: most(4_300.0),
        ..ROW
    },
];
