//! `tickws-bench`: tickws against other WebSocket servers and against a bare epoll loop. See README.md.

mod args;
mod callgrind;
mod chart;
mod compare;
mod growth;
mod load;
mod probe;
mod report;
mod servers;
mod smoke;
mod workload;

/// What went wrong, to be read by a person.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> std::process::ExitCode {
    match args::run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tickws-bench: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
