//! A model's hyperparameters, read from metadata and checked once.

use crate::architecture::{self, Architecture};
use crate::gguf::{Gguf, Value};
use crate::{Error, Result, Rope, Scaling};

/// Layers, of any model that will be.
const MAX_LAYERS: usize = 1 << 12;

/// Any width (of the embedding, a hidden layer, all heads) and the vocabulary.
const MAX_WIDTH: usize = 1 << 24;

/// Positions of a context.
const MAX_CONTEXT: usize = 1 << 31;

/// Experts of a layer.
const MAX_EXPERTS: usize = 1 << 12;

/// The hyperparameters of a model; one exists only if they are consistent.
///
/// The keys in parentheses follow the architecture's name in a file: `llama.block_count`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The architecture (`general.architecture`): `llama`, which Mistral and Mixtral are too, `qwen2` or `qwen3`.
    pub architecture: &'static str,
    /// Number of layers (`block_count`).
    pub n_layers: usize,
    /// Width of the residual stream (`embedding_length`).
    pub d_model: usize,
    /// Width of each layer's feed-forward network (`feed_forward_length`); `n_layers` of them.
    pub d_ff: Vec<usize>,
    /// Query heads (`attention.head_count`).
    pub n_heads: usize,
    /// Key and value heads (`attention.head_count_kv`); divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a query and of a key head (`attention.key_length`).
    pub head_dim: usize,
    /// Width of a value head (`attention.value_length`).
    pub value_dim: usize,
    /// Epsilon of the RMS norms (`attention.layer_norm_rms_epsilon`).
    pub norm_eps: f32,
    /// Positions that the model was trained for (`context_length`).
    pub context: usize,
    /// Rotary position embedding.
    pub rope: Rope,
    /// How far back a token sees, itself included (`attention.sliding_window`): all, if there is none.
    pub window: Option<usize>,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether each head of queries and keys has a norm of its own before it turns.
    pub head_norms: bool,
    /// The experts of each feed-forward layer; none is a single network.
    pub experts: Option<Experts>,
    /// Number of tokens.
    pub vocab: usize,
}

/// A mixture of experts: feed-forward networks of which each token chooses some.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Experts {
    /// How many there are (`expert_count`).
    pub count: usize,
    /// How many a token goes through (`expert_used_count`).
    pub used: usize,
}

impl Config {
    /// Reads the hyperparameters of a file, which may hold a vocabulary alone.
    ///
    /// # Errors
    /// [`Error::Key`] naming the key that is absent, out of range, inconsistent with others or asks
    /// for something that is not Llama 2; [`Error::Tensor`] if the embedding's size is not that of
    /// the vocabulary.
    pub fn new(gguf: &Gguf) -> Result<Config> {
        let name = gguf.str("general.architecture")?;
        let Some(architecture) = architecture::ALL.iter().find(|known| known.name == name) else {
            let names = architecture::ALL.map(|known| format!("{:?}", known.name));
            return Err(gguf.key_error("general.architecture", names.join(", ")));
        };
        let keys = Keys { gguf, architecture };
        let n_layers = keys.size("block_count", MAX_LAYERS)?;
        let d_model = keys.size("embedding_length", MAX_WIDTH)?;
        let d_ff = keys.size_per_layer("feed_forward_length", n_layers, MAX_WIDTH)?;
        let (n_heads, n_kv_heads) = keys.heads(n_layers)?;
        let default_head = d_model / n_heads;
        let head_dim = keys.head_width("attention.key_length", default_head, n_heads)?;
        let value_dim = keys.head_width("attention.value_length", default_head, n_heads)?;
        let context = keys.size("context_length", MAX_CONTEXT)?;
        Ok(Config {
            architecture: architecture.name,
            n_layers,
            d_model,
            d_ff,
            n_heads,
            n_kv_heads,
            head_dim,
            value_dim,
            norm_eps: keys.positive("attention.layer_norm_rms_epsilon", None)?,
            context,
            rope: keys.rope(head_dim, context)?,
            window: keys.optional("attention.sliding_window", MAX_CONTEXT)?,
            qkv_bias: architecture.qkv_bias,
            head_norms: architecture.head_norms,
            experts: keys.experts()?,
            vocab: keys.vocab()?,
        })
    }

