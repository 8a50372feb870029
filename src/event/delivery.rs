//! The outcome of a message to many clients.

/// Outcome of a message to many clients: how many it was queued for, and how many miss it.
///
/// # Examples
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let mut server = tickws::Server::bind("127.0.0.1:0")?;
/// let delivery = server.broadcast("anyone there?");
/// assert_eq!(delivery.queued, 0);
/// # Ok(())
/// # }
/// ```
#[must_use = "it counts the clients that miss the message; write `let _ =` if they do not matter"]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Delivery {
    /// Clients that the message was queued for.
    pub queued: usize,
    /// Clients that miss it and stay connected: their outbox is full under
    /// [`OverflowPolicy::DropNewest`](crate::OverflowPolicy::DropNewest), or the message alone
    /// exceeds `max_buffered`.
    pub dropped: usize,
    /// Clients whose outbox is full under
    /// [`OverflowPolicy::Disconnect`](crate::OverflowPolicy::Disconnect): they are being closed
    /// with 1013.
    pub overflowed: usize,
    /// Clients that were listed by id ([`Audience::Client`](crate::Audience::Client),
    /// [`Audience::Clients`](crate::Audience::Clients)) and are gone, closing, or not yet
    /// connected.
    pub not_open: usize,
}
