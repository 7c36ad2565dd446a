//! SIMD kernels for Llama inference on CPUs.

pub mod format;
mod matrix;

pub use format::Format;
pub use matrix::Matrix;
