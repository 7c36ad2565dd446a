//! A whole Llama in f64, straight from the papers (Touvron et al. 2023; RoPE: Su et al. 2021;
//! grouped queries: Ainslie et al. 2023), made of the [`oracle`](crate::oracle)'s operations.
//!
//! # How far may an engine's logits be from these?
//!
//! Not "a rounding error away". An engine that rounds activations to int8 and keys to f16 decides,
//! thousands of times a token, on which side of a tie a value lies, and the last bit of an f32 sum
//! can turn such a decision. One turned decision moves the next layer's values by far more than an
//! f32 error, which turns more decisions: after a few layers two correct engines differ by about as
//! much as either differs from exact arithmetic. And a worst-case bound, which multiplies by
//! `sum |w|` at every matrix, exceeds the logits themselves after two layers.
//!
//! So the roundings are taken as what they statistically are, independent errors of known size
//! (the probabilistic model of Higham & Mary 2019, and Monte Carlo arithmetic: Parker 1997):
//!
//! - an activation rounded to int8 is off by a uniform error within half a step of its group, a
//!   cached key or value by one within half a unit of f16;
//! - the f32 operations around an inner product of length `n` act like a relative error of at most
//!   `sqrt(n) * U` on each of its inputs.
//!
//! The model runs [`SAMPLES`] times with such errors drawn at random. The deviations of the logits,
//! each divided by the norm of its row of the output matrix, are of one population per position; an
//! engine must stay within [`LAMBDA`] times their root mean square. What no run of the model
//! contains, such as a wrong rotation, a mask off by one or a missing residual, is orders of
//! magnitude larger, and small errors of a single operation are caught by that operation's own
//! bound in [`close`](crate::close).

use crate::close::{Answer, LAMBDA, U};
use crate::oracle::{self, GROUP, Heads, Int8, Rope, dot, widen};
use crate::shapes::mix;
use llama_core::gguf::Gguf;
use llama_kernels::Format;

/// Runs with random rounding errors that a bound is estimated from.
pub const SAMPLES: u64 = 8;

/// What happens to values where an engine rounds coarsely.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    /// Nothing: the model itself.
    Exact,
    /// What an engine does: activations that meet a quantized matrix are rounded to int8, keys and
    /// values to f16, both to nearest. One engine among many that are equally right (see above).
    Nearest,
    /// Errors of the same size, drawn by this seed. Like a rounding error, each is a function of
    /// the value: equal values get equal errors.
    Random(u64),
}

/// A model, all weights decoded.
#[derive(Clone, Debug)]
pub struct Naive {
    heads: Heads,
    rope: Rope,
    eps: f64,
    embedding: Linear,
    layers: Vec<Layer>,
    output_norm: Vec<f64>,
    output: Linear,
}

/// A transformer layer's weights, by their GGUF names.
#[derive(Clone, Debug)]
struct Layer {
    attn_norm: Vec<f64>,
    attn_q: Linear,
    attn_k: Linear,
    attn_v: Linear,
    attn_output: Linear,
    ffn_norm: Vec<f64>,
    ffn_gate: Linear,
    ffn_up: Linear,
    ffn_down: Linear,
}

/// A matrix.
#[derive(Clone, Debug)]
struct Linear {
    cols: usize,
    /// Row-major, as decoded: f32 values are exact, and half the size of f64.
    weights: Vec<f32>,
    /// Engines round what they multiply by it to int8.
    int8: bool,
}

impl Naive {
    /// Decodes a model.
    ///
    /// # Panics
    /// If a key or a tensor of a Llama model is missing or of the wrong size.
    pub fn load(gguf: &Gguf) -> Naive {
        let size = |key: &str| gguf.opt_usize(&format!("llama.{key}")).unwrap();
        let float = |key: &str| gguf.opt_f32(&format!("llama.{key}")).unwrap().map(f64::from);
        let d_model = size("embedding_length").unwrap();
        let query = size("attention.head_count").unwrap();
        let dim = size("attention.key_length").unwrap_or(d_model / query);
        let heads = Heads { query, kv: size("attention.head_count_kv").unwrap_or(query), dim };
        let rope = Rope {
            dims: size("rope.dimension_count").unwrap_or(dim),
            base: float("rope.freq_base").unwrap_or(10_000.0),
            scale: 1.0 / float("rope.scaling.factor").unwrap_or(1.0),
            factors: gguf.tensor("rope_freqs.weight").map(|_| vector(gguf, "rope_freqs.weight")),
        };
        let embedding = Linear::load(gguf, "token_embd.weight", d_model);
        let output = gguf.tensor("output.weight").map(|_| Linear::load(gguf, "output.weight", d_model));
        Naive {
            heads,
            rope,
            eps: float("attention.layer_norm_rms_epsilon").unwrap(),
            layers: (0..size("block_count").unwrap()).map(|i| Layer::load(gguf, i, d_model, heads)).collect(),
            output_norm: vector(gguf, "output_norm.weight"),
            output: output.unwrap_or_else(|| embedding.clone()),
            embedding,
        }
    }

