//! The code of a close frame.

use std::fmt;

/// The status code of a close frame
/// ([RFC 6455 §7.4](https://www.rfc-editor.org/rfc/rfc6455#section-7.4)).
///
/// The constants are the codes that are registered with IANA. Calls take `impl Into<CloseCode>`, so
/// a number does as well. Codes from 4000 to 4999 are for the application, codes from 3000 to 3999
/// for libraries and frameworks.
///
/// `Display` writes the number.
///
/// # Examples
///
/// ```
/// use tickws::CloseCode;
///
/// assert_eq!(CloseCode::GOING_AWAY, CloseCode::from(1001));
/// assert_eq!(CloseCode::GOING_AWAY, 1001);
/// assert_eq!(u16::from(CloseCode::new(4001)), 4001);
/// assert!(!CloseCode::ABNORMAL_CLOSURE.is_sendable());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

macro_rules! registered {
    ($($(#[$doc:meta])* $code:literal $constant:ident;)*) => {
        impl CloseCode {
            $($(#[$doc])* pub const $constant: CloseCode = CloseCode($code);)*

            /// The name of the constant for a registered code.
            const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($constant)),)*
                    _ => None,
                }
            }
        }
    };
}

registered! {
    /// 1000: the purpose of the connection is fulfilled.
    1000 NORMAL_CLOSURE;
    /// 1001: the server goes down, or the browser leaves the page.
    1001 GOING_AWAY;
    /// 1002: the peer violated the protocol.
    1002 PROTOCOL_ERROR;
    /// 1003: the endpoint cannot accept this type of data, for instance binary.
    1003 UNSUPPORTED_DATA;
    /// 1005, never on the wire: the peer's close frame had no code.
    1005 NO_STATUS_RECEIVED;
    /// 1006, never on the wire: the connection ended without a close frame.
    1006 ABNORMAL_CLOSURE;
    /// 1007: a message's data is not of its type, for instance text that is not UTF-8.
    1007 INVALID_PAYLOAD_DATA;
    /// 1008: a message violates the endpoint's policy, and no other code is more suitable.
    1008 POLICY_VIOLATION;
    /// 1009: a message is too large to process.
    1009 MESSAGE_TOO_BIG;
    /// 1010: a client misses an extension in the server's handshake.
    1010 MANDATORY_EXTENSION;
    /// 1011: an unexpected condition keeps the endpoint from fulfilling the request.
    1011 INTERNAL_ERROR;
    /// 1012: the service restarts; a client may reconnect after a random delay.
    1012 SERVICE_RESTART;
    /// 1013: the service is overloaded; a client may reconnect later.
    1013 TRY_AGAIN_LATER;
    /// 1014: a gateway got an invalid response from its upstream server.
    1014 BAD_GATEWAY;
    /// 1015, never on the wire: the TLS handshake failed.
    1015 TLS_HANDSHAKE;
}

impl CloseCode {
    /// The code with this number, valid or not.
    pub const fn new(code: u16) -> Self {
        CloseCode(code)
    }

    /// Whether a close frame may carry this code, in either direction (RFC 6455 §7.4): 1000 to
    /// 1003, 1007 to 1014, and 3000 to 4999.
    pub const fn is_sendable(self) -> bool {
        match self.0 {
            // 1005, 1006 and 1015: "is a reserved value and MUST NOT be set as a status code in a
            // Close control frame by an endpoint" (§7.4.1). 1004: "Reserved" (§7.4.1).
            1004..=1006 | 1015 => false,
            // Defined in §7.4.1; 1012, 1013 and 1014 were registered with IANA later.
            1000..=1014 => true,
            // 3000 to 3999 are "reserved for use by libraries, frameworks, and applications", 4000
            // to 4999 "for private use" (§7.4.2).
            3000..=4999 => true,
            // "Status codes in the range 0-999 are not used." 1016 to 2999 are for "future
            // revisions" of the protocol (§7.4.2).
            _ => false,
        }
    }
}

impl From<u16> for CloseCode {
    fn from(code: u16) -> Self {
        CloseCode(code)
    }
}

impl From<CloseCode> for u16 {
    fn from(code: CloseCode) -> Self {
        code.0
    }
}

impl PartialEq<u16> for CloseCode {
    fn eq(&self, code: &u16) -> bool {
        self.0 == *code
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} ({name})", self.0),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_codes_of_the_rfc_and_the_registry_may_be_sent() {
        for code in 0..=u16::MAX {
            let expected = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            assert_eq!(CloseCode::from(code).is_sendable(), expected, "{code}");
        }
    }

    #[test]
    fn every_number_survives_the_conversion_both_ways() {
        for code in 0..=u16::MAX {
            assert_eq!(u16::from(CloseCode::from(code)), code);
            assert_eq!(CloseCode::new(code), code);
        }
    }

    #[test]
    fn text_shows_the_number_and_in_debug_the_name() {
        assert_eq!(CloseCode::BAD_GATEWAY.to_string(), "1014");
        assert_eq!(format!("{:?}", CloseCode::BAD_GATEWAY), "1014 (BAD_GATEWAY)");
        assert_eq!(format!("{:?}", CloseCode::new(4001)), "4001");
    }
}
