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
