//! Parses the command line and dispatches; nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use token_billing::{
    app,
    cli::{self, Cli},
};

fn main() -> ExitCode {
    cli::run(Cli::parse(), app::serve)
}
