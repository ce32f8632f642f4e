//! Jitter for `backoff`. Not for secrets: a small generator that a test can seed.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded by the system.
    pub fn from_system() -> Self {
        let mut seed = [0; 8];
        // Without entropy there is jitter all the same, only the same one everywhere.
        let _without = aws_lc_rs::rand::fill(&mut seed);
        Self(u64::from_ne_bytes(seed))
    }

    /// A number from zero to `most`, both included.
    pub fn up_to(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The bias of a remainder is far below what jitter could notice.
        most.checked_add(1).map_or(mixed, |range| mixed % range)
    }
}
