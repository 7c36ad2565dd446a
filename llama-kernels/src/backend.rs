//! Run-time dispatch: one object per instruction set, chosen once.
//!
//! [`available`] is the only list of instruction sets. [`Backend`] has one implementation, for every
//! [`Simd`]; it matches the format of a matrix once per call, outside of [`Simd::run`].

use crate::acts::{Acts, Form, Layout, Span};
use crate::format::{FloatBlock, FloatKind, Format, Grouping, IntegerBlock, Of, with_block};
use crate::matrix::Matrix;
use crate::ops::attention::{Attend, Merge};
use crate::ops::fixed_point::FixedTile;
use crate::ops::floats::Interleave;
use crate::ops::pack::Panel;
use crate::ops::place::Place;
use crate::ops::push::Push;
use crate::ops::quantize::{PairTile, QuantizeRow, QuantizeTile};
use crate::ops::rmsnorm::RmsNorm;
use crate::ops::rope::{Pairs, Rope};
use crate::ops::shift::Shift;
use crate::ops::shorts::Shorts;
use crate::ops::softmax::Softmax;
use crate::ops::swiglu::SwiGlu;
use crate::ops::{floats, gemm, gemv};
use crate::runs::Runs;
use crate::simd::{self, Kernel, LANES, Need, Simd};
use std::marker::PhantomData;

/// The serial kernels of one instruction set.
pub(crate) trait Backend: Send + Sync {
    /// The name that selects it, as in `--isa avx2`.
    fn name(&self) -> &'static str;

    /// Whether it is a good choice on this CPU, and not only a possible one.
    fn preferred(&self) -> bool;

