//! Every encoder against ggml's: the simple ones make the same bytes as the PyPI package `gguf`, the others
//! at most 1.02 times the error of ggml's reference quantizer. `encoders.py` describes and makes
//! `encoders.txt`.

use llama_kernels::Format;

/// As in the script.
const COLS: usize = 1024;
const ROWS: usize = 8;

/// Knuth's linear congruential generator.
struct Lcg(u64);

impl Lcg {
    fn bits(&mut self, n: u32) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> (64 - n)
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

/// Gaussian rows, heavy-tailed ones, and an importance for each column.
fn rows() -> ([Vec<f32>; 2], Vec<f32>) {
    let mut lcg = Lcg(1);
    let gaussian: Vec<f32> = (0..ROWS * COLS).map(|_| lcg.gaussian()).collect();
    let importance = (0..COLS).map(|_| (lcg.bits(16) + 1) as f32 / 65536.0).collect();
    let heavy = gaussian.iter().map(|v| v * v * v).collect();
    ([gaussian, heavy], importance)
}

#[test]
fn encoders_are_equal_to_the_reference_or_no_worse() {
    let ([gaussian, heavy], importance) = rows();
    let (gaussian, heavy, importance) = (&gaussian[..], &heavy[..], &importance[..]);
    let mut formats = Vec::new();
    for line in include_str!("encoders.txt").lines() {
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
        formats.push(format);
    }
    let encoders = Format::ALL.iter().filter(|format| format.is_integer() && format.encodes());
    for format in encoders.filter(|&&format| format != Format::Q8_K) {
        assert!(formats.contains(format), "no line for {format}");
    }
}
