//! Ctrl-C: once to stop cleanly, twice to be gone.

use crate::failure::Failure;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a shell reports for a process that Ctrl-C ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// Whether the first Ctrl-C ends the process, because what it does may stop anywhere.
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C sets the returned flag, and the second ends the process.
pub(crate) fn watch() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) || AT_ONCE.load(Ordering::Relaxed) {
            std::process::exit(EXIT_CODE.into());
        }
    })?;
    Ok(flag)
}

/// While `work` runs, which may stop anywhere, the first Ctrl-C ends the process.
pub(crate) fn at_once<T>(work: impl FnOnce() -> T) -> T {
    AT_ONCE.store(true, Ordering::Relaxed);
    let result = work();
    AT_ONCE.store(false, Ordering::Relaxed);
    result
}
