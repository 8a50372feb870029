//! The prefix of a block: the length and the digest of its content.

use crate::util::fnv::Fnv;

/// The size of the prefix in bytes.
pub(crate) const PREFIX: usize = 12;

/// The prefix for this content. `None` if the content is longer than the length field can say.
pub(crate) fn prefix(content: &[u8]) -> Option<[u8; PREFIX]> {
    let mut prefix = [0; PREFIX];
    let (len, digest) = prefix.split_first_chunk_mut()?;
    *len = u32::try_from(content.len()).ok()?.to_le_bytes();
    digest.copy_from_slice(&digest_of(content).to_le_bytes());
    Some(prefix)
}

/// The length and the digest that a prefix claims. `None` if the prefix is incomplete.
pub(crate) fn parse(prefix: &[u8]) -> Option<(u32, u64)> {
    let (len, digest) = prefix.split_first_chunk()?;
    Some((u32::from_le_bytes(*len), u64::from_le_bytes(digest.try_into().ok()?)))
}

pub(crate) fn digest_of(content: &[u8]) -> u64 {
    let mut digest = Fnv::new();
    digest.add(content);
    digest.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_read_back_whole_or_not_at_all() {
        let prefix = prefix(b"foobar").unwrap();
        assert_eq!(prefix, [6, 0, 0, 0, 0xe8, 0x67, 0x39, 0xf7, 0x71, 0x41, 0x94, 0x85]);
        assert_eq!(parse(&prefix), Some((6, digest_of(b"foobar"))));
        for len in 0..PREFIX {
            assert_eq!(parse(&prefix[..len]), None);
        }
    }
}