    /// How a batch of many tokens, so many, is prepared for products with these matrices.
    fn layout(&self, weights: &[Matrix<'_>], tokens: usize) -> Layout;

    /// What products with matrices of this format read of a batch in this layout.
    fn form(&self, format: Format, layout: Layout, tokens: usize) -> Form;

    /// Quantizes a part of one token's activations into the layouts of rows that are not empty.
    fn quantize_row(&self, x: &[f32], of16: &mut [Span], of32: &mut [Span]);

    /// Quantizes a tile of tokens, `x[token][cols]`, in a layout of many tokens.
    fn quantize_tile(&self, x: &[f32], cols: usize, layout: Layout, out: &mut [i32]);

    /// Rounds such a tile to bfloat16.
    fn round_tile(&self, x: &[f32], cols: usize, layout: Layout, out: &mut [i32]);

    /// Rounds it to fixed point.
    fn fix_tile(&self, x: &[f32], cols: usize, out: &mut [i32]);

    /// Lays a tile of a few tokens side by side.
    fn interleave(&self, job: Interleave<'_>);

    /// A block of rows of a matrix times all tokens of a batch: `out[16 rows][token][row]`.
    ///
    /// `x` are the activations as they are, `acts` has them in the [`form`](Self::form) that the matrix
    /// wants; its layout decides between GEMV and GEMM. `out` has room for whole tiles.
    fn product(
        &self,
        w: Matrix<'_>,
        runs: &Runs,
        x: &[f32],
        acts: &Acts,
        out: &mut [[f32; LANES]],
        panel: &mut Panel,
    );

    /// Puts a block's results into their places.
    fn place(&self, job: Place<'_>);

    /// Asks for the first lines of weights that few tokens stream through.
    fn begin(&self, w: Matrix<'_>, runs: &Runs);

    /// `out = x / rms(x) * weight`
    fn rmsnorm(&self, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32);

    /// Rotates each head by one position's table (see [`crate::Rotation`]).
    fn rope(&self, heads: &mut [f32], head_dim: usize, table: &[f32], pairs: Pairs);

    /// `gate = silu(gate) * up`
    fn swiglu(&self, gate: &mut [[f32; LANES]], up: &[[f32; LANES]]);

    /// Softmax in place.
    fn softmax(&self, x: &mut [f32]);

    /// Query rows against one chunk of cached positions.
    fn attend(&self, job: Attend<'_>);

    /// Adds a later chunk's record to a running one.
    fn merge(&self, total: &mut [[f32; LANES]], part: &[[f32; LANES]]);

    /// Writes one position's key or value into its block of the cache.
    fn push(&self, job: Push<'_>);

    /// Moves one head's positions within the cache.
    fn shift(&self, job: Shift<'_>);
}

impl<S: Simd> Backend for S {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn preferred(&self) -> bool {
        S::preferred(*self)
    }

    fn layout(&self, weights: &[Matrix<'_>], tokens: usize) -> Layout {
        let rounded = |w: &Matrix<'_>| {
            with_block!(w.format(),
                float B => const { rounded::<S, B>() } && (B::BF16 || tokens >= S::FIXED_FROM),
                integer B => false
            )
        };
        S::layout(tokens, weights.iter().all(rounded))
    }

    fn form(&self, format: Format, layout: Layout, tokens: usize) -> Form {
        with_block!(format,
            float B => match layout {
                Layout::Rows => Form::Floats,
                _ if in_pairs::<S, B>(layout) => match tokens >= S::PAIR_PANELS_FROM && layout != Layout::Pairs {
                    _ if !B::BF16 => Form::Fixed,
                    true => Form::PairColumns,
                    false => Form::Pairs,
                },
                _ if in_shorts::<S, B>(tokens) => Form::Shorts,
                _ if tokens >= S::PANELS_FROM => Form::Columns,
                _ => Form::Floats,
            },
            integer B => match Of::<B>::LEN {
                _ if layout == Layout::Pairs => Form::Pairs,
                16 => Form::Bytes16,
                _ => Form::Bytes32,
            }
        )
    }

    fn quantize_row(&self, x: &[f32], of16: &mut [Span], of32: &mut [Span]) {
        self.run(QuantizeRow { x, of16, of32 });
    }

    fn quantize_tile(&self, x: &[f32], cols: usize, layout: Layout, out: &mut [i32]) {
        self.run(QuantizeTile { x, cols, mt: layout.tile(), out });
    }

    fn round_tile(&self, x: &[f32], cols: usize, layout: Layout, out: &mut [i32]) {
        self.run(PairTile { x, cols, layout, out });
    }

    fn fix_tile(&self, x: &[f32], cols: usize, out: &mut [i32]) {
        self.run(FixedTile { x, cols, out });
    }

    fn interleave(&self, job: Interleave<'_>) {
        self.run(job);
    }

    fn product(
        &self,
        w: Matrix<'_>,
        runs: &Runs,
        x: &[f32],
        acts: &Acts,
        out: &mut [[f32; LANES]],
        panel: &mut Panel,
    ) {
        if acts.streams(w.format()) {
            return with_block!(w.format(),
                float B => for (token, x) in x.chunks_exact(w.cols().max(1)).enumerate() {
                    let job = gemv::Job { w, runs, tokens: acts.tokens, token, out: &mut *out };
                    self.run_streams(gemv::Float::<B> { job, x, block: PhantomData });
                },
                integer B => integer_rows::<S, B>(*self, w, runs, acts, out)
            );
        }
        for (rows, out) in runs.parts(out, acts.tokens.next_multiple_of(acts.layout.tile())) {
            assert!(rows.len() <= acts.layout.rows(), "{} rows, room for {}", rows.len(), acts.layout.rows());
            let job = gemm::Job { w, rows, x, acts, out, panel: &mut *panel };
            with_block!(w.format(),
                float B => if in_pairs::<S, B>(acts.layout) {
                    self.run(GemmPairs::<B>(job, PhantomData));
                } else if in_shorts::<S, B>(acts.tokens) {
                    self.run(GemmShorts::<B>(job, PhantomData));
                } else {
                    self.run_floats(GemmFloat::<B>(job, PhantomData));
                },
                integer B => self.run_tiles(acts.layout, GemmInteger::<B>(job, PhantomData))
            );
        }
    }

    fn place(&self, job: Place<'_>) {
        self.run_floats(job);
    }

    fn begin(&self, w: Matrix<'_>, runs: &Runs) {
        gemv::begin(*self, w, runs);
    }

    fn rmsnorm(&self, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        self.run_floats(RmsNorm { out, x, weight, eps });
    }

    fn rope(&self, heads: &mut [f32], head_dim: usize, table: &[f32], pairs: Pairs) {
        self.run_floats(Rope { heads, head_dim, table, pairs });
    }

    fn swiglu(&self, gate: &mut [[f32; LANES]], up: &[[f32; LANES]]) {
        self.run_floats(SwiGlu { gate, up });
    }

    fn softmax(&self, x: &mut [f32]) {
        self.run_floats(Softmax(x));
    }

    fn attend(&self, job: Attend<'_>) {
        self.run_attention(job);
    }

    fn merge(&self, total: &mut [[f32; LANES]], part: &[[f32; LANES]]) {
        self.run_floats(Merge { total, part });
    }

    fn push(&self, job: Push<'_>) {
        self.run_floats(job);
    }

    fn shift(&self, job: Shift<'_>) {
        self.run_floats(job);
    }
}

/// All tokens, four, two or one at a time. (Eight at once, on Zen 4: 0.8 to 0.9 of the speed of twice four, Q5_K 1.0.)
fn integer_rows<S: Simd, B: IntegerBlock>(
    s: S,
    w: Matrix<'_>,
    runs: &Runs,
    acts: &Acts,
    out: &mut [[f32; LANES]],
) {
    assert_eq!(w.cols(), acts.cols, "columns of the matrix, features of the activations");
    let mut token = 0;
    while let Some(step) = [4, 2, 1].into_iter().find(|step| token + step <= acts.tokens) {
        let job = gemv::Job { w, runs, tokens: acts.tokens, token, out: &mut *out };
        match step {
            4 => some_tokens::<S, B, 4>(s, job, acts),
            2 => some_tokens::<S, B, 2>(s, job, acts),
            _ => some_tokens::<S, B, 1>(s, job, acts),
        }
        token += step;
    }
}

/// `M` tokens.
fn some_tokens<S: Simd, B: IntegerBlock, const M: usize>(s: S, job: gemv::Job<'_>, acts: &Acts) {
    let x = Of::<B>::rows(acts, job.token);
    s.run_rows(gemv::Integer::<B, M> { job, x, block: PhantomData });
}

struct GemmInteger<'a, B>(gemm::Job<'a>, PhantomData<B>);

impl<B: IntegerBlock> Kernel for GemmInteger<'_, B> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        s.gemm_integer::<B>(self.0);
    }
}

/// Whether long enough prompts of a format of floats are multiplied in bfloat16, or in fixed point.
const fn rounded<S: Simd, B: FloatBlock>() -> bool {
    match B::KIND {
        FloatKind::F32 => false,
        FloatKind::F16 => S::FIXED_FROM < usize::MAX,
        FloatKind::BF16 => S::BF16,
    }
}

/// The same for a batch in this layout: where there are matrix tiles, nothing else multiplies bfloat16.
fn in_pairs<S: Simd, B: FloatBlock>(layout: Layout) -> bool {
    let rounded = const { rounded::<S, B>() };
    rounded && layout != Layout::Rows && (layout == Layout::Pairs) == (S::LAYOUT == Layout::Pairs)
}

struct GemmPairs<'a, B>(gemm::Job<'a>, PhantomData<B>);

impl<B: FloatBlock> Kernel for GemmPairs<'_, B> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        s.gemm_pairs::<B>(self.0);
    }
}

/// Whether so many tokens times a format of floats are multiplied in fixed point of 14 bits, if not [in pairs](in_pairs).
fn in_shorts<S: Simd, B: FloatBlock>(tokens: usize) -> bool {
    !matches!(B::KIND, FloatKind::F32) && tokens >= S::SHORTS_FROM
}

struct GemmShorts<'a, B>(gemm::Job<'a>, PhantomData<B>);

impl<B: FloatBlock> Kernel for GemmShorts<'_, B> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let some = const { S::SHORTS_FROM < usize::MAX && !matches!(B::KIND, FloatKind::F32) };
        match const { S::REGISTERS } {
            _ if !some => {}
            // One panel where registers are few.
            ..16 => floats::product::<S, Shorts<B>, 1>(s, self.0),
            _ => floats::product::<S, Shorts<B>, 2>(s, self.0),
        }
    }
}

