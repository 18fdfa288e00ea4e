//! What the tests stand on.

pub(crate) mod accounts;
pub(crate) mod adds_up;
pub(crate) mod api;
pub(crate) mod broker;
pub(crate) mod browser;
pub(crate) mod charging;
pub(crate) mod collector;
pub(crate) mod command;
pub(crate) mod crowd;
pub(crate) mod db;
pub(crate) mod dead_letters;
pub(crate) mod diagnosis;
pub(crate) mod dice;
pub(crate) mod eventually;
pub(crate) mod holding;
pub(crate) mod ledger;
pub(crate) mod pages;
pub(crate) mod pending;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod role;
pub(crate) mod samples;
pub(crate) mod servers;
pub(crate) mod site;
pub(crate) mod standby;
pub(crate) mod stream;

use std::future::Future;

/// Runs `cleanup` to its end from a `Drop`, where the test's own runtime can't be waited on. A
/// cleanup that fails is reported, not raised: a panic there would hide the test's own.
fn finish<T>(what: &str, cleanup: impl Future<Output = anyhow::Result<T>> + Send) {
    let run = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(cleanup)
            .map(drop)
    };
    let outcome = std::thread::scope(|scope| scope.spawn(run).join());
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("{what} was not cleaned up: {error:#}"),
        Err(_) => eprintln!("{what} was not cleaned up: panicked"),
    }
}

/// Whether a process of this number runs: names of databases and directories carry the number of
/// the process that made them, so that a later run can clear up after one that was killed.
fn is_alive(pid: &str) -> bool {
    std::path::Path::new("/proc").join(pid).exists()
}

/// `deploy/local.sh test --all`: hours instead of minutes.
pub(crate) fn is_long() -> bool {
    std::env::var_os("TOKEN_BILLING_TEST_LONG").is_some()
}
