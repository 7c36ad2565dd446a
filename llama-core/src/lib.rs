//! Llama 2 inference on CPUs.

#![deny(unsafe_code)]

mod chat;
mod config;
mod error;
pub mod gguf;
mod sampler;
pub mod tokenizer;
mod weights;

pub use chat::Chat;
pub use config::{Config, Rope};
pub use error::{Error, Result};
pub use sampler::Sampler;
pub use tokenizer::{Prompt, Segment, Token, Tokenizer};
pub use weights::{Layer, Tensor, Weights};
