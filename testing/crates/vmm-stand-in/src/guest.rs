//! The inside of the stand-in: memory, and what is done to it.

mod memory;
mod race;
mod storm;

use crate::pattern::{self, WORDS};
use crate::regions::{Regions, range_of, register_missing};
use crate::sandbox::{Harm, Home};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::uffd::Userfaultfd;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use storm::Storm;

/// Instead of a socket: it serves itself, as a VMM does whose memory is only mapped.
const NOBODY: &str = "-";
const MIB: usize = 1 << 20;
/// Distance between two regions, so that they do not become one mapping.
const MORE_BYTES: usize = 64 * PAGE_SIZE;

/// Kind of VMM.
#[derive(Debug, Default)]
pub struct Options {
    socket: String,
    regions_mib: Vec<usize>,
    memory: String,
    keep_no_uffd: bool,
    hang_up: bool,
    register_more: bool,
    watchable: bool,
    relay: Option<String>,
    sandbox: Option<String>,
    key: String,
    dir: String,
    harm: Option<Harm>,
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            memory: "anonymous".into(),
            ..Options::default()
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--socket" => options.socket = value()?,
                "--relay" => options.relay = Some(value()?),
                "--sandbox" => options.sandbox = Some(value()?),
                "--key" => options.key = value()?,
                "--dir" => options.dir = value()?,
                "--does" => {
                    let name = value()?;
                    options.harm = Some(Harm::parse(&name).ok_or_else(|| format!("--does: {name:?} is not known"))?);
                }
                "--memory" => options.memory = value()?,
                "--regions" => {
                    let sizes = value()?.split(',').map(str::parse).collect::<Result<_, _>>();
                    options.regions_mib = sizes.map_err(|error| format!("--regions: {error}"))?;
                }
                "--keep-no-uffd" => options.keep_no_uffd = true,
                "--hang-up" => options.hang_up = true,
                "--register-more" => options.register_more = true,
                "--watchable" => options.watchable = true,
                _ => return Err(format!("{argument:?} is not known")),
            }
        }
        Ok(options)
    }

    /// The sandbox of this VMM and its attack, if it belongs to a sandbox of a pager.
    pub fn sandbox(&self) -> Option<(Home, Harm)> {
        let home = Home {
            name: self.sandbox.clone()?,
            key: self.key.clone(),
            shims: PathBuf::from(&self.socket),
            dir: PathBuf::from(&self.dir),
        };
        Some((home, self.harm.unwrap_or(Harm::Nothing)))
    }

    /// Where another's memory comes from, and where it goes, if it has none of its own.
    pub fn relay(&self) -> Option<(&Path, &Path)> {
        let from = self.relay.as_ref()?;
        Some((Path::new(from), Path::new(&self.socket)))
    }
}

/// A VMM's memory.
pub struct Guest {
    regions: Arc<Regions>,
    storm: Storm,
    /// A region that is registered, and missing from the handshake.
    more: Mapping,
    uffd: Option<Userfaultfd>,
    _socket: Option<UnixStream>,
}

impl Guest {
    pub fn start(options: &Options) -> io::Result<Guest> {
        let regions = Arc::new(map(options)?);
        let storm = Storm::new(&regions);
        if options.socket == NOBODY {
            return Ok(Guest {
                regions,
                storm,
                more: Mapping::anonymous(MORE_BYTES)?,
                uffd: None,
                _socket: None,
            });
        }
        let uffd = match options.watchable {
            true => regions.register_with(Userfaultfd::create_for_pages_and_writes()?)?,
            false => regions.register()?,
        };
        let more = Mapping::anonymous(MORE_BYTES)?;
        if options.register_more {
            register_missing(&uffd, range_of(&more))?;
        }
        let socket = regions.hand_over(&uffd, Path::new(&options.socket))?;
        Ok(Guest {
            regions,
            storm,
            more,
            uffd: (!options.keep_no_uffd).then_some(uffd),
            _socket: (!options.hang_up).then_some(socket),
        })
    }

