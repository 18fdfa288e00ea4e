//! `completions`: so that a shell knows the command line.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Ended, output};

const NAME: &str = "token-billing";

#[derive(Debug, Clone, Copy, Args)]
#[command(after_help = "Example:\n  \
    token-billing completions bash > /etc/bash_completion.d/token-billing")]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: CompletionsArgs) -> anyhow::Result<Ended> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    if args.shell == Shell::Bash {
        script = corrected(&String::from_utf8(script)?).into_bytes();
    }
    output::print_bytes(&script)?;
    Ok(Ended::Done)
}

/// Bash's script calls the state below the first level by two names, so that it completes nothing there:
/// `clap_complete` 4.6 writes the hyphen of the program's own name as `__` where it enters a state, and as
/// `__subcmd__` where it looks for it. Here both are the first one; a version that agrees with itself is left
/// as it is.
fn corrected(script: &str) -> String {
    let entered = NAME.replace('-', "__");
    let looked_for = NAME.replace('-', "__subcmd__");
    script.replace(&looked_for, &entered)
}
