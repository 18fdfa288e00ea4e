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
    /// Answers HTTP calls
    Http,
}

impl Role {
    /// The roles asked for, each once. If none was: all of them, `http` only where it `listens`.
    pub fn chosen(asked: &[Self], listens: bool) -> Vec<Self> {
        let wanted = |role: &&Self| match asked {
            [] => **role != Self::Http || listens,
            asked => asked.contains(role),
        };
        let all = Self::value_variants().iter();
        all.filter(wanted).copied().collect()
    }
}
