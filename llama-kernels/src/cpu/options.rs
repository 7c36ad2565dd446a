//! How to build a `Cpu`, and why it may fail.

use super::Cpu;
use crate::placement::{Placement, Priority, Processors};

/// How to build a [`Cpu`].
#[derive(Clone, Debug, Default)]
pub struct CpuOptions {
    /// Number of threads; the default is [`default_threads`](crate::default_threads).
    pub threads: Option<usize>,
    /// Name of the instruction set; the default is the best that the CPU has.
    pub isa: Option<String>,
    /// Where the threads may run; the default is the performance cores, if they are enough for the threads, and
    /// else wherever the process may.
    pub processors: Option<Processors>,
    /// Whether each thread is bound to a processor of its own.
    pub strict: bool,
    /// Before whom the threads run.
    pub priority: Priority,
}

impl CpuOptions {
    /// Where that many threads go.
    pub(super) fn placement(&self, threads: usize) -> Placement {
        let fast = || crate::performance_processors().filter(|fast| threads <= fast.numbers().len());
        let bound = if self.strict { crate::cores::processors().and_then(Processors::new) } else { None };
        let processors = self.processors.clone().or_else(fast).or(bound);
        Placement { processors, strict: self.strict, priority: self.priority }
    }
}

/// Why a [`Cpu`] cannot be built.
#[derive(Debug)]
#[non_exhaustive]
pub enum CpuError {
    /// The thread count is zero or beyond [`Cpu::MAX_THREADS`].
    Threads(usize),
    /// No instruction set of this name, or not on this CPU.
    Isa(String),
    /// The system refused to start the threads.
    Pool(String),
}

impl std::fmt::Display for CpuError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CpuError::Threads(n) => write!(f, "threads: expected 1 to {}, found {n}", Cpu::MAX_THREADS),
            CpuError::Isa(name) => {
                let names = crate::available().join(", ");
                write!(f, "instruction set: expected one of {names} (what this CPU has), found {name}")
            }
            CpuError::Pool(why) => write!(f, "cannot start the threads: {why}"),
        }
    }
}

impl std::error::Error for CpuError {}
