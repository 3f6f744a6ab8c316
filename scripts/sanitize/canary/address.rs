//! Reads memory that has been freed.

fn main() {
    let freed = Box::into_raw(Box::new(7u64));
    // SAFETY: the first line is sound, the second is the fault that is to be found.
    unsafe {
        drop(Box::from_raw(freed));
        println!("{}", freed.read_volatile());
    }
}
