//! ws-rs, after its example `bench-server.rs`, with TCP_NODELAY and without fragments.

use ws::{Builder, Message, Sender, Settings};

use super::{Mode, announce};
use crate::Outcome;

#[expect(clippy::result_large_err, reason = "the error is the crate's own")]
pub fn serve(mode: Mode) -> Outcome<()> {
    let settings = Settings {
        max_connections: 20_000,
        // Enough for a broadcast of several messages to all clients.
        queue_size: 20,
        fragment_size: usize::MAX,
        tcp_nodelay: true,
        panic_on_internal: false,
        ..Settings::default()
    };
    let server = Builder::new().with_settings(settings).build(move |out: Sender| {
        move |message: Message| match mode {
            Mode::Echo => out.send(message),
            Mode::Broadcast => out.broadcast(message),
        }
    })?;
    let server = server.bind("127.0.0.1:0")?;
    announce(server.local_addr()?)?;
    server.run()?;
    Ok(())
}
