//! Matrix products: what an engine makes of both factors, and how far its sums may then be off.

use super::{Activations, Answer, dot_bound, gamma, is_tie};
use crate::oracle::{Fixed, GROUP, Int8, SPAN, dot, widen};
use llama_kernels::Matrix;

/// A matrix product, token-major `[token][row]`.
///
/// # Panics
/// If `x` is not `tokens` times `w.cols()` long.
pub fn matmul(w: &Matrix, x: &[f32], tokens: usize, activations: Activations) -> Answer {
    let tokens: Vec<Factor> = x.chunks(w.cols().max(1)).take(tokens).map(|x| activations.token(x)).collect();
    // Eight roundings beyond the sum's: the activation's scale, the weight's scale and minimum,
    // their product, and the integer sum's conversion.
    let chain = w.cols() + 8;
    let mut expected = vec![0.0; tokens.len() * w.rows()];
    let mut bound = expected.clone();
    let mut decoded = vec![0.0; w.cols()];
    for r in 0..w.rows() {
        w.dequantize_row(r, &mut decoded);
        let row = activations.row(&decoded);
        let sizes = sizes(w, r, &row.values);
        for (t, token) in tokens.iter().enumerate() {
            let terms = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(w, x)| (w * x).abs()).sum::<f64>();
            let doubt = terms(&row.values, &token.doubts) + terms(&row.doubts, &token.values);
            expected[t * w.rows() + r] =
                dot(&row.values, &token.values) - dot(&row.left_out, &token.left_out);
            bound[t * w.rows() + r] =
                dot_bound(chain, terms(&sizes, &token.values)) + (1.0 + gamma(chain)) * doubt;
        }
    }
    Answer { expected, bound }
}

/// What a token, or a row of weights, is multiplied as, and how far that may be off.
struct Factor {
    values: Vec<f64>,
    doubts: Vec<f64>,
    /// Parts of both factors whose products are left out; nothing if there are none.
    left_out: Vec<f64>,
}

impl Factor {
    fn new((values, doubts): (Vec<f64>, Vec<f64>)) -> Factor {
        Factor { values, doubts, left_out: vec![] }
    }

    fn exact(values: Vec<f64>) -> Factor {
        let doubts = vec![0.0; values.len()];
        Factor::new((values, doubts))
    }
}

impl Activations {
    fn token(self, x: &[f32]) -> Factor {
        match self {
            Activations::Float => Factor::exact(widen(x)),
            Activations::Int8 => {
                let int8 = Int8::quantize(x);
                let step = |i: usize| f64::from(int8.scales[i / GROUP]);
                let doubt = |i| if is_tie(x[i], step(i)) { step(i) } else { 0.0 };
                Factor::new((int8.dequantize(), (0..x.len()).map(doubt).collect()))
            }
            Activations::Bf16 => Factor::exact(x.iter().map(|x| bf16(*x).0).collect()),
            Activations::Shorts => Factor::exact(Fixed::shorts(x, GROUP).dequantize()),
            Activations::Fixed => {
                let fixed = Fixed::quantize(x);
                Factor { left_out: fixed.second_bytes(), ..Factor::exact(fixed.dequantize()) }
            }
        }
    }

    fn row(self, weights: &[f32]) -> Factor {
        match self {
            Activations::Shorts => Factor::exact(Fixed::shorts(weights, SPAN).dequantize()),
            Activations::Float | Activations::Int8 => Factor::exact(widen(weights)),
            Activations::Bf16 => Factor::new(weights.iter().map(|w| bf16(*w)).unzip()),
            Activations::Fixed => {
                let fixed = Fixed::of_weights(weights);
                Factor { left_out: fixed.second_bytes(), ..Factor::exact(fixed.dequantize()) }
            }
        }
    }
}

/// What rounding errors of a row's weights are relative to: the weights, or, where a product is made of
/// `d * q - m`, its two parts, which are added up on their own: `|d q| + |m|` is at most `|w| + 2 |m|`.
fn sizes(w: &Matrix, row: usize, weights: &[f64]) -> Vec<f64> {
    let mut parts = vec![0.0; weights.len()];
    w.format().subtrahends(w.rows_bytes(row..row + 1), &mut parts);
    weights.iter().zip(parts).map(|(w, m)| w.abs() + 2.0 * f64::from(m).abs()).collect()
}

/// A value rounded to bf16, to nearest even, and the doubt of it: a unit in the last place where f32
/// arithmetic, a few roundings from the value, may have rounded it to either side.
fn bf16(x: f32) -> (f64, f64) {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    let from_tie = i64::from(bits & 0xffff) - 0x8000;
    let unit = f64::from(f32::from_bits(bits & 0xff80_0000).abs()) * 2f64.powi(-7);
    (f64::from(f32::from_bits(rounded)), if from_tie.abs() <= 8 { unit } else { 0.0 })
}