    /// Width of all query heads.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key heads.
    pub fn k_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Width of all value heads.
    pub fn v_width(&self) -> usize {
        self.n_kv_heads * self.value_dim
    }

    /// Width of attention's result: a value for every query head.
    pub fn attention_width(&self) -> usize {
        self.n_heads * self.value_dim
    }
}

/// The file's keys, read with limits.
struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'static Architecture,
}

impl Keys<'_> {
    /// A key of the architecture's own.
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name)
    }

    fn error(&self, key: &str, expected: impl Into<String>) -> Error {
        self.gguf.key_error(&self.name(key), expected)
    }

    /// A whole number from 1 to `max`.
    fn size(&self, key: &str, max: usize) -> Result<usize> {
        self.checked(key, self.gguf.usize(&self.name(key))?, max)
    }

    /// The same if it is there; zero stands for absence.
    fn optional(&self, key: &str, max: usize) -> Result<Option<usize>> {
        match self.gguf.opt_usize(&self.name(key))? {
            None | Some(0) => Ok(None),
            Some(value) => self.checked(key, value, max).map(Some),
        }
    }

    fn checked(&self, key: &str, value: usize, max: usize) -> Result<usize> {
        let valid = (1..=max).contains(&value);
        if valid { Ok(value) } else { Err(self.error(key, format!("1 to {max}"))) }
    }

    /// One size for all layers, or an array of one each.
    fn size_per_layer(&self, key: &str, n_layers: usize, max: usize) -> Result<Vec<usize>> {
        let name = self.name(key);
        if !matches!(self.gguf.get(&name), Some(Value::Array(_))) {
            return Ok(vec![self.size(key, max)?; n_layers]);
        }
        let sizes = self.gguf.usizes(&name)?;
        if sizes.len() != n_layers {
            return Err(self.error(key, format!("an array of {n_layers}, one for each layer")));
        }
        sizes.map(|size| self.checked(key, size, max)).collect()
    }

    /// One size for all layers, though it may be written as an array.
    fn uniform_size(&self, key: &str, n_layers: usize) -> Result<usize> {
        let sizes = self.size_per_layer(key, n_layers, MAX_WIDTH)?;
        let uniform = sizes.iter().all(|&size| size == sizes[0]);
        if uniform { Ok(sizes[0]) } else { Err(self.error(key, "the same number for every layer")) }
    }

    /// Query heads, and key and value heads.
    fn heads(&self, n_layers: usize) -> Result<(usize, usize)> {
        const KV: &str = "attention.head_count_kv";
        let n_heads = self.uniform_size("attention.head_count", n_layers)?;
        if self.gguf.get(&self.name(KV)).is_none() {
            return Ok((n_heads, n_heads));
        }
        let n_kv_heads = self.uniform_size(KV, n_layers)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(self.error(KV, format!("a divisor of the {n_heads} query heads")));
        }
        Ok((n_heads, n_kv_heads))
    }

    /// The width of one of `n_heads` heads, which together stay below the limit.
    fn head_width(&self, key: &str, default: usize, n_heads: usize) -> Result<usize> {
        let name = self.name(key);
        if self.gguf.get(&name).is_some() {
            return self.size(key, MAX_WIDTH / n_heads);
        }
        let d_model = self.gguf.usize(&self.name("embedding_length"))?;
        if default * n_heads == d_model {
            return Ok(default);
        }
        let expected = format!("a divisor of the embedding's {d_model}, or the key {name}");
        Err(self.error("attention.head_count", expected))
    }

    /// A finite number above 0; a key without a default must be there.
    fn positive(&self, key: &str, default: Option<f32>) -> Result<f32> {
        let name = self.name(key);
        let value = match default {
            Some(default) => self.gguf.opt_f32(&name)?.unwrap_or(default),
            None => self.gguf.f32(&name)?,
        };
        let valid = value.is_finite() && value > 0.0;
        if valid { Ok(value) } else { Err(self.error(key, "a finite number above 0")) }
    }

    fn experts(&self) -> Result<Option<Experts>> {
        let Some(count) = self.optional("expert_count", MAX_EXPERTS)? else { return Ok(None) };
        Ok(Some(Experts { count, used: self.size("expert_used_count", count)? }))
    }

    fn rope(&self, head_dim: usize, context: usize) -> Result<Rope> {
        const DIMS: &str = "rope.dimension_count";
        let dims = self.gguf.opt_usize(&self.name(DIMS))?.unwrap_or(head_dim);
        if dims == 0 || dims % 2 != 0 || dims > head_dim {
            return Err(self.error(DIMS, format!("an even number from 2 to {head_dim}, a head's width")));
        }
        let freq_base = self.positive("rope.freq_base", Some(10000.0))?;
        let plain = Rope::plain(dims, self.architecture.pairs, freq_base, context);
        let (scaling, factor) = self.scaling()?;
        let original_context = self.optional("rope.scaling.original_context_length", MAX_CONTEXT)?;
        // A negative one stands for the scaling's own.
        let ext_factor = self.gguf.opt_f32(&self.name("rope.scaling.yarn_ext_factor"))?;
        let ext_factor = ext_factor.filter(|&factor| factor >= 0.0).unwrap_or(plain.ext_factor);
        let attn_factor = self.positive("rope.scaling.attn_factor", Some(plain.attn_factor))?;
        Ok(Rope {
            scaling,
            factor,
            original_context: original_context.unwrap_or(context),
            ext_factor: ext_factor.min(1.0),
            attn_factor: attn_factor * self.positive("rope.scaling.yarn_attn_factor", Some(1.0))?,
            beta_fast: self.positive("rope.scaling.yarn_beta_fast", Some(plain.beta_fast))?,
            beta_slow: self.positive("rope.scaling.yarn_beta_slow", Some(plain.beta_slow))?,
            ..plain
        })
    }

    /// How angles are scaled, and by what. Before there were types there was one key, and zero stood for none.
    fn scaling(&self) -> Result<(Scaling, f32)> {
        const TYPE: &str = "rope.scaling.type";
        let scaling = match self.gguf.opt_str(&self.name(TYPE))? {
            None | Some("linear") => Scaling::Linear,
            Some("none") => return Ok((Scaling::None, 1.0)),
            Some("yarn") => Scaling::Yarn,
            Some("longrope") => {
                let expected =
                    "\"none\", \"linear\" or \"yarn\": factors for long and short texts are not supported";
                return Err(self.error(TYPE, expected));
            }
            Some(_) => return Err(self.error(TYPE, "\"none\", \"linear\" or \"yarn\"")),
        };
        let keys = ["rope.scaling.factor", "rope.scale_linear"];
        match keys.into_iter().find(|key| self.gguf.get(&self.name(key)).is_some()) {
            Some(key) if self.gguf.f32(&self.name(key))? != 0.0 => Ok((scaling, self.positive(key, None)?)),
            _ if scaling == Scaling::Linear => Ok((Scaling::None, 1.0)),
            _ => Ok((scaling, 1.0)),
        }
    }

    /// The number of tokens: as many as the embedding has rows and the tokenizer pieces.
    fn vocab(&self) -> Result<usize> {
        const EMBEDDING: &str = "token_embd.weight";
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let pieces = match self.gguf.get(TOKENS) {
            Some(Value::Array(pieces)) => {
                let expected = || self.gguf.key_error(TOKENS, format!("1 to {MAX_WIDTH} pieces"));
                let valid = (1..=MAX_WIDTH).contains(&pieces.len());
                Some(valid.then_some(pieces.len()).ok_or_else(expected)?)
            }
            Some(_) => return Err(self.gguf.key_error(TOKENS, "an array of strings")),
            None => None,
        };
        let Some(embedding) = self.gguf.tensor(EMBEDDING) else {
            return pieces
                .ok_or_else(|| self.gguf.key_error(TOKENS, format!("this key or a tensor {EMBEDDING}")));
        };
        let rows = embedding.dims().get(1).copied().unwrap_or(0);
        if (1..=MAX_WIDTH).contains(&rows) && pieces.is_none_or(|pieces| pieces == rows) {
            return Ok(rows);
        }
        Err(Error::Tensor {
            name: EMBEDDING.into(),
            offset: Some(embedding.header_offset() as u64),
            expected: match pieces {
                Some(pieces) => format!("{pieces} rows, one for each piece of the vocabulary"),
                None => format!("1 to {MAX_WIDTH} rows, one for each token"),
            },
            found: rows.to_string(),
        })
    }
}

#[cfg(test)]
mod tests;
