//! What tells the architectures apart, beside hyperparameters: one line each.
//!
//! The graph is the same for all. What a model does not have is empty there (a bias, a norm of heads), and
//! what it has in another way is a value (the pairs that turn together).

use llama_kernels::Pairs;

/// An architecture, by GGUF's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Architecture {
    /// The value of `general.architecture`, and the beginning of the model's own keys.
    pub(crate) name: &'static str,
    /// Which features of a head turn together.
    pub(crate) pairs: Pairs,
    /// Whether queries, keys and values have biases.
    pub(crate) qkv_bias: bool,
    /// Whether each head of queries and keys is normalised on its own before it turns.
    pub(crate) head_norms: bool,
}

/// All that this library runs. Mistral and Mixtral are `llama`: a window and experts are hyperparameters.
pub(crate) const ALL: [Architecture; 3] = [
    Architecture { name: "llama", pairs: Pairs::Adjacent, qkv_bias: false, head_norms: false },
    Architecture { name: "qwen2", pairs: Pairs::Halves, qkv_bias: true, head_norms: false },
    Architecture { name: "qwen3", pairs: Pairs::Halves, qkv_bias: false, head_norms: true },
];
