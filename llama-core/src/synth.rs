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

mod vocabulary;

use crate::gguf::Writer;
use crate::{Error, Mix, Result};
use llama_kernels::Format;
use std::io::{self, Write};

/// The dimensions of a Llama model.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shape {
    /// `7b`, `70b`, …
    pub name: &'static str,
    /// Transformer layers.
    pub layers: usize,
    /// Features of the residual stream.
    pub d_model: usize,
    /// Features of the feed-forward network.
    pub d_ff: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Pieces of the vocabulary.
    pub vocab: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
}

impl Shape {
    /// Llama 2 7B, 13B and 70B, Code Llama 34B, TinyLlama 1.1B, and one that is quick to test with.
    pub const ALL: &'static [Shape] = &[
        Shape::new("7b", 32, 4096, 11008, 32, 32),
        Shape::new("13b", 40, 5120, 13824, 40, 40),
        Shape { context: 16384, rope_base: 1e6, ..Shape::new("34b", 48, 8192, 22016, 64, 8) },
        Shape::new("70b", 80, 8192, 28672, 64, 8),
        Shape { context: 2048, ..Shape::new("1.1b", 22, 2048, 5632, 32, 4) },
        Shape { context: 2048, ..Shape::new("tiny", 4, 256, 704, 8, 2) },
    ];

    const fn new(
        name: &'static str,
        layers: usize,
        d_model: usize,
        d_ff: usize,
        heads: usize,
        kv_heads: usize,
    ) -> Shape {
        let (vocab, context, rope_base) = (32_000, 4096, 1e4);
        Shape { name, layers, d_model, d_ff, heads, kv_heads, vocab, context, rope_base }
    }

    /// The shape of this name, in any case.
    pub fn from_name(name: &str) -> Option<Shape> {
        Shape::ALL.iter().copied().find(|shape| shape.name.eq_ignore_ascii_case(name))
    }

    fn is_valid(&self) -> bool {
        self.layers.wrapping_sub(1) < 1024
            && self.d_model.wrapping_sub(1) < 1 << 20
            && self.d_ff.wrapping_sub(1) < 1 << 20
            && self.heads > 0
            && self.kv_heads > 0
            && self.heads.is_multiple_of(self.kv_heads)
            && self.d_model.is_multiple_of(2 * self.heads)
            && (vocabulary::SMALLEST..1 << 20).contains(&self.vocab)
            && (1..1 << 31).contains(&self.context)
            && self.rope_base >= 1.0
    }
}

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
    header.set("general.architecture", "llama");
    header.set("general.name", format!("synthetic {}", shape.name).as_str());
    header.set("general.quantization_version", 2u32);
    if let Some(file_type) = mix.file_type() {
        header.set("general.file_type", file_type);
    }
    header.set("llama.vocab_size", shape.vocab as u32);
    header.set("llama.context_length", shape.context as u32);
    header.set("llama.embedding_length", shape.d_model as u32);
    header.set("llama.block_count", shape.layers as u32);
    header.set("llama.feed_forward_length", shape.d_ff as u32);
    header.set("llama.rope.dimension_count", (shape.d_model / shape.heads) as u32);
    header.set("llama.rope.freq_base", shape.rope_base);
    header.set("llama.attention.head_count", shape.heads as u32);
    header.set("llama.attention.head_count_kv", shape.kv_heads as u32);
    header.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
}

