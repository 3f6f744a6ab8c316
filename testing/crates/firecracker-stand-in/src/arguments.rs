//! The command line, as far as Firecracker's is used.

use crate::config::Config;

pub struct Arguments {
    pub api_sock: String,
    pub id: String,
}

impl Arguments {
    /// `None` when all that was asked has been said.
    pub fn parse(arguments: impl Iterator<Item = String>, config: &Config) -> Result<Option<Arguments>, String> {
        let mut parsed = Arguments {
            api_sock: "/run/firecracker.socket".into(),
            id: "anonymous-instance".into(),
        };
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            if name == "--version" {
                println!("Firecracker v{}\n", config.version);
                return Ok(None);
            }
            let mut value = || {
                let missing =
                    format!("Arguments parsing error: The argument '{name}' requires a value, but none was supplied.");
                arguments.next().ok_or(missing)
            };
            match name.as_str() {
                "--api-sock" => parsed.api_sock = value()?,
                "--id" => parsed.id = value()?,
                "--log-path" => {
                    let path = value()?;
                    std::fs::OpenOptions::new().append(true).open(&path).map_err(|error| {
                        format!("Could not initialize logger: Failed to open target file {path}: {error}")
                    })?;
                }
                // Arguments in which the jailer reports how long it took.
                "--level" | "--start-time-us" | "--start-time-cpu-us" => drop(value()?),
                _ => {
                    return Err(format!(
                        "Arguments parsing error: Found argument '{name}' which wasn't expected, or isn't valid in this context."
                    ));
                }
            }
        }
        Ok(Some(parsed))
    }
}
