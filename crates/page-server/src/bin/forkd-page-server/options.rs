//! The command line of `forkd-page-server`.

use forkd_linux_sys::PAGE_SIZE;
use std::path::{Path, PathBuf};

pub const USAGE: &str = "\
usage: forkd-page-server (--template FILE | --template - --mem-mib N | --layer BLOB…) --socket-dir DIR
                         [--record FILE] [--forks N]

Serves the memory of VMs, page by page, by userfaultfd.

  --template FILE   guest memory as one flat file, which is read once; - is standard input, from which pages are
                    served as they arrive: zstd -dc memory.zst | forkd-page-server --template - --mem-mib 512 …
  --mem-mib N       how much memory comes on standard input, in MiB
  --layer BLOB      a layer of a store, blobs/sha256/DIGEST; repeated, bottom first
  --socket-dir DIR  where the sockets are made
  --record FILE     the order in which the first fork asks for pages is kept there, for later forks
  --forks N         the most forks at the same time, 1 to 1024; 1024 by default

DIR/control.sock takes one JSON object per line, and answers each with one:
  {\"op\":\"fork\",\"name\":\"a\"}  makes DIR/a.sock, for one VMM to connect to, as Firecracker does;
                            with \"populate\":true it gets all of its memory, and runs on by itself; with
                            \"refresh\":[{\"at\":N,\"bytes\":32,\"op\":\"mix\"}] (also count, page; at most 8) these
                            bytes are its own: a snapshot's list gives it random numbers of its own
  {\"op\":\"stats\"}            counts of what has been done
  {\"op\":\"drain\"}            no new forks; ends when the last one has ended

Exit status: 0 when it has drained, 1 when something failed, 2 for a wrong command line, 75 when
another process serves DIR. SIGTERM and SIGINT mean drain. Do not kill it in another way while VMs
need it: they would wait for ever.
";

/// The template that is standard input.
const STREAM: &str = "-";
const MIB: u64 = 1 << 20;
const MEM_MIB_MAX: u64 = 1 << 20;
const FORKS_MAX: usize = 1024;

#[derive(Debug)]
pub struct Options {
    pub template: Option<PathBuf>,
    /// The number of pages that come on standard input, if the template does.
    pub stream_pages: Option<u64>,
    pub layers: Vec<PathBuf>,
    pub socket_dir: PathBuf,
    pub record: Option<PathBuf>,
    pub forks: usize,
}

#[derive(Debug)]
pub enum Command {
    Help,
    Serve(Options),
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Command, String> {
        let mut options = Options {
            template: None,
            stream_pages: None,
            layers: Vec::new(),
            socket_dir: PathBuf::new(),
            record: None,
            forks: FORKS_MAX,
        };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            if name == "--help" {
                return Ok(Command::Help);
            }
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{name} needs a value behind it"))
            };
            match name.as_str() {
                "--template" => options.template = Some(value()?.into()),
                "--mem-mib" => {
                    let text = value()?;
                    let number = text.parse().ok().filter(|number| (1..=MEM_MIB_MAX).contains(number));
                    let wrong = || format!("--mem-mib must be a number from 1 to {MEM_MIB_MAX}, and {text:?} is not");
                    options.stream_pages = Some(number.ok_or_else(wrong)? * (MIB / PAGE_SIZE as u64));
                }
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
        let is_stream = options.template.as_deref() == Some(Path::new(STREAM));
        if is_stream != options.stream_pages.is_some() {
            return Err("--template - and --mem-mib belong together".into());
        }
        if is_stream && options.record.is_some() {
            return Err("--record needs a template that can be told from others, and standard input cannot".into());
        }
        if options.socket_dir.as_os_str().is_empty() {
            return Err("--socket-dir must say where the sockets are made".into());
        }
        Ok(Command::Serve(options))
    }
}