    /// Does what `line` says, and answers when it is done.
    pub fn obey(&self, line: &str) -> Result<Value, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers: Vec<u64> = words.iter().skip(1).filter_map(|word| word.parse().ok()).collect();
        match (words.first().copied().unwrap_or_default(), numbers[..].as_ref()) {
            ("verify", &[first, count, threads]) => Ok(self.each(first, count, threads, |page| self.differs(page))),
            ("zeros", &[first, count, threads]) => Ok(self.each(first, count, threads, |page| self.is_not_zero(page))),
            ("touch", &[first, count, threads]) => Ok(self.each(first, count, threads, |page| {
                std::hint::black_box(self.word(page, 0).load(Ordering::Relaxed));
                false
            })),
            ("time", &[first, count, step]) => Ok(self.time(first, count, step)),
            ("write", &[first, count]) => Ok(self.each(first, count, 1, |page| {
                self.word(page, 0).store(1, Ordering::Relaxed);
                false
            })),
            ("touch-within", &[page, millis]) => Ok(self.touch_within(page, Duration::from_millis(millis))),
            ("kernel-read", &[page]) => self.kernel_read(page).map_err(|error| error.to_string()),
            ("remove", &[first, count]) => self.remove(first, count).map_err(|error| error.to_string()),
            ("storm", &[removals]) => Ok(self.storm.start(removals != 0)),
            ("still", &[]) => Ok(self.storm.stop()),
            ("expect", &[]) => self.storm.write_expected(words.get(1).copied().unwrap_or_default()),
            ("race", &[rounds, threads]) => Ok(self.race(rounds, threads)),
            ("compare", &[threads]) => self.compare(words.get(1).copied().unwrap_or_default(), threads),
            ("outside", &[]) => Ok(json!({ "word": self.more.word(0).load(Ordering::Relaxed) })),
            ("block", &[]) => Ok(self.block()),
            ("memory", &[]) => self.memory().map_err(|error| error.to_string()),
            _ => Err(format!("{line:?} is not known")),
        }
    }

    /// Makes its userfaultfd block, which the page server has, too.
    fn block(&self) -> Value {
        let uffd = self.uffd.as_ref().expect("it has kept its userfaultfd");
        // SAFETY: sets a flag of a descriptor that lives.
        let set = unsafe { libc::fcntl(uffd.as_fd().as_raw_fd(), libc::F_SETFL, 0) };
        json!({ "blocks": set == 0 })
    }

    fn pages(&self) -> u64 {
        (self.regions.len() / PAGE_SIZE) as u64
    }

    /// The region that a page is in, and the offset there.
    fn place(&self, page: u64) -> (&Mapping, usize) {
        self.regions.at(page as usize * PAGE_SIZE)
    }

    fn word(&self, page: u64, index: usize) -> &AtomicU64 {
        let (region, at) = self.place(page);
        region.word(at + index * 8)
    }

    fn differs(&self, page: u64) -> bool {
        let (region, at) = self.place(page);
        (0..WORDS).any(|index| region.word(at + index * 8).load(Ordering::Relaxed) != pattern::word(page, index))
    }

    fn is_not_zero(&self, page: u64) -> bool {
        let (region, at) = self.place(page);
        (0..WORDS).any(|index| region.word(at + index * 8).load(Ordering::Relaxed) != 0)
    }

    /// Checks each page, with `threads` threads. Each thread checks every n-th page.
    fn each(&self, first: u64, count: u64, threads: u64, is_bad: impl Fn(u64) -> bool + Sync) -> Value {
        let start = Instant::now();
        let (bad, first_bad) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        let slowest = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (bad, first_bad, is_bad, slowest) = (&bad, &first_bad, &is_bad, &slowest);
                scope.spawn(move || {
                    for page in (first + thread..first + count).step_by(threads as usize) {
                        let start = Instant::now();
                        if is_bad(page) {
                            bad.fetch_add(1, Ordering::Relaxed);
                            first_bad.fetch_min(page, Ordering::Relaxed);
                        }
                        slowest.fetch_max(start.elapsed().as_micros() as u64, Ordering::Relaxed);
                    }
                });
            }
        });
        let bad = bad.into_inner();
        let first_bad = (bad > 0).then_some(first_bad.into_inner());
        json!({ "bad": bad, "first_bad": first_bad, "us": start.elapsed().as_micros() as u64, "slowest_us": slowest.into_inner() })
    }

    /// Compares all of memory with a file.
    fn compare(&self, path: &str, threads: u64) -> Result<Value, String> {
        let wanted = std::fs::read(path).map_err(|error| error.to_string())?;
        let pages = (wanted.len() / PAGE_SIZE) as u64;
        let words = |page: u64| {
            wanted[page as usize * PAGE_SIZE..][..PAGE_SIZE]
                .chunks_exact(8)
                .enumerate()
        };
        Ok(self.each(0, pages, threads, |page| {
            words(page).any(|(index, word)| self.word(page, index).load(Ordering::Relaxed).to_ne_bytes() != word)
        }))
    }

    /// Reads one word per page: every n-th page first, then the rest. Returns the time of each read, in nanoseconds.
    fn time(&self, first: u64, count: u64, step: u64) -> Value {
        let pages = (0..step).flat_map(|from| (first + from..first + count).step_by(step as usize));
        let time = |page| {
            let start = Instant::now();
            std::hint::black_box(self.word(page, 0).load(Ordering::Relaxed));
            start.elapsed().as_nanos() as u64
        };
        json!({ "ns": pages.map(time).collect::<Vec<u64>>() })
    }

    /// The thread that touches may wait for ever.
    fn touch_within(&self, page: u64, time: Duration) -> Value {
        let (done, touched) = mpsc::channel();
        let address = self.place(page);
        let address = address.0.target(address.1, 8) as usize;
        std::thread::spawn(move || {
            // SAFETY: the regions stay mapped until the process ends.
            let word = unsafe { AtomicU64::from_ptr(address as *mut u64) }.load(Ordering::Relaxed);
            let _ = done.send(word);
        });
        json!({ "word": touched.recv_timeout(time).ok() })
    }

    /// Has the kernel read a page, as it does for a device or a system call.
    fn kernel_read(&self, page: u64) -> io::Result<Value> {
        let (mut read, mut write) = io::pipe()?;
        let (region, at) = self.place(page);
        if let Err(error) = write.write_all(region.bytes(at, PAGE_SIZE)) {
            return Ok(json!({ "error": error.raw_os_error() }));
        }
        let mut bytes = vec![0; PAGE_SIZE];
        read.read_exact(&mut bytes)?;
        Ok(json!({ "differs": bytes != pattern::bytes(page) }))
    }

    fn remove(&self, first: u64, count: u64) -> io::Result<Value> {
        let start = Instant::now();
        let (region, at) = self.place(first);
        region.give_back(at, count as usize * PAGE_SIZE)?;
        Ok(json!({ "us": start.elapsed().as_micros() as u64 }))
    }
}

fn map(options: &Options) -> io::Result<Regions> {
    let sizes: Vec<usize> = options.regions_mib.iter().map(|mib| mib * MIB).collect();
    match options.memory.as_str() {
        "anonymous" => Regions::anonymous(&sizes),
        "huge" => Regions::huge(&sizes),
        path => Regions::of_file(&File::open(path)?, &sizes),
    }
}
