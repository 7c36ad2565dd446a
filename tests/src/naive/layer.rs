//! A layer's weights, decoded, and their products.

use super::{Rounding, add};
use crate::close::Activations;
use crate::oracle::{self, Heads, widen};
use llama_core::gguf::Gguf;
use llama_kernels::Format;

/// A transformer layer's weights, by their GGUF names.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) attn_norm: Vec<f64>,
    pub(super) attn_q: Linear,
    pub(super) attn_k: Linear,
    pub(super) attn_v: Linear,
    /// Those of queries, keys and values.
    pub(super) attn_bias: [Option<Vec<f64>>; 3],
    pub(super) attn_q_norm: Option<Vec<f64>>,
    pub(super) attn_k_norm: Option<Vec<f64>>,
    pub(super) attn_output: Linear,
    pub(super) ffn_norm: Vec<f64>,
    /// The router of a mixture of experts.
    pub(super) ffn_gate_inp: Option<Linear>,
    /// One network, or each expert's.
    pub(super) networks: Vec<Network>,
}

/// A feed-forward network.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

/// A matrix.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    pub(super) cols: usize,
    /// Row-major, as decoded: f32 values are exact, and half the size of f64.
    pub(super) weights: Vec<f32>,
    pub(super) format: Format,
    /// What engines do to what they multiply by it.
    pub(super) activations: Activations,
}

impl Layer {
    pub(super) fn load(gguf: &Gguf, index: usize, d_model: usize, heads: Heads, experts: usize) -> Layer {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let linear = |part: &str, cols: usize| Linear::load(gguf, &name(part), cols);
        let optional = |name: String| gguf.tensor(&name).map(|_| vector(gguf, &name));
        let expert = |i: usize| {
            let part = |part: &str| Linear::expert(gguf, index, part, i, experts);
            Network { gate: part("gate"), up: part("up"), down: part("down") }
        };
        Layer {
            attn_norm: vector(gguf, &name("attn_norm")),
            attn_q: linear("attn_q", d_model),
            attn_k: linear("attn_k", d_model),
            attn_v: linear("attn_v", d_model),
            attn_bias: ["q", "k", "v"].map(|part| optional(format!("blk.{index}.attn_{part}.bias"))),
            attn_q_norm: optional(name("attn_q_norm")),
            attn_k_norm: optional(name("attn_k_norm")),
            attn_output: linear("attn_output", heads.query * heads.value_dim),
            ffn_norm: vector(gguf, &name("ffn_norm")),
            ffn_gate_inp: (experts > 0).then(|| linear("ffn_gate_inp", d_model)),
            networks: (0..experts.max(1)).map(expert).collect(),
        }
    }

    /// What the feed-forward network makes of normalised activations. In a mixture, `used` experts with the
    /// largest softmax, which are divided by their sum.
    pub(super) fn feed_forward(&self, xn: &[f64], used: usize, rounding: Rounding) -> Vec<f64> {
        let Some(router) = &self.ffn_gate_inp else { return self.networks[0].apply(xn, rounding) };
        let token = |xn: &[f64]| {
            let p = oracle::softmax(&router.apply(xn, rounding));
            let mut order: Vec<usize> = (0..p.len()).collect();
            order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
            let chosen = &order[..used];
            let sum: f64 = chosen.iter().map(|&expert| p[expert]).sum();
            let mut y = vec![0.0; xn.len()];
            for &expert in chosen {
                let part = self.networks[expert].apply(xn, rounding);
                add(&mut y, &part.iter().map(|part| p[expert] / sum * part).collect::<Vec<f64>>());
            }
            y
        };
        xn.chunks(router.cols).flat_map(token).collect()
    }

    /// All matrices.
    pub(super) fn matrices_mut(&mut self) -> Vec<&mut Linear> {
        let Layer { attn_q, attn_k, attn_v, attn_output, ffn_gate_inp, networks, .. } = self;
        let networks = networks.iter_mut().flat_map(|n| [&mut n.gate, &mut n.up, &mut n.down]);
        [attn_q, attn_k, attn_v, attn_output].into_iter().chain(ffn_gate_inp).chain(networks).collect()
    }
}

