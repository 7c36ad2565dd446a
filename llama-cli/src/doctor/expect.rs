//! Which Llama 2 fits, and how fast it would be, by the roofline.
//!
//! A generated token reads every matrix once, so a generation cannot be faster than memory is read; a token of a prompt
//! shares that reading with hundreds of others, and is bounded by arithmetic. This library comes to about
//! [`EFFICIENCY`] of the first and [`INTEGERS`] of the second.

use super::bytes;
use llama_core::Mix;
use llama_core::synth::{Shape, Spec, Tensor};
use llama_kernels::Format;
use serde_json::{Value, json};
use std::fmt::Write;

/// The part of the memory's speed that generation reaches: 0.6 to 0.7 was measured with 1.1B and 7B models
/// on machines whose arithmetic is not the limit.
const EFFICIENCY: f64 = 0.65;

/// The part of the peak of integers that a prompt of 512 tokens reaches: 0.75 to 0.85 was measured with 1.1B models in
/// Q4_0, Q4_K_M and Q8_0 on AVX512-VNNI.
const INTEGERS: f64 = 0.75;

/// The same of tiles, which unpacking holds up.
const TILES: f64 = 0.5;

/// Positions of the context whose cache is counted: as many as Llama 2 was trained for.
const CONTEXT: usize = 4096;

const SHAPES: [&str; 4] = ["7b", "13b", "34b", "70b"];
const MIXES: [Mix; 3] = [Mix::All(Format::Q4_0), Mix::Q4_K_M, Mix::All(Format::Q8_0)];

/// What to expect of one model.
pub(super) struct Expectation {
    shape: &'static str,
    mix: Mix,
    file: u64,
    /// Bytes of the cache in half precision when the context is full.
    cache: u64,
    /// Whether both fit into the free memory, if that is known.
    pub(super) fits: Option<bool>,
    /// Tokens per second at the beginning and at the end of the context.
    speeds: [f64; 2],
    /// Tokens per second of a prompt, where the peak of arithmetic is known.
    prompt: Option<f64>,
}

/// What to expect of memory with so many bytes per second, of which so many bytes are free, and of engines for
/// integers and of tiles with so many operations per second.
pub(super) fn all(bandwidth: f64, engines: [Option<f64>; 2], free: Option<u64>) -> Vec<Expectation> {
    let shapes = SHAPES.iter().filter_map(|name| Shape::from_name(name));
    shapes.flat_map(|shape| MIXES.map(|mix| one(shape, mix, bandwidth, engines, free))).collect()
}

fn one(
    shape: Shape,
    mix: Mix,
    bandwidth: f64,
    [integers, tiles]: [Option<f64>; 2],
    free: Option<u64>,
) -> Expectation {
    let tensors = Spec { shape, format: mix, seed: 1 }.tensors();
    let size = |tensor: &Tensor| {
        let row = tensor.format.row_bytes(tensor.dims[0]).unwrap_or(0);
        (row * tensor.dims[1..].iter().product::<usize>()) as u64
    };
    // The header, a megabyte or less, is left out.
    let file: u64 = tensors.iter().map(size).sum();
    // Of the embedding a token reads a row.
    let read: u64 = tensors.iter().filter(|tensor| tensor.name != "token_embd.weight").map(size).sum();
    // Two operations a weight, of the output for the last token alone.
    let weights = |tensor: &&Tensor| tensor.dims.len() > 1 && tensor.name != "token_embd.weight";
    let operations = |tensor: &Tensor| 2 * tensor.dims.iter().product::<usize>() as u64;
    let matrices = || tensors.iter().filter(weights);
    let of_prompt: u64 = matrices().filter(|tensor| tensor.name != "output.weight").map(operations).sum();
    let of_token: u64 = matrices().map(operations).sum();
    let arithmetic = integers.map_or(0.0, |peak| of_token as f64 / (INTEGERS * peak));
    let peak = tiles.map(|peak| TILES * peak).or(integers.map(|peak| INTEGERS * peak));
    let head = shape.d_model / shape.heads;
    let cache = (CONTEXT * shape.layers * shape.kv_heads * 2 * head * 2) as u64;
    Expectation {
        shape: shape.name,
        mix,
        file,
        cache,
        fits: free.map(|free| file + cache <= free),
        // Whichever takes longer: on a CPU without vectors that is not memory.
        speeds: [read, read + cache]
            .map(|bytes| 1.0 / (bytes as f64 / (EFFICIENCY * bandwidth)).max(arithmetic)),
        prompt: peak.map(|peak| peak / of_prompt as f64),
    }
}

