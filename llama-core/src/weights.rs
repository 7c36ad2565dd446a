//! A model's weights: views of the mapped file, every shape checked against the [`Config`].

use crate::gguf::{Gguf, Mapped, TensorInfo, shape};
use crate::{Config, Error, Result};
use llama_kernels::{Format, Matrix};
use std::collections::HashSet;

/// A matrix of weights that lies in a mapped file; one exists only if its length is right.
#[derive(Clone, Debug)]
pub struct Tensor {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: Mapped,
}

/// The weights of one layer; in shapes, rows come first.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Scale of the norm before attention: `[d_model]`.
    pub attn_norm: Vec<f32>,
    /// Queries: `[n_heads * head_dim, d_model]`.
    pub attn_q: Tensor,
    /// Keys: `[n_kv_heads * head_dim, d_model]`.
    pub attn_k: Tensor,
    /// Values: `[n_kv_heads * value_dim, d_model]`.
    pub attn_v: Tensor,
    /// Attention's result back to the residual stream: `[d_model, n_heads * value_dim]`.
    pub attn_output: Tensor,
    /// Scale of the norm before the feed-forward network: `[d_model]`.
    pub ffn_norm: Vec<f32>,
    /// The gate: `[d_ff, d_model]`.
    pub ffn_gate: Tensor,
    /// What the gate multiplies: `[d_ff, d_model]`.
    pub ffn_up: Tensor,
    /// Back to the residual stream: `[d_model, d_ff]`.
    pub ffn_down: Tensor,
}

/// All weights of a Llama model.
#[derive(Clone, Debug)]
pub struct Weights {
    /// A row for each token: `[vocab, d_model]`.
    pub token_embd: Tensor,
    /// `n_layers` layers.
    pub layers: Vec<Layer>,
    /// Scale of the last norm: `[d_model]`.
    pub output_norm: Vec<f32>,
    /// To logits: `[vocab, d_model]`. A file without it ties it to the embedding.
    pub output: Tensor,
    /// Divisors of the rotary frequencies, `[rope.dims / 2]`, of models that have them.
    pub rope_freqs: Option<Vec<f32>>,
}

impl Tensor {
    /// A tensor of `rows` rows of `cols` weights each; `None` if `bytes` has another length.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: Mapped) -> Option<Tensor> {
        Matrix::new(format, rows, cols, &bytes)?;
        Some(Tensor { format, rows, cols, bytes })
    }

    /// The view that kernels take.
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.format, self.rows, self.cols, &self.bytes).expect("checked when the tensor was made")
    }

    /// Number of weights.
    fn len(&self) -> u64 {
        self.rows as u64 * self.cols as u64
    }
}

impl Layer {
    /// The seven matrices.
    pub fn matrices(&self) -> [&Tensor; 7] {
        [
            &self.attn_q,
            &self.attn_k,
            &self.attn_v,
            &self.attn_output,
            &self.ffn_gate,
            &self.ffn_up,
            &self.ffn_down,
        ]
    }
}

impl Weights {
    /// Finds and checks every tensor. Matrices stay where they are; the vectors are decoded to f32.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor is absent or not of the shape that follows from `config`, or if
    /// the file has a tensor that this model has no use for (ignored, it would be missed).
    pub fn load(gguf: &Gguf, config: &Config) -> Result<Weights> {
        let mut tensors = Tensors { gguf, taken: HashSet::new() };
        let weights = tensors.weights(config)?;
        match gguf.tensors().iter().find(|tensor| !tensors.taken.contains(tensor.name())) {
            Some(unused) => Err(wrong(unused, "no such tensor in a Llama 2 model".into(), "one".into())),
            None => Ok(weights),
        }
    }

    /// Bytes of weights that one token needs: every matrix once, of the embedding a row.
    pub fn bytes_per_token(&self) -> u64 {
        let layers = self.layers.iter().flat_map(Layer::matrices);
        let matrices = layers.chain([&self.output]).map(|tensor| tensor.bytes.len() as u64);
        matrices.sum::<u64>() + self.token_embd.matrix().row_stride() as u64
    }

    /// Number of weights in all; tied ones count once.
    pub fn parameters(&self) -> u64 {
        let tied = std::ptr::eq(&*self.token_embd.bytes, &*self.output.bytes);
        let layers = self.layers.iter().map(|layer| {
            let matrices: u64 = layer.matrices().into_iter().map(Tensor::len).sum();
            matrices + (layer.attn_norm.len() + layer.ffn_norm.len()) as u64
        });
        let output = if tied { 0 } else { self.output.len() };
        layers.sum::<u64>() + self.token_embd.len() + self.output_norm.len() as u64 + output
    }
}

