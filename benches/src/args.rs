//! The command line.

use std::time::Duration;

use lexopt::prelude::*;

use crate::{
    Outcome, callgrind, compare, frame, growth,
    load::{self, Load, Mode, Target},
    servers, smoke, soak,
};

const HELP: &str = "\
tickws-bench COMMAND

  compare [--quick] [--passes N] [--only WORKLOAD] [--servers A,B]
                      all servers against the limit, in turns; table, JSON and chart
  frame [ROW …] [--clients N]
                      the duration of single calls, with and without a time budget
  growth [--quick]    costs of tickws as connections, members, idle clients and timers grow
  callgrind [TASK]    instructions of tickws per message, delivery and idle tick; needs valgrind
  load ADDR MODE [--clients N] [--depth N] [--payload BYTES] [--text] [--tls [--resume]] [--verify] [--rate PER_SECOND]
                 [--warm SECONDS] [--time SECONDS] [--count N] [--pid PID]
                      one load (echo, fanout, idle, churn, flood) against a server at a loopback address
  serve NAME MODE     one server (echo, broadcast, with +tls: echo+tls); prints its address
  soak [--minutes N] [--clients N] [--tls]
                      mixed traffic with churn against tickws, every message checked; a verdict at the end
  smoke [NAME …]      every mode for a moment, with --verify; without names tickws and the limit
";

pub fn run() -> Outcome<()> {
    crate::probe::raise_descriptor_limit();
    let mut parser = lexopt::Parser::from_env();
    let command = match parser.next()? {
        Some(Value(command)) => command.string()?,
        Some(Short('h') | Long("help")) | None => {
            print!("{HELP}");
            return Ok(());
        }
        Some(other) => return Err(other.unexpected().into()),
    };
    match command.as_str() {
        "serve" => {
            let words = values(&mut parser)?;
            let [name, mode] = &words[..] else { return Err("serve NAME MODE".into()) };
            servers::serve(name, mode)
        }
        "smoke" => {
            let mut names = values(&mut parser)?;
            if names.is_empty() {
                names = vec![servers::TICKWS.into(), servers::LIMIT.into()];
            }
            smoke::run(&names)
        }
        "compare" => compare_command(parser),
        "frame" => frame_command(parser),
        "growth" => match parser.next()? {
            None => growth::run(false),
            Some(Long("quick")) => growth::run(true),
            Some(other) => Err(other.unexpected().into()),
        },
        "callgrind" => callgrind::run(&values(&mut parser)?),
        // Runs under valgrind, started by `callgrind`.
        "counted" => callgrind::run_counted(&values(&mut parser)?),
        "load" => load_command(parser),
        "soak" => soak_command(parser),
        // The server of a soak, started by `soak`.
        "soak-server" => {
            let words = values(&mut parser)?;
            let [upstream, kind] = &words[..] else { return Err("soak-server UPSTREAM KIND".into()) };
            soak::server::serve(upstream, kind == "tls")
        }
        other => Err(format!("{other:?} is not a command\n\n{HELP}").into()),
    }
}

/// Collects positional arguments; options are errors.
fn values(parser: &mut lexopt::Parser) -> Outcome<Vec<String>> {
    let mut words = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(words)
}

fn compare_command(mut parser: lexopt::Parser) -> Outcome<()> {
    let (mut quick, mut passes, mut only) = (false, None, None);
    let mut names: Vec<String> = servers::NAMES.map(str::to_owned).into();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("quick") => quick = true,
            Long("passes") => passes = Some(parser.value()?.parse()?),
            Long("only") => only = Some(parser.value()?.string()?),
            Long("servers") => names = parser.value()?.string()?.split(',').map(str::to_owned).collect(),
            other => return Err(other.unexpected().into()),
        }
    }
    let passes = passes.unwrap_or(if quick { 1 } else { 5 });
    compare::run(&compare::Options { quick, passes, only, servers: names })
}

fn frame_command(mut parser: lexopt::Parser) -> Outcome<()> {
    // Both ends of a connection are in this process.
    let mut options = frame::Options { clients: 9_900, rows: Vec::new() };
    while let Some(arg) = parser.next()? {
        match arg {
            Value(row) => options.rows.push(row.string()?),
            Long("clients") => options.clients = parser.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    frame::run(&options)
}

fn load_command(mut parser: lexopt::Parser) -> Outcome<()> {
    let mut load = Load {
        mode: Mode::Echo,
        clients: 64,
        depth: 1,
        payload: 16,
        text: false,
        tls: false,
        resumes: false,
        verify: false,
        rate: None,
        warm: Duration::from_millis(500),
        time: Duration::from_secs(2),
        count: u64::MAX,
    };
    let (mut words, mut pid) = (Vec::new(), None);
    let seconds =
        |parser: &mut lexopt::Parser| Outcome::Ok(Duration::try_from_secs_f64(parser.value()?.parse()?)?);
    while let Some(arg) = parser.next()? {
        match arg {
            Value(word) => words.push(word.string()?),
            Long("clients") => load.clients = parser.value()?.parse()?,
            Long("depth") => load.depth = parser.value()?.parse()?,
            Long("payload") => load.payload = parser.value()?.parse()?,
            Long("text") => load.text = true,
            Long("tls") => load.tls = true,
            Long("resume") => load.resumes = true,
            Long("verify") => load.verify = true,
            Long("rate") => load.rate = Some(parser.value()?.parse()?),
            Long("warm") => load.warm = seconds(&mut parser)?,
            Long("time") => load.time = seconds(&mut parser)?,
            Long("count") => load.count = parser.value()?.parse()?,
            Long("pid") => pid = Some(parser.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let [addr, mode] = &words[..] else { return Err("load ADDR MODE".into()) };
    load.mode = match mode.as_str() {
        "echo" => Mode::Echo,
        "fanout" => Mode::Fanout,
        "idle" => Mode::Idle,
        "churn" => Mode::Churn,
        "flood" => Mode::Flood,
        other => return Err(format!("{other:?} is not a mode").into()),
    };
    let target = Target { addr: addr.parse()?, pid, tls: load.tls };
    if !target.addr.ip().is_loopback() {
        return Err("the load only goes to a loopback address".into());
    }
    let figures = load::run(target, &load)?;
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

fn soak_command(mut parser: lexopt::Parser) -> Outcome<()> {
    let (mut minutes, mut clients, mut tls) = (20.0, 100, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("minutes") => minutes = parser.value()?.parse()?,
            Long("clients") => clients = parser.value()?.parse()?,
            Long("tls") => tls = true,
            other => return Err(other.unexpected().into()),
        }
    }
    soak::run(Duration::try_from_secs_f64(minutes * 60.0)?, clients, tls)
}
