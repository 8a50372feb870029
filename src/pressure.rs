//! How near the server is to its ceiling on buffered bytes.

/// What the server sheds because of [`max_total_buffered`](crate::ServerBuilder::max_total_buffered).
///
/// An application that hears of it ([`Event::Pressure`](crate::Event::Pressure)) may send less by itself.
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
    /// Nothing.
    #[default]
    Low,
    /// More than 3/4 is in use: new connections are answered with 503, until no more than 5/8 is.
    Refusing,
    /// More than 7/8 is in use: besides, nobody's input is read, until no more than 3/4 is. After 250 ms, or
    /// at once when all of it is in use, those who hold the most are closed with
    /// [`CloseReason::Shed`](crate::CloseReason::Shed).
    NotReading,
}
