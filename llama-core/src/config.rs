//! A model's hyperparameters, read from metadata and checked once.

use crate::gguf::{Gguf, Value};
use crate::{Error, Result};

/// Layers, of any model that will be.
const MAX_LAYERS: usize = 1 << 12;

/// Any width (of the embedding, a hidden layer, all heads) and the vocabulary.
const MAX_WIDTH: usize = 1 << 24;

/// Positions of a context.
const MAX_CONTEXT: usize = 1 << 31;

/// The hyperparameters of a Llama model; one exists only if they are consistent.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
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
    /// Number of tokens.
    pub vocab: usize,
}

/// Rotary position embedding: pair `i` of a head turns by `scale * position * freq_base^(-2i / dims)`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rope {
    /// How many of a head's first dimensions turn; even, at most `head_dim`.
    pub dims: usize,
    /// The base of the frequencies (`rope.freq_base`).
    pub freq_base: f32,
    /// Factor on positions: the inverse of the linear scaling factor, 1 without scaling.
    pub scale: f32,
}

impl Config {
    /// Reads the hyperparameters of a file, which may hold a vocabulary alone.
    ///
    /// # Errors
    /// [`Error::Key`] naming the key that is absent, out of range, inconsistent with others or asks
    /// for something that is not Llama 2; [`Error::Tensor`] if the embedding's size is not that of
    /// the vocabulary.
    pub fn new(gguf: &Gguf) -> Result<Config> {
        let architecture = gguf.str("general.architecture")?;
        if architecture != "llama" {
            return Err(gguf.key_error("general.architecture", "\"llama\""));
        }
        let keys = Keys(gguf);
        let n_layers = keys.size("llama.block_count", MAX_LAYERS)?;
        let d_model = keys.size("llama.embedding_length", MAX_WIDTH)?;
        let d_ff = keys.size_per_layer("llama.feed_forward_length", n_layers, MAX_WIDTH)?;
        let (n_heads, n_kv_heads) = keys.heads(n_layers)?;
        let default_head = d_model / n_heads;
        let head_dim = keys.head_width("llama.attention.key_length", default_head, n_heads)?;
        let value_dim = keys.head_width("llama.attention.value_length", default_head, n_heads)?;
        if keys.0.opt_usize("llama.expert_count")?.is_some_and(|experts| experts > 0) {
            return Err(gguf.key_error("llama.expert_count", "0: mixtures of experts are not supported"));
        }
        Ok(Config {
            n_layers,
            d_model,
            d_ff,
            n_heads,
            n_kv_heads,
            head_dim,
            value_dim,
            norm_eps: keys.positive("llama.attention.layer_norm_rms_epsilon", None)?,
            context: keys.size("llama.context_length", MAX_CONTEXT)?,
            rope: keys.rope(head_dim)?,
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
struct Keys<'a>(&'a Gguf);

impl Keys<'_> {
    /// A whole number from 1 to `max`.
    fn size(&self, key: &str, max: usize) -> Result<usize> {
        self.checked(key, self.0.usize(key)?, max)
    }

    fn checked(&self, key: &str, value: usize, max: usize) -> Result<usize> {
        let valid = (1..=max).contains(&value);
        if valid { Ok(value) } else { Err(self.0.key_error(key, format!("1 to {max}"))) }
    }

    /// One size for all layers, or an array of one each.
    fn size_per_layer(&self, key: &str, n_layers: usize, max: usize) -> Result<Vec<usize>> {
        if !matches!(self.0.get(key), Some(Value::Array(_))) {
            return Ok(vec![self.size(key, max)?; n_layers]);
        }
        let sizes = self.0.usizes(key)?;
        if sizes.len() != n_layers {
            return Err(self.0.key_error(key, format!("an array of {n_layers}, one for each layer")));
        }
        sizes.map(|size| self.checked(key, size, max)).collect()
    }

    /// One size for all layers, though it may be written as an array.
    fn uniform_size(&self, key: &str, n_layers: usize) -> Result<usize> {
        let sizes = self.size_per_layer(key, n_layers, MAX_WIDTH)?;
        let uniform = sizes.iter().all(|&size| size == sizes[0]);
        if uniform { Ok(sizes[0]) } else { Err(self.0.key_error(key, "the same number for every layer")) }
    }

    /// Query heads, and key and value heads.
    fn heads(&self, n_layers: usize) -> Result<(usize, usize)> {
        const KV: &str = "llama.attention.head_count_kv";
        let n_heads = self.uniform_size("llama.attention.head_count", n_layers)?;
        if self.0.get(KV).is_none() {
            return Ok((n_heads, n_heads));
        }
        let n_kv_heads = self.uniform_size(KV, n_layers)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(self.0.key_error(KV, format!("a divisor of the {n_heads} query heads")));
        }
        Ok((n_heads, n_kv_heads))
    }

    /// The width of one of `n_heads` heads, which together stay below the limit.
    fn head_width(&self, key: &str, default: usize, n_heads: usize) -> Result<usize> {
        if self.0.get(key).is_some() {
            return self.size(key, MAX_WIDTH / n_heads);
        }
        let d_model = self.0.usize("llama.embedding_length")?;
        if default * n_heads == d_model {
            return Ok(default);
        }
        let expected = format!("a divisor of the embedding's {d_model}, or the key {key}");
        Err(self.0.key_error("llama.attention.head_count", expected))
    }

    /// A finite number above 0; a key without a default must be there.
    fn positive(&self, key: &str, default: Option<f32>) -> Result<f32> {
        let value = match default {
            Some(default) => self.0.opt_f32(key)?.unwrap_or(default),
            None => self.0.f32(key)?,
        };
        let valid = value.is_finite() && value > 0.0;
        if valid { Ok(value) } else { Err(self.0.key_error(key, "a finite number above 0")) }
    }

    fn rope(&self, head_dim: usize) -> Result<Rope> {
        const DIMS: &str = "llama.rope.dimension_count";
        const TYPE: &str = "llama.rope.scaling.type";
        let dims = self.0.opt_usize(DIMS)?.unwrap_or(head_dim);
        if dims == 0 || dims % 2 != 0 || dims > head_dim {
            return Err(self
                .0
                .key_error(DIMS, format!("an even number from 2 to {head_dim}, a head's width")));
        }
        // Before the scaling types there was one key, and zero stood for none.
        let factor = ["llama.rope.scaling.factor", "llama.rope.scale_linear"];
        let factor = factor.into_iter().find(|key| self.0.get(key).is_some());
        let factor = match (self.0.opt_str(TYPE)?, factor) {
            (None | Some("linear"), Some(key)) if self.0.f32(key)? != 0.0 => self.positive(key, None)?,
            (None | Some("linear" | "none"), _) => 1.0,
            (Some(_), _) => return Err(self.0.key_error(TYPE, "\"none\" or \"linear\"")),
        };
        Ok(Rope {
            dims,
            freq_base: self.positive("llama.rope.freq_base", Some(10000.0))?,
            scale: 1.0 / factor,
        })
    }

    /// The number of tokens: as many as the embedding has rows and the tokenizer pieces.
    fn vocab(&self) -> Result<usize> {
        const EMBEDDING: &str = "token_embd.weight";
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let pieces = match self.0.get(TOKENS) {
            Some(Value::Array(pieces)) => Some(self.checked(TOKENS, pieces.len(), MAX_WIDTH)?),
            Some(_) => return Err(self.0.key_error(TOKENS, "an array of strings")),
            None => None,
        };
        let Some(embedding) = self.0.tensor(EMBEDDING) else {
            return pieces
                .ok_or_else(|| self.0.key_error(TOKENS, format!("this key or a tensor {EMBEDDING}")));
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
mod tests {
    use super::*;
    use crate::gguf::tests::{complete, from_bytes};
    use crate::gguf::{ArrayBuf, Writer};

    /// The least that a model states.
    fn minimal() -> Writer {
        let mut header = Writer::new();
        header.set("general.architecture", "llama");
        header.set("llama.block_count", 2u32);
        header.set("llama.embedding_length", 64u32);
        header.set("llama.feed_forward_length", 96u32);
        header.set("llama.attention.head_count", 8u32);
        header.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        header.set("llama.context_length", 256u32);
        header.set("tokenizer.ggml.tokens", &["a", "b", "c"].into_iter().collect::<ArrayBuf>());
        header
    }

    fn config(header: &Writer) -> Result<Config> {
        Config::new(&from_bytes(complete(header)).unwrap())
    }

    #[test]
    fn defaults_are_those_of_llama() {
        let config = config(&minimal()).unwrap();
        assert_eq!((config.n_layers, config.d_model, &config.d_ff[..]), (2, 64, &[96, 96][..]));
        assert_eq!((config.n_heads, config.n_kv_heads, config.head_dim, config.value_dim), (8, 8, 8, 8));
        assert_eq!(config.rope, Rope { dims: 8, freq_base: 10000.0, scale: 1.0 });
        assert_eq!((config.norm_eps, config.context, config.vocab), (1e-5, 256, 3));
    }

    #[test]
    fn what_is_stated_is_used() {
        let mut header = minimal();
        header.set("llama.feed_forward_length", &[96u32, 128].into_iter().collect::<ArrayBuf>());
        header.set("llama.attention.head_count_kv", &[2u32, 2].into_iter().collect::<ArrayBuf>());
        header.set("llama.attention.key_length", 16u32);
        header.set("llama.attention.value_length", 24u32);
        header.set("llama.rope.dimension_count", 12u32);
        header.set("llama.rope.freq_base", 1e6f32);
        header.set("llama.rope.scaling.type", "linear");
        header.set("llama.rope.scaling.factor", 4f32);
        let config = config(&header).unwrap();
        assert_eq!((&config.d_ff[..], config.n_kv_heads), (&[96, 128][..], 2));
        assert_eq!((config.q_width(), config.k_width()), (128, 32));
        assert_eq!((config.v_width(), config.attention_width()), (48, 192));
        assert_eq!(config.rope, Rope { dims: 12, freq_base: 1e6, scale: 0.25 });
    }

    #[test]
    fn scaling_has_an_old_key_and_an_off_switch() {
        let scale = |pairs: &[(&str, f32)], kind: Option<&str>| {
            let mut header = minimal();
            pairs.iter().for_each(|&(key, value)| header.set(key, value));
            kind.into_iter().for_each(|kind| header.set("llama.rope.scaling.type", kind));
            config(&header).unwrap().rope.scale
        };
        assert_eq!(scale(&[("llama.rope.scale_linear", 2.0)], None), 0.5);
        assert_eq!(scale(&[("llama.rope.scale_linear", 0.0)], None), 1.0);
        assert_eq!(scale(&[("llama.rope.scaling.factor", 2.0)], Some("none")), 1.0);
    }

    #[test]
    fn every_error_names_its_key() {
        let three: ArrayBuf = [1u32, 2, 3].into_iter().collect();
        let two: ArrayBuf = [8u32, 4].into_iter().collect();
        let cases: &[(&str, crate::gguf::Value<'_>, &str)] = &[
            ("general.architecture", "falcon".into(), "\"llama\", found string \"falcon\""),
            ("llama.block_count", 0u32.into(), "1 to 4096, found u32 0"),
            ("llama.block_count", u32::MAX.into(), "1 to 4096, found u32 4294967295"),
            ("llama.embedding_length", "64".into(), "an integer from 0 up, of any type, found string \"64\""),
            (
                "llama.feed_forward_length",
                (&three).into(),
                "an array of 2, one for each layer, found array of u32 [1, 2, 3]",
            ),
            (
                "llama.attention.head_count",
                7u32.into(),
                "a divisor of the embedding's 64, or the key llama.attention.key_length, found u32 7",
            ),
            (
                "llama.attention.head_count",
                (&two).into(),
                "the same number for every layer, found array of u32 [8, 4]",
            ),
            ("llama.attention.head_count_kv", 3u32.into(), "a divisor of the 8 query heads, found u32 3"),
            (
                "llama.attention.key_length",
                (1u64 << 62).into(),
                "1 to 2097152, found u64 4611686018427387904",
            ),
            (
                "llama.attention.layer_norm_rms_epsilon",
                f32::NAN.into(),
                "a finite number above 0, found f32 NaN",
            ),
            ("llama.context_length", (-1i32).into(), "an integer from 0 up, of any type, found i32 -1"),
            (
                "llama.rope.dimension_count",
                7u32.into(),
                "an even number from 2 to 8, a head's width, found u32 7",
            ),
            ("llama.rope.freq_base", 0f32.into(), "a finite number above 0, found f32 0"),
            ("llama.rope.scaling.type", "yarn".into(), "\"none\" or \"linear\", found string \"yarn\""),
            ("llama.rope.scaling.factor", (-2f32).into(), "a finite number above 0, found f32 -2"),
            ("llama.expert_count", 8u32.into(), "0: mixtures of experts are not supported, found u32 8"),
            ("tokenizer.ggml.tokens", 1u32.into(), "an array of strings, found u32 1"),
        ];
        for &(key, value, expected) in cases {
            let mut header = minimal();
            header.set(key, value);
            let message = config(&header).unwrap_err().to_string();
            assert!(message.starts_with(&format!("key \"{key}\" (byte ")), "{message}");
            assert!(message.ends_with(&format!("): expected {expected}")), "{message}");
        }
    }

    #[test]
    fn the_vocabulary_has_one_size() {
        let mut header = minimal();
        header.tensor("token_embd.weight", &[64, 4], llama_kernels::Format::F32).unwrap();
        let message = config(&header).unwrap_err().to_string();
        assert!(
            message.ends_with("expected 3 rows, one for each piece of the vocabulary, found 4"),
            "{message}"
        );
    }
}