impl Network {
    fn apply(&self, xn: &[f64], rounding: Rounding) -> Vec<f64> {
        let (gate, up) = (self.gate.apply(xn, rounding), self.up.apply(xn, rounding));
        self.down.apply(&oracle::swiglu(&gate, &up), rounding)
    }
}

impl Linear {
    pub(super) fn load(gguf: &Gguf, name: &str, cols: usize) -> Linear {
        let tensor = gguf.tensor(name).unwrap_or_else(|| panic!("tensor \"{name}\" is missing"));
        assert_eq!(tensor.dims()[0], cols, "tensor \"{name}\": length of a row");
        let mut weights = vec![0.0; tensor.dims().iter().product()];
        tensor.format().dequantize(tensor.data(), &mut weights);
        let format = tensor.format();
        Linear { cols, weights, format, activations: Activations::of(format) }
    }

    /// One expert's matrix: a part of a tensor that holds them all, or a tensor of its own. Without experts,
    /// the only network's.
    fn expert(gguf: &Gguf, layer: usize, part: &str, index: usize, experts: usize) -> Linear {
        let own = match experts {
            0 => format!("blk.{layer}.ffn_{part}.weight"),
            _ => format!("blk.{layer}.ffn_{part}.{index}.weight"),
        };
        if gguf.tensor(&own).is_some() {
            return Linear::load(gguf, &own, row_len(gguf, &own));
        }
        let all = format!("blk.{layer}.ffn_{part}_exps.weight");
        let mut all = Linear::load(gguf, &all, row_len(gguf, &all));
        let len = all.weights.len() / experts;
        all.weights = all.weights[index * len..(index + 1) * len].to_vec();
        all
    }

    pub(super) fn rows(&self) -> impl ExactSizeIterator<Item = Vec<f64>> {
        self.weights.chunks_exact(self.cols).map(widen)
    }

    pub(super) fn row(&self, index: usize) -> Vec<f64> {
        widen(&self.weights[index * self.cols..(index + 1) * self.cols])
    }

    /// The inner products of every row with the activations of every token.
    pub(super) fn apply(&self, x: &[f64], rounding: Rounding) -> Vec<f64> {
        assert!(x.len().is_multiple_of(self.cols), "length of a row");
        let (tokens, rows) = (x.len() / self.cols, self.weights.len() / self.cols);
        let mut y = vec![0.0; tokens * rows];
        for (x, y) in x.chunks(TILE * self.cols).zip(y.chunks_mut(TILE * rows)) {
            // Tokens side by side: the sums of one do not wait for each other, and each is in the order of `dot`.
            let mut columns = vec![[0.0; TILE]; self.cols];
            for (t, x) in x.chunks_exact(self.cols).enumerate() {
                let x = rounding.activations(x, self.activations);
                columns.iter_mut().zip(x).for_each(|(column, x)| column[t] = x);
            }
            for (r, row) in self.weights.chunks_exact(self.cols).enumerate() {
                let mut sums = [0.0; TILE];
                for (&w, column) in row.iter().zip(&columns) {
                    sums.iter_mut().zip(column).for_each(|(sum, x)| *sum += f64::from(w) * x);
                }
                y.iter_mut().skip(r).step_by(rows).zip(sums).for_each(|(y, sum)| *y = sum);
            }
        }
        y
    }
}

/// Tokens that are multiplied by a matrix at once.
const TILE: usize = 16;

/// The length of a tensor's rows.
fn row_len(gguf: &Gguf, name: &str) -> usize {
    gguf.tensor(name).unwrap_or_else(|| panic!("tensor \"{name}\" is missing")).dims()[0]
}

pub(super) fn vector(gguf: &Gguf, name: &str) -> Vec<f64> {
    Linear::load(gguf, name, row_len(gguf, name)).row(0)
}
