//! Synthetic models: valid files of any shape, from a seed.
//!
//! Speed and memory depend on a model's shape and format, not on what it learnt. So a model of the
//! real size with seeded Gaussian weights measures them without a download. The weights are scaled
//! such that activations stay near 1 through any number of layers and the logits spread like a
//! trained model's; the text is gibberish, but it is the same gibberish on every machine. A format
//! that is only read gets random blocks whose weights have the same mean and variance.
//!
//! Two sources of weights. Small models (up to 2^26 weights) draw each one. At 150 million a second
//! a 7B would take 45 seconds, so for large models 4,096 groups of weights are drawn and encoded
//! once per (format, scale), and rows are put together from them at random: the same statistics at
//! the speed of the disk (14 billion weights a second without one).
//! All arithmetic is on integers or correctly rounded, so equal specs give equal bytes everywhere.

mod shape;
mod vocabulary;

pub use self::shape::{Family, Shape};

use crate::gguf::Writer;
use crate::{Error, Mix, Result};
use llama_kernels::Format;
use std::io::{self, Write};

/// What to write.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spec {
    /// The dimensions; change `shape.layers` for a shorter model.
    pub shape: Shape,
    /// The formats of the matrices (see [`Mix::format`]); norms are always [`Format::F32`].
    pub format: Mix,
    /// Decides vocabulary and weights.
    pub seed: u64,
}

impl Spec {
    /// The tensors of the model, in the order of the file; unlike [`Synth::new`] this makes no vocabulary.
    ///
    /// # Panics
    /// If the shape has no heads.
    pub fn tensors(&self) -> Vec<Tensor> {
        tensors(&self.shape, self.format)
    }
}

/// A tensor of a synthetic model.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    /// The GGUF name.
    pub name: String,
    /// Dimensions in ggml's order: the length of a row first.
    pub dims: Vec<usize>,
    /// The storage format.
    pub format: Format,
    /// Mean of the weights.
    mean: f32,
    /// Their standard deviation.
    std: f32,
}

/// A synthetic model, known to the last byte count but not yet written.
#[derive(Clone, Debug)]
pub struct Synth {
    seed: u64,
    header: Writer,
    tensors: Vec<Tensor>,
}

impl Synth {
    /// Plans the model: metadata, vocabulary and tensors.
    ///
    /// # Errors
    /// [`Error::Option`] if the shape is impossible (heads that do not divide `d_model` evenly or
    /// that key/value heads do not divide, a vocabulary without room for single bytes and
    /// characters, a zero, an absurd size).
    pub fn new(spec: &Spec) -> Result<Synth> {
        let shape = &spec.shape;
        if !shape.is_valid() {
            return Err(Error::Option {
                option: "shape",
                expected: format!(
                    "heads that divide evenly, {} pieces or more, no zero, no absurd size",
                    vocabulary::SMALLEST
                ),
                found: format!("{shape:?}"),
            });
        }
        let mut header = Writer::new();
        metadata(&mut header, shape, spec.format);
        vocabulary::write(&mut header, shape.vocab, spec.seed);
        let tensors = spec.tensors();
        for tensor in &tensors {
            header.tensor(&tensor.name, &tensor.dims, tensor.format)?;
        }
        Ok(Synth { seed: spec.seed, header, tensors })
    }

    /// The tensors in the order of the file.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The exact size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.header.file_bytes()
    }

    /// Streams the file to `out` in pieces of about a megabyte, and gives `out` back, flushed.
    /// After each piece, `progress` is told the bytes written so far, out of
    /// [`file_bytes`](Self::file_bytes).
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write<W: Write>(&self, out: W, progress: impl FnMut(u64)) -> io::Result<W> {
        let weights: usize = self.tensors.iter().map(Tensor::weights).sum();
        let mut palette = (weights > EVERY_WEIGHT_DRAWN).then(|| Palette::new(self.seed));
        let mut data = self.header.begin(Counted { out, written: 0, progress })?;
        let mut piece = Vec::with_capacity(2 * PIECE);
        for tensor in &self.tensors {
            let mut rng = Rng::named(self.seed, &tensor.name);
            let cols = tensor.dims[0];
            let groups = palette.as_mut().and_then(|palette| palette.groups(tensor));
            for _ in 0..tensor.weights() / cols {
                match groups {
                    Some(groups) => groups.row(&mut rng, cols, &mut piece),
                    None => tensor.draw(&mut rng, cols, &mut piece),
                }
                if piece.len() >= PIECE {
                    data.write_all(&piece)?;
                    piece.clear();
                }
            }
        }
        data.write_all(&piece)?;
        Ok(data.finish()?.out)
    }
}

