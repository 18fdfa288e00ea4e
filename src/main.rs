//! Parses the command line and dispatches; nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use token_billing::{
    app,
    cli::{self, Cli, Next},
};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Next::Exit(code) => code,
        Next::Serve(settings, roles) => match app::serve(&settings, &roles) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => cli::failed(&error),
        },
    }
}
