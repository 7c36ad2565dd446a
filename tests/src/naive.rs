//! A whole Llama in f64, straight from the papers (Touvron et al. 2023; RoPE: Su et al. 2021; grouped
//! queries: Ainslie et al. 2023; sliding windows and mixtures of experts: Jiang et al. 2023 and 2024; biases
//! and norms of heads: the Qwen2 and Qwen3 reports), made of the [`oracle`]'s operations.
//!
//! # How far may an engine's logits be from these?
//!
//! Not "a rounding error away". An engine that rounds activations to int8 and keys to f16 decides,
//! thousands of times a token, on which side of a tie a value lies, and the last bit of an f32 sum
//! can turn such a decision. One turned decision moves the next layer's values by far more than an
//! f32 error, which turns more decisions: after a few layers two correct engines differ by about as
//! much as either differs from exact arithmetic. And a worst-case bound, which multiplies by
//! `sum |w|` at every matrix, grows by the root of the width each time and soon exceeds the logits.
//!
//! So the roundings are taken as what they statistically are, independent errors of known size
//! (the probabilistic model of Higham & Mary 2019, and Monte Carlo arithmetic: Parker 1997):
//!
//! - an activation rounded to int8 is off by a uniform error within half a step of its group, one
//!   rounded to bf16, or a cached key or value, by one within half a unit of bf16 or f16;
//! - the f32 operations around an inner product of length `n` act like a relative error of at most
//!   `sqrt(n) * U` on each of its inputs.
//!
//! For [`Naive::answers`] the model runs [`SAMPLES`] times with such errors drawn at random. The
//! deviations of the logits, each divided by the norm of its row of the output matrix, are of one
//! population per position; an engine must stay within [`LAMBDA`] times their root mean square.
//!
//! How much that can see depends on the format. For logits of deviation 4 and four layers the root
//! mean square is 0.001 on float formats, whose only coarse rounding is the cache's, and 0.06 with
//! int8 activations, where a rotation of the wrong base (0.1) passes. So check the graph on floats.
//! Small errors of one operation are caught by that operation's own bound in
//! [`close`](crate::close), and in a shallow model, where few decisions are close, by
//! [`Naive::sharp_answers`].

mod layer;

use self::layer::{Layer, Linear, vector};
use crate::close::{Activations, Answer, LAMBDA, U, bf16_error, f16_error};
use crate::oracle::{self, Fixed, GROUP, Heads, Int8, SPAN, dot, widen};
use crate::rope::{Rope, Yarn};
use crate::shapes::mix;
use llama_core::gguf::Gguf;
use llama_kernels::{Format, Pairs};

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
    /// The same with the f32 errors of such an engine, drawn by this seed.
    Perturbed(u64),
    /// Errors of the same size in place of rounding, drawn by this seed. Like a rounding error,
    /// each is a function of the value: equal values get equal errors.
    Random(u64),
}

/// A model, all weights decoded.
#[derive(Clone, Debug)]
pub struct Naive {
    heads: Heads,
    rope: Rope,
    window: usize,
    /// Experts that a token goes through.
    used: usize,
    eps: f64,
    embedding: Linear,
    layers: Vec<Layer>,
    output_norm: Vec<f64>,
    output: Linear,
}

