//! Llama 2 inference on CPUs.

#![deny(unsafe_code)]

mod error;
pub mod tokenizer;

pub use error::{Error, Result};
pub use tokenizer::{Prompt, Segment, Token, Tokenizer};
