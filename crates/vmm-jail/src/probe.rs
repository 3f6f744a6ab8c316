//! Tests which steps the host allows.

use crate::arguments::Run;
use crate::step::{self, Step};
use serde::Serialize;
use std::path::Path;

/// Outcome of one step.
#[derive(Serialize)]
struct Finding {
    id: &'static str,
    ok: bool,
    /// Effect of the step, or why it is unavailable.
    detail: String,
}

/// Capabilities that the pager and the controller need to end a VMM of another user and to read its memory.
const NEEDED: [(u32, &str); 4] = [
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (19, "CAP_SYS_PTRACE"),
];

const CAP_SETPCAP: u32 = 8;

/// Takes each step, and prints what became of it. A root is made on top of `dir`, which nobody else sees.
pub fn run(dir: &Path) -> std::io::Result<()> {
    let capabilities = capabilities()?;
    let trial = Run {
        dir: dir.into(),
        pager_socket: dir.join("shim.sock"),
        ..Run::default()
    };
    let findings: Vec<Finding> = Step::ALL.map(|step| attempt(step, capabilities, &trial)).into();
    println!("{}", serde_json::to_string(&findings).expect("plain data"));
    Ok(())
}

fn attempt(step: Step, capabilities: u64, trial: &Run) -> Finding {
    let refused = |error| format!("The host refuses it: {error}.");
    let result = match refusal(step, capabilities) {
        Some(reason) => Err(reason),
        None => crate::take(step, trial).map_err(refused),
    };
    Finding {
        id: step.id(),
        ok: result.is_ok(),
        detail: result.err().unwrap_or_else(|| match step {
            Step::OwnUser => format!("{} They are numbered from {} on.", step.meaning(), step::USER_BASE),
            _ => step.meaning().into(),
        }),
    }
}

/// Why a step is not even tried.
fn refusal(step: Step, capabilities: u64) -> Option<String> {
    let has = |capability: u32| capabilities & (1 << capability) != 0;
    match step {
        Step::OwnUser => {
            let missing: Vec<&str> = NEEDED
                .into_iter()
                .filter(|(bit, _)| !has(*bit))
                .map(|(_, name)| name)
                .collect();
            let list = missing.join(", ");
            (!missing.is_empty()).then(|| format!("It needs root, with {list}."))
        }
        Step::NoCapabilities if capabilities != 0 && !has(CAP_SETPCAP) => Some("It needs CAP_SETPCAP.".into()),
        _ => None,
    }
}

/// Capabilities that this process can use, as a set of bits.
pub fn capabilities() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    set.ok_or_else(|| std::io::Error::other("/proc/self/status does not tell the capabilities"))
}
