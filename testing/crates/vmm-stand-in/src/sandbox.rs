//! The VMM of a sandbox, as a pager meets it: it calls for its plan, hands over its memory, and serves a monitor and a guest
//! channel. It means well, or harm: see [`Harm`].

use crate::regions::{Regions, range_of};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::fds;
use forkd_linux_sys::shared_page::SharedPage;
use forkd_linux_sys::uffd::{Modes, Userfaultfd};
use forkd_protocol::plan::{DEVICE_STATE_BYTES_MAX, EXTENT_BYTES, HEADER_BYTES, Header, REFRESH_BYTES};
use forkd_protocol::window::{ORDER_WAIT_MAX, ORDER_WORD, Order, STATE_WORD, State};
use forkd_protocol::{GuestRegion, PAGE_SIZE as PAGE_BYTES, PROTOCOL_VERSION, ShimHello, ShimWants};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// No test waits that long.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// Time until the next pager is called, longer than a shim takes.
const CALL_AGAIN: Duration = Duration::from_millis(700);
/// Bytes that are written at a time as device state.
static STATE_PIECE: [u8; 1 << 16] = [7; 1 << 16];

/// An attack of the VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    Nothing,
    /// Keeps its userfaultfd, and makes it block when it is told to.
    Blocks,
    /// Withholds its memory once it has been stopped: registers it for missing pages, and gives it back.
    Withholds,
    /// Hands over a userfaultfd that reports changes of the address space.
    Reports,
    /// Answers each command of its monitor after a second and a half.
    IsSlow,
    /// Answers no command of its monitor once it has been told to stop.
    StaysStopped,
    /// Saves a device state that is larger than one may be.
    SavesTooMuch,
    /// Accepts no connection.
    AcceptsNothing,
    /// No attack: conducts pauses itself, as the shim does.
    Conducts,
    /// Offers to conduct pauses, and does not.
    IgnoresOrders,
    /// Says that its VM is stopped, and nothing more.
    KeepsStopped,
    /// Says at once that a pause is over and its device state saved.
    ClaimsDone,
    /// Says that its VM is stopped, and lets it write.
    WritesOn,
}

impl Harm {
    pub fn parse(text: &str) -> Option<Harm> {
        Some(match text {
            "nothing" => Harm::Nothing,
            "blocks" => Harm::Blocks,
            "withholds" => Harm::Withholds,
            "reports" => Harm::Reports,
            "is-slow" => Harm::IsSlow,
            "stays-stopped" => Harm::StaysStopped,
            "saves-too-much" => Harm::SavesTooMuch,
            "accepts-nothing" => Harm::AcceptsNothing,
            "conducts" => Harm::Conducts,
            "ignores-orders" => Harm::IgnoresOrders,
            "keeps-stopped" => Harm::KeepsStopped,
            "claims-done" => Harm::ClaimsDone,
            "writes-on" => Harm::WritesOn,
            _ => return None,
        })
    }

    /// True if the VMM offers to conduct pauses.
    fn conducts(self) -> bool {
        matches!(
            self,
            Harm::Conducts | Harm::IgnoresOrders | Harm::KeepsStopped | Harm::ClaimsDone | Harm::WritesOn
        )
    }
}

/// How it finds its pager.
#[derive(Debug, Clone)]
pub struct Home {
    pub name: String,
    pub key: String,
    /// The socket at which the pager takes calls.
    pub shims: PathBuf,
    /// The directory of its own sockets: `monitor` and `channel`.
    pub dir: PathBuf,
}

/// A VMM that runs.
pub struct Sandbox {
    shared: Arc<Shared>,
}

struct Shared {
    regions: Regions,
    harm: Harm,
    /// The userfaultfd that was handed over, kept by an attacker. Others leave it to the pager alone.
    uffd: Mutex<Option<Userfaultfd>>,
    /// The commands that the monitor was sent.
    heard: Mutex<Vec<String>>,
    /// Files that the monitor was given to write to.
    files: Mutex<Vec<OwnedFd>>,
    /// The page through which the pager orders pauses.
    page: Mutex<Option<Arc<SharedPage>>>,
}

