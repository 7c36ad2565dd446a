//! What can go wrong, each with what, where, expected and found.

use crate::tokenizer::Token;
use std::path::PathBuf;

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that loading a model and running it can report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted: `open`, `map`, `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The bytes are not what the GGUF format prescribes at this place.
    #[error("{}: {what} at byte {offset}: expected {expected}, found {found}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The field of the format, or the key, being read.
        what: String,
        /// Where in the file.
        offset: u64,
        /// What the format or the caller asks for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A metadata key is absent, or its value is of the wrong type or out of range.
    #[error("key \"{key}\"{}: expected {expected}, found {found}", offset.map_or(String::new(), |o| format!(" (byte {o})")))]
    Key {
        /// The metadata key.
        key: String,
        /// Byte offset of the value, when the key is present.
        offset: Option<u64>,
        /// What the model needs.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A tensor is absent, of a wrong shape or of a type that this library does not read.
    #[error("tensor \"{name}\"{}: expected {expected}, found {found}", offset.map_or(String::new(), |o| format!(" (byte {o})")))]
    Tensor {
        /// The tensor's GGUF name.
        name: String,
        /// Byte offset of its header, when present.
        offset: Option<u64>,
        /// What the model needs.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A token id is not in the vocabulary.
    #[error("token {}: expected an id below {vocab}", token.0)]
    Token {
        /// The offending id.
        token: Token,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// More tokens than the session's context has room for.
    #[error("prompt of {tokens} tokens: expected at most {room}, the room left in a context of {context}")]
    Context {
        /// Tokens that were to be evaluated.
        tokens: usize,
        /// Positions that are still free.
        room: usize,
        /// The session's context length.
        context: usize,
    },
    /// An option has a value that makes no sense, alone or for this model.
    #[error("option {option}: expected {expected}, found {found}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What is allowed.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A chat template is none, refuses a conversation, or spends too much on it.
    #[error("chat template{}: {reason}", line.map_or(String::new(), |line| format!(", line {line}")))]
    Template {
        /// Where in the template.
        line: Option<usize>,
        /// What it says, or what is wrong with it.
        reason: String,
    },
    /// A file does not hold a conversation that can go on here.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    SavedChat {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
        /// What the session or the format asks for.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// What computes cannot be set up.
    #[error(transparent)]
    Cpu(llama_kernels::CpuError),
    /// The evaluation was stopped by its cancellation flag.
    #[error("cancelled")]
    Cancelled,
}
