//! SIMD kernels for Llama inference on CPUs.

mod cpu;
pub mod format;
mod matrix;

pub use cpu::{Cpu, CpuError, CpuOptions, available, default_threads};
pub use format::Format;
pub use matrix::Matrix;