impl Naive {
    /// Decodes a model.
    ///
    /// # Panics
    /// If a key or a tensor of the model is missing or of the wrong size.
    pub fn load(gguf: &Gguf) -> Naive {
        let name = gguf.str("general.architecture").unwrap();
        let key = |key: &str| format!("{name}.{key}");
        let size = |own: &str| gguf.opt_usize(&key(own)).unwrap();
        let float = |own: &str| gguf.opt_f32(&key(own)).unwrap().map(f64::from);
        let d_model = size("embedding_length").unwrap();
        let query = size("attention.head_count").unwrap();
        let dim = size("attention.key_length").unwrap_or(d_model / query);
        let value_dim = size("attention.value_length").unwrap_or(d_model / query);
        let heads = Heads { query, kv: size("attention.head_count_kv").unwrap_or(query), dim, value_dim };
        let scaling = gguf.opt_str(&key("rope.scaling.type")).unwrap().unwrap_or("linear");
        let scale = 1.0 / float("rope.scaling.factor").filter(|_| scaling != "none").unwrap_or(1.0);
        let original = size("rope.scaling.original_context_length").or(size("context_length"));
        let yarn = Yarn {
            attn_factor: float("rope.scaling.attn_factor").unwrap_or(1.0),
            ..Yarn::new(original.unwrap_or(0) as f64)
        };
        let rope = Rope {
            pairs: if name == "llama" { Pairs::Adjacent } else { Pairs::Halves },
            scale,
            factors: gguf.tensor("rope_freqs.weight").map(|_| vector(gguf, "rope_freqs.weight")),
            yarn: (scaling == "yarn").then_some(yarn),
            ..Rope::plain(size("rope.dimension_count").unwrap_or(dim), float("rope.freq_base").unwrap_or(1e4))
        };
        let experts = size("expert_count").unwrap_or(0);
        let embedding = Linear::load(gguf, "token_embd.weight", d_model);
        let output = gguf.tensor("output.weight").map(|_| Linear::load(gguf, "output.weight", d_model));
        Naive {
            heads,
            rope,
            eps: float("attention.layer_norm_rms_epsilon").unwrap(),
            window: size("attention.sliding_window").filter(|&window| window > 0).unwrap_or(usize::MAX),
            used: size("expert_used_count").unwrap_or(0),
            layers: (0..size("block_count").unwrap())
                .map(|i| Layer::load(gguf, i, d_model, heads, experts))
                .collect(),
            output_norm: vector(gguf, "output_norm.weight"),
            output: output.unwrap_or_else(|| embedding.clone()),
            embedding,
        }
    }

    /// The same model for an instruction set that rounds weights in floats, and the activations that they are multiplied
    /// by, to bfloat16 in prompts, or to fixed point; `None` if the model has no weights that it does so with.
    pub fn rounded(&self, isa: &str) -> Option<Naive> {
        let mut model = self.clone();
        let mut matrices = vec![&mut model.output];
        matrices.extend(model.layers.iter_mut().flat_map(Layer::matrices_mut));
        let prompt = |matrix: &Linear| Activations::on(isa, matrix.format, usize::MAX, false);
        matrices.retain(|matrix| !matrix.format.is_integer() && prompt(matrix).rounds_floats());
        let found = !matrices.is_empty();
        for matrix in matrices {
            matrix.activations = prompt(matrix);
            if matrix.activations == Activations::Bf16 {
                matrix.weights = narrow(&nearest(&widen(&matrix.weights), Format::BF16));
            }
        }
        found.then_some(model)
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
        self.start(rounding).forward(tokens)
    }

    /// The logits after each of the tokens, and how far an engine may be from them. Takes nine runs.
    ///
    /// # Panics
    /// If a token is not in the vocabulary.
    pub fn answers(&self, tokens: &[u32]) -> Vec<Answer> {
        let root_mean_square = |rms: &mut [f64]| (dot(rms, rms) / rms.len() as f64).sqrt();
        self.judge(tokens, Rounding::Exact, Rounding::Random, root_mean_square)
    }

    /// The logits of an engine that decides every rounding as [`Rounding::Nearest`] does, within
    /// its f32 errors alone: ten thousand times narrower than [`answers`](Self::answers) on int8. In a
    /// model of one layer a correct engine meets these at half of a few positions, and misses the
    /// others by a lot; with every layer and token there is more to decide. Takes nine runs.
    ///
    /// # Panics
    /// If a token is not in the vocabulary.
    pub fn sharp_answers(&self, tokens: &[u32]) -> Vec<Answer> {
        // Of the runs, those that decide otherwise are not meant.
        let lower_quartile = |rms: &mut [f64]| {
            rms.sort_by(f64::total_cmp);
            rms[rms.len() / 4]
        };
        self.judge(tokens, Rounding::Nearest, Rounding::Perturbed, lower_quartile)
    }