    /// The logits after each of the tokens.
    ///
    /// # Panics
    /// If a token is not in the vocabulary.
    pub fn logits(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        self.logits_with(tokens, Rounding::Exact)
    }

    /// The logits after each of the tokens, with rounding.
    ///
    /// # Panics
    /// If a token is not in the vocabulary.
    pub fn logits_with(&self, tokens: &[u32], rounding: Rounding) -> Vec<Vec<f64>> {
        let mut run = self.start(rounding);
        tokens.iter().map(|&token| run.forward(token)).collect()
    }

    /// The logits after each of the tokens, and how far an engine may be from them (see the
    /// module's introduction). It takes nine runs.
    ///
    /// # Panics
    /// If a token is not in the vocabulary.
    pub fn answers(&self, tokens: &[u32]) -> Vec<Answer> {
        let norms: Vec<f64> = self.output.rows().map(|row| dot(&row, &row).sqrt()).collect();
        let samples: Vec<_> =
            (0..SAMPLES).map(|seed| self.logits_with(tokens, Rounding::Random(seed))).collect();
        let answer = |(position, expected): (usize, Vec<f64>)| {
            let deviation = |i: usize, sample: &[f64]| match norms[i] {
                0.0 => 0.0,
                norm => (sample[i] - expected[i]) / norm,
            };
            let squares = samples.iter().flat_map(|run| {
                let sample = &run[position];
                (0..sample.len()).map(move |i| deviation(i, sample).powi(2))
            });
            let rms = (squares.sum::<f64>() / (SAMPLES as usize * norms.len()) as f64).sqrt();
            Answer { bound: norms.iter().map(|norm| LAMBDA * rms * norm).collect(), expected }
        };
        self.logits(tokens).into_iter().enumerate().map(answer).collect()
    }

    /// `steps` tokens after a prompt, each the likeliest.
    ///
    /// # Panics
    /// If the prompt is empty or a token is not in the vocabulary.
    pub fn greedy(&self, prompt: &[u32], steps: usize) -> Vec<u32> {
        let mut run = self.start(Rounding::Exact);
        let mut logits = Vec::new();
        prompt.iter().for_each(|&token| logits = run.forward(token));
        let step = |_| {
            let [(token, _), _] = top_two(&logits);
            logits = run.forward(token);
            token
        };
        (0..steps).map(step).collect()
    }

    /// An empty context.
    pub fn start(&self, rounding: Rounding) -> Run<'_> {
        Run { model: self, rounding, position: 0, cache: vec![Default::default(); self.layers.len()] }
    }
}

/// The two likeliest tokens and their logits, the first of equals first.
///
/// # Panics
/// If there are fewer than two logits.
pub fn top_two(logits: &[f64]) -> [(u32, f64); 2] {
    let mut order: Vec<(u32, f64)> = (0..).zip(logits.iter().copied()).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    [order[0], order[1]]
}

/// A model at work on one sequence.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    model: &'a Naive,
    rounding: Rounding,
    position: usize,
    /// Keys and values of each layer, `[position][head][dim]`.
    cache: Vec<(Vec<f64>, Vec<f64>)>,
}

