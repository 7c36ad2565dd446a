//! The generator behind sampling: xoshiro256++, seeded by splitmix64.
//!
//! Own code, because the same seed must give the same text in every version of this library, which a dependency
//! does not promise. Algorithms by Blackman and Vigna, <https://prng.di.unimi.it>, where they are in the public
//! domain; the tests pin their outputs.

/// A stream of pseudo-random numbers that depends on its seed alone. Not for cryptography.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The generator of a seed; neighbouring seeds give unrelated streams.
    pub(crate) fn new(mut seed: u64) -> Rng {
        Rng { state: std::array::from_fn(|_| splitmix64(&mut seed)) }
    }

    /// Where in its stream it is.
    pub(crate) fn state(&self) -> [u64; 4] {
        self.state
    }

    /// The generator at this place of its stream; not all of it may be zero.
    pub(crate) fn at(state: [u64; 4]) -> Rng {
        Rng { state }
    }

    /// 64 random bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `0.0..1.0`, a multiple of 2^-53.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * 2f64.powi(-53)
    }
}

/// One step of splitmix64, which turns any seed, zero included, into well-mixed state.
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithms_give_their_known_answers() {
        let mut state = 0;
        let seeded = [(); 3].map(|()| splitmix64(&mut state));
        assert_eq!(seeded, [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F]);

        let mut rng = Rng { state: [1, 2, 3, 4] };
        let expected = [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386];
        assert_eq!([(); 4].map(|()| rng.next_u64()), expected);
    }
}
