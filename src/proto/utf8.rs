//! UTF-8 validation of text (RFC 6455 §5.6, §8.1), of a whole payload or of parts as they arrive.

#![allow(
    clippy::indexing_slicing,
    reason = "at most three bytes are pending, so a fourth ends a sequence within `point`"
)]

use crate::error::ProtocolError;

/// Payloads up to this many bytes are first checked for plain ASCII: at 125 bytes 4 ns instead of
/// 10, for about 1 ns more if the text is not ASCII. Longer payloads gain nothing measurable.
const SHORT: usize = 256;

/// Whether a whole payload is UTF-8.
pub(crate) fn is_valid(bytes: &[u8]) -> bool {
    (bytes.len() <= SHORT && is_ascii(bytes)) || simdutf8::basic::from_utf8(bytes).is_ok()
}

/// The payload as text, if it is UTF-8. Slower than [`is_valid`] on short ASCII, whose check cannot
/// give a `&str` without `unsafe`.
pub(crate) fn as_str(bytes: &[u8]) -> Option<&str> {
    simdutf8::basic::from_utf8(bytes).ok()
}

/// Validates text in parts that are cut anywhere, and fails at the first byte that no continuation
/// could make valid.
///
/// Call [`feed`](Self::feed) with every part, then [`finish`](Self::finish). After an error the
/// validator must not be used again. Each message needs a new one.
#[derive(Debug, Default, Clone)]
pub(crate) struct Utf8Validator {
    /// The beginning of a code point whose rest has not arrived; always a valid prefix.
    pending: [u8; 3],
    /// How many bytes of `pending` are used.
    len: u8,
}

impl Utf8Validator {
    /// Takes the next part of the message.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::InvalidUtf8`] as soon as the text cannot become valid any more.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        // "When an endpoint is to interpret a byte stream as UTF-8 but finds that the byte stream
        // is not, in fact, a valid UTF-8 stream, that endpoint MUST _Fail the WebSocket
        // Connection_." (§8.1)
        let rest = self.complete_pending(bytes)?;
        let Err(error) = simdutf8::compat::from_utf8(rest) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(ProtocolError::InvalidUtf8);
        }
        // No `error_len`: the input ends inside a code point that is valid so far.
        self.set_pending(&rest[error.valid_up_to()..]);
        Ok(())
    }

    /// Ends the message.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::InvalidUtf8`] if it stops inside a code point.
    pub(crate) fn finish(&self) -> Result<(), ProtocolError> {
        if self.len == 0 { Ok(()) } else { Err(ProtocolError::InvalidUtf8) }
    }

    /// Completes the pending code point byte by byte, and returns the bytes behind it.
    fn complete_pending<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], ProtocolError> {
        let mut rest = bytes;
        while self.len > 0 {
            let Some((&byte, after)) = rest.split_first() else { break };
            rest = after;

            let len = usize::from(self.len);
            let mut point = [0; 4];
            point[..len].copy_from_slice(&self.pending[..len]);
            point[len] = byte;
            match std::str::from_utf8(&point[..=len]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_some() => return Err(ProtocolError::InvalidUtf8),
                Err(_) => self.set_pending(&point[..=len]),
            }
        }
        Ok(rest)
    }

    fn set_pending(&mut self, prefix: &[u8]) {
        debug_assert!((1..=3).contains(&prefix.len()), "a code point has at most four bytes");
        self.pending[..prefix.len()].copy_from_slice(prefix);
        self.len = prefix.len() as u8;
    }
}

