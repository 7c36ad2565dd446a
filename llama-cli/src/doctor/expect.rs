//! Which Llama 2 fits, and how fast it would generate.
//!
//! A token reads every matrix once, so a generation cannot be faster than memory is read; this library
//! comes to about [`EFFICIENCY`] of that.

use super::bytes;
use llama_core::Mix;
use llama_core::synth::{Shape, Spec, Tensor};
use llama_kernels::Format;
use serde_json::{Value, json};
use std::fmt::Write;

/// The part of the memory's speed that generation reaches: 0.6 to 0.7 was measured with 1.1B and 7B models
/// on machines whose arithmetic is not the limit.
const EFFICIENCY: f64 = 0.65;

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
}

/// What to expect of memory with so many bytes per second, of which so many bytes are free.
pub(super) fn all(bandwidth: f64, free: Option<u64>) -> Vec<Expectation> {
    let shapes = SHAPES.iter().filter_map(|name| Shape::from_name(name));
    shapes.flat_map(|shape| MIXES.map(|mix| one(shape, mix, bandwidth, free))).collect()
}

fn one(shape: Shape, mix: Mix, bandwidth: f64, free: Option<u64>) -> Expectation {
    let tensors = Spec { shape, format: mix, seed: 1 }.tensors();
    let size = |tensor: &Tensor| {
        let row = tensor.format.row_bytes(tensor.dims[0]).unwrap_or(0);
        (row * tensor.dims[1..].iter().product::<usize>()) as u64
    };
    // The header, a megabyte or less, is left out.
    let file: u64 = tensors.iter().map(size).sum();
    // Of the embedding a token reads a row.
    let read: u64 = tensors.iter().filter(|tensor| tensor.name != "token_embd.weight").map(size).sum();
    let head = shape.d_model / shape.heads;
    let cache = (CONTEXT * shape.layers * shape.kv_heads * 2 * head * 2) as u64;
    Expectation {
        shape: shape.name,
        mix,
        file,
        cache,
        fits: free.map(|free| file + cache <= free),
        speeds: [read, read + cache].map(|bytes| EFFICIENCY * bandwidth / bytes as f64),
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
            "tokens_per_second": self.speeds[0],
            "tokens_per_second_at_full_context": self.speeds[1],
        })
    }
}

/// A table, with a line that says what it rests on.
pub(super) fn table(expectations: &[Expectation]) -> String {
    let mut out = format!(
        "\nwhat to expect of Llama 2: generation at {:.0} % of the memory's speed, for an empty context and for \
         one of {CONTEXT}\n  {:6} {:8} {:>11} {:>11}  {:5} {:>8} {:>8}\n",
        100.0 * EFFICIENCY,
        "model",
        "type",
        "file",
        "with cache",
        "fits",
        "t/s",
        "t/s"
    );
    for e in expectations {
        let fits = e.fits.map_or("?", |fits| if fits { "yes" } else { "no" });
        // What does not fit is read from disk, whose speed nobody has measured here.
        let speeds =
            e.speeds.map(|speed| if e.fits == Some(false) { "-".into() } else { format!("{speed:.1}") });
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "  {:6} {:8} {:>11} {:>11}  {fits:5} {:>8} {:>8}",
            e.shape,
            e.mix.name(),
            bytes(e.file),
            bytes(e.file + e.cache),
            speeds[0],
            speeds[1]
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_published_files() {
        let all = all(10e9, Some(8 << 30));
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
        let found = &all(10e9, Some(5 << 30))[0];
        assert!((found.speeds[0] - EFFICIENCY * 10.0 / 3.75).abs() < 0.1, "{:?}", found.speeds);
        assert!(found.speeds[1] < found.speeds[0]);
        // 3.6 GiB and a cache of 2 GiB.
        assert_eq!(found.fits, Some(false));
        assert_eq!(all(10e9, Some(6 << 30))[0].fits, Some(true));
        assert_eq!(all(10e9, None)[0].fits, None);
    }
}
