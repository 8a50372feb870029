//! FNV-1a with 64 bits: finds accidental differences and damage, resists no attacker.

/// A running FNV-1a hash.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }

    /// The hash folded to 32 bits: the upper half XORed into the lower one.
    pub(crate) fn folded(self) -> u32 {
        (self.0 >> 32) as u32 ^ self.0 as u32
    }
}

#[cfg(test)]
mod tests {
    use super::Fnv;

    /// The values are from the list of test vectors by the authors of FNV.
    #[test]
    fn published_test_vectors_match() {
        for (input, expected) in
            [("", 0xcbf2_9ce4_8422_2325_u64), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            let mut hash = Fnv::new();
            hash.add(input.as_bytes());
            assert_eq!(hash.value(), expected, "{input}");
        }
    }

    #[test]
    fn folding_keeps_both_halves() {
        assert_eq!(Fnv(0x0000_0001_0000_0003).folded(), 2);
    }
}
