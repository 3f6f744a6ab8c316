//! The command line of `forkd-pager serve`.

use std::path::PathBuf;

pub const USAGE: &str = "\
usage: forkd-pager serve (--template FILE | --layer BLOB…) --socket-dir DIR [--record FILE] [--forks N]

Serves the memory of VMs, page by page, by userfaultfd.

  --template FILE   guest memory as one flat file, which is read once
  --layer BLOB      a layer of a store, blobs/sha256/DIGEST; repeated, bottom first
  --socket-dir DIR  where the sockets are made
  --record FILE     what a fork asks for is recorded there, and given to later ones ahead
  --forks N         forks at the same time, 1 to 1024; 1024 unless told

DIR/control.sock takes a JSON object a line, and answers with one:
  {\"op\":\"fork\",\"name\":\"a\"}  makes DIR/a.sock, for one VMM to connect to, as Firecracker does;
                            with \"populate\":true it gets all of its memory, and is left to itself
  {\"op\":\"stats\"}            what has been done
  {\"op\":\"drain\"}            no new forks; ends when the last one has ended

Ends with 0 when it has drained, 1 when something failed, 2 when it was called wrongly, 75 when
another one serves DIR. SIGTERM and SIGINT are drain. Do not kill it otherwise while VMs need it:
they would wait for ever.
";

const FORKS_MAX: usize = 1024;

#[derive(Debug)]
pub struct Options {
    pub template: Option<PathBuf>,
    pub layers: Vec<PathBuf>,
    pub socket_dir: PathBuf,
    pub record: Option<PathBuf>,
    pub forks: usize,
}

#[derive(Debug)]
pub enum Asked {
    Help,
    Serve(Options),
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Asked, String> {
        let mut options = Options {
            template: None,
            layers: Vec::new(),
            socket_dir: PathBuf::new(),
            record: None,
            forks: FORKS_MAX,
        };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            if name == "--help" {
                return Ok(Asked::Help);
            }
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{name} needs a value behind it"))
            };
            match name.as_str() {
                "--template" => options.template = Some(value()?.into()),
                "--layer" => options.layers.push(value()?.into()),
                "--socket-dir" => options.socket_dir = value()?.into(),
                "--record" => options.record = Some(value()?.into()),
                "--forks" => {
                    let text = value()?;
                    let number = text.parse().ok().filter(|number| (1..=FORKS_MAX).contains(number));
                    let wrong = || format!("--forks must be a number from 1 to {FORKS_MAX}, and {text:?} is not");
                    options.forks = number.ok_or_else(wrong)?;
                }
                _ => return Err(format!("{name:?} is not known")),
            }
        }
        if options.template.is_some() != options.layers.is_empty() {
            return Err("either --template or --layer must say what to serve".into());
        }
        if options.socket_dir.as_os_str().is_empty() {
            return Err("--socket-dir must say where the sockets are made".into());
        }
        Ok(Asked::Serve(options))
    }
}