/// Bytes that are gathered before they are written.
const PIECE: usize = 1 << 20;

/// Models of at most this many weights repeat none.
const EVERY_WEIGHT_DRAWN: usize = 1 << 26;

impl Tensor {
    fn weights(&self) -> usize {
        self.dims.iter().product()
    }

    /// Draws `n` weights and appends them, encoded, to `out`.
    fn draw(&self, rng: &mut Rng, n: usize, out: &mut Vec<u8>) {
        if self.format.encodes() {
            let weights: Vec<f32> = (0..n).map(|_| self.mean + self.std * rng.gaussian()).collect();
            self.format.quantize(&weights, out);
        } else {
            self.format.random(n, self.std, || rng.bits(), out);
        }
    }
}

/// The metadata that converters of real models write.
fn metadata(header: &mut Writer, shape: &Shape, mix: Mix) {
    let architecture = shape.family.architecture();
    header.set("general.architecture", architecture);
    header.set("general.name", format!("synthetic {}", shape.name).as_str());
    header.set("general.quantization_version", 2u32);
    if let Some(file_type) = mix.file_type() {
        header.set("general.file_type", file_type);
    }
    let mut set = |key: &str, value: usize| header.set(&format!("{architecture}.{key}"), value as u32);
    set("vocab_size", shape.vocab);
    set("context_length", shape.context);
    set("embedding_length", shape.d_model);
    set("block_count", shape.layers);
    set("feed_forward_length", shape.d_ff);
    set("rope.dimension_count", shape.d_model / shape.heads);
    set("attention.head_count", shape.heads);
    set("attention.head_count_kv", shape.kv_heads);
    if shape.window > 0 {
        set("attention.sliding_window", shape.window);
    }
    if shape.experts.0 > 0 {
        set("expert_count", shape.experts.0);
        set("expert_used_count", shape.experts.1);
    }
    header.set(&format!("{architecture}.rope.freq_base"), shape.rope_base);
    header.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), shape.norm_eps);
}

/// All tensors. With a deviation of `1 / sqrt(cols)` a matrix keeps the size of what it multiplies,
/// which the norms bring back to 1, so every layer adds about as much to the residual stream.
fn tensors(shape: &Shape, mix: Mix) -> Vec<Tensor> {
    let (d_model, d_ff, head_dim) = (shape.d_model, shape.d_ff, shape.d_model / shape.heads);
    let d_kv = head_dim * shape.kv_heads;
    let matrix = |name: String, cols: usize, rows: usize| {
        let format = mix.format(&name, cols, shape.layers, shape.heads / shape.kv_heads);
        Tensor { name, dims: vec![cols, rows], format, mean: 0.0, std: 1.0 / (cols as f32).sqrt() }
    };
    let vector = |name, len, mean, std| Tensor { name, dims: vec![len], format: Format::F32, mean, std };
    let norm = |name, len| vector(name, len, 1.0, 0.1);
    let tied = shape.family == Family::Qwen2;

    let output = matrix("output.weight".into(), d_model, shape.vocab);
    let output = Tensor { std: LOGIT_SPREAD * output.std, ..output };
    let embedding = matrix("token_embd.weight".into(), d_model, shape.vocab);
    let mut tensors = vec![match tied {
        true => Tensor { name: embedding.name, ..output.clone() },
        false => Tensor { std: 1.0, ..embedding },
    }];
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensors.extend([
            norm(name("attn_norm"), d_model),
            matrix(name("attn_q"), d_model, d_model),
            matrix(name("attn_k"), d_model, d_kv),
            matrix(name("attn_v"), d_model, d_kv),
            matrix(name("attn_output"), d_model, d_model),
            norm(name("ffn_norm"), d_model),
        ]);
        if shape.family == Family::Qwen2 {
            let bias = |part, len| vector(format!("blk.{layer}.attn_{part}.bias"), len, 0.0, 0.5);
            tensors.extend([bias("q", d_model), bias("k", d_kv), bias("v", d_kv)]);
        }
        if shape.family == Family::Qwen3 {
            tensors.extend(["attn_q_norm", "attn_k_norm"].map(|part| norm(name(part), head_dim)));
        }
        let network = [("gate", d_model, d_ff), ("up", d_model, d_ff), ("down", d_ff, d_model)];
        tensors.extend(network.map(|(part, cols, rows)| match shape.experts.0 {
            0 => matrix(name(&format!("ffn_{part}")), cols, rows),
            experts => {
                let all = matrix(name(&format!("ffn_{part}_exps")), cols, rows);
                Tensor { dims: vec![cols, rows, experts], ..all }
            }
        }));
        if shape.experts.0 > 0 {
            // Never quantized: it is small, and decides.
            let router = matrix(name("ffn_gate_inp"), d_model, shape.experts.0);
            tensors.push(Tensor { format: Format::F32, ..router });
        }
    }
    tensors.push(norm("output_norm.weight".into(), d_model));
    if !tied {
        tensors.push(output);
    }
    tensors
}

