//! Captures while the kernel moves, swaps, collapses and reclaims the captured pages, beside writers. Each is compared
//! with a copy made at the instant. The kernel's own counters prove that it really did so.

use super::area::{Area, HUGE, random};
use super::instant::{Met, capture, skip};
use super::sinks::Image;
use super::storm::await_that;
use super::swap::with_swap;
use crate::WpBranch;
use forkd_host_pressure::{HurriedCollapse, Repeat, compaction, vmstat};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::pagemap::Pagemap;
use forkd_linux_sys::process::Memory;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PAGES: u64 = 8192;
/// Time to capture one kind of memory under one kind of pressure.
const FOR: Duration = Duration::from_millis(1200);
/// Pages that are written before the instant of each capture, and after it.
const WRITES: u64 = 40;

/// If the kernel has moved no page in this time, memory is compact already.
const MOVED_WITHIN: Duration = Duration::from_secs(5);

/// Runs one test at a time: each would spoil the counters of another.
static ALONE: Mutex<()> = Mutex::new(());

fn areas() -> [Area; 2] {
    let areas = [Area::layered(PAGES), Area::anonymous(PAGES)];
    areas.iter().for_each(|area| area.advise(libc::MADV_NOHUGEPAGE));
    areas
}

/// Makes most of the area private, so that there is much to lose.
fn fill(area: &Area, seed: u64) {
    let some = (0..area.pages).filter(|page| page % 16 != seed % 16);
    some.for_each(|page| area.write(page, 16, &(page ^ seed).to_le_bytes()));
}

/// Audited captures of a mostly idle area: no later write reveals a page that the scan missed.
fn captures(area: &Area, what: &str) {
    fill(area, 1);
    let (start, mut seed, mut rounds) = (Instant::now(), 5, 0);
    while start.elapsed() < FOR || rounds < 3 {
        assert_all_are_own(area);
        let sink = Image::new(area);
        let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
        write_some(area, &mut seed);
        branch.take().expect("take");
        let truth = area.bytes().to_vec();
        write_some(area, &mut seed);
        branch.copy(|| false).expect("copy");
        branch.finish().expect("finish");
        sink.assert_is(area, &truth, &format!("round {rounds} of {what}"));
        rounds += 1;
    }
    // Capture with writers at full speed, too.
    let mut met = Met::default();
    capture(area, rounds, &mut met);
    met.check();
    println!("{what}: {} captures of {PAGES} pages", rounds + 1);
}

/// Checks the list that a branch makes of an idle guest while nothing is protected.
fn assert_all_are_own(area: &Area) {
    let own = area.source().own_pages().expect("list");
    let has = |page: u64| {
        own.iter()
            .any(|range| (range.start..range.end).contains(&(page * PAGE_SIZE as u64)))
    };
    let missed = (0..area.pages).filter(|page| page % 16 != 1).find(|page| !has(*page));
    assert_eq!(missed, None, "a page that was written is not listed");
}

fn write_some(area: &Area, seed: &mut u64) {
    for _ in 0..WRITES {
        let page = random(seed, area.pages);
        area.write(
            page,
            random(seed, 500) as usize * 8,
            &random(seed, u64::MAX).to_le_bytes(),
        );
    }
}

/// Sends pages of the area to swap, and brings other pages back.
fn reclaim(area: &Area) -> Repeat {
    let range = area.range();
    let memory = Memory::open(area.source().pid).expect("own memory");
    let pages = area.pages;
    let mut seed = 7;
    let mut byte = [0u8];
    Repeat::start(move || {
        let first = random(&mut seed, pages - 512);
        let start = range.start + first * PAGE_SIZE as u64;
        // SAFETY: advice for mapped memory, which changes the bytes of no page. The area outlives this thread.
        let advised = unsafe { libc::madvise(start as *mut libc::c_void, 512 * PAGE_SIZE, libc::MADV_PAGEOUT) };
        assert_eq!(advised, 0, "madvise: {}", std::io::Error::last_os_error());
        let mut back = (0..256).map(|_| range.start + random(&mut seed, pages) * PAGE_SIZE as u64);
        back.try_for_each(|address| memory.read_into(address, &mut byte))
    })
}

#[test]
fn captures_hold_while_the_kernel_compacts_memory() {
    let _alone = ALONE.lock();
    let moved = vmstat("pgmigrate_success").expect("counters");
    let compaction = compaction().expect("this test needs root");
    for area in areas() {
        captures(&area, "compaction");
    }
    let passes = compaction.times();
    let moved = vmstat("pgmigrate_success").expect("counters") - moved;
    println!("{passes} passes moved {moved} pages");
    assert!(moved > 0, "nothing was moved, so that this proves nothing");
}

