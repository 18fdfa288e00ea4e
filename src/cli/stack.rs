//! Room for what strangers can nest: a header of tables within tables is read, and dropped, by recursion, on
//! the broker client's thread and on ours. With the ordinary 2 MiB, one message of some kilobytes would
//! overflow the stack and end the process, at each delivery.

use std::{env, os::unix::process::CommandExt as _, process::Command};

/// What Rust's threads take their stack size from when they start, in bytes.
const VARIABLE: &str = "RUST_MIN_STACK";
/// Enough for the deepest nesting that a header's frame of 128 KiB can hold (some 18 000), in a debug build
/// too. It is reserved, not used: memory is taken as the stack grows.
const BYTES: &str = "268435456";

/// Starts this very program anew, as the same process, with deep stacks, unless it has them. Must come before
/// the first thread. If that fails it goes on as it is: only such a message would be its end.
pub(super) fn make_deep() {
    if env::var_os(VARIABLE).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut args = env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    // Returns only if it failed.
    let _ = again.args(args).env(VARIABLE, BYTES).exec();
}
