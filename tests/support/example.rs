//! Runs an example program as a user runs it.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// Far above the time that any step here takes, so that a loaded machine fails no test.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A running example. A thread reads its output, so that the example never blocks on a full pipe.
pub struct Example {
    child: Child,
    pub stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    log: Vec<String>,
}

impl Example {
    pub fn start(name: &str, args: &[&str]) -> Example {
        let features: &[&str] = match (cfg!(feature = "json"), cfg!(feature = "tls")) {
            (true, true) => &["--features", "json,tls"],
            (true, false) => &["--features", "json"],
            (false, true) => &["--features", "tls"],
            (false, false) => &[],
        };
        let cargo = |what: &str| {
            let mut command = Command::new(env!("CARGO"));
            command.args([what, "--quiet", "--example", name]).args(features);
            command
        };
        // Built before any deadline counts: a slow machine compiles for minutes.
        assert!(cargo("build").status().unwrap().success(), "{name} does not build");
        let mut child = cargo("run")
            .arg("--")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::<ChildStdout>::new(child.stdout.take().unwrap()),
            Box::<ChildStderr>::new(child.stderr.take().unwrap()),
        ];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Example { stdin: child.stdin.take(), child, lines, log: Vec::new() }
    }

    /// Waits for a line of the log that contains `text`.
    pub fn expect(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("no line with {text:?} ({error}) in {:#?}", self.log),
            }
        }
    }

    /// The address in a line such as `listening on ws://127.0.0.1:4711/`.
    pub fn url(&mut self) -> String {
        self.expect_url("ws://")
    }

    /// As [`url`](Example::url), but for any scheme.
    pub fn expect_url(&mut self, scheme: &str) -> String {
        let line = self.expect(scheme);
        let start = line.find(scheme).unwrap();
        line[start..].split([' ', ',']).next().unwrap().to_string()
    }

    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Kills the process, as a crash would end it.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        drop(self.stdin.take());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