impl Run<'_> {
    /// Appends a token; the logits of the next one.
    ///
    /// # Panics
    /// If the token is not in the vocabulary.
    pub fn forward(&mut self, token: u32) -> Vec<f64> {
        let (model, rounding) = (self.model, self.rounding);
        let rotate = |x: Vec<f64>| -> Vec<f64> {
            x.chunks(model.heads.dim).flat_map(|head| model.rope.rotate(head, self.position)).collect()
        };
        let mut x = model.embedding.row(token as usize);
        for (layer, (keys, values)) in model.layers.iter().zip(&mut self.cache) {
            let xn = oracle::rmsnorm(&x, &layer.attn_norm, model.eps);
            let q = rotate(layer.attn_q.apply(&xn, rounding));
            keys.extend(rounding.cached(&rotate(layer.attn_k.apply(&xn, rounding))));
            values.extend(rounding.cached(&layer.attn_v.apply(&xn, rounding)));
            let attended =
                oracle::attention(&rounding.floats(&q, model.heads.dim), keys, values, model.heads);
            add(&mut x, &layer.attn_output.apply(&attended, rounding));
            let xn = oracle::rmsnorm(&x, &layer.ffn_norm, model.eps);
            let (gate, up) = (layer.ffn_gate.apply(&xn, rounding), layer.ffn_up.apply(&xn, rounding));
            add(&mut x, &layer.ffn_down.apply(&oracle::swiglu(&gate, &up), rounding));
        }
        self.position += 1;
        model.output.apply(&oracle::rmsnorm(&x, &model.output_norm, model.eps), rounding)
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

impl Rounding {
    /// What a matrix with rows of `x.len()` weights is multiplied by.
    fn activations(self, x: &[f64], int8: bool) -> Vec<f64> {
        if !int8 {
            return self.floats(x, x.len());
        }
        match self {
            Rounding::Exact => x.to_vec(),
            Rounding::Nearest => Int8::quantize(&narrow(x)).dequantize(),
            Rounding::Random(seed) => {
                let steps = Int8::quantize(&narrow(x)).scales;
                let floats = self.floats(x, x.len());
                let error = |(i, x): (usize, &f64)| x + f64::from(steps[i / GROUP]) * half(seed, *x);
                floats.iter().enumerate().map(error).collect()
            }
        }
    }

    /// Inputs of inner products of length `n` in f32.
    fn floats(self, x: &[f64], n: usize) -> Vec<f64> {
        match self {
            Rounding::Exact => x.to_vec(),
            Rounding::Nearest => widen(&narrow(x)),
            Rounding::Random(seed) => {
                x.iter().map(|x| x * (1.0 + 2.0 * (n as f64).sqrt() * U * half(!seed, *x))).collect()
            }
        }
    }

    /// Keys or values as the cache holds them.
    fn cached(self, x: &[f64]) -> Vec<f64> {
        match self {
            Rounding::Exact => x.to_vec(),
            Rounding::Nearest => {
                let (mut bytes, mut rounded) = (Vec::new(), vec![0.0; x.len()]);
                Format::F16.quantize(&narrow(x), &mut bytes);
                Format::F16.dequantize(&bytes, &mut rounded);
                widen(&rounded)
            }
            Rounding::Random(seed) => {
                x.iter().map(|x| x + 2.0 * f16_half_unit(*x) * half(seed, *x)).collect()
            }
        }
    }
}

/// Uniform in [-0.5, 0.5), a function of seed and value.
fn half(seed: u64, value: f64) -> f64 {
    (mix(mix(seed) ^ value.to_bits()) >> 11) as f64 / (1u64 << 53) as f64 - 0.5
}

/// Half the distance between neighbouring f16 values around `x`.
fn f16_half_unit(x: f64) -> f64 {
    let exponent = x.abs().log2().floor().max(-14.0);
    2f64.powf(exponent - 11.0)
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

impl Layer {
    fn load(gguf: &Gguf, index: usize, d_model: usize, heads: Heads) -> Layer {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let linear = |part: &str, cols: usize| Linear::load(gguf, &name(part), cols);
        let ffn_gate = linear("ffn_gate", d_model);
        Layer {
            attn_norm: vector(gguf, &name("attn_norm")),
            attn_q: linear("attn_q", d_model),
            attn_k: linear("attn_k", d_model),
            attn_v: linear("attn_v", d_model),
            attn_output: linear("attn_output", heads.query * heads.dim),
            ffn_norm: vector(gguf, &name("ffn_norm")),
            ffn_up: linear("ffn_up", d_model),
            ffn_down: linear("ffn_down", ffn_gate.weights.len() / d_model),
            ffn_gate,
        }
    }
}

impl Linear {
    fn load(gguf: &Gguf, name: &str, cols: usize) -> Linear {
        let tensor = gguf.tensor(name).unwrap_or_else(|| panic!("tensor \"{name}\" is missing"));
        assert_eq!(tensor.dims()[0], cols, "tensor \"{name}\": length of a row");
        let mut weights = vec![0.0; tensor.dims().iter().product()];
        tensor.format().dequantize(tensor.data(), &mut weights);
        Linear { cols, weights, int8: tensor.format().block_len() > 1 }
    }

    fn rows(&self) -> impl Iterator<Item = Vec<f64>> {
        self.weights.chunks_exact(self.cols).map(widen)
    }

    fn row(&self, index: usize) -> Vec<f64> {
        widen(&self.weights[index * self.cols..(index + 1) * self.cols])
    }

    fn apply(&self, x: &[f64], rounding: Rounding) -> Vec<f64> {
        assert_eq!(x.len(), self.cols, "length of a row");
        let x = rounding.activations(x, self.int8);
        self.rows().map(|row| dot(&row, &x)).collect()
    }
}

fn vector(gguf: &Gguf, name: &str) -> Vec<f64> {
    let tensor = gguf.tensor(name).unwrap_or_else(|| panic!("tensor \"{name}\" is missing"));
    Linear::load(gguf, name, tensor.dims()[0]).row(0)
}