impl Expectation {
    pub(super) fn json(&self) -> Value {
        json!({
            "model": self.shape,
            "type": self.mix.name(),
            "file_bytes": self.file,
            "cache_bytes": self.cache,
            "context": CONTEXT,
            "fits": self.fits,
            "efficiency": EFFICIENCY,
            "prompt_tokens_per_second": self.prompt,
            "tokens_per_second": self.speeds[0],
            "tokens_per_second_at_full_context": self.speeds[1],
        })
    }
}

/// A table, with a line that says what it rests on.
pub(super) fn table(expectations: &[Expectation]) -> String {
    let mut out = format!(
        "\nwhat to expect of Llama 2, in tokens per second: prompts at {:.0} % of the peak\nof integers ({:.0} % of \
         tiles), generation at {:.0} % of the memory's speed\n  {:6} {:8} {:>11} {:>11}  {:5} {:>8} {:>8} {:>8}\n",
        100.0 * INTEGERS,
        100.0 * TILES,
        100.0 * EFFICIENCY,
        "model",
        "type",
        "file",
        "with cache",
        "fits",
        "prompt",
        "first",
        format!("{CONTEXT}th")
    );
    for e in expectations {
        let fits = e.fits.map_or("?", |fits| if fits { "yes" } else { "no" });
        // What does not fit is read from disk, whose speed nobody has measured here.
        let speed = |speed: Option<f64>| match speed.filter(|_| e.fits != Some(false)) {
            Some(speed) => format!("{speed:.1}"),
            None => "-".into(),
        };
        let [prompt, first, last] = [e.prompt, Some(e.speeds[0]), Some(e.speeds[1])].map(speed);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "  {:6} {:8} {:>11} {:>11}  {fits:5} {prompt:>8} {first:>8} {last:>8}",
            e.shape,
            e.mix.name(),
            bytes(e.file),
            bytes(e.file + e.cache),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_published_files() {
        let all = all(10e9, [None; 2], Some(8 << 30));
        assert_eq!(all.len(), 12);
        let file = |shape: &str, mix: &str| {
            let found = all.iter().find(|e| e.shape == shape && e.mix.name() == mix).unwrap();
            found.file as f64 / 1e9
        };
        // Sizes of the files that everybody downloads, in gigabytes.
        for (shape, mix, expected) in [
            ("7b", "Q4_0", 3.83),
            ("7b", "Q4_K_M", 4.08),
            ("7b", "Q8_0", 7.16),
            ("13b", "Q4_0", 7.37),
            ("70b", "Q4_0", 38.9),
        ] {
            let found = file(shape, mix);
            assert!((found / expected - 1.0).abs() < 0.02, "{shape} {mix}: {found}");
        }
    }

    #[test]
    fn the_speed_is_that_of_reading_the_weights() {
        let found = &all(10e9, [None; 2], Some(5 << 30))[0];
        assert!((found.speeds[0] - EFFICIENCY * 10.0 / 3.75).abs() < 0.1, "{:?}", found.speeds);
        assert!(found.speeds[1] < found.speeds[0]);
        // 3.6 GiB and a cache of 2 GiB.
        assert_eq!(found.fits, Some(false));
        assert_eq!(all(10e9, [None; 2], Some(6 << 30))[0].fits, Some(true));
        assert_eq!((all(10e9, [None; 2], None)[0].fits, found.prompt), (None, None));
    }

    #[test]
    fn the_speed_of_a_prompt_is_that_of_arithmetic() {
        let prompt = |engines| all(10e9, engines, None)[0].prompt.unwrap();
        // 6.5 thousand million weights, two operations each.
        let found = prompt([Some(1e12), None]);
        assert!((found / (INTEGERS * 1e12 / 12.95e9) - 1.0).abs() < 0.01, "{found}");
        assert!((prompt([Some(1e12), Some(6e12)]) / found - 6.0 * TILES / INTEGERS).abs() < 1e-6);
        // Arithmetic that is slow enough holds a generation up too.
        let slow = all(10e9, [Some(1e10), None], None)[0].speeds;
        assert!(slow[0] == slow[1] && (slow[0] / (INTEGERS * 1e10 / 13.2e9) - 1.0).abs() < 0.01, "{slow:?}");
    }
}