/// `<[u8]>::is_ascii` without a branch per word: on short input an early exit gains nothing.
fn is_ascii(bytes: &[u8]) -> bool {
    const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);
    let Some(last) = bytes.last_chunk() else { return bytes.is_ascii() };
    // The last eight bytes may overlap the chunks before them; checking a byte twice is harmless.
    let mut seen = u64::from_ne_bytes(*last);
    for chunk in bytes.as_chunks().0 {
        seen |= u64::from_ne_bytes(*chunk);
    }
    seen & HIGH_BITS == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Index of the first byte at which the input is invalid; `None` if no byte makes it so.
    fn first_bad(bytes: &[u8]) -> Option<usize> {
        (0..bytes.len()).find(|&at| {
            let error = std::str::from_utf8(&bytes[..=at]).err();
            error.is_some_and(|error| error.error_len().is_some())
        })
    }

    /// Compares the validator with the standard library: the input whole, cut in two at every
    /// place, and byte by byte.
    fn compare(bytes: &[u8]) {
        let valid = std::str::from_utf8(bytes).is_ok();
        assert_eq!(is_valid(bytes), valid, "{bytes:x?}");
        assert_eq!(as_str(bytes), std::str::from_utf8(bytes).ok());

        let bad = first_bad(bytes);
        for cut in 0..=bytes.len() {
            let mut validator = Utf8Validator::default();
            let first = validator.feed(&bytes[..cut]);
            assert_eq!(first.is_err(), bad.is_some_and(|bad| bad < cut), "{bytes:x?} cut at {cut}");
            if first.is_ok() {
                let second = validator.feed(&bytes[cut..]);
                assert_eq!(second.is_err(), bad.is_some(), "{bytes:x?} cut at {cut}");
                if second.is_ok() {
                    assert_eq!(validator.finish().is_ok(), valid, "{bytes:x?} cut at {cut}");
                }
            }
        }

        let mut validator = Utf8Validator::default();
        let refused = bytes.iter().position(|&byte| validator.feed(&[byte]).is_err());
        assert_eq!(refused, bad, "{bytes:x?} byte by byte");
    }

    #[test]
    fn all_sequences_of_one_and_two_bytes_match_std() {
        compare(&[]);
        for a in 0..=255 {
            compare(&[a]);
            for b in 0..=255 {
                compare(&[a, b]);
            }
        }
    }

    #[test]
    fn sequences_of_three_bytes_match_std() {
        // The first bytes that begin three or four bytes, and one or two of each other kind, which
        // end a sequence earlier. (All 2²⁴ inputs pass too, but take seven seconds without
        // optimisation.)
        for a in [0x7f, 0x80, 0xc1, 0xc2, 0xdf].into_iter().chain(0xe0..=0xf5) {
            for b in 0..=255 {
                for c in 0..=255 {
                    compare(&[a, b, c]);
                }
            }
        }
    }

    /// Tries every next byte behind `point`, the beginning of a code point, and recurses where the
    /// result is still a beginning. Returns how many code points were completed.
    fn walk(validator: &Utf8Validator, point: &mut Vec<u8>) -> u32 {
        let mut completed = 0;
        for byte in 0..=255 {
            let mut validator = validator.clone();
            let fed = validator.feed(&[byte]);
            point.push(byte);
            match std::str::from_utf8(point) {
                Ok(_) => {
                    assert_eq!((fed, validator.finish()), (Ok(()), Ok(())), "{point:x?}");
                    completed += 1;
                }
                Err(error) if error.error_len().is_some() => assert!(fed.is_err(), "{point:x?}"),
                Err(_) => {
                    assert!(fed.is_ok() && validator.finish().is_err(), "{point:x?}");
                    completed += walk(&validator, point);
                }
            }
            point.pop();
        }
        completed
    }

    #[test]
    fn all_code_points_and_all_invalid_prefixes_match_std() {
        let surrogates = 0xe000 - 0xd800;
        assert_eq!(walk(&Utf8Validator::default(), &mut Vec::new()), 0x11_0000 - surrogates);
    }

    #[test]
    fn sequences_of_four_boundary_bytes_match_std() {
        // Each class of byte in the syntax of RFC 3629 §4, by its first and last member.
        let edges = [
            0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec,
            0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff,
        ];
        for a in edges {
            for b in edges {
                for c in edges {
                    for d in edges {
                        compare(&[a, b, c, d]);
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_invalid_byte_fails_without_waiting() {
        let refused = |bytes: &[u8]| {
            let mut validator = Utf8Validator::default();
            let (last, before) = bytes.split_last().unwrap();
            before.iter().for_each(|&byte| validator.feed(&[byte]).unwrap());
            validator.feed(&[*last]) == Err(ProtocolError::InvalidUtf8)
        };
        assert!(refused(&[0xe0, 0x80]), "overlong");
        assert!(refused(&[0xf0, 0x8f]), "overlong");
        assert!(refused(&[0xed, 0xa0]), "a surrogate");
        assert!(refused(&[0xf4, 0x90]), "above U+10FFFF");
        assert!(refused(&[0xe2, 0x82, 0x41]), "ASCII inside a code point");
        for byte in [0x80, 0xbf, 0xc0, 0xc1].into_iter().chain(0xf5..=0xff) {
            assert!(refused(&[byte]), "{byte:#x} begins no code point");
        }
    }

    #[test]
    fn long_text_is_valid_wherever_it_is_cut() {
        let text = "plain, grüße, καλημέρα, 你好, 🦀🦀. ".repeat(12);
        for cut in 0..=text.len() {
            let mut validator = Utf8Validator::default();
            validator.feed(&text.as_bytes()[..cut]).unwrap();
            validator.feed(&text.as_bytes()[cut..]).unwrap();
            validator.finish().unwrap();
        }
    }

    #[test]
    fn an_invalid_byte_is_found_at_any_place_and_length() {
        for len in (1..300).chain([SHORT * 4]) {
            let mut bytes = vec![b'a'; len];
            assert!(is_valid(&bytes));
            for at in 0..len {
                bytes[at] = 0xff;
                assert!(!is_valid(&bytes), "len {len}, at {at}");
                assert!(Utf8Validator::default().feed(&bytes).is_err(), "len {len}, at {at}");
                bytes[at] = b'a';
            }
        }
    }

    #[test]
    fn a_truncated_end_fails_only_at_finish() {
        let mut validator = Utf8Validator::default();
        validator.feed("ok ".as_bytes()).unwrap();
        validator.feed(&[0xf0, 0x9f, 0xa6]).unwrap();
        validator.feed(&[]).unwrap();
        assert_eq!(validator.finish(), Err(ProtocolError::InvalidUtf8));
        validator.feed(&[0x80]).unwrap();
        assert_eq!(validator.finish(), Ok(()));
    }

    #[test]
    fn a_validator_takes_at_most_8_bytes() {
        assert!(size_of::<Utf8Validator>() <= 8);
    }
}
