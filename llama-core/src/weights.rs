//! A model's weights: views of the mapped file, every shape checked against the [`Config`].

use crate::gguf::{Gguf, Mapped, TensorInfo, shape};
use crate::{Config, Error, Experts, Result};
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
    /// What is added to queries, keys and values, side by side; empty in models without.
    pub attn_bias: Vec<f32>,
    /// Scale of each query head's norm: `[head_dim]`, empty in models without.
    pub attn_q_norm: Vec<f32>,
    /// Scale of each key head's norm: `[head_dim]`, empty in models without.
    pub attn_k_norm: Vec<f32>,
    /// Attention's result back to the residual stream: `[d_model, n_heads * value_dim]`.
    pub attn_output: Tensor,
    /// Scale of the norm before the feed-forward network: `[d_model]`.
    pub ffn_norm: Vec<f32>,
    /// The feed-forward network.
    pub ffn: FeedForward,
}

/// What follows attention in a layer.
#[derive(Clone, Debug)]
pub enum FeedForward {
    /// One network for every token.
    Dense(Mlp),
    /// A mixture of experts: each token goes through some of many networks (Shazeer et al. 2017).
    Sparse {
        /// Each expert's logit: `[experts, d_model]`.
        router: Tensor,
        /// The networks, all of one shape.
        experts: Vec<Mlp>,
        /// How many of them a token goes through.
        used: usize,
    },
}

/// A gated feed-forward network.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// The gate: `[d_ff, d_model]`.
    pub gate: Tensor,
    /// What the gate multiplies: `[d_ff, d_model]`.
    pub up: Tensor,
    /// Back to the residual stream: `[d_model, d_ff]`.
    pub down: Tensor,
}

/// All weights of a model.
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
    /// All matrices, in the order of the graph.
    pub fn matrices(&self) -> impl Iterator<Item = &Tensor> {
        self.attention().into_iter().chain(self.ffn.matrices(usize::MAX))
    }

    /// The matrices that one token is multiplied by: of experts, as many as it goes through.
    pub fn matrices_per_token(&self) -> impl Iterator<Item = &Tensor> {
        let used = match &self.ffn {
            FeedForward::Dense(_) => 1,
            FeedForward::Sparse { used, .. } => *used,
        };
        self.attention().into_iter().chain(self.ffn.matrices(used))
    }

    /// Queries, keys, values and the way back.
    fn attention(&self) -> [&Tensor; 4] {
        [&self.attn_q, &self.attn_k, &self.attn_v, &self.attn_output]
    }

    /// Number of weights that are no matrices'.
    fn vector_weights(&self) -> usize {
        let norms = self.attn_norm.len() + self.ffn_norm.len();
        norms + self.attn_bias.len() + self.attn_q_norm.len() + self.attn_k_norm.len()
    }
}

impl FeedForward {
    /// The network of a dense layer, or each expert's.
    pub fn networks(&self) -> &[Mlp] {
        match self {
            FeedForward::Dense(mlp) => std::slice::from_ref(mlp),
            FeedForward::Sparse { experts, .. } => experts,
        }
    }

