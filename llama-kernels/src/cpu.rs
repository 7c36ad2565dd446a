//! Stand-in for the real `Cpu` until it is merged.

/// What computes.
#[derive(Debug)]
pub struct Cpu {
    threads: usize,
}

/// How to build a [`Cpu`].
#[derive(Default, Clone, Debug)]
pub struct CpuOptions {
    /// Worker threads; `None`: [`default_threads`].
    pub threads: Option<usize>,
    /// Name of the backend; `None`: the best available.
    pub isa: Option<String>,
}

/// Why a [`Cpu`] cannot be built.
#[derive(Debug)]
pub enum CpuError {
    /// Not one of [`available`].
    Isa(String),
    /// No threads.
    Threads,
}

impl std::fmt::Display for CpuError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CpuError::Isa(name) => {
                write!(f, "instruction set: expected one of scalar, avx2, found \"{name}\"")
            }
            CpuError::Threads => write!(f, "threads: expected at least 1, found 0"),
        }
    }
}

impl std::error::Error for CpuError {}

impl Cpu {
    /// Builds it.
    pub fn new(options: &CpuOptions) -> Result<Cpu, CpuError> {
        if let Some(isa) = options.isa.as_ref().filter(|isa| available().all(|a| a != isa.as_str())) {
            return Err(CpuError::Isa(isa.clone()));
        }
        match options.threads.unwrap_or_else(default_threads) {
            0 => Err(CpuError::Threads),
            threads => Ok(Cpu { threads }),
        }
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The backend's name.
    pub fn isa(&self) -> &'static str {
        "scalar"
    }
}

/// Names of the backends that this machine can run.
pub fn available() -> impl Iterator<Item = &'static str> {
    ["scalar", "avx2"].into_iter()
}

/// Physical cores.
pub fn default_threads() -> usize {
    1
}
