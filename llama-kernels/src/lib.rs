//! SIMD kernels for Llama inference on CPUs.
//!
//! The crate knows bytes, lanes and cores; it knows no files, tokens or models. Its layers, from the
//! top:
//!
//! * [`Cpu`]: threads and an instruction set. Within a [region](Cpu::region), [`Ops`] offers the
//!   operations that a transformer is made of, each dealt out to all threads.
//! * serial kernels, written once, generic over the weight [`format`](mod@format) and the instruction set ([`simd`]).
//! * [`format`](mod@format): how ggml stores weights. One file and one line of a registry each.
//! * [`simd`]: what an instruction set offers. One file each.
//!
//! `PERFORMANCE.md` beside this crate's manifest says what bounds the kernels and how near they come.
//!
//! Two modules measure: [`profile`] what each operation costs, [`limits`] what the machine can do at most.
//!
//! The contract: views such as [`Matrix`] exist only if they are valid, kernels check lengths once at
//! the door and panic on a caller's mistake, and nothing here depends on the number of threads.
//!
//! A matrix product, with the weights read where they lie:
//!
//! ```
//! use llama_kernels::{Cpu, CpuOptions, Format, Matrix};
//!
//! // Two rows of 64 weights, as they would lie in a file.
//! let weights: Vec<f32> = (0..128).map(|i| (i as f32).sin()).collect();
//! let mut bytes = Vec::new();
//! Format::Q8_0.quantize(&weights, &mut bytes);
//! let w = Matrix::new(Format::Q8_0, 2, 64, &bytes).expect("two rows of 68 bytes");
//!
//! let x = [0.5; 64];
//! let mut y = [0.0; 2];
//! let cpu = Cpu::new(&CpuOptions::default())?;
//! cpu.region(false, |ops| ops.matmul(&mut y, &[w], &x));
//!
//! let exact: f32 = weights[..64].iter().map(|w| w * 0.5).sum();
//! assert!((y[0] - exact).abs() < 0.05);
//! # Ok::<(), llama_kernels::CpuError>(())
//! ```

mod acts;
mod backend;
mod buffer;
mod cores;
mod cpu;
pub mod format;
mod kv;
pub mod limits;
mod matrix;
mod ops;
mod placement;
mod runs;
pub mod simd;
mod team;

pub use backend::{Isa, isas, run_on};
pub use buffer::{Buffer, Zero};
pub use cores::{Cores, cores, default_threads, performance_processors};
pub use cpu::{Cpu, CpuError, CpuOptions, Ops, profile};
pub use format::Format;
pub use kv::{KvLayer, KvShape, KvType};
pub use matrix::Matrix;
pub use ops::rope::{Pairs, Rotation};
pub use placement::{Priority, Processors};

/// The instruction sets that this CPU has, by the names that [`CpuOptions::isa`] takes: the plainest
/// first. One of the last, [`default_isa`], is chosen by default.
pub fn available() -> Vec<&'static str> {
    backend::available().into_iter().map(|b| b.name()).collect()
}

/// The instruction set that is chosen by default: the last of [`available`], but for those that this CPU
/// has and does not run fast.
pub fn default_isa() -> &'static str {
    backend::best().name()
}