/// All tensors. With a deviation of `1 / sqrt(cols)` a matrix keeps the size of what it multiplies,
/// which the norms bring back to 1, so every layer adds about as much to the residual stream.
fn tensors(shape: &Shape, mix: Mix) -> Vec<Tensor> {
    let (d_model, d_ff) = (shape.d_model, shape.d_ff);
    let d_kv = d_model / shape.heads * shape.kv_heads;
    let matrix = |name: String, cols: usize, rows: usize| {
        let format = mix.format(&name, cols, shape.layers, shape.heads / shape.kv_heads);
        Tensor { name, dims: vec![cols, rows], format, mean: 0.0, std: 1.0 / (cols as f32).sqrt() }
    };
    let norm = |name: String| Tensor { name, dims: vec![d_model], format: Format::F32, mean: 1.0, std: 0.1 };

    let embedding = matrix("token_embd.weight".into(), d_model, shape.vocab);
    let mut tensors = vec![Tensor { std: 1.0, ..embedding }];
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensors.extend([
            norm(name("attn_norm")),
            matrix(name("attn_q"), d_model, d_model),
            matrix(name("attn_k"), d_model, d_kv),
            matrix(name("attn_v"), d_model, d_kv),
            matrix(name("attn_output"), d_model, d_model),
            norm(name("ffn_norm")),
            matrix(name("ffn_gate"), d_model, d_ff),
            matrix(name("ffn_up"), d_model, d_ff),
            matrix(name("ffn_down"), d_ff, d_model),
        ]);
    }
    tensors.push(norm("output_norm.weight".into()));
    let output = matrix("output.weight".into(), d_model, shape.vocab);
    tensors.push(Tensor { std: LOGIT_SPREAD * output.std, ..output });
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
mod tests {
    use super::*;
    use crate::gguf::tests::from_bytes;
    use crate::{Config, Weights};

    fn small(format: impl Into<Mix>, seed: u64) -> Spec {
        let tiny = Shape::from_name("tiny").unwrap();
        Spec { shape: Shape { layers: 1, d_ff: 256, vocab: 500, ..tiny }, format: format.into(), seed }
    }

    #[test]
    fn equal_specs_give_equal_bytes() {
        for format in Mix::names().map(|name| Mix::from_name(name).unwrap()) {
            let write = |seed| {
                let synth = Synth::new(&small(format, seed)).unwrap();
                let mut last = 0;
                let file = synth.write(Vec::new(), |done| last = done).unwrap();
                assert_eq!((file.len() as u64, last), (synth.file_bytes(), synth.file_bytes()), "{format}");
                file
            };
            let file = write(1);
            assert!(file == write(1), "{format}");
            assert!(file != write(2), "{format}");
        }
    }

    #[test]
    fn what_is_written_is_a_model() {
        for &format in Format::ALL {
            let synth = Synth::new(&small(format, 1)).unwrap();
            let gguf = from_bytes(synth.write(Vec::new(), |_| ()).unwrap()).unwrap();
            let config = Config::new(&gguf).unwrap();
            assert_eq!((config.n_heads, config.n_kv_heads, config.vocab), (8, 2, 500), "{format}");
            assert_eq!(gguf.u32("general.quantization_version").unwrap(), 2);
            let file_type = Mix::All(format).file_type();
            assert_eq!(gguf.opt_u32("general.file_type").unwrap(), file_type, "{format}");
            let weights = Weights::load(&gguf, &config).unwrap();
            assert_eq!(weights.output.matrix().format(), format);
            let mut row = vec![0.0; 256];
            let mut squares = 0.0;
            for i in 0..500 {
                weights.token_embd.matrix().dequantize_row(i, &mut row);
                squares += row.iter().map(|w| w * w).sum::<f32>();
            }
            let mean_square = squares / (500.0 * 256.0);
            assert!((0.7..1.3).contains(&mean_square), "{format}: {mean_square}");
        }
    }

