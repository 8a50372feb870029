//! All servers in turn, each between two samples of the limit.

use std::{collections::BTreeMap, io::BufRead};

use crate::{
    Outcome, chart,
    load::{self, Figures, Load, Mode, latency::Quantiles},
    probe::{self, Probe},
    report::{self, Report, Row, Standing},
    servers::{self, LIMIT, LIMIT_UNBUFFERED, Server, TICKWS},
    workload::{Metric, WORKLOADS, Workload},
};

/// Largest relative difference of the limits before and after a sample that counts.
const AGREE: f64 = 0.08;
/// Largest share of the time that other processes may use in a sample that counts.
const OTHERS: f64 = 0.06;
/// Polls per figure of the idle tick, and number of figures.
const POLLS: u32 = 20_000;
const ROUNDS: u32 = 9;

#[derive(Debug, Clone)]
pub struct Options {
    pub quick: bool,
    pub passes: usize,
    pub only: Option<String>,
    pub servers: Vec<String>,
}

/// A measured server between two measured limits.
struct Sample {
    figures: Figures,
    ratio: f64,
    /// Whether the limits on both sides agree and the machine was quiet.
    counts: bool,
}

pub fn run(options: &Options) -> Outcome<()> {
    let mut names = Vec::new();
    for name in &options.servers {
        match servers::is_missing(name) {
            None => names.push(name.as_str()),
            Some(reason) => eprintln!("{name} is left out: {reason}"),
        }
    }
    names.retain(|name| *name != LIMIT);
    if probe::cores()?.len() < 2 {
        eprintln!("only one core: server and load share it, and the figures mean little");
    }
    let workloads: Vec<_> = WORKLOADS
        .iter()
        .filter(|workload| options.only.as_deref().is_none_or(|only| workload.name.starts_with(only)))
        .map(|workload| shortened(*workload, options.quick))
        .collect();
    if workloads.is_empty() {
        let all: Vec<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
        return Err(format!("no such workload; there are {}", all.join(", ")).into());
    }
    let mut tables: Vec<_> = workloads.iter().map(|_| Collected::default()).collect();
    for pass in 1..=options.passes {
        for (workload, collected) in workloads.iter().zip(&mut tables) {
            eprintln!("pass {pass} of {}: {}", options.passes, workload.what);
            if let Err(error) = measure(workload, &names, options, collected) {
                // The failure of one server on one row is reported, and the others go on.
                eprintln!("  {error}");
            }
        }
    }
    let rows = workloads.iter().zip(tables).map(|(workload, collected)| collected.row(workload)).collect();
    let report = Report::new(options.quick, options.passes, rows);
    report::print(&report);
    let dir = servers::output_dir()?;
    let json = dir.join("compare.json");
    std::fs::write(&json, serde_json::to_string_pretty(&report)?)?;
    let svg = dir.join("compare.svg");
    chart::draw(&report, &svg)?;
    println!("\nwritten: compare.json and compare.svg in {}", dir.display());
    Ok(())
}

fn shortened(workload: Workload, quick: bool) -> Workload {
    let load = workload.load;
    let load = if quick { Load { warm: load.warm / 2, time: load.time / 3, ..load } } else { load };
    Workload { load, ..workload }
}

/// Whether a server supports a row.
fn supports(name: &str, workload: &Workload) -> bool {
    (servers::supports_text(name) || !workload.load.text)
        && (servers::answers_close(name) || workload.load.mode != Mode::Churn)
        && (servers::speaks_tls(name) || !workload.load.tls)
        && (name != LIMIT_UNBUFFERED || workload.load.tls)
        && (name == TICKWS || workload.metric != Metric::Tick)
}

/// All samples of a row.
#[derive(Default)]
struct Collected {
    samples: BTreeMap<String, Vec<Sample>>,
    limits: Vec<Figures>,
    /// Quantiles of each sample, and whether it counts.
    latencies: BTreeMap<String, Vec<(Quantiles, bool)>>,
    /// Messages per second for measuring latency, the same for all servers.
    rate: Option<f64>,
    failures: BTreeMap<String, String>,
}

fn measure(workload: &Workload, names: &[&str], options: &Options, collected: &mut Collected) -> Outcome<()> {
    match workload.metric {
        Metric::Cpu => bracket(workload, names, options, collected),
        Metric::Tick => {
            let figures = idle_tick(workload.load.clients, 0)?;
            let counts = is_quiet(&figures);
            collected.push(TICKWS, Sample { figures, ratio: f64::NAN, counts });
            Ok(())
        }
        Metric::Bytes | Metric::Flood => {
            let with_limit = std::iter::once(LIMIT).chain(names.iter().copied());
            for name in with_limit.filter(|name| supports(name, workload)) {
                match once(name, workload, None) {
                    Ok(figures) => {
                        // Memory does not depend on other load; latency does.
                        let counts = workload.metric == Metric::Bytes || is_quiet(&figures);
                        collected.push(name, Sample { figures, ratio: f64::NAN, counts });
                    }
                    Err(error) => collected.fail(name, &*error),
                }
            }
            Ok(())
        }
    }
}

