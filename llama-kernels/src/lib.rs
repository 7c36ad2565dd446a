//! SIMD kernels for Llama inference on CPUs.

pub mod format;

pub use format::Format;
