//! Llama 2 inference on CPUs.

#![deny(unsafe_code)]

mod error;
pub mod gguf;
pub mod synth;
pub mod tokenizer;

pub use error::{Error, Result};
pub use tokenizer::Token;
