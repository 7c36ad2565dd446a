//! What holds for every format.

use super::*;
use crate::simd::{Kernel, STRIPE};
use std::marker::PhantomData;

/// What `unpack` makes of blocks: for each weight its scale, its integer (the zero point already
/// subtracted) and its minimum.
struct Unpacked<'a, B>(&'a [u8], PhantomData<B>);

impl<B: IntegerBlock> Kernel for Unpacked<'_, B> {
    type Out = Vec<[f32; 3]>;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Self::Out {
        let mut weights = Vec::new();
        for span in B::cast(self.0).chunks_exact(SPAN / B::LEN) {
            let scales = B::scales(s, span);
            let (mut scale, mut min) = ([0.0; LANES], [0.0; LANES]);
            Of::<B>::each16(s, scales.scale, &mut scale);
            if Less::<B>::MINS {
                Of::<B>::each16(s, scales.min, &mut min);
            }
            let mut row = [0; SPAN];
            for pair in 0..2 {
                for (half, q) in B::unpack(s, span, pair).into_iter().enumerate() {
                    let mut bytes = [0; STRIPE];
                    s.store_bytes(q, &mut bytes);
                    for (dword, q) in bytes.as_chunks::<4>().0.iter().enumerate() {
                        row[SPAN / 2 * pair + 4 * Of::<B>::columns(half, dword)..][..4].copy_from_slice(q);
                    }
                }
            }
            for (i, row) in row.as_chunks::<STRIPE>().0.iter().enumerate() {
                let mut bytes = [0; STRIPE];
                s.store_bytes(B::in_order(s, span, i / 2)[i % 2], &mut bytes);
                assert_eq!(&bytes, row, "stripe {i} in the order of the row, on {}", S::NAME);
                if B::Lanes::BITS <= 4 {
                    for (half, q) in B::in_words(s, span, i).into_iter().enumerate() {
                        s.store_bytes(q, &mut bytes);
                        let words = row[32 * half..][..32].iter().flat_map(|&q| [q, 0]);
                        assert!(bytes.into_iter().eq(words), "stripe {i} in words, on {}", S::NAME);
                    }
                }
            }
            weights.extend((0..SPAN).map(|i| {
                let integer = if B::Lanes::BITS == 8 {
                    i32::from(row[i] as i8)
                } else {
                    assert!(row[i] >> B::Lanes::BITS == 0, "{} in {} bits", row[i], B::Lanes::BITS);
                    i32::from(row[i])
                };
                let zero = Less::<B>::ZERO.map_or(0, |zero| 1 << zero);
                [scale[i / 16], (integer - zero) as f32, min[i / 16]]
            }));
        }
        weights
    }
}

/// Compares `unpack` of every integer format with `dequantize`, on random blocks.
pub(crate) fn unpack_agrees_with_dequantize<S: Simd>(s: S) {
    let mut state = 1u64;
    for &format in Format::ALL {
        let bytes: Vec<u8> = (0..256 * format.block_bytes())
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        let unpacked = with_block!(format,
            float _B => continue,
            integer B => s.run(Unpacked::<B>(&bytes, PhantomData))
        );
        let mut expected = vec![0.0; unpacked.len()];
        format.dequantize(&bytes, &mut expected);
        let mut compared = 0;
        for (i, ([scale, q, min], expected)) in unpacked.into_iter().zip(expected).enumerate() {
            // An infinite scale, or none.
            if !expected.is_finite() {
                continue;
            }
            let (found, bound) = (scale * q - min, (scale * q).abs() + min.abs());
            assert!(
                (found - expected).abs() <= 2.0 * f32::EPSILON * bound,
                "{format} on {}: weight {i}: {scale} * {q} - {min} = {found}, expected {expected}",
                S::NAME
            );
            compared += 1;
        }
        assert!(compared > 128 * format.block_len(), "{format}: {compared} weights compared");
    }
}

#[test]
fn sizes_are_those_of_ggml() {
    let expected = [
        ("F32", 1, 4),
        ("F16", 1, 2),
        ("Q4_0", 32, 18),
        ("Q4_1", 32, 20),
        ("Q5_0", 32, 22),
        ("Q5_1", 32, 24),
        ("Q8_0", 32, 34),
        ("Q2_K", 256, 84),
        ("Q3_K", 256, 110),
        ("Q4_K", 256, 144),
        ("Q5_K", 256, 176),
        ("Q6_K", 256, 210),
        ("Q8_K", 256, 292),
        ("IQ2_XXS", 256, 66),
        ("IQ2_XS", 256, 74),
        ("IQ3_XXS", 256, 98),
        ("IQ1_S", 256, 50),
        ("IQ4_NL", 32, 18),
        ("IQ3_S", 256, 110),
        ("IQ2_S", 256, 82),
        ("IQ4_XS", 256, 136),
        ("IQ1_M", 256, 56),
        ("BF16", 1, 2),
        ("TQ1_0", 256, 54),
        ("TQ2_0", 256, 66),
        ("MXFP4", 32, 17),
        ("NVFP4", 64, 36),
        ("Q1_0", 128, 18),
    ];
    assert_eq!(
        expected.map(|(name, ..)| name)[..],
        *Format::ALL.iter().map(|f| f.name()).collect::<Vec<_>>()
    );
    for (name, len, bytes) in expected {
        let format = Format::from_name(name).unwrap();
        assert_eq!((format.block_len(), format.block_bytes()), (len, bytes), "{name}");
        assert_eq!(Format::from_id(format.id()), Some(format));
    }
    assert_eq!(Format::from_id(4), None);
}

#[test]
fn random_rows_have_the_deviation_that_was_asked_for() {
    for &format in Format::ALL.iter().filter(|format| !format.encodes()) {
        for std in [1.0, 1.0 / 64.0, 1.0 / 169.0] {
            let mut state = 1u64;
            let bits = || {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ z >> 31
            };
            let mut row = Vec::new();
            format.random(1 << 18, std, bits, &mut row);
            let mut weights = vec![0.0; 1 << 18];
            format.dequantize(&row, &mut weights);
            let moment = |p: i32| weights.iter().map(|w| f64::from(w / std).powi(p)).sum::<f64>();
            let (mean, deviation) = (moment(1) / 262_144.0, (moment(2) / 262_144.0).sqrt());
            assert!(mean.abs() < 0.01 && (deviation - 1.0).abs() < 0.04, "{format}: {mean}, {deviation}");
        }
    }
}

#[test]
fn row_bytes_rejects_partial_blocks_and_overflow() {
    assert_eq!(Format::Q4_0.row_bytes(64), Some(36));
    assert_eq!(Format::Q4_0.row_bytes(172), None);
    assert_eq!(Format::F32.row_bytes(usize::MAX), None);
}
