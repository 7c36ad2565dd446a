//! `gate <- silu(gate) * up`, the activation of the feed-forward layer.

use crate::simd::{Kernel, LANES, Simd, exp::silu};

pub(crate) struct SwiGlu<'a> {
    pub gate: &'a mut [[f32; LANES]],
    pub up: &'a [[f32; LANES]],
}

impl Kernel for SwiGlu<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            s.store(s.mul(silu(s, s.load(gate)), s.load(up)), gate);
        }
    }
}
