//! The migrations are embedded in the binary: a changed one must be compiled in again.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
