//! Assembles and links the payload as a file that a VMM loads: no C library, no start-up code, every address fixed.
//!
//! The C compiler is the one that Rust links with, so nothing more has to be installed. Rust itself cannot make such a file in
//! this workspace: a program without the standard library cannot have panics that unwind, which all others here have, and with
//! the standard library a program has thread-local storage, for which a VMM has no place.

use std::path::Path;
use std::process::Command;

fn main() {
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-env-changed=CC");
    let status = Command::new(&compiler)
        .args(["-nostdlib", "-static", "-no-pie", "-s"])
        .args([
            "-Wl,--build-id=none",
            "-Wl,-z,noexecstack",
            "-Wl,-T,src/payload.ld",
            "-o",
        ])
        .arg(Path::new(&out).join("payload.elf"))
        .arg("src/payload.S")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{compiler} ended with {status}"),
        Err(error) => panic!("{compiler} cannot be started: {error}"),
    }
}
