//! Llama 2 inference on CPUs.

#![deny(unsafe_code)]

mod chat;
mod config;
mod error;
mod evaluation;
mod forward;
mod generate;
pub mod gguf;
mod kv_cache;
mod model;
mod plan;
pub mod sampler;
mod session;
mod state;
pub mod synth;
pub mod tokenizer;
mod weights;

pub use chat::Chat;
pub use config::{Config, Rope};
pub use error::{Error, Result};
pub use generate::Generate;
pub use model::Model;
pub use plan::Plan;
pub use sampler::Sampler;
pub use session::{Options, Session, Stats, StopReason};
pub use tokenizer::{Prompt, Segment, Token, Tokenizer};
pub use weights::{Layer, Tensor, Weights};
