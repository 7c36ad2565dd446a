//! Llama 2 inference on CPUs.

#![deny(unsafe_code)]

mod chat;
mod error;
pub mod sampler;
pub mod tokenizer;

pub use chat::Chat;
pub use error::{Error, Result};
pub use sampler::Sampler;
pub use tokenizer::{Prompt, Segment, Token, Tokenizer};
