//! Changes that the host must make in the memory of each child before its first instruction. They are found once, at the
//! end of the boot.

use std::fs::File;
use std::path::Path;

use serde::Serialize;
use ts_rs::TS;

use crate::crng::{Entry, Proc};
use crate::generation_page::{self, GenerationPage};
use crate::sys;

#[derive(Debug, Default, Serialize, TS)]
#[ts(export_to = "agent-wire.ts")]
pub struct Refresh {
    entries: Vec<Entry>,
    /// Bytes of memory above 4 GiB, which the host needs to turn an address into a place in memory.
    ram_above_4g: u64,
    /// Why the kernel's generator is not among the entries.
    unavailable: Option<String>,
}

impl Refresh {
    pub fn unavailable(why: impl Into<String>) -> Refresh {
        Refresh {
            unavailable: Some(why.into()),
            ..Refresh::default()
        }
    }
}

/// Searches before any program of a user runs. Anything that is unavailable becomes a reason in the answer, and never
/// ends the boot.
pub fn prepare() -> (Refresh, Option<GenerationPage>) {
    let proc = Proc::new("/proc");
    let ram_above_4g = match proc.ram_above_4g() {
        Ok(bytes) => bytes,
        Err(why) => return (Refresh::unavailable(why), None),
    };
    let generator = File::options()
        .write(true)
        .open("/dev/urandom")
        .map_err(|error| format!("/dev/urandom: {error}"))
        .and_then(|device| {
            // Returns once the generator has its first seed: before that nothing can be proven.
            let _: [u8; 1] = sys::random();
            proc.find(&mut || sys::reseed(&device))
        });
    let (mut entries, unavailable) = match generator {
        Ok(entries) => (entries, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    // Programs get seeds with the identity even if there is no page, or no place to name.
    let page = GenerationPage::create(Path::new(generation_page::PATH)).ok();
    entries.extend(page.as_ref().and_then(|page| page.place().ok()));
    let refresh = Refresh {
        entries,
        ram_above_4g,
        unavailable,
    };
    (refresh, page)
}