    #[test]
    fn shapes_have_the_sizes_of_the_real_models() {
        // Parameters as published; sizes of the 7B in Q4_0 (all matrices of one format), and of published
        // files in llama.cpp's mixes (those of the 13B are rounded to 10 MB, of the 70B to 100 MB).
        let all = |name: &str, mix| tensors(&Shape::from_name(name).unwrap(), mix);
        for (name, expected) in [("7b", 6.74), ("13b", 13.02), ("34b", 33.74), ("70b", 68.98), ("1.1b", 1.10)]
        {
            let weights: usize = all(name, Format::Q4_0.into()).iter().map(Tensor::weights).sum();
            let found = weights as f64 / 1e9;
            assert!((found - expected).abs() < 0.006, "{name}: {found}");
        }
        for (name, format, expected) in [
            ("7B", Format::Q4_0.into(), 3.791e9),
            ("7B", Mix::Q4_K_M, 4.081e9),
            ("13B", Mix::Q3_K_S, 5.66e9),
            ("13B", Mix::Q3_K_M, 6.34e9),
            ("13B", Mix::Q3_K_L, 6.93e9),
            ("13B", Mix::Q4_K_S, 7.42e9),
            ("13B", Mix::Q4_K_M, 7.866e9),
            ("13B", Mix::Q5_K_S, 8.97e9),
            ("13B", Mix::Q5_K_M, 9.23e9),
            ("70B", Mix::Q3_K_S, 29.9e9),
            ("70B", Mix::Q3_K_M, 33.3e9),
            ("70B", Mix::Q3_K_L, 36.1e9),
            ("70B", Mix::Q4_K_S, 39.2e9),
            ("70B", Mix::Q4_K_M, 41.4e9),
            ("70B", Mix::Q5_K_S, 47.5e9),
            ("70B", Mix::Q5_K_M, 48.8e9),
        ] {
            let bytes = |t: &Tensor| t.format.row_bytes(t.weights()).unwrap();
            let found = all(name, format).iter().map(bytes).sum::<usize>() as f64; // a header has 0.7e6
            let rounding = if name == "70B" { 0.06e9 } else { 0.006e9 };
            assert!((found - expected).abs() < rounding, "{name} {format}: {found}");
        }
    }

    #[test]
    fn rows_that_the_format_cannot_hold_are_f16() {
        let mut spec = small(Format::Q4_0, 1);
        spec.shape.d_ff = 172;
        let synth = Synth::new(&spec).unwrap();
        let format = |part: &str| synth.tensors().iter().find(|t| t.name.contains(part)).unwrap().format;
        let found = ["ffn_down", "ffn_up", "attn_norm"].map(format);
        assert_eq!(found, [Format::F16, Format::Q4_0, Format::F32]);
        synth.write(io::sink(), |_| ()).unwrap();
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let shape = small(Format::F32, 1).shape;
        for shape in [
            Shape { layers: 0, ..shape },
            Shape { heads: 7, ..shape },
            Shape { kv_heads: 3, ..shape },
            Shape { vocab: 300, ..shape },
            Shape { d_ff: usize::MAX, ..shape },
            Shape { rope_base: f32::NAN, ..shape },
        ] {
            let error = Synth::new(&Spec { shape, format: Format::F32.into(), seed: 1 });
            assert!(matches!(error, Err(Error::Option { option: "shape", .. })), "{shape:?}");
        }
    }

    #[test]
    fn groups_have_the_statistics_of_drawn_weights() {
        let tensor = &tensors(&Shape::ALL[0], Format::Q8_0.into())[2];
        let (cols, rows) = (4096, 64);
        let mut palette = Palette::new(1);
        let groups = palette.groups(tensor).unwrap();
        let (mut bytes, mut weights, mut rng) = (Vec::new(), vec![0.0; cols * rows], Rng::named(1, "test"));
        (0..rows).for_each(|_| groups.row(&mut rng, cols, &mut bytes));
        Format::Q8_0.dequantize(&bytes, &mut weights);
        let moment =
            |p: i32| weights.iter().map(|&w| f64::from(w * 64.0).powi(p)).sum::<f64>() / weights.len() as f64;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02, "{} {}", moment(1), moment(2));
        assert!((moment(4) - 2.85).abs() < 0.1, "{}", moment(4)); // 3 - 1.2 / 8: eight uniform summands
        let product = |a: usize, b: usize| {
            let row = |r: usize| weights[r * cols..(r + 1) * cols].iter();
            row(a).zip(row(b)).map(|(a, b)| f64::from(a * b)).sum::<f64>()
        };
        assert!(product(0, 1).abs() < 0.1 && product(2, 63).abs() < 0.1, "rows are not independent");
    }
}