    /// The matrices of so many networks.
    fn matrices(&self, networks: usize) -> impl Iterator<Item = &Tensor> {
        let router = match self {
            FeedForward::Dense(_) => None,
            FeedForward::Sparse { router, .. } => Some(router),
        };
        let all = self.networks().iter().take(networks);
        router.into_iter().chain(all.flat_map(|mlp| [&mlp.gate, &mlp.up, &mlp.down]))
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
            Some(unused) => {
                let expected = format!("no such tensor in a model of this kind ({})", config.architecture);
                Err(wrong(unused, expected, "one".into()))
            }
            None => Ok(weights),
        }
    }

    /// Bytes of weights that one token needs: every matrix once, of the embedding a row, of experts those
    /// that it goes through.
    pub fn bytes_per_token(&self) -> u64 {
        let layers = self.layers.iter().flat_map(Layer::matrices_per_token);
        let matrices = layers.chain([&self.output]).map(|tensor| tensor.bytes.len() as u64);
        matrices.sum::<u64>() + self.token_embd.matrix().row_stride() as u64
    }

    /// Number of weights in all; tied ones count once.
    pub fn parameters(&self) -> u64 {
        let tied = std::ptr::eq(&*self.token_embd.bytes, &*self.output.bytes);
        let layers = self.layers.iter().map(|layer| {
            let matrices: u64 = layer.matrices().map(Tensor::len).sum();
            matrices + layer.vector_weights() as u64
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
        let norm = |tensors: &mut Self, part| match config.head_norms {
            true => tensors.vector(&name(part), config.head_dim),
            false => Ok(Vec::new()),
        };
        Ok(Layer {
            attn_norm: self.vector(&name("attn_norm"), d_model)?,
            attn_q: self.matrix(&name("attn_q"), config.q_width(), d_model)?,
            attn_k: self.matrix(&name("attn_k"), config.k_width(), d_model)?,
            attn_v: self.matrix(&name("attn_v"), config.v_width(), d_model)?,
            attn_bias: if config.qkv_bias { self.bias(i, config)? } else { Vec::new() },
            attn_q_norm: norm(self, "attn_q_norm")?,
            attn_k_norm: norm(self, "attn_k_norm")?,
            attn_output: self.matrix(&name("attn_output"), d_model, config.attention_width())?,
            ffn_norm: self.vector(&name("ffn_norm"), d_model)?,
            ffn: match config.experts {
                None => FeedForward::Dense(Mlp {
                    gate: self.matrix(&name("ffn_gate"), d_ff, d_model)?,
                    up: self.matrix(&name("ffn_up"), d_ff, d_model)?,
                    down: self.matrix(&name("ffn_down"), d_model, d_ff)?,
                }),
                Some(Experts { count, used }) => FeedForward::Sparse {
                    router: self.matrix(&name("ffn_gate_inp"), count, d_model)?,
                    experts: self.experts(i, count, d_ff, d_model)?,
                    used,
                },
            },
        })
    }

    /// What is added to queries, keys and values.
    fn bias(&mut self, layer: usize, config: &Config) -> Result<Vec<f32>> {
        let parts = [("q", config.q_width()), ("k", config.k_width()), ("v", config.v_width())];
        let parts = parts.map(|(part, width)| self.vector(&format!("blk.{layer}.attn_{part}.bias"), width));
        let [q, k, v] = parts;
        Ok([q?, k?, v?].concat())
    }

    /// Networks that lie one after another in three tensors, or, in older files, in tensors of their own.
    fn experts(&mut self, layer: usize, count: usize, d_ff: usize, d_model: usize) -> Result<Vec<Mlp>> {
        if self.gguf.tensor(&format!("blk.{layer}.ffn_gate.0.weight")).is_some() {
            let expert = |i| {
                let name = |part| format!("blk.{layer}.{part}.{i}.weight");
                Ok(Mlp {
                    gate: self.matrix(&name("ffn_gate"), d_ff, d_model)?,
                    up: self.matrix(&name("ffn_up"), d_ff, d_model)?,
                    down: self.matrix(&name("ffn_down"), d_model, d_ff)?,
                })
            };
            return (0..count).map(expert).collect();
        }
        let name = |part| format!("blk.{layer}.{part}.weight");
        let gates = self.matrices(&name("ffn_gate_exps"), count, d_ff, d_model)?;
        let ups = self.matrices(&name("ffn_up_exps"), count, d_ff, d_model)?;
        let downs = self.matrices(&name("ffn_down_exps"), count, d_model, d_ff)?;
        let experts = gates.into_iter().zip(ups).zip(downs);
        Ok(experts.map(|((gate, up), down)| Mlp { gate, up, down }).collect())
    }

    /// The matrices of a tensor of three dimensions.
    fn matrices(&mut self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<Tensor>> {
        let found = self.take(name, &[cols, rows, count])?;
        let bytes = found.data().len() / count;
        let matrix = |i| {
            let part = found.data().part(i * bytes..(i + 1) * bytes)?;
            Tensor::new(found.format(), rows, cols, part)
        };
        let all: Option<Vec<Tensor>> = (0..count).map(matrix).collect();
        all.ok_or_else(|| wrong(found, format!("{rows} rows of whole blocks"), shape(found.dims())))
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
mod tests;
