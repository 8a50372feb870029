//! The result, written as JSON and printed as tables.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::{
    load::latency::Quantiles,
    probe::machine,
    servers::{LIMIT, NAMES, TICKWS, UWS},
    workload::{Bound, Metric, Workload},
};

#[derive(Debug, Serialize)]
pub struct Report {
    pub date: String,
    pub machine: String,
    pub command: String,
    pub passes: usize,
    pub rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub what: String,
    /// The meaning and unit of `figure`.
    pub unit: &'static str,
    /// Messages per second at which latency was measured.
    pub latency_rate: Option<f64>,
    pub servers: Vec<Standing>,
    pub targets: Vec<Target>,
}

/// The medians of a server on a row.
#[derive(Debug, Serialize)]
pub struct Standing {
    pub name: String,
    pub samples: usize,
    pub discarded: usize,
    /// No sample counted, so the medians are of those that did not.
    pub loose: bool,
    pub figure: f64,
    /// CPU time relative to that of the limit samples on both sides.
    pub ratio: Option<f64>,
    pub rate: f64,
    pub latency: Option<Quantiles>,
    pub calm: Option<Quantiles>,
    /// Idle: bytes per client before any message.
    pub opened: Option<f64>,
    pub error: Option<String>,
}

impl Standing {
    pub fn new(name: &str, samples: usize) -> Standing {
        Standing {
            name: name.to_owned(),
            samples,
            discarded: 0,
            loose: false,
            figure: f64::NAN,
            ratio: None,
            rate: f64::NAN,
            latency: None,
            calm: None,
            opened: None,
            error: None,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Target {
    pub against: String,
    pub value: f64,
    pub bound: f64,
    pub strict: bool,
    pub met: bool,
}

impl Row {
    pub fn new(workload: &Workload, latency_rate: Option<f64>, servers: Vec<Standing>) -> Row {
        let mut row = Row {
            name: workload.name.to_owned(),
            what: workload.what.to_owned(),
            unit: match (workload.metric, workload.load.mode) {
                (Metric::Cpu, crate::load::Mode::Churn) => "ns CPU per connection",
                (Metric::Cpu, crate::load::Mode::Fanout) => "ns CPU per delivery",
                (Metric::Cpu, _) => "ns CPU per message",
                (Metric::Bytes, _) => "bytes per client, after a message each",
                (Metric::Flood, _) => "p99 with a flood / without",
                (Metric::Tick, _) => "ns per poll",
            },
            latency_rate,
            servers,
            targets: Vec::new(),
        };
        let bounds = [(LIMIT, workload.limit), (UWS, workload.uws), ("itself", workload.itself)];
        for (against, bound) in bounds {
            if let (Some(Bound { most, strict }), Some(value)) = (bound, row.against(against)) {
                let met = bound.is_some_and(|bound| bound.is_met(value));
                row.targets.push(Target { against: against.to_owned(), value, bound: most, strict, met });
            }
        }
        row
    }

    fn server(&self, name: &str) -> Option<&Standing> {
        self.servers.iter().find(|server| server.name == name)
    }

    /// The ratio of tickws to another server. For CPU time both are taken relative to the limit
    /// samples beside them.
    pub fn against(&self, name: &str) -> Option<f64> {
        let own = self.server(TICKWS)?;
        if name == "itself" {
            return Some(own.figure).filter(|value| value.is_finite());
        }
        let other = self.server(name)?;
        let value = match (own.ratio, other.ratio) {
            (Some(own), Some(other)) => own / other,
            _ => own.figure / other.figure,
        };
        Some(value).filter(|value| value.is_finite())
    }
}

impl Report {
    pub fn new(quick: bool, passes: usize, rows: Vec<Row>) -> Report {
        let quick = if quick { " --quick" } else { "" };
        Report {
            date: today(),
            machine: machine(),
            command: format!("cargo run --release -p tickws-bench -- compare{quick} --passes {passes}"),
            passes,
            rows,
        }
    }

    /// The servers that appear on any row.
    pub fn names(&self) -> Vec<&'static str> {
        NAMES.into_iter().filter(|name| self.rows.iter().any(|row| row.server(name).is_some())).collect()
    }
}

pub fn print(report: &Report) {
    println!("{}, {}", report.date, report.machine);
    println!("{}", report.command);
    println!("`~`: no sample counted (other processes were running, or the limit samples disagreed)\n");
    print_ratios(report);
    for row in &report.rows {
        print_row(row);
    }
    print_targets(report);
}

fn mark(standing: &Standing) -> &'static str {
    if standing.loose { "~" } else { "" }
}

/// Prints the bracketed CPU times as multiples of the limit's.
fn print_ratios(report: &Report) {
    let names = report.names();
    if !report.rows.iter().flat_map(|row| &row.servers).any(|server| server.ratio.is_some()) {
        return;
    }
    println!("CPU time of the server per message, as a multiple of the limit's:\n");
    println!("| workload | limit, ns | {} |", names[names.len().min(1)..].join(" | "));
    println!("|---|{}", "--:|".repeat(names.len()));
    for row in report.rows.iter().filter(|row| row.servers.iter().any(|server| server.ratio.is_some())) {
        let cell = |name: &str| match row.server(name) {
            Some(standing) => match standing.ratio {
                Some(ratio) => format!("{}{ratio:.2}", mark(standing)),
                None => "failed".into(),
            },
            None => "–".into(),
        };
        let limit = row.server(LIMIT).map_or(f64::NAN, |limit| limit.figure);
        let cells: Vec<_> = names.iter().filter(|name| **name != LIMIT).map(|name| cell(name)).collect();
        println!("| {} | {limit:.0} | {} |", row.what, cells.join(" | "));
    }
}

fn print_row(row: &Row) {
    println!("\n{} ({})", row.what, row.unit);
    if let Some(rate) = row.latency_rate {
        println!("  latency in µs at {rate:.0} messages/s");
    }
    for standing in &row.servers {
        let Standing { name, samples, discarded, .. } = standing;
        if let Some(error) = &standing.error {
            println!("  {name:>18}  failed: {error}");
            continue;
        }
        print!("  {name:>18}  {}{:.*}", mark(standing), decimals(standing.figure), standing.figure);
        if let Some(opened) = standing.opened {
            print!(", {opened:.0} before");
        }
        if standing.rate.is_finite() {
            print!(", {:.0}/s", standing.rate);
        }
        if let Some(Quantiles { p50, p99, p999 }) = standing.calm {
            print!(", p50 {p50:.0} p99 {p99:.0} p99.9 {p999:.0} without, with");
        }
        if let Some(Quantiles { p50, p99, p999 }) = standing.latency {
            print!(", p50 {p50:.0} p99 {p99:.0} p99.9 {p999:.0}");
        }
        if name != TICKWS
            && name != LIMIT
            && let Some(ratio) = row.against(name)
        {
            print!(", tickws / {name} {ratio:.2}");
        }
        println!("  ({samples} counted, {discarded} discarded)");
    }
}

fn decimals(value: f64) -> usize {
    if value.abs() < 100.0 { 2 } else { 0 }
}

fn print_targets(report: &Report) {
    println!("\ntargets of tickws:\n");
    println!("| workload | against | is | target | |");
    println!("|---|---|--:|--:|---|");
    let (mut met, mut all) = (0, 0);
    for row in &report.rows {
        let loose = row.server(TICKWS).is_some_and(|standing| standing.loose);
        for target in &row.targets {
            let Target { against, value, bound, .. } = target;
            let sign = Bound { most: *bound, strict: target.strict }.sign();
            let verdict = if target.met { "met" } else { "MISSED" };
            let digits = decimals(*value);
            let mark = if loose { "~" } else { "" };
            println!("| {} | {against} | {mark}{value:.digits$} | {sign} {bound:.2} | {verdict} |", row.what);
            met += usize::from(target.met);
            all += 1;
        }
    }
    println!("\n{met} of {all} met");
    let samples = || report.rows.iter().flat_map(|row| &row.servers).filter(|server| server.name != LIMIT);
    let counted: usize = samples().map(|server| server.samples).sum();
    let discarded: usize = samples().map(|server| server.discarded).sum();
    println!("{counted} samples counted, {discarded} were discarded");
}

/// Today's date in UTC.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    civil(seconds / 86_400)
}

/// Converts days since 1970 to year, month and day. Years begin in March, so that the leap day is
/// the last.
fn civil(days: u64) -> String {
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + u64::from(month <= 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::WORKLOADS;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), "1970-01-01");
        assert_eq!(civil(11_016), "2000-02-29");
        assert_eq!(civil(20_454), "2026-01-01");
    }

    #[test]
    fn targets_are_judged_relative_to_the_limit() {
        let standing =
            |name, ratio| Standing { ratio: Some(ratio), figure: ratio * 100.0, ..Standing::new(name, 1) };
        let row = Row::new(
            &WORKLOADS[0],
            None,
            vec![standing(LIMIT, 1.0), standing(TICKWS, 1.04), standing(UWS, 1.0)],
        );
        let verdicts: Vec<_> =
            row.targets.iter().map(|target| (target.against.as_str(), target.met)).collect();
        assert_eq!(verdicts, [(LIMIT, true), (UWS, false)]);
    }
}