/// The file's tensors, and which of them the model uses.
struct Tensors<'a> {
    gguf: &'a Gguf,
    taken: HashSet<&'a str>,
}

impl<'a> Tensors<'a> {
    fn weights(&mut self, config: &Config) -> Result<Weights> {
        let Config { d_model, vocab, .. } = *config;
        let token_embd = self.matrix("token_embd.weight", vocab, d_model)?;
        let layers = config.d_ff.iter().enumerate();
        let layers = layers.map(|(i, &d_ff)| self.layer(i, d_ff, config)).collect::<Result<_>>()?;
        Ok(Weights {
            layers,
            output_norm: self.vector("output_norm.weight", d_model)?,
            output: match self.gguf.tensor("output.weight") {
                Some(_) => self.matrix("output.weight", vocab, d_model)?,
                None => token_embd.clone(),
            },
            rope_freqs: match self.gguf.tensor("rope_freqs.weight") {
                Some(_) => Some(self.vector("rope_freqs.weight", config.rope.dims / 2)?),
                None => None,
            },
            token_embd,
        })
    }

    fn layer(&mut self, i: usize, d_ff: usize, config: &Config) -> Result<Layer> {
        let d_model = config.d_model;
        let name = |name| format!("blk.{i}.{name}.weight");
        Ok(Layer {
            attn_norm: self.vector(&name("attn_norm"), d_model)?,
            attn_q: self.matrix(&name("attn_q"), config.q_width(), d_model)?,
            attn_k: self.matrix(&name("attn_k"), config.k_width(), d_model)?,
            attn_v: self.matrix(&name("attn_v"), config.v_width(), d_model)?,
            attn_output: self.matrix(&name("attn_output"), d_model, config.attention_width())?,
            ffn_norm: self.vector(&name("ffn_norm"), d_model)?,
            ffn_gate: self.matrix(&name("ffn_gate"), d_ff, d_model)?,
            ffn_up: self.matrix(&name("ffn_up"), d_ff, d_model)?,
            ffn_down: self.matrix(&name("ffn_down"), d_model, d_ff)?,
        })
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Tensor> {
        let found = self.take(name, &[cols, rows])?;
        let tensor = Tensor::new(found.format(), rows, cols, found.data().clone());
        tensor.ok_or_else(|| wrong(found, format!("{rows} rows of whole blocks"), shape(found.dims())))
    }

    /// A vector, copied: it is small, and kernels take it as f32 whatever it is stored as.
    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let found = self.take(name, &[len])?;
        let mut values = vec![0.0; len];
        found.format().dequantize(found.data(), &mut values);
        Ok(values)
    }

    /// The tensor of this name, which has these dimensions, ones at the end aside.
    fn take(&mut self, name: &str, dims: &[usize]) -> Result<&'a TensorInfo> {
        let tensor = self.gguf.tensor(name).ok_or_else(|| Error::Tensor {
            name: name.to_owned(),
            offset: None,
            expected: shape(dims),
            found: "no such tensor".into(),
        })?;
        self.taken.insert(tensor.name());
        if without_ones(tensor.dims()) == without_ones(dims) {
            return Ok(tensor);
        }
        Err(wrong(tensor, shape(dims), shape(tensor.dims())))
    }
}

fn without_ones(mut dims: &[usize]) -> &[usize] {
    while let [rest @ .., 1] = dims {
        dims = rest;
    }
    dims
}

