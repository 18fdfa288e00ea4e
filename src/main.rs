//! Parses the command line and dispatches; nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use token_billing::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
