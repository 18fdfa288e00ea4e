//! Questions to the person at the terminal.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;

/// Whether somebody is there to answer.
pub(super) fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on standard error until the answer is yes or no; `default` is what the empty line means, and the
/// end of the input is a no.
pub(super) fn confirm(question: &str, default: bool) -> anyhow::Result<bool> {
    let choice = if default { "Y/n" } else { "y/N" };
    loop {
        let mut stderr = io::stderr();
        write!(stderr, "{question} [{choice}] ").context("standard error")?;
        stderr.flush().context("standard error")?;
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line).context("standard input")?;
        if read == 0 {
            return Ok(false);
        }
        match line.trim().to_ascii_lowercase().as_str() {
            "" => return Ok(default),
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => {}
        }
    }
}
