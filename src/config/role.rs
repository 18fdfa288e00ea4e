//! What a serving process does.

use clap::ValueEnum;

/// What a serving process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Takes events from the work queue and charges them
    Worker,
    /// Processes charges that stay pending
    Sweeper,
    /// Takes dead letters from their queue into the archive
    Archivist,
}

impl Role {
    /// The roles asked for, each once; all of them if none was.
    pub fn chosen(asked: &[Self]) -> Vec<Self> {
        let wanted = |role: &&Self| asked.is_empty() || asked.contains(role);
        let all = Self::value_variants().iter();
        all.filter(wanted).copied().collect()
    }
}
