//! The sizes that break kernels, and the data to try them on.

use llama_kernels::{Format, Matrix};

/// Lengths of vectors: nothing, one, and every lane, block and tile width in use (8 to 256) with
/// its neighbours.
pub fn awkward_lengths() -> Vec<usize> {
    let around = |n: usize| [n - 1, n, n + 1];
    let mut lengths = vec![0, 1, 2, 3, 5, 40, 100, 172];
    lengths.extend([8, 16, 32, 64, 128, 256].into_iter().flat_map(around));
    lengths.sort_unstable();
    lengths
}

/// One matrix product: `tokens` activations of `cols` features become `rows` each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Shape {
    /// Rows of the weight matrix.
    pub rows: usize,
    /// Its columns, whole blocks of the format.
    pub cols: usize,
    /// Tokens in the batch.
    pub tokens: usize,
}

/// Matrix products that a format can hold: each axis goes through all its awkward values beside
/// plain ones on the others, and the small values of all three meet each other.
pub fn awkward_shapes(format: Format) -> Vec<Shape> {
    let block = format.block_len();
    let mut cols: Vec<usize> = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17].iter().map(|n| n * block).collect();
    cols.extend(awkward_lengths().into_iter().filter(|n| n.is_multiple_of(block)));
    cols.sort_unstable();
    cols.dedup();
    let plain = cols.iter().copied().find(|&n| n >= 64).expect("a length of 64 or more");

    let mut shapes = Vec::new();
    let mut add = |rows, cols, tokens| shapes.push(Shape { rows, cols, tokens });
    for &n in &cols {
        (1..=3).for_each(|tokens| add(5, n, tokens));
        add(17, n, 33);
    }
    for n in awkward_lengths() {
        add(n, plain, 1);
        add(n, plain, 5);
        add(9, plain, n);
    }
    for rows in [0, 1, 2, 3, 4, 7, 8, 9, 16, 31] {
        for tokens in [0, 1, 2, 3, 4, 6, 7, 8, 9, 15, 16, 17] {
            add(rows, plain, tokens);
        }
    }
    shapes.sort_unstable();
    shapes.dedup();
    shapes
}

/// Distances between the outputs of consecutive tokens that leave a gap: packed, off by one,
/// odd, and wider than any tile.
pub fn awkward_strides(rows: usize) -> [usize; 4] {
    [rows, rows + 1, rows + 7, rows + 64]
}

/// A seeded source of test data (SplitMix64, integer arithmetic only: the same on every machine).
#[derive(Clone, Debug)]
pub struct Data(u64);

impl Data {
    /// Equal seeds give equal data.
    pub fn new(seed: u64) -> Data {
        Data(seed)
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `n`, for small `n`.
    ///
    /// # Panics
    /// If `n` is zero.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 32) as usize % n
    }

    /// Nearly Gaussian, of mean 0 and variance 1, at most 3.5: the sum of four uniform values.
    pub fn gaussian(&mut self) -> f32 {
        let bits = self.bits();
        let sum: u64 = (0..4).map(|i| bits >> (16 * i) & 0xffff).sum();
        (sum as f32 - 131_070.0) / 37_837.0 // 4 * 65535 / 2, 65536 * sqrt(4 / 12)
    }

    /// Gaussian values: mixed signs, in no order.
    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.gaussian()).collect()
    }

    /// Gaussian values of which about one in 50 is 30 times as large, as some channels of real
    /// models are.
    pub fn outliers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.gaussian() * if self.below(50) == 0 { 30.0 } else { 1.0 }).collect()
    }

    /// A matrix of weights of mean 0 and variance 1: Gaussian, encoded, or random blocks of a format
    /// that is only read.
    ///
    /// # Panics
    /// If `cols` is not whole blocks of the format.
    pub fn weights(&mut self, format: Format, rows: usize, cols: usize) -> Weights {
        let mut bytes = Vec::new();
        if format.encodes() {
            format.quantize(&self.values(rows * cols), &mut bytes);
        } else {
            format.random(rows * cols, 1.0, || self.bits(), &mut bytes);
        }
        Weights { format, rows, cols, bytes }
    }
}

/// Scrambles 64 bits (SplitMix64's finaliser: Steele, Lea, Flood 2014).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// The bytes of a [`Matrix`], owned.
#[derive(Clone, Debug)]
pub struct Weights {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl Weights {
    /// The view that kernels take.
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.format, self.rows, self.cols, &self.bytes).expect("encoded from rows x cols values")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_fit_their_format_and_touch_every_edge() {
        for &format in Format::ALL {
            let shapes = awkward_shapes(format);
            assert!(shapes.iter().all(|s| s.cols.is_multiple_of(format.block_len())), "{format}");
            for n in [0, 1, 7, 8, 9, 31, 32, 33] {
                assert!(shapes.iter().any(|s| s.rows == n), "{format}: {n} rows");
                assert!(shapes.iter().any(|s| s.tokens == n), "{format}: {n} tokens");
            }
            for n in [0, 1, 3, 17] {
                assert!(shapes.iter().any(|s| s.cols == n * format.block_len()), "{format}: {n} blocks");
            }
        }
    }

    #[test]
    fn data_is_seeded_centred_and_of_unit_variance() {
        let values = Data::new(1).values(100_000);
        assert_eq!(values, Data::new(1).values(100_000));
        assert_ne!(values, Data::new(2).values(100_000));
        let moment = |p: i32| values.iter().map(|&v| f64::from(v).powi(p)).sum::<f64>() / 1e5;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02, "{} {}", moment(1), moment(2));
        let rising = values.windows(2).filter(|w| w[0] < w[1]).count();
        assert!((49_000..51_000).contains(&rising), "{rising} of 100,000 rise");
        assert!(Data::new(3).outliers(1000).iter().any(|v| v.abs() > 10.0));
    }
}
