//! Inference of Llama 2 and its relatives on CPUs, from GGUF files.
//!
//! ```no_run
//! use llama_core::{Model, Options, Sampler};
//!
//! fn main() -> llama_core::Result<()> {
//!     // SAFETY: nothing writes to this file while it is mapped.
//!     let model = unsafe { Model::map("llama-2-7b-chat.Q4_K_M.gguf")? };
//!     let mut session = model.session(Options::default())?;
//!     let mut sampler = Sampler::new(42).top_k(40).temperature(0.7).top_p(0.9);
//!     session.push(&model.chat()?.user("Why is the sky blue?"))?;
//!     for piece in session.generate(&mut sampler).take(256) {
//!         print!("{}", piece?);
//!     }
//!     println!("\n{}", session.stats());
//!     Ok(())
//! }
//! ```
//!
//! There are three depths: text, as above; tokens and logits ([`Session::forward`]); and the
//! operations themselves (the crate `llama-kernels`). A [`Model`] is immutable and shared, a
//! [`Session`] owns one conversation; two sessions of one model may run on two threads. The
//! [`Plan`] tells how much memory all this takes, before anything is loaded.
//!
//! Without a download, a synthetic model goes the same way (its text is gibberish):
//!
//! ```
//! use llama_core::synth::{Shape, Spec, Synth};
//! use llama_core::{Model, Options, Sampler};
//! use llama_kernels::Format;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let path = directory.path().join("tiny.gguf");
//! let shape = Shape { layers: 1, ..Shape::from_name("tiny").unwrap() };
//! let spec = Spec { shape, format: Format::Q8_0.into(), seed: 1 };
//! Synth::new(&spec)?.write(std::fs::File::create(&path)?, |_| ())?;
//!
//! let model = Model::read(&path)?;
//! let mut session = model.session(Options::default().context(64))?;
//! session.push("Once upon a time")?;
//! let text: String = session.generate(&mut Sampler::greedy()).take(4).collect::<Result<_, _>>()?;
//! assert!(!text.is_empty());
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

mod architecture;
mod chat;
mod config;
mod conversation;
mod error;
mod evaluation;
mod forward;
mod generate;
pub mod gguf;
mod infill;
mod kv_cache;
mod mix;
mod mixture;
mod model;
mod plan;
mod rope;
mod sampler;
mod session;
mod state;
mod stats;
pub mod synth;
mod template;
pub mod tokenizer;
mod weights;

pub use chat::Chat;
pub use config::{Config, Experts};
pub use conversation::{ChatFormat, Conversation, Reply};
pub use error::{Error, Result};
pub use generate::Generate;
pub use infill::{Infill, Order};
pub use mix::Mix;
pub use model::Model;
pub use plan::Plan;
pub use rope::{Rope, RopeOptions, Scaling};
pub use sampler::Sampler;
pub use session::{Options, Session, StopReason};
pub use stats::Stats;
pub use template::{Message, Role, Template};
pub use tokenizer::{Prompt, Segment, Token, Tokenizer};
pub use weights::{FeedForward, Layer, Mlp, Tensor, Weights};
