//! `forkd-kvm-payload FILE` writes the payload, an ELF file that QEMU and Firecracker start, to FILE.

use std::process::ExitCode;

const PAYLOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/payload.elf"));

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(file), None) = (args.next(), args.next()) else {
        eprintln!("usage: forkd-kvm-payload FILE");
        return ExitCode::from(2);
    };
    match std::fs::write(&file, PAYLOAD) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forkd-kvm-payload: {}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}
