//! Numbers at random from one seed, so that a run that failed can be had again.

use std::time::{SystemTime, UNIX_EPOCH};

/// Names the seed of a run that is to be had again.
const SEED: &str = "TOKEN_BILLING_TEST_SEED";

/// splitmix64: what the numbers are doesn't matter, only that they differ.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Of the seed that the environment names, else of one of its own; says which.
    pub(crate) fn told(what: &str) -> Self {
        let given = std::env::var(SEED).ok().map(|seed| seed.parse());
        let seed = given.map_or_else(
            || {
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
                since_epoch.expect("past 1970").as_micros() as u64
            },
            |seed| seed.expect("a seed is a number"),
        );
        eprintln!("{what}: {SEED}={seed}");
        Self(seed)
    }

    /// Other dice, whose numbers don't depend on how often these are thrown from now on.
    pub(crate) fn another(&mut self) -> Self {
        Self(self.next())
    }

    /// 0 to `end` - 1.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of them.
    pub(crate) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