impl Sandbox {
    /// Listens, calls the pager, and hands over its memory, which is full of ones.
    pub fn start(home: &Home, harm: Harm, mib: usize) -> io::Result<Sandbox> {
        let regions = Regions::anonymous(&[mib << 20])?;
        for page in 0..regions.len() / PAGE_SIZE {
            regions.write(page * PAGE_SIZE, &[1; PAGE_SIZE]);
        }
        let shared = Arc::new(Shared {
            regions,
            harm,
            uffd: Mutex::default(),
            heard: Mutex::default(),
            files: Mutex::default(),
            page: Mutex::default(),
        });
        for (socket, is_monitor) in [("monitor", true), ("channel", false)] {
            let listener = UnixListener::bind(home.dir.join(socket))?;
            let theirs = shared.clone();
            std::thread::spawn(move || theirs.listen(&listener, is_monitor));
        }
        let pager = shared.call(home, ShimWants::Plan)?;
        let (theirs, home) = (shared.clone(), home.clone());
        std::thread::spawn(move || theirs.follow(pager, &home));
        Ok(Sandbox { shared })
    }

    /// Does what `line` says, and answers when it is done.
    pub fn obey(&self, line: &str) -> Result<Value, String> {
        match line {
            "heard" => Ok(json!(*self.shared.heard.lock().expect("no panic while held"))),
            "urgent" => Ok(json!(urgent_threads())),
            "refill" => Ok(self.shared.refill()),
            "block" => Ok(self.shared.block()),
            _ => Err(format!("{line:?} is not known")),
        }
    }
}

impl Shared {
    /// Follows the pager as long as the VMM lives. When the pager ends, calls the next one.
    fn follow(&self, mut pager: UnixStream, home: &Home) {
        loop {
            let mut files = Vec::new();
            while matches!(fds::receive_with_fds(&pager, &mut [0], &mut files), Ok(1..)) {
                files.pop().into_iter().for_each(|file| self.conduct(File::from(file)));
            }
            pager = loop {
                std::thread::sleep(CALL_AGAIN);
                if let Ok(next) = self.call(home, ShimWants::Nothing) {
                    break next;
                }
            };
        }
    }

    fn call(&self, home: &Home, wants: ShimWants) -> io::Result<UnixStream> {
        let mut pager = UnixStream::connect(&home.shims)?;
        let hello = ShimHello {
            protocol: PROTOCOL_VERSION,
            sandbox: home.name.clone(),
            key: home.key.clone(),
            wants,
        };
        let mut line = serde_json::to_vec(&hello)?;
        line.push(b'\n');
        pager.write_all(&line)?;
        let mut header = [0; HEADER_BYTES];
        pager.read_exact(&mut header)?;
        let plan = Header::decode(&header).map_err(io::Error::other)?;
        let rest = plan.extents * EXTENT_BYTES as u64 + plan.refreshes * REFRESH_BYTES as u64;
        io::copy(&mut (&mut pager).take(rest), &mut io::sink())?;
        let range = self.regions.ranges().next().expect("a region");
        let region = GuestRegion {
            base_host_virt_addr: range.start,
            size: range.len(),
            offset: 0,
            page_size: PAGE_BYTES,
        };
        let uffd = match self.harm {
            Harm::Reports => Userfaultfd::create_for_writes_and_removals()?,
            _ => Userfaultfd::create()?,
        };
        let (page, file) = match self.harm.conducts() {
            true => SharedPage::create().map(|(page, file)| (Some(Arc::new(page)), Some(file)))?,
            false => (None, None),
        };
        *self.page.lock().expect("no panic while held") = page;
        let attached: Vec<_> = [uffd.as_fd()].into_iter().chain(file.iter().map(AsFd::as_fd)).collect();
        fds::send_with_fds(&pager, &serde_json::to_vec(&[region])?, &attached)?;
        *self.uffd.lock().expect("no panic while held") =
            Some(uffd).filter(|_| !matches!(self.harm, Harm::Nothing | Harm::Conducts));
        Ok(pager)
    }

    /// Conducts a pause whose device state goes to `file`, or does what the attack is.
    fn conduct(&self, mut file: File) {
        let page = self.page.lock().expect("no panic while held").clone();
        let page = page.expect("only one that offers to conduct is asked");
        let serial = page.word(ORDER_WORD).load(Ordering::Acquire) >> 4;
        let say = |state: State| page.set(STATE_WORD, state.word(serial));
        match self.harm {
            Harm::IgnoresOrders => return,
            Harm::KeepsStopped => return say(State::Stopped),
            Harm::ClaimsDone => return say(State::Done),
            _ => say(State::Stopped),
        }
        // The reader notices a write that fails.
        let _ = file.write_all(&STATE_PIECE[..1]);
        page.wait(ORDER_WORD, ORDER_WAIT_MAX, |order| order != Order::Pause.word(serial));
        if self.harm == Harm::WritesOn {
            self.regions.write(0, &[2; PAGE_SIZE]);
        }
        say(State::Done);
    }

