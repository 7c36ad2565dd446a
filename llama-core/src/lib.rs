//! Llama 2 inference on CPUs.

#![deny(unsafe_code)]

mod config;
mod error;
pub mod gguf;
pub mod synth;
pub mod tokenizer;
mod weights;

pub use config::{Config, Rope};
pub use error::{Error, Result};
pub use tokenizer::Token;
pub use weights::{Layer, Tensor, Weights};
