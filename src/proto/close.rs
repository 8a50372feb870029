//! The closing handshake (RFC 6455 §5.5.1, §7): close bodies and the state.

use crate::{
    close_code::CloseCode,
    error::{CloseError, ProtocolError},
};

/// The longest reason in bytes: a control payload of 125 less the 2 of the code (§5.5, §5.5.1).
pub(crate) const MAX_REASON: usize = 123;

/// Reads a received close body into code and reason; `None` if it is empty, which is legal.
///
/// # Errors
///
/// [`CloseBodyTooShort`](ProtocolError::CloseBodyTooShort),
/// [`InvalidCloseCode`](ProtocolError::InvalidCloseCode) or
/// [`InvalidCloseReason`](ProtocolError::InvalidCloseReason).
pub(crate) fn parse_body(body: &[u8]) -> Result<Option<(u16, &str)>, ProtocolError> {
    if body.is_empty() {
        return Ok(None);
    }
    // "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer (in
    // network byte order) representing a status code" (§5.5.1)
    let (code, reason) = body.split_first_chunk().ok_or(ProtocolError::CloseBodyTooShort)?;
    let code = u16::from_be_bytes(*code);
    if !CloseCode::new(code).is_sendable() {
        return Err(ProtocolError::InvalidCloseCode(code));
    }
    // "the body MAY contain UTF-8-encoded data with value /reason/" (§5.5.1)
    let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::InvalidCloseReason)?;
    Ok(Some((code, reason)))
}

/// Checks that a close frame of ours may carry this code and reason.
///
/// # Errors
///
/// [`CloseError::InvalidCode`] or [`CloseError::ReasonTooLong`].
pub(crate) fn check(code: u16, reason: &str) -> Result<(), CloseError> {
    let code = CloseCode::new(code);
    if !code.is_sendable() {
        return Err(CloseError::InvalidCode(code));
    }
    // "All control frames MUST have a payload length of 125 bytes or less" (§5.5)
    if reason.len() > MAX_REASON {
        return Err(CloseError::ReasonTooLong(reason.len()));
    }
    Ok(())
}

/// Appends the body of a close frame; `code` and `reason` have passed [`check`].
pub(crate) fn write_body(code: u16, reason: &str, out: &mut Vec<u8>) {
    debug_assert_eq!(check(code, reason), Ok(()));
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// State of the closing handshake. "After both sending and receiving a Close message, an endpoint
/// considers the WebSocket connection closed and MUST close the underlying TCP connection."
/// (§5.5.1)
///
/// ```text
///     Open -----on_sent----> Sent
///      |                      |
///  on_received            on_received
///      v                      v
///   Received ---on_sent----> Done
///
///              may_send_data  may_receive
///   Open            yes           yes
///   Sent            no            yes       data in flight, then the peer's close frame
///   Received        yes           no        the application's last messages, then our close frame
///   Done            no            no        time to close the TCP connection
/// ```
///
/// A second close frame on either side changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum CloseState {
    /// Neither side has sent a close frame.
    #[default]
    Open,
    /// Our close frame is queued, the peer's has not arrived.
    Sent,
    /// The peer's close frame has arrived, ours is not queued.
    Received,
    /// Both close frames have been exchanged.
    Done,
}

impl CloseState {
    /// The state once our close frame is queued; nothing may be queued behind it.
    pub(crate) fn on_sent(self) -> CloseState {
        match self {
            CloseState::Open | CloseState::Sent => CloseState::Sent,
            CloseState::Received | CloseState::Done => CloseState::Done,
        }
    }

    /// The state once the peer's close frame has arrived.
    pub(crate) fn on_received(self) -> CloseState {
        match self {
            CloseState::Open | CloseState::Received => CloseState::Received,
            CloseState::Sent | CloseState::Done => CloseState::Done,
        }
    }

    /// Whether data frames may still be queued.
    pub(crate) fn may_send_data(self) -> bool {
        // "The application MUST NOT send any more data frames after sending a Close frame."
        // (§5.5.1)
        matches!(self, CloseState::Open | CloseState::Received)
    }

    /// Whether received frames are still processed.
    pub(crate) fn may_receive(self) -> bool {
        // "After receiving a control frame indicating the connection should be closed, a peer
        // discards any further data received." (§1.4)
        matches!(self, CloseState::Open | CloseState::Sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codes_are_accepted_or_rejected_as_in_the_rfc() {
        for code in 0..=u16::MAX {
            let expected = match code {
                0..=999 => false,
                1000..=1003 => true,
                1004..=1006 => false,
                1007..=1014 => true,
                1015..=2999 => false,
                3000..=4999 => true,
                5000.. => false,
            };
            assert_eq!(CloseCode::new(code).is_sendable(), expected, "{code}");
            let parsed = parse_body(&code.to_be_bytes()).map(|body| body.is_some());
            let refused = Err(ProtocolError::InvalidCloseCode(code));
            assert_eq!(parsed, if expected { Ok(true) } else { refused });
        }
    }

    #[test]
    fn bodies_round_trip() {
        let longest = "x".repeat(MAX_REASON);
        for (code, reason) in [(1000, ""), (1001, "grüße"), (1014, "bad gateway"), (4999, longest.as_str())]
        {
            let mut body = Vec::new();
            write_body(code, reason, &mut body);
            assert_eq!(parse_body(&body), Ok(Some((code, reason))));
        }
    }

    #[test]
    fn malformed_bodies_are_violations() {
        assert_eq!(parse_body(&[]), Ok(None));
        assert_eq!(parse_body(&[3]), Err(ProtocolError::CloseBodyTooShort));
        assert_eq!(parse_body(&[3, 237, b'x']), Err(ProtocolError::InvalidCloseCode(1005)));
        for reason in [&[0xff][..], &[0xe2, 0x82], &[0xed, 0xa0, 0x80]] {
            let body = [&[3, 232], reason].concat();
            assert_eq!(parse_body(&body), Err(ProtocolError::InvalidCloseReason));
        }
    }

    #[test]
    fn codes_and_reasons_are_checked_before_sending() {
        assert_eq!(check(1000, ""), Ok(()));
        assert_eq!(check(1006, ""), Err(CloseError::InvalidCode(CloseCode::ABNORMAL_CLOSURE)));
        assert_eq!(check(3000, &"x".repeat(MAX_REASON)), Ok(()));
        assert_eq!(check(3000, &"x".repeat(MAX_REASON + 1)), Err(CloseError::ReasonTooLong(MAX_REASON + 1)));
        // The limit is in bytes, not in characters.
        assert_eq!(check(3000, &"ü".repeat(62)), Err(CloseError::ReasonTooLong(124)));
    }

    #[test]
    fn transitions_match_the_documented_table() {
        use CloseState::*;
        for (state, on_sent, on_received, may_send, may_receive) in [
            (Open, Sent, Received, true, true),
            (Sent, Sent, Done, false, true),
            (Received, Done, Received, true, false),
            (Done, Done, Done, false, false),
        ] {
            assert_eq!(state.on_sent(), on_sent, "{state:?}");
            assert_eq!(state.on_received(), on_received, "{state:?}");
            assert_eq!(state.may_send_data(), may_send, "{state:?}");
            assert_eq!(state.may_receive(), may_receive, "{state:?}");
        }
        assert_eq!(CloseState::default(), Open);
    }
}
