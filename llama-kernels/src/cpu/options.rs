//! How to build a `Cpu`, and why it may fail.

use super::Cpu;

/// How to build a [`Cpu`].
#[derive(Clone, Debug, Default)]
pub struct CpuOptions {
    /// Number of threads; the default is [`default_threads`](crate::default_threads).
    pub threads: Option<usize>,
    /// Name of the instruction set; the default is the best that the CPU has.
    pub isa: Option<String>,
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
