//! Every format decodes as the reference does, bit for bit: the PyPI package `gguf`, and ggml itself for
//! the two formats that it lacks. `vectors.py` describes and makes `vectors.txt`.

use llama_kernels::Format;

/// FNV-1a, 64 bits, a float's bits at a time.
fn digest<'a>(weights: impl IntoIterator<Item = &'a f32>) -> String {
    let hash = weights.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, w| {
        (hash ^ u64::from(w.to_bits())).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn decode(format: Format, bytes: &[u8]) -> Vec<f32> {
    let mut weights = vec![0.0; bytes.len() / format.block_bytes() * format.block_len()];
    format.dequantize(bytes, &mut weights);
    weights
}

/// The highest bytes of the states of Knuth's 64-bit linear congruential generator, from 1.
fn random_bytes(n: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..n).map(|_| byte()).collect()
}

#[test]
fn weights_are_those_of_the_reference() {
    for &format in Format::ALL {
        let line =
            include_str!("vectors.txt").lines().find(|line| line.split(' ').next() == Some(format.name()));
        let [_, random, a, b, c, edges] = line.unwrap_or("").split(' ').collect::<Vec<_>>()[..] else {
            panic!("no line for {format}");
        };
        let weights = decode(format, &random_bytes(1000 * format.block_bytes()));
        let blocks = weights.chunks_exact(format.block_len());
        let finite = blocks.filter(|block| block.iter().all(|w| w.is_finite()));
        assert_eq!(digest(finite.flatten()), random, "{format}: random blocks");

        let bytes: Vec<u8> = [a, b, c].concat().as_bytes().chunks(2).map(hex).collect();
        assert_eq!(digest(&decode(format, &bytes)), edges, "{format}: zero, smallest and largest scale");
    }
}

fn hex(digits: &[u8]) -> u8 {
    u8::from_str_radix(str::from_utf8(digits).expect("ASCII"), 16).expect("two hexadecimal digits")
}
