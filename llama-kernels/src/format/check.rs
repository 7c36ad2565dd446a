//! What the formats' unit tests share.

use super::{IntegerBlock, Lanes};
use crate::simd::{STRIPE, Scalar, Simd};

/// Blocks of random bytes: `unpack`, in plain Rust, agrees with `dequantize`, and its lanes are in range.
pub(super) fn unpack<B: IntegerBlock>() {
    let mut state = 1u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let bits = <B::Lanes as Lanes>::BITS;
    let mut compared = 0;
    for round in 0..200 {
        let bytes: Vec<u8> = (0..B::UNIT * size_of::<B>()).map(|_| byte()).collect();
        let blocks = B::cast(&bytes);
        let mut expected = vec![0.0; B::UNIT * B::LEN];
        for (block, out) in blocks.iter().zip(expected.chunks_exact_mut(B::LEN)) {
            block.dequantize(out);
        }
        for (i, expected) in expected.as_chunks::<STRIPE>().0.iter().enumerate() {
            let stripe = B::unpack(Scalar, blocks, i);
            let mut lanes = [0; STRIPE];
            Scalar.store_bytes(stripe.q, &mut lanes);
            for (j, (&lane, &expected)) in lanes.iter().zip(expected).enumerate() {
                let q = if bits == 8 { i32::from(lane as i8) } else { i32::from(lane) };
                assert!(bits == 8 || q < 1 << bits, "round {round}, weight {}: lane {q}", i * STRIPE + j);
                let q = (q - B::ZERO.map_or(0, |zero| 1 << zero)) as f32;
                let found = stripe.scale[j / 16] * q;
                let found = if <B::Lanes as Lanes>::MINS { found - stripe.min[j / 16] } else { found };
                // Scales that are no finite number occur among random bytes too.
                if expected.is_finite() {
                    assert_eq!(found, expected, "round {round}, weight {}", i * STRIPE + j);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 150 * B::UNIT * B::LEN);
}
