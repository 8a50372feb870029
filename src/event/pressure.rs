//! How near the server is to its memory limit.

/// How near the server is to [`max_total_buffered`](crate::ServerBuilder::max_total_buffered), and
/// what it refuses because of that.
///
/// [`Event::Pressure`](crate::Event::Pressure) reports each change, so that an application can send
/// less.
///
/// # Examples
///
/// ```
/// use tickws::Pressure;
///
/// assert!(Pressure::Low < Pressure::Refusing && Pressure::Refusing < Pressure::NotReading);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Pressure {
    /// Below the thresholds: nothing is refused.
    #[default]
    Low,
    /// More than 3/4 is in use: new connections get a 503. Ends when no more than 5/8 is in use.
    Refusing,
    /// More than 7/8 is in use: additionally, no input is read. Ends when no more than 3/4 is in
    /// use. After 250 ms, or immediately when all is in use, the clients with the most buffered
    /// bytes are closed with [`CloseReason::Shed`](crate::CloseReason::Shed).
    NotReading,
}