struct GemmFloat<'a, B>(gemm::Job<'a>, PhantomData<B>);

impl<B: FloatBlock> Kernel for GemmFloat<'_, B> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        s.gemm_float::<B>(self.0);
    }
}

/// A token that lives as long as the program: it has no size, so nothing is leaked.
fn object<S: Simd>() -> Option<&'static dyn Backend> {
    const { assert!(size_of::<S>() == 0) };
    S::new().map(|s| &*Box::leak(Box::new(s)) as &'static dyn Backend)
}

/// An instruction set that this library has kernels for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Isa {
    /// The name that selects it, as in `--isa avx2`.
    pub name: &'static str,
    /// What it is and where it is found.
    pub summary: &'static str,
    /// What it needs; available is what misses none of it.
    pub needs: Vec<Need>,
    /// Whether it is chosen unless another one is named: the last available one of the list.
    pub preferred: bool,
}

impl Isa {
    fn of<S: Simd>() -> Isa {
        Isa { name: S::NAME, summary: S::SUMMARY, needs: S::needs(), preferred: S::NAME == best().name() }
    }

    /// Whether this machine has all that it needs.
    pub fn is_available(&self) -> bool {
        self.needs.iter().all(|need| need.found)
    }
}

/// The only list of instruction sets, the plainest first, the best last (if the CPU prefers it).
macro_rules! registry {
    ($($(#[$only:meta])? $isa:ty,)*) => {
        /// The instruction sets that this CPU has, in the list's order.
        pub(crate) fn available() -> Vec<&'static dyn Backend> {
            let mut all = Vec::new();
            $($(#[$only])? all.extend(object::<$isa>());)*
            all
        }

        /// The instruction sets that the library knows on this architecture, available or not: the
        /// plainest first, the best last.
        pub fn isas() -> Vec<Isa> {
            let mut all = Vec::new();
            $($(#[$only])? all.push(Isa::of::<$isa>());)*
            all
        }

        /// Runs a kernel of one's own on the instruction set with this name, if this CPU has it.
        pub fn run_on<K: Kernel>(isa: &str, kernel: K) -> Option<K::Out> {
            $($(#[$only])? if <$isa>::NAME.eq_ignore_ascii_case(isa) {
                return <$isa>::new().map(|s| s.run(kernel));
            })*
            None
        }
    };
}

registry! {
    simd::Scalar,
    #[cfg(target_arch = "x86_64")] simd::Avx2<false>,
    #[cfg(target_arch = "x86_64")] simd::Avx2<true>,
    #[cfg(target_arch = "x86_64")] simd::Avx512<{ simd::avx512::BASE }>,
    #[cfg(target_arch = "x86_64")] simd::Avx512<{ simd::avx512::VNNI }>,
    #[cfg(target_arch = "x86_64")] simd::Avx512<{ simd::avx512::BF16 }>,
    #[cfg(target_arch = "x86_64")] simd::Avx512<{ simd::avx512::AMX }>,
    #[cfg(target_arch = "aarch64")] simd::Neon<{ simd::neon::BASE }>,
    #[cfg(target_arch = "aarch64")] simd::Neon<{ simd::neon::DOTPROD }>,
    #[cfg(target_arch = "aarch64")] simd::Neon<{ simd::neon::I8MM }>,
}

/// The last of [`available`] that is preferred.
pub(crate) fn best() -> &'static dyn Backend {
    available().into_iter().rfind(|b| b.preferred()).expect("the scalar backend is always available")
}

/// The available instruction set with this name.
pub(crate) fn by_name(name: &str) -> Option<&'static dyn Backend> {
    available().into_iter().find(|b| b.name().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_as_available_is_available_and_the_last_of_it_is_preferred() {
        let listed: Vec<&str> = isas().iter().filter(|isa| isa.is_available()).map(|isa| isa.name).collect();
        assert_eq!(listed, available().iter().map(|b| b.name()).collect::<Vec<_>>());
        let preferred: Vec<&str> = isas().iter().filter(|isa| isa.preferred).map(|isa| isa.name).collect();
        assert_eq!(preferred, [best().name()]);
    }

    #[test]
    fn every_instruction_set_but_the_plainest_says_what_it_needs() {
        for (i, isa) in isas().iter().enumerate() {
            assert_eq!(isa.needs.is_empty(), i == 0, "{isa:?}");
            assert!(!isa.summary.is_empty() && !isa.summary.contains('\n'), "{isa:?}");
            assert!(isas().iter().filter(|other| other.name == isa.name).count() == 1, "{isa:?}");
        }
    }

    #[test]
    fn the_last_preferred_instruction_set_is_chosen() {
        let (all, chosen) = (available(), best().name());
        eprintln!("{chosen} of {:?}", crate::available());
        let at = all.iter().position(|b| b.name() == chosen).unwrap();
        assert!(all[at].preferred() && all[at + 1..].iter().all(|b| !b.preferred()));
        // Those that are not are to be had by name.
        assert!(all.iter().all(|b| by_name(b.name()).is_some()));
    }
}
