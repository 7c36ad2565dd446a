//! Work beside the workers: measurements of the machine, where the model runs.

use super::Cpu;
use std::panic::resume_unwind;

impl Cpu {
    /// Runs `work` where the threads may run, with their priority: on a thread of its own, whose threads inherit both.
    ///
    /// # Panics
    /// If `work` does, or the system cannot start the thread.
    pub fn beside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        if self.placement.is_plain() {
            return work();
        }
        let placed = || {
            self.placement.apply_to_another();
            work()
        };
        std::thread::scope(|scope| scope.spawn(placed).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }
}
