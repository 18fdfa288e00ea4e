use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use super::*;

const COMPANY: &str = "3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90";

fn refused(args: &[&str]) -> ErrorKind {
    let args = std::iter::once(&"token-billing").chain(args);
    Cli::try_parse_from(args).unwrap_err().kind()
}

fn accepted(args: &[&str]) -> Cli {
    let args = std::iter::once(&"token-billing").chain(args);
    Cli::try_parse_from(args).unwrap()
}

#[test]
fn the_command_line_is_in_order() {
    Cli::command().debug_assert();
}

#[test]
fn a_credit_is_either_a_top_up_or_a_renewal() {
    let credit = |rest: &[&str]| {
        let args = ["credit", COMPANY, "--key", "k"];
        refused(&[&args[..], rest].concat())
    };
    let end = "2027-01-01T00:00:00Z";
    assert_eq!(credit(&[]), ErrorKind::MissingRequiredArgument);
    assert_eq!(
        credit(&["--purchased", "1", "--monthly", "1", "--period-end", end]),
        ErrorKind::ArgumentConflict
    );
    assert_eq!(
        credit(&["--monthly", "1"]),
        ErrorKind::MissingRequiredArgument
    );
    assert_eq!(credit(&["--purchased", "0"]), ErrorKind::ValueValidation);
    assert_eq!(credit(&["--purchased", "-1"]), ErrorKind::ValueValidation);
    assert_eq!(
        credit(&["--purchased", "9223372036854775808"]),
        ErrorKind::ValueValidation
    );
    assert_eq!(
        credit(&["--monthly", "1", "--period-end", "2027-01-01"]),
        ErrorKind::ValueValidation
    );
    assert_eq!(
        credit(&[
            "--monthly",
            "1",
            "--period-end",
            "9999-12-31T23:00:00-05:00"
        ]),
        ErrorKind::ValueValidation
    );
    accepted(&[
        "credit",
        COMPANY,
        "--monthly",
        "1",
        "--period-end",
        end,
        "--key",
        "k",
        "--as",
        "me",
    ]);
    accepted(&["credit", COMPANY, "--purchased", "1", "--key", "k"]);
}

#[test]
fn common_flags_may_stand_anywhere() {
    let cli = accepted(&["balance", COMPANY, "--output", "json", "--config", "x.toml"]);
    assert_eq!(cli.output, Format::Json);
    assert_eq!(cli.config, Some("x.toml".into()));
    accepted(&["--output", "table", "balance", COMPANY]);
    assert_eq!(refused(&["balance", "acme"]), ErrorKind::ValueValidation);
}

#[test]
fn every_role_is_meant_when_none_is_named() {
    let all = <Role as clap::ValueEnum>::value_variants();
    assert_eq!(Role::chosen(&[], true), all);
    // The HTTP API only where it is said on which address.
    let engines = [Role::Worker, Role::Sweeper, Role::Archivist];
    assert_eq!(Role::chosen(&[], false), engines);
    let asked = [Role::Worker, Role::Worker];
    assert_eq!(Role::chosen(&asked, true), [Role::Worker]);
    assert_eq!(Role::chosen(&[Role::Http], false), [Role::Http]);
}

#[test]
fn an_error_is_one_line_that_says_nothing_twice() {
    let error = anyhow::anyhow!("connection refused")
        .context("connecting: connection refused")
        .context("broker\nx");
    assert_eq!(one_line(&error), "broker x: connecting: connection refused");
}

#[test]
fn only_what_was_typed_wrong_ends_with_2() {
    let of = |error: OperationError| exit_code(&anyhow::Error::from(error).context("the credit"));
    let why = || "why".to_owned();
    let dependency = crate::operations::Dependency::Broker;
    assert_eq!(of(OperationError::invalid("period_end", why())), 2);
    assert_eq!(exit_code(&UsageError(why()).into()), 2);
    for error in [
        OperationError::NotFound(why()),
        OperationError::conflict("balance_too_large", why()),
        OperationError::Unavailable {
            dependency,
            why: why(),
        },
        OperationError::Internal(why()),
    ] {
        assert_eq!(of(error), 1);
    }
    assert_eq!(exit_code(&anyhow::anyhow!("standard output")), 1);
}

#[test]
fn a_field_of_an_operation_is_a_flag_to_whoever_types() {
    let error = OperationError::invalid("period_end", "is no moment");
    assert_eq!(one_line(&error.into()), "--period-end: is no moment");
}