/// Measures limit, X, limit, Y, limit, … A sample that does not count is repeated, a bounded number
/// of times.
fn bracket(workload: &Workload, names: &[&str], options: &Options, collected: &mut Collected) -> Outcome<()> {
    let tries = if options.quick { 2 } else { 4 };
    let mut before = once(LIMIT, workload, None)?;
    // The rate is of deliveries; the load sends messages.
    let receivers = if workload.load.mode == Mode::Fanout { workload.load.clients } else { 1 };
    let share = before.rate * workload.share / receivers as f64;
    collected.limits.push(before.clone());
    // The latency of connections is measured in the closed loop: each one that ends starts the
    // next.
    let closed = workload.load.mode == Mode::Churn;
    let rate = if closed { share } else { *collected.rate.get_or_insert(share) };
    if closed {
        collected.latency(LIMIT, &before);
    } else {
        collected.latency(LIMIT, &once(LIMIT, workload, Some(rate))?);
    }
    for name in names.iter().filter(|name| supports(name, workload)) {
        for _ in 0..tries {
            let figures = match once(name, workload, None) {
                Ok(figures) => figures,
                Err(error) => {
                    collected.fail(name, &*error);
                    break;
                }
            };
            let after = once(LIMIT, workload, None)?;
            let counts =
                agree(before.cpu, after.cpu) && [&before, &figures, &after].into_iter().all(is_quiet);
            let ratio = figures.cpu / ((before.cpu + after.cpu) / 2.0);
            if closed {
                collected.latency(name, &figures);
                collected.latency(LIMIT, &after);
            }
            collected.push(name, Sample { figures, ratio, counts });
            collected.limits.push(after.clone());
            before = after;
            if counts {
                break;
            }
        }
        if !closed && !collected.failures.contains_key(*name) {
            match once(name, workload, Some(rate)) {
                Ok(figures) => collected.latency(name, &figures),
                Err(error) => collected.fail(name, &*error),
            }
        }
    }
    Ok(())
}

fn is_quiet(figures: &Figures) -> bool {
    figures.others < OTHERS
}

fn agree(one: f64, other: f64) -> bool {
    (one - other).abs() <= AGREE * one.min(other)
}

/// Runs one load on a new server; with a rate, to measure latency.
fn once(name: &str, workload: &Workload, rate: Option<f64>) -> Outcome<Figures> {
    let server = Server::start(name, workload.server_mode())?;
    let load = match rate {
        None => workload.load,
        // Depth only matters for the closed loop, and half the time suffices for the quantiles.
        Some(_) => Load { rate, depth: 1, time: workload.load.time / 2, ..workload.load },
    };
    load::run(server.target(), &load)
}

/// The cost of an idle poll of tickws, in nanoseconds.
pub fn idle_tick(clients: usize, timers: usize) -> Outcome<Figures> {
    let mut server = Server::start(TICKWS, &format!("idle:{clients}:{timers}:{POLLS}:{ROUNDS}"))?;
    let mut open = Vec::with_capacity(clients);
    for index in 0..clients {
        open.push(load::connect(server.target(), index)?);
    }
    let mut costs = Vec::new();
    let probe = Probe::begin(server.target().pid)?;
    for _ in 0..ROUNDS {
        let mut line = String::new();
        server.output.read_line(&mut line)?;
        let (cost, events) = line.trim().split_once(' ').ok_or("the server has ended")?;
        if events != "0" {
            return Err(format!("{events} events while nothing happened").into());
        }
        costs.push(cost.parse()?);
    }
    Ok(Figures {
        messages: u64::from(ROUNDS * POLLS),
        cpu: median(costs),
        others: probe.end()?.others,
        ..Figures::default()
    })
}