    /// Expected logits by `reference`, and [`LAMBDA`] times the deviation of the `samples` from
    /// them: the root mean square of each, relative to the rows' norms, made one by `pool`.
    fn judge(
        &self,
        tokens: &[u32],
        reference: Rounding,
        sample: fn(u64) -> Rounding,
        pool: impl Fn(&mut [f64]) -> f64,
    ) -> Vec<Answer> {
        let norms: Vec<f64> = self.output.rows().map(|row| dot(&row, &row).sqrt()).collect();
        let samples: Vec<_> = (0..SAMPLES).map(|seed| self.logits_with(tokens, sample(seed))).collect();
        let answer = |(position, expected): (usize, Vec<f64>)| {
            let rms = |run: &Vec<Vec<f64>>| {
                let deviations = run[position].iter().zip(&expected).zip(&norms);
                let relative =
                    deviations.map(|((s, e), norm)| if *norm > 0.0 { (s - e) / norm } else { 0.0 });
                (relative.map(|d| d * d).sum::<f64>() / norms.len() as f64).sqrt()
            };
            let pooled = pool(&mut samples.iter().map(rms).collect::<Vec<_>>());
            Answer { bound: norms.iter().map(|norm| LAMBDA * pooled * norm).collect(), expected }
        };
        self.logits_with(tokens, reference).into_iter().enumerate().map(answer).collect()
    }

