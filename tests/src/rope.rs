//! Rotary position embedding (Su et al. 2021) and the ways to stretch it, in f64.

use llama_kernels::Pairs;
use std::f64::consts::PI;

/// How pairs of a head's features turn.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Features of each head that rotate: the first `dims`, an even number.
    pub dims: usize,
    /// Which of them are a pair.
    pub pairs: Pairs,
    /// Pair `i` turns by `base^(-2i/dims)` radians per position.
    pub base: f64,
    /// Multiplies every angle: 1, or 1 / factor with linear scaling (Chen et al. 2023).
    pub scale: f64,
    /// Divisors of the pairs' frequencies (`rope_freqs.weight`), if the model has them.
    pub factors: Option<Vec<f64>>,
    /// What YaRN makes of the scale.
    pub yarn: Option<Yarn>,
}

/// YaRN (Peng et al. 2023), as ggml defines it: pairs that turn often keep their frequency, pairs that turn
/// seldom are scaled, and between them the share changes evenly from pair to pair.
#[derive(Clone, Copy, Debug)]
pub struct Yarn {
    /// Positions that the model was trained for.
    pub original: f64,
    /// How much of the unscaled frequency is kept: 1 is all of what the ramp says.
    pub ext_factor: f64,
    /// Multiplies the magnitude.
    pub attn_factor: f64,
    /// Turns over the original context of the last pair that is not scaled.
    pub beta_fast: f64,
    /// Turns over it of the first pair that is scaled in full.
    pub beta_slow: f64,
}

impl Yarn {
    /// The constants of the paper.
    pub fn new(original: f64) -> Yarn {
        Yarn { original, ext_factor: 1.0, attn_factor: 1.0, beta_fast: 32.0, beta_slow: 1.0 }
    }
}

impl Rope {
    /// Adjacent pairs, nothing scaled.
    pub fn plain(dims: usize, base: f64) -> Rope {
        Rope { dims, pairs: Pairs::Adjacent, base, scale: 1.0, factors: None, yarn: None }
    }

    /// The two features of pair `i`.
    pub fn pair(&self, i: usize) -> [usize; 2] {
        match self.pairs {
            Pairs::Adjacent => [2 * i, 2 * i + 1],
            Pairs::Halves => [i, i + self.dims / 2],
        }
    }

    /// The pair of a feature, if it turns.
    pub fn pair_of(&self, feature: usize) -> Option<usize> {
        (0..self.dims / 2).find(|&i| self.pair(i).contains(&feature))
    }

    /// The angle of pair `i` at a position, in radians.
    pub fn angle(&self, pos: f64, i: usize) -> f64 {
        let divisor = self.factors.as_ref().map_or(1.0, |f| f[i]);
        let whole = pos * self.base.powf(-2.0 * i as f64 / self.dims as f64) / divisor;
        let Some(yarn) = self.yarn else { return whole * self.scale };
        // The pair, as a real number, that turns so often over the original context.
        let pair = |turns: f64| {
            let wavelength = yarn.original / turns;
            self.dims as f64 * (wavelength / (2.0 * PI)).ln() / (2.0 * self.base.ln())
        };
        let first = pair(yarn.beta_fast).floor().max(0.0);
        let last = pair(yarn.beta_slow).ceil().min(self.dims as f64 - 1.0);
        let scaled = ((i as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
        let kept = (1.0 - scaled) * yarn.ext_factor;
        whole * kept + whole * self.scale * (1.0 - kept)
    }

    /// What turned features are multiplied by.
    pub fn magnitude(&self) -> f64 {
        self.yarn.map_or(1.0, |yarn| {
            let grows = yarn.ext_factor != 0.0 && self.scale < 1.0;
            yarn.attn_factor * if grows { 1.0 + 0.1 * (1.0 / self.scale).ln() } else { 1.0 }
        })
    }

    /// Turns the pairs of one head; the features from `dims` on stay.
    pub fn rotate(&self, head: &[f64], pos: usize) -> Vec<f64> {
        let angles: Vec<f64> = (0..self.dims / 2).map(|i| self.angle(pos as f64, i)).collect();
        self.turn(head, &angles, self.magnitude())
    }

    /// Turns the pairs of one head by these angles.
    pub fn turn(&self, head: &[f64], angles: &[f64], magnitude: f64) -> Vec<f64> {
        let mut y = head.to_vec();
        for (i, angle) in angles.iter().enumerate() {
            let ([a, b], (sin, cos)) = (self.pair(i), angle.sin_cos());
            y[a] = magnitude * (head[a] * cos - head[b] * sin);
            y[b] = magnitude * (head[a] * sin + head[b] * cos);
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::FRAC_PI_2;

    #[test]
    fn pairs_of_the_first_dims_turn() {
        let quarter = |pos: f64, scale| Rope { scale, ..Rope::plain(2, 1e4) }.angle(pos, 0);
        assert_eq!((quarter(3.0, 1.0), quarter(3.0, 0.25)), (3.0, 0.75));
        let factors = Some(vec![1.0, 0.1 / 2.0]);
        let rope = Rope { scale: FRAC_PI_2, factors, ..Rope::plain(4, 100.0) };
        let close = |rope: &Rope, expected: [f64; 6]| {
            let found = rope.rotate(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 1);
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12), "{found:?}");
        };
        close(&rope, [-2.0, 1.0, -3.0, -4.0, 5.0, 6.0]); // a quarter turn, a half turn, no turn
        close(&Rope { pairs: Pairs::Halves, ..rope }, [-3.0, -2.0, 1.0, -4.0, 5.0, 6.0]);
    }

    /// Of 64 pairs at base 10,000 and a context of 4,096, those up to the 20th make more than 32 turns
    /// (4096 / 10000^(20/64) / 2 pi = 36.7) and those from the 46th on less than one (0.87).
    #[test]
    fn yarn_scales_what_turns_seldom() {
        let yarn = Some(Yarn::new(4096.0));
        let rope = Rope { scale: 0.125, yarn, ..Rope::plain(128, 1e4) };
        let share = |i: usize| rope.angle(1.0, i) / Rope::plain(128, 1e4).angle(1.0, i);
        assert!((0..=20).all(|i| share(i) == 1.0) && (46..64).all(|i| share(i) == 0.125));
        let half = (20 + 46) / 2;
        assert!((share(half) - (1.0 + 0.125) / 2.0).abs() < 1e-12, "{}", share(half));
        assert!((rope.magnitude() - (1.0 + 0.1 * 8f64.ln())).abs() < 1e-12);
        let off = Rope { yarn: Some(Yarn { ext_factor: 0.0, ..Yarn::new(4096.0) }), ..rope };
        assert_eq!((off.angle(8.0, 0), off.magnitude()), (1.0, 1.0));
    }
}
