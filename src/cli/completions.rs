//! `completions`: so that a shell knows the command line.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Ended, output};

#[derive(Debug, Clone, Copy, Args)]
#[command(after_help = "Example:\n  \
    token-billing completions bash > /etc/bash_completion.d/token-billing")]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: CompletionsArgs) -> anyhow::Result<Ended> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "token-billing",
        &mut script,
    );
    output::print_bytes(&script)?;
    Ok(Ended::Done)
}
