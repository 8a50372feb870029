//! Latencies, measured from the moment when a message was due, so that the stall of a server counts
//! in full.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One minute; longer latencies are recorded as this.
const LONGEST_NS: u64 = 60_000_000_000;

#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

/// Quantiles in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

impl Latencies {
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are in order"))
    }

    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.clamp(1, LONGEST_NS));
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn quantiles(&self) -> Option<Quantiles> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        (!self.0.is_empty()).then(|| Quantiles { p50: at(0.5), p99: at(0.99), p999: at(0.999) })
    }
}
