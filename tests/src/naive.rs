//! A whole Llama in f64, straight from the papers (Touvron et al. 2023; RoPE: Su et al. 2021;
//! grouped queries: Ainslie et al. 2023), made of the [`oracle`]'s operations.
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

use crate::close::{Activations, Answer, LAMBDA, U, bf16_error, f16_error};
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
    format: Format,
    /// What engines do to what they multiply by it.
    activations: Activations,
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
        let value_dim = size("attention.value_length").unwrap_or(d_model / query);
        let heads = Heads { query, kv: size("attention.head_count_kv").unwrap_or(query), dim, value_dim };
        let scaled = gguf.opt_str("llama.rope.scaling.type").unwrap().is_none_or(|kind| kind == "linear");
        let rope = Rope {
            dims: size("rope.dimension_count").unwrap_or(dim),
            base: float("rope.freq_base").unwrap_or(10_000.0),
            scale: 1.0 / float("rope.scaling.factor").filter(|_| scaled).unwrap_or(1.0),
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

    /// The same model for engines that round the activations of bfloat16 weights to bfloat16 too; `None` if
    /// it has no such weights.
    pub fn in_bf16(&self) -> Option<Naive> {
        let mut model = self.clone();
        let mut matrices = vec![&mut model.output];
        for layer in &mut model.layers {
            let Layer { attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down, .. } = layer;
            matrices.extend([attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down]);
        }
        matrices.retain(|matrix| matrix.format == Format::BF16);
        let found = !matrices.is_empty();
        matrices.into_iter().for_each(|matrix| matrix.activations = Activations::Bf16);
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
        let row = |&token: &u32| model.embedding.row(token as usize);
        let mut x: Vec<f64> = tokens.iter().flat_map(row).collect(); // [token][feature], as all below
        for (layer, (keys, values)) in model.layers.iter().zip(&mut self.cache) {
            let xn = norm(&x, &layer.attn_norm);
            let q = rotate(layer.attn_q.apply(&xn, rounding), query);
            keys.extend(rounding.cached(&rotate(layer.attn_k.apply(&xn, rounding), kv)));
            values.extend(rounding.cached(&layer.attn_v.apply(&xn, rounding)));
            let attended = oracle::attention(&rounding.floats(&q, dim), keys, values, model.heads);
            add(&mut x, &layer.attn_output.apply(&attended, rounding));
            let xn = norm(&x, &layer.ffn_norm);
            let (gate, up) = (layer.ffn_gate.apply(&xn, rounding), layer.ffn_up.apply(&xn, rounding));
            add(&mut x, &layer.ffn_down.apply(&oracle::swiglu(&gate, &up), rounding));
        }
        self.position += tokens.len();
        let logits = model.output.apply(&norm(&x, &model.output_norm), rounding);
        logits.chunks(model.output.rows().len()).map(<[f64]>::to_vec).collect()
    }
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
            attn_output: linear("attn_output", heads.query * heads.value_dim),
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
        let format = tensor.format();
        Linear { cols, weights, format, activations: Activations::of(format) }
    }

    fn rows(&self) -> impl ExactSizeIterator<Item = Vec<f64>> {
        self.weights.chunks_exact(self.cols).map(widen)
    }

    fn row(&self, index: usize) -> Vec<f64> {
        widen(&self.weights[index * self.cols..(index + 1) * self.cols])
    }

    /// The inner products of every row with the activations of every token.
    fn apply(&self, x: &[f64], rounding: Rounding) -> Vec<f64> {
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

fn vector(gguf: &Gguf, name: &str) -> Vec<f64> {
    let tensor = gguf.tensor(name).unwrap_or_else(|| panic!("tensor \"{name}\" is missing"));
    Linear::load(gguf, name, tensor.dims()[0]).row(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::violation;
    use llama_core::synth::{Shape, Spec, Synth};
    use std::path::PathBuf;

    /// A file of the test data, which need not be there.
    fn data(name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")).join(name);
        if !path.exists() {
            eprintln!("skipped: no {}", path.display());
        }
        path.exists().then_some(path)
    }

    /// A small vocabulary, quick to multiply by.
    fn synthetic(layers: usize, format: Format) -> Naive {
        let shape = Shape { layers, vocab: 400, ..Shape::from_name("tiny").unwrap() };
        let synth = Synth::new(&Spec { shape, format: format.into(), seed: 1 }).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        synth.write(std::fs::File::create(&path).unwrap(), |_| ()).unwrap();
        Naive::load(&Gguf::read(&path).unwrap())
    }

    /// Models that differ from this one as faulty engines do. The graph of a layer, its norms and
    /// the rotation are wrong from the first token, from the second or in one feature of 256.
    fn faulty(model: &Naive) -> Vec<(&'static str, Naive)> {
        let mut faulty = ["base", "dims", "eps", "one norm", "gate and up"].map(|what| (what, model.clone()));
        faulty[0].1.rope.base = 20_000.0;
        faulty[1].1.rope.dims = 30;
        faulty[2].1.eps = 0.01;
        faulty[3].1.layers[0].attn_norm[5] *= -1.0;
        let layer = &mut faulty[4].1.layers[0];
        std::mem::swap(&mut layer.ffn_gate, &mut layer.ffn_up);
        faulty.to_vec()
    }

    const PROMPT: [u32; 12] = [1, 300, 399, 261, 262, 300, 300, 7, 350, 399, 261, 333];

    #[test]
    fn a_trained_model_tells_its_story() {
        let (Some(model), Some(text)) =
            (data("models/stories260K.gguf"), data("models/stories260K.expected_greedy_200.txt"))
        else {
            return;
        };
        let gguf = Gguf::read(&model).unwrap();
        let pieces: Vec<&str> = gguf.strs("tokenizer.ggml.tokens").unwrap().collect();
        let mut bytes = Vec::new();
        for token in Naive::load(&gguf).greedy(&[1], 200) {
            let piece = pieces[token as usize];
            match piece.strip_prefix("<0x").and_then(|hex| u8::from_str_radix(&hex[..2], 16).ok()) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend(piece.replace('\u{2581}', " ").bytes()),
            }
        }
        // The space before the first word belongs to the tokenizer, not to the text.
        let told = String::from_utf8(bytes).unwrap();
        assert_eq!(told.trim_start(), std::fs::read_to_string(text).unwrap());
    }

    #[test]
    fn the_bound_admits_an_engine_and_is_informative() {
        let mut models: Vec<(String, Naive)> =
            Format::ALL.iter().map(|&format| (format.to_string(), synthetic(2, format))).collect();
        if let Some(path) = data("models/stories260K.gguf") {
            models.push(("stories260K".into(), Naive::load(&Gguf::read(&path).unwrap())));
        }
        for (name, model) in models {
            let engine = model.logits_with(&PROMPT, Rounding::Nearest);
            for (position, (answer, found)) in model.answers(&PROMPT).iter().zip(&engine).enumerate() {
                let what = format!("{name}, position {position}");
                answer.check(&narrow(found), &what);
                let error = |i: usize| (found[i] - answer.expected[i]).abs() / answer.bound[i];
                let used = (0..found.len()).map(error).fold(0.0, f64::max);
                assert!(used > 0.05, "{what}: the bound is {:.0} times the largest error", 1.0 / used);
            }
        }
    }

    /// Positions at which a model's logits are within the bounds.
    fn met(answers: &[Answer], model: &Naive) -> usize {
        let logits = model.logits_with(&PROMPT, Rounding::Perturbed(99));
        let meets = |(answer, found): &(&Answer, Vec<f64>)| {
            violation(&narrow(found), &answer.expected, &answer.bound).is_none()
        };
        answers.iter().zip(logits).filter(meets).count()
    }

    #[test]
    fn the_bound_rejects_faulty_engines() {
        let model = synthetic(2, Format::F32);
        let answers = model.answers(&PROMPT);
        assert_eq!(met(&answers, &model), PROMPT.len());
        for (what, faulty) in faulty(&model) {
            assert!(met(&answers, &faulty) <= 1, "{what}"); // no rotation at position 0
        }
    }

    #[test]
    fn the_sharp_bound_rejects_faulty_engines_with_int8() {
        for format in [Format::Q8_0, Format::Q4_0] {
            let model = synthetic(1, format);
            let answers = model.sharp_answers(&PROMPT);
            assert!(met(&answers, &model) > PROMPT.len() / 4, "{format}");
            for (what, faulty) in faulty(&model) {
                assert!(met(&answers, &faulty) <= 1, "{format}: {what}");
            }
        }
    }

    #[test]
    fn the_likeliest_come_first() {
        assert_eq!(top_two(&[1.0, 3.0, -7.0, 3.0, 2.0]), [(1, 3.0), (3, 3.0)]);
    }

    #[test]
    fn activations_in_bf16_need_a_bound_of_their_own() {
        assert!(synthetic(1, Format::F16).in_bf16().is_none());
        let model = synthetic(1, Format::BF16);
        let rounded = model.in_bf16().unwrap();
        let engine = rounded.logits_with(&PROMPT, Rounding::Nearest);
        let meets = |answers: Vec<Answer>| {
            let met = |(logits, answer): (&Vec<f64>, &Answer)| {
                violation(&narrow(logits), &answer.expected, &answer.bound).is_none()
            };
            engine.iter().zip(&answers).filter(|(logits, answer)| met((logits, answer))).count()
        };
        assert_eq!(meets(rounded.answers(&PROMPT)), PROMPT.len());
        assert_eq!(meets(model.answers(&PROMPT)), 0);
    }
}