/// Standard deviation of the logits. At 4 the likeliest of 32,000 tokens leads the next by 0.9 in
/// the mean (int8 activations move a logit by 0.06), and temperatures around 1 do something.
const LOGIT_SPREAD: f32 = 4.0;

/// Encoded groups of weights for every (format, scale) that a large model needs.
struct Palette {
    seed: u64,
    groups: Vec<Groups>,
}

/// Equally likely groups of weights, encoded.
struct Groups {
    format: Format,
    std: f32,
    /// Weights in a group: at least a block, and enough to be worth a copy.
    len: usize,
    /// Bytes of a group.
    size: usize,
    bytes: Vec<u8>,
}

impl Palette {
    fn new(seed: u64) -> Palette {
        Palette { seed, groups: Vec::new() }
    }

    /// The groups to build this tensor from; `None` if it is a vector or its rows are no whole
    /// number of groups: its weights are drawn.
    fn groups(&mut self, tensor: &Tensor) -> Option<&Groups> {
        let (format, std) = (tensor.format, tensor.std);
        let len = format.block_len().max(32);
        if tensor.dims.len() == 1 || !tensor.dims[0].is_multiple_of(len) {
            return None;
        }
        let known = self.groups.iter().position(|groups| (groups.format, groups.std) == (format, std));
        let index = known.unwrap_or_else(|| {
            let mut rng = Rng::named(self.seed ^ u64::from(std.to_bits()), format.name());
            let mut bytes = Vec::new();
            tensor.draw(&mut rng, len << Groups::BITS, &mut bytes);
            self.groups.push(Groups { format, std, len, size: bytes.len() >> Groups::BITS, bytes });
            self.groups.len() - 1
        });
        Some(&self.groups[index])
    }
}

impl Groups {
    /// There are 2^12 groups; 64 random bits choose five.
    const BITS: u32 = 12;

    /// Appends a row.
    fn row(&self, rng: &mut Rng, cols: usize, out: &mut Vec<u8>) {
        let mut left = cols / self.len;
        while left > 0 {
            let mut bits = rng.bits();
            for _ in 0..left.min(5) {
                let at = (bits & ((1 << Groups::BITS) - 1)) as usize * self.size;
                out.extend_from_slice(&self.bytes[at..at + self.size]);
                bits >>= Groups::BITS;
            }
            left -= left.min(5);
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Rng(u64);

impl Rng {
    /// A stream of its own for each (seed, name).
    fn named(seed: u64, name: &str) -> Rng {
        let mut rng = Rng(seed);
        for byte in name.bytes() {
            rng = Rng(rng.bits() ^ u64::from(byte));
        }
        rng
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`, which is small and not zero.
    fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 32) as usize % n
    }

    /// Nearly Gaussian, of mean 0 and variance 1: the sum of eight 16-bit values, which needs no
    /// logarithm (whose last bit differs between systems) and reaches 4.9.
    fn gaussian(&mut self) -> f32 {
        let sum = |bits: u64| (0..4).map(|i| bits >> (16 * i) & 0xffff).sum::<u64>();
        let sum = sum(self.bits()) + sum(self.bits());
        (sum as f32 - 262_140.0) * (1.0 / 53_509.9) // 8 * 65535 / 2, 65536 * sqrt(8 / 12)
    }
}

/// Reports what passes through.
struct Counted<W, F> {
    out: W,
    written: u64,
    progress: F,
}

impl<W: Write, F: FnMut(u64)> Write for Counted<W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.written += n as u64;
        (self.progress)(self.written);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
