//! Formats against ggml's own Python package and reference quantizer.
//!
//! `vectors/generate.py` has written down what they make of inputs that a small generator yields here
//! too. A format joins by a line there.

use llama_kernels::Format;

/// For each format: its name, the digest of the values of random blocks, blocks with a zero, a
/// subnormal and a maximal scale, and the digest of their values.
const DEQUANTIZE: &str = include_str!("vectors/dequantize.txt");

/// For each encoder: its name, then either `equal` and the digests of the bytes of Gaussian and of
/// heavy-tailed rows, or `compared` and the reference's mean squared errors on both, without and with
/// importance weights.
const QUANTIZE: &str = include_str!("vectors/quantize.txt");

/// As in the script.
const BLOCKS: usize = 256;
const COLS: usize = 1024;
const ROWS: usize = 8;

/// Knuth's linear congruential generator.
struct Lcg(u64);

impl Lcg {
    fn bits(&mut self, n: u32) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> (64 - n)
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.bits(8) as u8).collect()
    }

    fn gaussian(&mut self) -> f32 {
        let sum: u64 = (0..4).map(|_| self.bits(16)).sum();
        (sum as f32 - 131_070.0) / 32_768.0
    }
}

/// FNV-1a.
fn digest(bytes: impl IntoIterator<Item = u8>) -> String {
    let step = |state: u64, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step))
}

fn digest_values<'a>(values: impl IntoIterator<Item = &'a f32>) -> String {
    digest(values.into_iter().flat_map(|v| v.to_le_bytes()))
}

#[test]
fn values_are_those_of_the_python_package() {
    for &format in Format::ALL {
        let mut lines = DEQUANTIZE.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let line = lines.find(|words| words[0] == format.name());
        let Some(&[_, random, edges, edge_values]) = line.as_deref() else {
            panic!("no vectors of {format}")
        };
        let (len, size) = (format.block_len(), format.block_bytes());

        let bytes = Lcg(format.id().into()).bytes(BLOCKS * size);
        let mut values = vec![0.0; BLOCKS * len];
        format.dequantize(&bytes, &mut values);
        // Blocks whose scale happens to be infinite or no number are left out.
        let finite = values.chunks(len).filter(|block| block.iter().all(|v| v.is_finite()));
        assert_eq!(digest_values(finite.flatten()), random, "{format}: random blocks");

        let hex = |i: usize| u8::from_str_radix(&edges[2 * i..2 * i + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..edges.len() / 2).map(hex).collect();
        let mut values = vec![0.0; bytes.len() / size * len];
        format.dequantize(&bytes, &mut values);
        assert_eq!(digest_values(&values), edge_values, "{format}: extreme scales");
    }
}

/// Gaussian rows, heavy-tailed ones, and an importance for each column.
fn rows() -> ([Vec<f32>; 2], Vec<f32>) {
    let mut lcg = Lcg(1);
    let gaussian: Vec<f32> = (0..ROWS * COLS).map(|_| lcg.gaussian()).collect();
    let importance = (0..COLS).map(|_| (lcg.bits(16) + 1) as f32 / 65536.0).collect();
    let heavy = gaussian.iter().map(|v| v * v * v).collect();
    ([gaussian, heavy], importance)
}

#[test]
fn encoders_are_equal_to_the_python_package_or_no_worse_than_the_reference() {
    let ([gaussian, heavy], importance) = rows();
    let (gaussian, heavy, importance) = (&gaussian[..], &heavy[..], &importance[..]);
    let mut formats = 0;
    for line in QUANTIZE.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let format = Format::from_name(words[0]).unwrap_or_else(|| panic!("no format {}", words[0]));
        let encode = |x: &[f32], importance: Option<&[f32]>| {
            let mut bytes = Vec::new();
            x.chunks(COLS).for_each(|row| format.quantize_weighted(row, importance, &mut bytes));
            bytes
        };
        match words[1..] {
            ["equal", of_gaussian, of_heavy] => {
                assert_eq!(digest(encode(gaussian, None)), of_gaussian, "{format}: Gaussian rows");
                assert_eq!(digest(encode(heavy, None)), of_heavy, "{format}: heavy-tailed rows");
            }
            ["compared", ..] => {
                let cases = [
                    (gaussian, None),
                    (heavy, None),
                    (gaussian, Some(importance)),
                    (heavy, Some(importance)),
                ];
                for ((x, importance), expected) in cases.into_iter().zip(&words[2..]) {
                    let mut values = vec![0.0; x.len()];
                    format.dequantize(&encode(x, importance), &mut values);
                    let square = |i: usize| f64::from(values[i] - x[i]).powi(2);
                    let weight = |i: usize| importance.map_or(1.0, |w| f64::from(w[i % COLS]));
                    let error = (0..x.len()).map(|i| weight(i) * square(i)).sum::<f64>() / x.len() as f64;
                    let ratio = (error / expected.parse::<f64>().unwrap()).sqrt();
                    assert!(ratio <= 1.02, "{format}: {ratio} times the reference's error");
                }
            }
            _ => panic!("neither equal nor compared: {line}"),
        }
        formats += 1;
    }
    assert!(formats >= 12, "{formats} encoders");
}
