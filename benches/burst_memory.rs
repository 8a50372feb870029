//! Resident memory after bursts: waves of clients that each send a large message and read its echo.
//!
//! ```sh
//! cargo bench --bench burst_memory
//! MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=1048576 cargo bench --bench burst_memory
//! ```

mod support;

use std::{
    io::{Read, Write},
    thread,
};

use support::{Bench, Outcome, frame, raise_descriptor_limit, reply_len, resident};

const WAVES: usize = 5;
const CLIENTS: usize = 400;
const SIZE: usize = 1 << 20;

fn main() -> Outcome<()> {
    if support::is_server()? {
        return Ok(());
    }
    raise_descriptor_limit();
    let bench = Bench::start("echo", &[])?;
    drop(bench.connect()?);
    println!("{WAVES} waves of {CLIENTS} messages of {SIZE} bytes, resident MiB of the server process:");
    println!("  before: {}", resident(bench.pid())? >> 20);
    for wave in 1..=WAVES {
        let clients = (0..CLIENTS).map(|_| bench.connect()).collect::<Outcome<Vec<_>>>()?;
        let threads: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                // A client reads while it sends, so that the server holds the messages of all.
                thread::Builder::new().stack_size(64 << 10).spawn(move || {
                    let mut reader = client.try_clone()?;
                    let mut reply = vec![0; reply_len(SIZE)];
                    client.write_all(&frame(&vec![7; SIZE]))?;
                    reader.read_exact(&mut reply)
                })
            })
            .collect::<Result<_, _>>()?;
        for thread in threads {
            thread.join().map_err(|_| "a client has panicked")??;
        }
        println!("  after wave {wave}: {}", resident(bench.pid())? >> 20);
    }
    bench.stop()
}
