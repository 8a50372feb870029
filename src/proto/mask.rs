//! Masking (RFC 6455 §5.3): a client XORs each payload with a key of 4 bytes.

/// Source of the client role's masking keys, called once per frame.
///
/// "The masking key needs to be unpredictable" (§5.3): a source that is not random is for tests
/// only. A server never calls it.
pub(crate) type MaskSource = Box<dyn FnMut() -> [u8; 4] + Send + Sync>;

/// Width in bytes of the vectors that all common processors have.
const WIDE: usize = 16;

/// Masks or unmasks a payload in place; both are the same XOR.
pub(crate) fn apply_mask(buf: &mut [u8], key: [u8; 4]) {
    // The last 16 bytes may overlap the chunks before them. They are copied while still untouched,
    // masked apart and written back, which saves a loop over the remainder.
    let Some(mut last) = buf.last_chunk::<WIDE>().copied() else { return apply_narrow(buf, key) };
    let word = u32::from_le_bytes(key);
    for bytes in buf.as_chunks_mut().0 {
        apply_wide(bytes, word);
    }
    apply_wide(&mut last, word.rotate_right(8 * (buf.len() % 4) as u32));
    if let Some(bytes) = buf.last_chunk_mut() {
        *bytes = last;
    }
}

/// Works word by word, which LLVM turns into vector instructions; indexing the key by `i % 4` stays
/// a byte loop, ten times slower on 64 KiB.
#[inline(always)]
fn apply_wide(bytes: &mut [u8; WIDE], word: u32) {
    for bytes in bytes.as_chunks_mut().0 {
        *bytes = (u32::from_le_bytes(*bytes) ^ word).to_le_bytes();
    }
}

fn apply_narrow(buf: &mut [u8], key: [u8; 4]) {
    let word = u32::from_ne_bytes(key);
    let (words, tail) = buf.as_chunks_mut();
    for bytes in words {
        *bytes = (u32::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// [`apply_mask`] for one part of a payload; `phase` is the number of payload bytes before `buf`.
/// Only `phase % 4` counts, so a counter may wrap at any power of two from 4 on.
pub(crate) fn apply_mask_at(buf: &mut [u8], mut key: [u8; 4], phase: usize) {
    // "j = i MOD 4; transformed-octet-i = original-octet-i XOR masking-key-octet-j" (§5.3)
    key.rotate_left(phase % 4);
    apply_mask(buf, key);
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// The formula of §5.3, literally.
    fn by_the_book(buf: &mut [u8], key: [u8; 4], phase: usize) {
        for (i, byte) in buf.iter_mut().enumerate() {
            *byte ^= key[(i + phase) % 4];
        }
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 151 + 7) as u8).collect()
    }

    #[test]
    fn rfc_example_is_unmasked() {
        // §5.7, "A single-frame masked text message"
        let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply_mask(&mut payload, KEY);
        assert_eq!(&payload, b"Hello");
    }

    #[test]
    fn every_length_alignment_and_phase_matches_the_formula() {
        for len in (0..150).chain([1000, 4099]) {
            for offset in 0..9 {
                for phase in 0..5 {
                    let mut ours = bytes(len + offset);
                    let mut theirs = ours.clone();
                    apply_mask_at(&mut ours[offset..], KEY, phase);
                    by_the_book(&mut theirs[offset..], KEY, phase);
                    assert_eq!(ours, theirs, "len {len}, offset {offset}, phase {phase}");
                }
            }
        }
    }

    #[test]
    fn masking_in_two_parts_equals_masking_at_once() {
        for len in 0..70 {
            for cut in 0..=len {
                let mut whole = bytes(len);
                let mut parts = whole.clone();
                apply_mask(&mut whole, KEY);
                let (first, second) = parts.split_at_mut(cut);
                apply_mask(first, KEY);
                apply_mask_at(second, KEY, cut);
                assert_eq!(parts, whole, "len {len}, cut {cut}");
            }
        }
    }

    #[test]
    fn masking_twice_restores_the_payload() {
        let mut payload = bytes(333);
        apply_mask_at(&mut payload, KEY, usize::MAX);
        assert_ne!(payload, bytes(333));
        apply_mask_at(&mut payload, KEY, usize::MAX);
        assert_eq!(payload, bytes(333));
    }
}
