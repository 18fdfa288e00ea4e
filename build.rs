//! The migrations are embedded in the binary: a changed one must be compiled in again.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=migrations");
    // Each function's file with its name: whoever adds one has nothing to enter in a list.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/functions");
    let mut files: Vec<String> = fs::read_dir(&folder)
        .expect("migrations/functions is there")
        .map(|file| file.expect("its files can be listed").path())
        .map(|path| {
            format!(
                "({:?}, include_str!({path:?}))",
                path.file_stem().expect("a name")
            )
        })
        .collect();
    files.sort();
    let target = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("functions.rs");
    fs::write(target, format!("&[{}]", files.join(",\n"))).expect("it can be written");
}
