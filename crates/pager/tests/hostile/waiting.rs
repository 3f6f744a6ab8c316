//! VMMs that wait for their VM and say that they have loaded it, or that it runs, whether it is so or not. Each is this process.

use crate::harness::{KEY, MEM_BYTES, Pager};
use forkd_linux_sys::fds;
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::shared_page::SharedPage;
use forkd_linux_sys::uffd::Userfaultfd;
use forkd_protocol::plan::{EXTENT_BYTES, HEADER_BYTES, Header, REFRESH_BYTES};
use forkd_protocol::window::{PROGRESS_WORD, Progress};
use forkd_protocol::{GuestRegion, PAGE_SIZE, PROTOCOL_VERSION, ShimHello, ShimWants};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than the pager waits for a VMM to load.
const LOAD_MAX: Duration = Duration::from_secs(15);
const VMM: &str = "waits";

/// A VMM that waits, and its memory.
struct Waiting {
    pager: Pager,
    call: UnixStream,
    memory: Mapping,
    page: SharedPage,
    page_file: std::fs::File,
}

impl Waiting {
    fn start() -> Waiting {
        let mut pager = Pager::start();
        let dir = pager.dir.0.join(VMM);
        std::fs::create_dir(&dir).expect("a directory");
        std::fs::write(dir.join("state"), "a device state").expect("a file");
        serve_monitor(&dir);
        let channel = UnixListener::bind(dir.join("channel")).expect("a socket");
        std::thread::spawn(move || {
            channel
                .accept()
                .map(|(channel, _)| BufReader::new(channel).lines().count())
        });
        let prepared = pager.controller.request(json!({
            "op": "prepare", "vmm": VMM, "mem_bytes": MEM_BYTES, "key": KEY,
            "monitor_socket": dir.join("monitor"), "chardev_socket": dir.join("channel"), "agent_socket": dir.join("agent"),
        }));
        assert_eq!(prepared["kind"], "ok", "{prepared}");
        let mut call = UnixStream::connect(pager.dir.0.join("run/shims/shim.sock")).expect("it listens");
        call.set_read_timeout(Some(LOAD_MAX)).expect("a timeout");
        let hello = ShimHello {
            protocol: PROTOCOL_VERSION,
            sandbox: VMM.into(),
            key: KEY.into(),
            wants: ShimWants::Wake,
        };
        writeln!(call, "{}", serde_json::to_string(&hello).expect("plain")).expect("it listens");
        let idle = pager.controller.request(json!({ "op": "await_idle", "vmm": VMM }));
        assert_eq!(idle["kind"], "ok", "{idle}");
        let (page, page_file) = SharedPage::create().expect("a page");
        Waiting {
            pager,
            call,
            memory: Mapping::anonymous(MEM_BYTES as usize).expect("memory"),
            page,
            page_file,
        }
    }

    fn state(&self) -> std::path::PathBuf {
        self.pager.dir.0.join(VMM).join("state")
    }

    /// Asks for a load, and takes the plan.
    fn begin_load(&mut self, stack: &[&str]) -> u64 {
        let load = json!({ "op": "load_ahead", "vmm": VMM, "stack": stack, "device_state": self.state() });
        let request = self.pager.controller.begin(load);
        let mut header = [0; HEADER_BYTES];
        self.call.read_exact(&mut header).expect("a plan");
        let plan = Header::decode(&header).expect("a plan");
        assert_eq!(plan.name_bytes, 0, "nobody has asked for the VM");
        let rest = plan.extents * EXTENT_BYTES as u64 + plan.refreshes * REFRESH_BYTES as u64 + plan.device_state_bytes;
        let mut bytes = vec![0; rest as usize];
        self.call.read_exact(&mut bytes).expect("a plan");
        assert!(bytes.ends_with(b"a device state"));
        request
    }

    fn hand_over(&self, with_page: bool) {
        let region = GuestRegion {
            base_host_virt_addr: self.memory.target(0, MEM_BYTES as usize) as u64,
            size: MEM_BYTES,
            offset: 0,
            page_size: PAGE_SIZE,
        };
        let uffd = Userfaultfd::create().expect("a userfaultfd");
        let attached = [uffd.as_fd(), self.page_file.as_fd()];
        let text = serde_json::to_vec(&[region]).expect("plain");
        fds::send_with_fds(&self.call, &text, &attached[..if with_page { 2 } else { 1 }]).expect("it reads");
    }

    /// Has loaded what it was told to, as it says.
    fn loaded(&mut self, stack: &[&str], progress: Progress) {
        let request = self.begin_load(stack);
        self.hand_over(true);
        self.page.set(PROGRESS_WORD, progress as u32);
        let reply = self.pager.controller.wait(request);
        assert_eq!(reply["kind"], "ok", "{reply}");
    }

    fn begin_wake(&mut self, device_state: &Path) -> u64 {
        let dir = self.pager.dir.0.join(VMM);
        let announce = json!({
            "sandbox": "vm", "mem_bytes": MEM_BYTES, "stack": [], "caller": { "pid": std::process::id() },
            "monitor_socket": dir.join("monitor"), "chardev_socket": dir.join("channel"), "agent_socket": dir.join("agent"),
        });
        self.pager.controller.begin(json!({
            "op": "wake", "vmm": VMM, "announce": announce, "device_state": device_state,
        }))
    }

