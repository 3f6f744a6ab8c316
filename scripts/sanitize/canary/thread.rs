//! Writes to the same place from two threads at the same time.
//! Often, since two writes at the very same moment can escape the sanitizer.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Place(UnsafeCell<usize>);

// SAFETY: it is not: this is the fault that is to be found.
unsafe impl Sync for Place {}

static PLACE: Place = Place(UnsafeCell::new(0));
/// Relaxed, so that it puts the threads into no order.
static THERE: AtomicUsize = AtomicUsize::new(0);

fn write(value: usize) {
    THERE.fetch_add(1, Ordering::Relaxed);
    while THERE.load(Ordering::Relaxed) < 2 {
        std::thread::yield_now();
    }
    for _ in 0..10_000 {
        // SAFETY: as above.
        unsafe { PLACE.0.get().write_volatile(value) };
    }
}

fn main() {
    std::thread::scope(|scope| {
        scope.spawn(|| write(1));
        scope.spawn(|| write(2));
    });
}