#[test]
fn captures_hold_while_pages_are_swapped_out_and_in() {
    let _alone = ALONE.lock();
    with_swap(96, |kind| {
        for area in areas() {
            let before = vmstat("pswpin").expect("counters");
            let _reclaim = reclaim(&area);
            captures(&area, &format!("swap of the kind {kind:?}"));
            let came = vmstat("pswpin").expect("counters") - before;
            println!("{came} pages were swapped in");
            assert!(came > 0, "nothing was swapped in, so that this proves nothing");
        }
    });
}

#[test]
fn captures_hold_while_pages_are_collapsed_into_huge_ones_and_split() {
    let _alone = ALONE.lock();
    let hurried = match HurriedCollapse::start() {
        Ok(hurried) => hurried,
        Err(error) => return skip(&format!("khugepaged cannot be hurried here: {error}")),
    };
    let compaction = compaction().expect("this test needs root");
    let before = vmstat("thp_collapse_alloc").expect("counters");
    let area = Area::anonymous(PAGES);
    // Start with small pages, so that there are pages to collapse.
    area.advise(libc::MADV_NOHUGEPAGE);
    (0..PAGES).for_each(|page| area.write(page, 0, &page.to_le_bytes()));
    area.advise(libc::MADV_HUGEPAGE);
    let collapsed = || vmstat("thp_collapse_alloc").expect("counters") - before;
    await_that("a first page is collapsed", || collapsed() > 0);
    captures(&area, "collapse");
    println!("{} pages were collapsed", collapsed());
    drop((compaction, hurried));
}

#[test]
fn captures_hold_while_all_of_that_happens_at_once() {
    let _alone = ALONE.lock();
    let _hurried = HurriedCollapse::start().map_err(|error| skip(&format!("khugepaged is left alone: {error}")));
    let _compaction = compaction().expect("this test needs root");
    with_swap(96, |kind| {
        let area = Area::anonymous(PAGES);
        area.advise(libc::MADV_HUGEPAGE);
        let _reclaim = reclaim(&area);
        captures(&area, &format!("all at once, swap of the kind {kind:?}"));
    });
}

/// Makes an absent page one that hardware has lost, as far as the kernel is concerned.
fn poison(area: &Area, page: u64) {
    const UFFDIO_POISON: u64 = 0xC020_AA08;
    let start = area.range().start + page * PAGE_SIZE as u64;
    let mut arguments = [start, PAGE_SIZE as u64, 0, 0];
    // SAFETY: the arguments have the layout of struct uffdio_poison, and outlive the call.
    let done = unsafe { libc::ioctl(area.target.uffd.as_fd().as_raw_fd(), UFFDIO_POISON, &mut arguments) };
    assert_eq!(done, 0, "poison: {}", std::io::Error::last_os_error());
}

#[test]
fn a_page_that_hardware_has_lost_fails_the_capture_and_is_not_left_out() {
    for area in [Area::layered(64), Area::anonymous(64)] {
        area.write(3, 0, &[7]);
        let uffd = &area.target.uffd;
        uffd.register_write_protect(area.range()).expect("register");
        poison(&area, 9);
        let own = area.source().own_pages_protected().expect("list");
        let pages: u64 = own.iter().map(|range| range.len() / PAGE_SIZE as u64).sum();
        assert_eq!(pages, 2, "{own:?}");
        let map = Pagemap::open(area.source().pid).expect("own page map");
        let address = |page: u64| area.range().start + page * PAGE_SIZE as u64;
        assert!(!map.has_no_page(address(9)).expect("look") && map.has_no_page(address(10)).expect("look"));
        let mut branch = WpBranch::arm(area.target.clone(), Image::new(&area)).expect("arm");
        branch.take().expect("take");
        let error = branch.copy(|| false).expect_err("a page is lost");
        assert!(error.to_string().contains("withholds memory"), "{error}");
        drop(branch);
    }
}

/// The frames of pages change when the pages are moved.
#[test]
fn pages_that_are_moved_while_they_are_protected_stay_protected() {
    let _alone = ALONE.lock();
    let _compaction = compaction().expect("this test needs root");
    for area in areas() {
        fill(&area, 3);
        let branch = WpBranch::arm(area.target.clone(), Image::new(&area)).expect("arm");
        let before = area.entries();
        let (start, mut moved) = (Instant::now(), false);
        while !moved && start.elapsed() < MOVED_WITHIN {
            let now = area.entries();
            let differs = |(one, other): (&u64, &u64)| one != other && one & other >> 63 == 1;
            moved = before.iter().zip(&now).any(differs);
        }
        if !moved {
            skip("the kernel found no reason to move any of these pages");
        }
        assert_eq!(area.protected_pages(), PAGES);
        drop(branch);
        assert_eq!(area.protected_pages(), 0);
    }
    const { assert!(PAGES as usize * PAGE_SIZE > HUGE) };
}