/// The median; NaN of no values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Collected {
    fn push(&mut self, name: &str, sample: Sample) {
        self.samples.entry(name.to_owned()).or_default().push(sample);
    }

    fn latency(&mut self, name: &str, figures: &Figures) {
        let latency = figures.latency.map(|latency| (latency, is_quiet(figures)));
        self.latencies.entry(name.to_owned()).or_default().extend(latency);
    }

    fn fail(&mut self, name: &str, error: &dyn std::error::Error) {
        eprintln!("  {name}: {error}");
        self.failures.insert(name.to_owned(), error.to_string());
    }

    fn row(&self, workload: &Workload) -> Row {
        let mut standings = Vec::new();
        for name in servers::NAMES {
            let latency = self.latencies.get(name).and_then(|all| {
                let quiet: Vec<_> =
                    all.iter().filter(|(_, counts)| *counts).map(|(latency, _)| *latency).collect();
                // If no quantiles count, all are used, as with the samples.
                median_quantiles(&quiet).or_else(|| {
                    median_quantiles(&all.iter().map(|(latency, _)| *latency).collect::<Vec<_>>())
                })
            });
            if name == LIMIT && !self.limits.is_empty() {
                let of = |figure: fn(&Figures) -> f64| median(self.limits.iter().map(figure).collect());
                let (figure, rate) = (of(|figures| figures.cpu), of(|figures| figures.rate));
                let samples = self.limits.len();
                standings.push(Standing {
                    figure,
                    rate,
                    ratio: Some(1.0),
                    latency,
                    ..Standing::new(name, samples)
                });
            } else if let Some(samples) = self.samples.get(name) {
                standings.push(standing(name, workload, samples, latency));
            } else if let Some(error) = self.failures.get(name) {
                standings.push(Standing { error: Some(error.clone()), ..Standing::new(name, 0) });
            }
        }
        Row::new(workload, self.rate, standings)
    }
}

/// The medians of the samples that count; if none does, of all, marked as loose.
fn standing(name: &str, workload: &Workload, samples: &[Sample], latency: Option<Quantiles>) -> Standing {
    let counted: Vec<_> = samples.iter().filter(|sample| sample.counts).collect();
    let loose = counted.is_empty();
    let used = if loose { samples.iter().collect() } else { counted };
    let of = |figure: &dyn Fn(&Sample) -> f64| median(used.iter().map(|sample| figure(sample)).collect());
    let bytes =
        |index: usize| move |sample: &Sample| sample.figures.bytes.map_or(f64::NAN, |bytes| bytes[index]);
    let p99 = |latency: Option<Quantiles>| latency.map_or(f64::NAN, |latency| latency.p99);
    let flood = |sample: &Sample| p99(sample.figures.latency) / p99(sample.figures.calm);
    let calm: Vec<_> = used.iter().filter_map(|sample| sample.figures.calm).collect();
    let flooded: Vec<_> = used.iter().filter_map(|sample| sample.figures.latency).collect();
    let counts = if loose { 0 } else { used.len() };
    let base = Standing { discarded: samples.len() - counts, loose, ..Standing::new(name, counts) };
    match workload.metric {
        Metric::Cpu => Standing {
            figure: of(&|sample| sample.figures.cpu),
            rate: of(&|sample| sample.figures.rate),
            ratio: Some(of(&|sample| sample.ratio)),
            latency,
            ..base
        },
        Metric::Tick => Standing { figure: of(&|sample| sample.figures.cpu), ..base },
        Metric::Bytes => Standing { figure: of(&bytes(1)), opened: Some(of(&bytes(0))), ..base },
        Metric::Flood => Standing {
            figure: of(&flood),
            latency: median_quantiles(&flooded),
            calm: median_quantiles(&calm),
            ..base
        },
    }
}

/// The median of each quantile.
fn median_quantiles(all: &[Quantiles]) -> Option<Quantiles> {
    let of = |quantile: fn(&Quantiles) -> f64| median(all.iter().map(quantile).collect());
    (!all.is_empty()).then(|| Quantiles { p50: of(|q| q.p50), p99: of(|q| q.p99), p999: of(|q| q.p999) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_agree_within_their_share() {
        assert!(agree(100.0, 107.9) && agree(107.9, 100.0));
        assert!(!agree(100.0, 108.1) && !agree(108.1, 100.0));
    }

    #[test]
    fn median_is_the_middle_value() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn discarded_samples_are_used_only_if_none_counts() {
        let sample = |ratio, counts| Sample { figures: Figures::default(), ratio, counts };
        let mixed = [sample(9.0, false), sample(1.0, true), sample(2.0, true), sample(3.0, true)];
        let standing_of = |samples: &[Sample]| standing("tickws", &WORKLOADS[0], samples, None);
        let standing = standing_of(&mixed);
        assert_eq!((standing.ratio, standing.discarded, standing.loose), (Some(2.0), 1, false));
        let standing = standing_of(&mixed[..1]);
        assert_eq!((standing.ratio, standing.discarded, standing.loose), (Some(9.0), 1, true));
    }
}
