//! Fast path for small whole messages: saves 215 of 909 instructions per echo of 125 bytes.

use std::ops::Range;

use super::Connection;
use crate::{
    config::MessageLimits,
    message::Kind,
    proto::{frame, mask::apply_mask},
};

impl Connection {
    /// Fast path for a server's usual input: unmasks the small messages that stand whole at
    /// `bytes[*at..]`, as many as follow each other in one kind, and calls `each` with the range of
    /// each payload until it returns `false`. `receive` handles the first frame that ends the run.
    ///
    /// Texts are not validated here. The header of each is overwritten with zeros, which are ASCII,
    /// so that the whole range taken is UTF-8 if and only if each text is: the caller validates all
    /// of them in one pass, which costs less than one pass for each.
    #[inline]
    pub(crate) fn receive_short(
        &self,
        bytes: &mut [u8],
        at: &mut usize,
        limits: MessageLimits,
        mut each: impl FnMut(Kind, Range<usize>) -> bool,
    ) {
        if self.masks() || !self.close.may_receive() || self.assembler.in_message() {
            return;
        }
        let max = limits.frame.min(limits.message);
        let mut run = None;
        while let Some((kind, key, payload, size)) = frame::parse_short(&mut bytes[*at..])
            && payload.len() as u64 <= max
            && *run.get_or_insert(kind) == kind
        {
            apply_mask(payload, key);
            let start = *at + size;
            let end = start + payload.len();
            if kind == Kind::Text {
                blank(&mut bytes[*at..start]);
            }
            *at = end;
            if !each(kind, start..end) {
                return;
            }
        }
    }
}

/// Overwrites a header with zeros. It has one of two lengths; as arrays they need no loop.
#[inline]
fn blank(header: &mut [u8]) {
    if let Some(header) = header.first_chunk_mut::<8>() {
        *header = [0; 8];
    } else if let Some(header) = header.first_chunk_mut::<6>() {
        *header = [0; 6];
    }
}
