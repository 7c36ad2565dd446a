//! Ctrl-C: once to stop cleanly, twice to be gone.

use crate::failure::Failure;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a shell reports for a process that Ctrl-C ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// From now on the first Ctrl-C sets the returned flag, and the second ends the process.
pub(crate) fn watch() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE.into());
        }
    })?;
    Ok(flag)
}
