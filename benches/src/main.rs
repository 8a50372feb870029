//! `tickws-bench`: tickws against other WebSocket servers and against a bare epoll loop. See README.md.

mod args;
mod load;
mod probe;
mod servers;
mod smoke;

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
