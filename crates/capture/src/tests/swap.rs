//! Pages that are swapped out while they are captured.

use super::area::Area;
use super::sinks::Image;
use crate::WpBranch;
use forkd_linux_sys::pagemap::Pagemap;

const PAGES: u64 = 2048;

/// Swap space of this test's own, for the time that it lives.
struct Swap {
    path: std::path::PathBuf,
}

impl Swap {
    fn on() -> Swap {
        // Beside this program, which is on a disk: swap space in a tmpfs is refused.
        let program = std::env::current_exe().expect("this program's path");
        let path = program.with_file_name(format!("swap-test-{}", std::process::id()));
        std::fs::write(&path, vec![0u8; 32 << 20]).expect("a file for swap space");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("permissions");
        let made = std::process::Command::new("/sbin/mkswap")
            .arg(&path)
            .output()
            .expect("mkswap, of util-linux");
        assert!(
            made.status.success(),
            "mkswap: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let swap = Swap { path };
        // SAFETY: a call with a valid C string and a plain number.
        let result = unsafe { libc::swapon(swap.name().as_ptr(), 0) };
        assert_eq!(
            result,
            0,
            "this test needs the right to turn swap on: {}",
            std::io::Error::last_os_error()
        );
        swap
    }

    fn name(&self) -> std::ffi::CString {
        std::ffi::CString::new(self.path.as_os_str().as_encoded_bytes()).expect("a path without zeros")
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // SAFETY: a call with a valid C string. It fails when swap was never turned on.
        unsafe { libc::swapoff(self.name().as_ptr()) };
        // It is nobody else's, and the next build cleans the folder in any case.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn pages_that_are_swapped_out_are_captured_like_any_other() {
    let swap = Swap::on();
    let area = Area::layered(PAGES);
    area.warm(&mut 11);
    let truth = area.bytes().to_vec();
    area.advise(libc::MADV_PAGEOUT);
    let map = Pagemap::open(area.source().pid).expect("page map");
    let out = map.swapped_out(area.range()).expect("list");
    assert!(!out.is_empty(), "nothing was swapped out, so that this proves nothing");
    let sink = Image::new(&area);
    let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
    branch.take().expect("take");
    branch.copy(|| false).expect("copy");
    let (set, _) = branch.finish().expect("finish");
    // Marks must not pass for swapped pages either, else every page of the range would be private.
    assert!(set.len() < PAGES, "{} of {PAGES} pages are private", set.len());
    sink.assert_is(&area, &truth, "after it was swapped out");
    drop(area);
    drop(swap);
}