    /// The pager has hung up, and so the VMM ends.
    fn expect_ended(&mut self) {
        assert_eq!(self.call.read(&mut [0; 64]).expect("an end in time"), 0);
    }

    /// A neighbour is branched as ever.
    fn expect_unharmed(&mut self) {
        let _honest = self.pager.opened("honest", "nothing");
        let done = self.pager.controller.request(crate::branch("honest"));
        assert_eq!(done["result"]["audit"]["differing_pages"], 0, "{done}");
    }
}

fn serve_monitor(dir: &Path) {
    let monitor = UnixListener::bind(dir.join("monitor")).expect("a socket");
    std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = monitor.accept()?;
        writeln!(stream, "{}", json!({ "QMP": {} }))?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            let command: Value = serde_json::from_str(&line?)?;
            writeln!(stream, "{}", json!({ "return": {}, "id": command["id"] }))?;
        }
        Ok(())
    });
}

fn code(reply: &Value) -> &str {
    reply["error"]["code"].as_str().unwrap_or_default()
}

#[test]
fn a_vm_that_has_been_loaded_runs_under_its_name_when_it_is_asked_for() {
    let mut vmm = Waiting::start();
    vmm.loaded(&[], Progress::Loaded);
    let state = vmm.state();
    let waking = vmm.begin_wake(&state);
    let mut order = [0; 4];
    vmm.call.read_exact(&mut order).expect("an order");
    assert_eq!(&order, b"\x02\0vm");
    vmm.page.set(PROGRESS_WORD, Progress::Runs as u32);
    let woken = vmm.pager.controller.wait(waking);
    assert_eq!(woken["kind"], "ok", "{woken}");
    let inventory = vmm.pager.controller.request(json!({ "op": "inventory" }));
    assert_eq!(inventory["result"]["sandboxes"][0]["attached"], true, "{inventory}");
}

#[test]
fn a_vmm_takes_no_vm_but_the_one_that_it_has_loaded() {
    let mut vmm = Waiting::start();
    vmm.loaded(&[], Progress::Loaded);
    let other = vmm.state().with_extension("other");
    std::fs::write(&other, "another").expect("a file");
    let waking = vmm.begin_wake(&other);
    let refused = vmm.pager.controller.wait(waking);
    assert_eq!(code(&refused), "bad_request", "{refused}");
    vmm.expect_ended();
}

#[test]
fn a_vmm_that_never_says_that_it_has_loaded_is_given_up_in_time() {
    let mut vmm = Waiting::start();
    let start = Instant::now();
    let request = vmm.begin_load(&[]);
    vmm.hand_over(true);
    vmm.expect_unharmed();
    let failed = vmm.pager.controller.wait(request);
    assert_eq!(code(&failed), "vm_gone", "{failed}");
    assert!(start.elapsed() < LOAD_MAX, "{:?}", start.elapsed());
    vmm.expect_ended();
}

#[test]
fn a_vmm_that_says_at_once_that_its_vm_runs_harms_its_own_vm_alone() {
    let mut vmm = Waiting::start();
    vmm.loaded(&[], Progress::Runs);
    let state = vmm.state();
    let waking = vmm.begin_wake(&state);
    let woken = vmm.pager.controller.wait(waking);
    assert_eq!(woken["kind"], "ok", "{woken}");
    vmm.expect_unharmed();
}

#[test]
fn a_vmm_that_ends_while_it_loads_or_before_it_runs_fails_at_once() {
    for is_loaded in [false, true] {
        let mut vmm = Waiting::start();
        let start = Instant::now();
        let request = if is_loaded {
            vmm.loaded(&[], Progress::Loaded);
            let state = vmm.state();
            vmm.begin_wake(&state)
        } else {
            let request = vmm.begin_load(&[]);
            vmm.hand_over(true);
            request
        };
        vmm.call.shutdown(std::net::Shutdown::Both).expect("an end");
        let failed = vmm.pager.controller.wait(request);
        assert_eq!(code(&failed), "vm_gone", "{failed}");
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    }
}

#[test]
fn a_vmm_that_cannot_load_by_itself_is_refused() {
    let mut vmm = Waiting::start();
    let request = vmm.begin_load(&[]);
    vmm.hand_over(false);
    let failed = vmm.pager.controller.wait(request);
    assert_eq!(code(&failed), "unsupported", "{failed}");
    vmm.expect_ended();
}

#[test]
fn a_vmm_ends_when_a_layer_is_forgotten_that_it_has_loaded() {
    let mut vmm = Waiting::start();
    let path = vmm.state().with_extension("memory");
    std::fs::write(&path, vec![7; MEM_BYTES as usize]).expect("a file");
    let imported = vmm.pager.controller.request(json!({
        "op": "import_memory", "mem_bytes": MEM_BYTES, "stack": [], "path": path, "tracked": false,
    }));
    let layer = imported["result"]["stack"][0]["digest"]
        .as_str()
        .expect("a layer")
        .to_owned();
    vmm.loaded(&[&layer], Progress::Loaded);
    let dropped = vmm
        .pager
        .controller
        .request(json!({ "op": "drop_layer", "layer": layer }));
    assert_eq!(dropped["kind"], "ok", "{dropped}");
    vmm.expect_ended();
    let memory = vmm.pager.controller.request(json!({ "op": "layer_memory" }));
    assert_eq!(memory["result"]["mapped_bytes"], 0, "{memory}");
}