fn wrong(tensor: &TensorInfo, expected: String, found: String) -> Error {
    let offset = Some(tensor.header_offset() as u64);
    Error::Tensor { name: tensor.name().to_owned(), offset, expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Writer;
    use crate::gguf::tests::{complete, from_bytes};

    /// A model of one layer, all widths different: d_model 32, 4 heads of 6 (values 10), 2 KV heads, d_ff 64.
    const TENSORS: [(&str, &[usize]); 11] = [
        ("token_embd.weight", &[32, 5]),
        ("blk.0.attn_norm.weight", &[32]),
        ("blk.0.attn_q.weight", &[32, 24]),
        ("blk.0.attn_k.weight", &[32, 12]),
        ("blk.0.attn_v.weight", &[32, 20]),
        ("blk.0.attn_output.weight", &[40, 32]),
        ("blk.0.ffn_norm.weight", &[32, 1]),
        ("blk.0.ffn_gate.weight", &[32, 64]),
        ("blk.0.ffn_up.weight", &[32, 64]),
        ("blk.0.ffn_down.weight", &[64, 32]),
        ("output_norm.weight", &[32]),
    ];

    fn header(tensors: &[(&str, &[usize])]) -> Writer {
        let mut header = Writer::new();
        header.set("general.architecture", "llama");
        let keys = [
            ("block_count", 1u32),
            ("embedding_length", 32),
            ("feed_forward_length", 64),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 6),
            ("attention.value_length", 10),
            ("context_length", 16),
        ];
        keys.iter().for_each(|&(key, value)| header.set(&format!("llama.{key}"), value));
        header.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        for &(name, dims) in tensors {
            header.tensor(name, dims, Format::F16).unwrap();
        }
        header
    }

    fn load(tensors: &[(&str, &[usize])]) -> Result<Weights> {
        let gguf = from_bytes(complete(&header(tensors)))?;
        Weights::load(&gguf, &Config::new(&gguf)?)
    }

    #[test]
    fn shapes_follow_from_the_config_and_the_output_is_tied() {
        let weights = load(&TENSORS).unwrap();
        let shape = |tensor: &Tensor| (tensor.matrix().rows(), tensor.matrix().cols());
        let layer = &weights.layers[0];
        assert_eq!(
            layer.matrices().map(shape),
            [(24, 32), (12, 32), (20, 32), (32, 40), (64, 32), (64, 32), (32, 64)]
        );
        assert_eq!(weights.output.matrix().bytes(), weights.token_embd.matrix().bytes());
        assert_eq!((layer.attn_norm.len(), layer.ffn_norm.len(), &weights.rope_freqs), (32, 32, &None));
        let matrices = 32 * (24 + 12 + 20 + 40 + 3 * 64);
        assert_eq!(weights.parameters(), matrices + 5 * 32 + 3 * 32);
        assert_eq!(weights.bytes_per_token(), 2 * (matrices + 5 * 32 + 32));
    }

    #[test]
    fn an_output_of_its_own_counts() {
        let own = [&TENSORS[..], &[("output.weight", &[32, 5]), ("rope_freqs.weight", &[3])]].concat();
        let (tied, own) = (load(&TENSORS).unwrap(), load(&own).unwrap());
        assert_ne!(own.output.matrix().bytes(), own.token_embd.matrix().bytes());
        assert_eq!(own.parameters(), tied.parameters() + 5 * 32);
        assert_eq!(own.bytes_per_token(), tied.bytes_per_token());
        assert_eq!(own.rope_freqs.map(|freqs| freqs.len()), Some(3));
    }

    #[test]
    fn vectors_are_decoded() {
        let gguf = from_bytes(complete(&header(&TENSORS))).unwrap();
        let weights = Weights::load(&gguf, &Config::new(&gguf).unwrap()).unwrap();
        let mut expected = [0.0; 32];
        Format::F16.dequantize(gguf.tensor("output_norm.weight").unwrap().data(), &mut expected);
        assert!(weights.output_norm == expected && expected[3] != 0.0);
    }

    #[test]
    fn missing_misshapen_and_unknown_tensors_are_named() {
        for i in 0..TENSORS.len() {
            let (name, dims) = TENSORS[i];
            let mut tensors = TENSORS.to_vec();
            tensors.remove(i);
            let message = load(&tensors).unwrap_err().to_string();
            // Without an embedding or a tokenizer, the vocabulary's size is what is missed first.
            assert!(message.contains(name) && message.contains("found no such"), "{message}");

            let wrong: Vec<usize> = dims.iter().map(|dim| dim + 1).collect();
            let mut tensors = TENSORS.to_vec();
            tensors[i].1 = &wrong;
            let message = load(&tensors).unwrap_err().to_string();
            assert!(message.starts_with(&format!("tensor \"{name}\" (byte ")), "{message}");
            assert!(message.ends_with(&format!("found {}", shape(&wrong))), "{message}");
        }
        let extra = [&TENSORS[..], &[("blk.0.attn_q.bias", &[24])]].concat();
        let message = load(&extra).unwrap_err().to_string();
        assert!(message.starts_with("tensor \"blk.0.attn_q.bias\" (byte "), "{message}");
        assert!(message.ends_with("expected no such tensor in a Llama 2 model, found one"), "{message}");
    }
}