    /// `steps` tokens after a prompt, each the likeliest.
    ///
    /// # Panics
    /// If the prompt is empty or a token is not in the vocabulary.
    pub fn greedy(&self, prompt: &[u32], steps: usize) -> Vec<u32> {
        let mut run = self.start(Rounding::Exact);
        let mut logits = run.forward(prompt);
        let step = |_| {
            let [(token, _), _] = top_two(&logits[logits.len() - 1]);
            logits = run.forward(&[token]);
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
    /// Appends tokens; the logits after each of them.
    ///
    /// # Panics
    /// If a token is not in the vocabulary.
    pub fn forward(&mut self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let (model, rounding) = (self.model, self.rounding);
        let Heads { query, kv, dim, .. } = model.heads;
        let rotate = |x: Vec<f64>, heads: usize| -> Vec<f64> {
            let head = |(i, head)| model.rope.rotate(head, self.position + i / heads);
            x.chunks(dim).enumerate().flat_map(head).collect()
        };
        let norm = |x: &[f64], weight: &[f64]| -> Vec<f64> {
            x.chunks(weight.len()).flat_map(|x| oracle::rmsnorm(x, weight, model.eps)).collect()
        };
        let head_norm = |x: Vec<f64>, weight: &Option<Vec<f64>>| match weight {
            Some(weight) => norm(&x, weight),
            None => x,
        };
        let row = |&token: &u32| model.embedding.row(token as usize);
        let mut x: Vec<f64> = tokens.iter().flat_map(row).collect(); // [token][feature], as all below
        for (layer, (keys, values)) in model.layers.iter().zip(&mut self.cache) {
            let xn = norm(&x, &layer.attn_norm);
            let [q, k, v] = [&layer.attn_q, &layer.attn_k, &layer.attn_v].map(|w| w.apply(&xn, rounding));
            let [bias_q, bias_k, bias_v] = &layer.attn_bias;
            let q = rotate(head_norm(biased(q, bias_q), &layer.attn_q_norm), query);
            let k = rotate(head_norm(biased(k, bias_k), &layer.attn_k_norm), kv);
            keys.extend(rounding.cached(&k));
            values.extend(rounding.cached(&biased(v, bias_v)));
            let q = rounding.floats(&q, dim);
            let attended = oracle::attention_within(&q, keys, values, model.heads, model.window);
            add(&mut x, &layer.attn_output.apply(&attended, rounding));
            let fed = layer.feed_forward(&norm(&x, &layer.ffn_norm), model.used, rounding);
            add(&mut x, &fed);
        }
        self.position += tokens.len();
        let logits = model.output.apply(&norm(&x, &model.output_norm), rounding);
        logits.chunks(model.output.rows().len()).map(<[f64]>::to_vec).collect()
    }
}

/// With the bias added to each token, if there is one.
fn biased(mut x: Vec<f64>, bias: &Option<Vec<f64>>) -> Vec<f64> {
    if let Some(bias) = bias {
        x.chunks_mut(bias.len()).for_each(|x| add(x, bias));
    }
    x
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

impl Rounding {
    /// What a matrix with rows of `x.len()` weights is multiplied by.
    fn activations(self, x: &[f64], activations: Activations) -> Vec<f64> {
        let floats = self.floats(x, x.len());
        match (activations, self) {
            (Activations::Float, _) | (_, Rounding::Exact) => floats,
            (Activations::Fixed, Rounding::Nearest | Rounding::Perturbed(_)) => {
                Fixed::quantize(&narrow(&floats)).dequantize()
            }
            (Activations::Shorts, Rounding::Nearest | Rounding::Perturbed(_)) => {
                Fixed::shorts(&narrow(&floats), GROUP).dequantize()
            }
            // The weights are rounded, too.
            (Activations::Shorts, Rounding::Random(seed)) => {
                let fixed = Fixed::shorts(&narrow(x), SPAN);
                let error = |(i, x): (usize, &f64)| x + 2.0 * fixed.step(i) * half(seed, *x);
                floats.iter().enumerate().map(error).collect()
            }
            // The weights are rounded, too, and what is left out is as large again.
            (Activations::Fixed, Rounding::Random(seed)) => {
                let fixed = Fixed::quantize(&narrow(x));
                let error = |(i, x): (usize, &f64)| x + 3.0 * fixed.step(i) * half(seed, *x);
                floats.iter().enumerate().map(error).collect()
            }
            (Activations::Int8, Rounding::Nearest | Rounding::Perturbed(_)) => {
                Int8::quantize(&narrow(&floats)).dequantize()
            }
            (Activations::Int8, Rounding::Random(seed)) => {
                let steps = Int8::quantize(&narrow(x)).scales;
                let error = |(i, x): (usize, &f64)| x + f64::from(steps[i / GROUP]) * half(seed, *x);
                floats.iter().enumerate().map(error).collect()
            }
            (Activations::Bf16, Rounding::Nearest | Rounding::Perturbed(_)) => nearest(&floats, Format::BF16),
            (Activations::Bf16, Rounding::Random(seed)) => {
                floats.iter().map(|x| x + 2.0 * bf16_error(*x) * half(seed, *x)).collect()
            }
        }
    }

    /// Inputs of inner products of length `n` in f32.
    fn floats(self, x: &[f64], n: usize) -> Vec<f64> {
        match self {
            Rounding::Exact => x.to_vec(),
            Rounding::Nearest => widen(&narrow(x)),
            Rounding::Perturbed(seed) | Rounding::Random(seed) => {
                x.iter().map(|x| x * (1.0 + 2.0 * (n as f64).sqrt() * U * half(!seed, *x))).collect()
            }
        }
    }

    /// Keys or values as the cache holds them.
    fn cached(self, x: &[f64]) -> Vec<f64> {
        match self {
            Rounding::Exact => x.to_vec(),
            Rounding::Nearest | Rounding::Perturbed(_) => nearest(x, Format::F16),
            Rounding::Random(seed) => x.iter().map(|x| x + 2.0 * f16_error(*x) * half(seed, *x)).collect(),
        }
    }
}

/// Uniform in [-0.5, 0.5), a function of seed and value.
fn half(seed: u64, value: f64) -> f64 {
    (mix(mix(seed) ^ value.to_bits()) >> 11) as f64 / (1u64 << 53) as f64 - 0.5
}

/// Rounded to the nearest values of a format.
fn nearest(x: &[f64], format: Format) -> Vec<f64> {
    let (mut bytes, mut rounded) = (Vec::new(), vec![0.0; x.len()]);
    format.quantize(&narrow(x), &mut bytes);
    format.dequantize(&bytes, &mut rounded);
    widen(&rounded)
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

#[cfg(test)]
mod tests;