    fn listen(self: &Arc<Shared>, listener: &UnixListener, is_monitor: bool) {
        if self.harm == Harm::AcceptsNothing {
            std::thread::sleep(FOR_EVER);
        }
        for stream in listener.incoming().flatten() {
            let theirs = self.clone();
            std::thread::spawn(move || {
                // A pager that hangs up ends the conversation.
                let _ = match is_monitor {
                    true => theirs.converse(&stream),
                    false => io::copy(&mut &stream, &mut io::sink()).map(drop),
                };
            });
        }
    }

    fn converse(&self, mut stream: &UnixStream) -> io::Result<()> {
        writeln!(stream, "{}", json!({ "QMP": {} }))?;
        let mut text = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            let mut attached = Vec::new();
            let got = fds::receive_with_fds(stream, &mut buffer, &mut attached)?;
            if got == 0 {
                return Ok(());
            }
            self.files.lock().expect("no panic while held").extend(attached);
            text.extend_from_slice(&buffer[..got]);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let message: Value = serde_json::from_slice(&line)?;
                let result = self.execute(message["execute"].as_str().unwrap_or_default());
                writeln!(stream, "{}", json!({ "return": result, "id": message["id"] }))?;
            }
        }
    }

    fn execute(&self, command: &str) -> Value {
        self.heard.lock().expect("no panic while held").push(command.into());
        if self.harm == Harm::IsSlow && command != "qmp_capabilities" {
            std::thread::sleep(Duration::from_millis(1500));
        }
        match command {
            "stop" => self.stop(),
            "query-status" => return json!({ "status": "running" }),
            "xen-save-devices-state" => self.save(),
            _ => {}
        }
        json!({})
    }

    fn stop(&self) {
        if self.harm == Harm::StaysStopped {
            // Messages from now on are received and not answered, because nobody reads them before this ends.
            std::thread::sleep(Duration::from_secs(6));
        }
        if self.harm != Harm::Withholds {
            return;
        }
        let modes = Modes {
            missing: true,
            minor: false,
            write_protect: true,
        };
        let uffd = self.uffd.lock().expect("no panic while held");
        let uffd = uffd.as_ref().expect("kept by one that means harm");
        for mapping in self.regions.mappings() {
            let withheld = uffd.register(range_of(mapping), modes);
            let _ = withheld.and_then(|()| mapping.give_back(0, mapping.len()));
        }
    }

    fn save(&self) {
        let files = self.files.lock().expect("no panic while held");
        let Some(mut file) = files.last().and_then(|fd| Some(File::from(fd.try_clone().ok()?))) else {
            return;
        };
        let bytes = match self.harm {
            Harm::SavesTooMuch => DEVICE_STATE_BYTES_MAX + 1,
            _ => 1,
        };
        let pieces = bytes.div_ceil(STATE_PIECE.len() as u64);
        // The reader notices a write that fails.
        let _ = (0..pieces).try_for_each(|_| file.write_all(&STATE_PIECE));
    }

    fn block(&self) -> Value {
        let uffd = self.uffd.lock().expect("no panic while held");
        let uffd = uffd.as_ref().expect("kept by one that means harm").as_fd();
        // SAFETY: sets a flag of a descriptor that lives.
        json!({ "blocks": unsafe { libc::fcntl(uffd.as_raw_fd(), libc::F_SETFL, 0) } == 0 })
    }

    /// Writes once more to what it was handed for device states. How much that could be, and how much the files have.
    fn refill(&self) -> Value {
        let files = self.files.lock().expect("no panic while held");
        let files = files.iter().filter_map(|fd| Some(File::from(fd.try_clone().ok()?)));
        let (mut written, mut held) = (0, 0);
        for mut file in files {
            written += file.write(&STATE_PIECE).unwrap_or(0);
            held += file.metadata().map_or(0, |metadata| metadata.len());
        }
        json!({ "written": written, "held": held })
    }
}

/// How many threads of this process go before all ordinary ones.
fn urgent_threads() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ids = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    // SAFETY: a call without any effect.
    let policy = |id: i32| unsafe { libc::sched_getscheduler(id) } & !libc::SCHED_RESET_ON_FORK;
    ids.filter(|id| policy(*id) != libc::SCHED_OTHER).count()
}
