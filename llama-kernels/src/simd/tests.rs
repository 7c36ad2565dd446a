//! Every instruction set against the scalar definition of its operations, bit for bit.

use super::*;
use crate::format::tests::unpack_agrees_with_dequantize;
use crate::format::{Grouping, Lane, Lanes, Minimum, Nothing, Of16, Of32, Subtrahend, Zero};
use crate::{available, run_on};
use half::bf16;
use std::array::from_fn;
use std::marker::PhantomData;

/// Results of all operations on one set of inputs, as bits.
struct All {
    seed: u64,
}

/// A cheap source of bits.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 29
}

impl Kernel for All {
    type Out = Vec<(&'static str, Vec<u32>)>;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Self::Out {
        let mut state = self.seed;
        let mut floats = || from_fn(|_| (next(&mut state) as i64 % 20001 - 10000) as f32 / 64.0);
        let (a, b): ([f32; LANES], [f32; LANES]) = (floats(), floats());
        let mut bytes = || from_fn(|_| next(&mut state) as u8);
        let (w, mut x): ([u8; STRIPE], [u8; STRIPE]) = (bytes(), bytes());
        x.iter_mut().filter(|x| **x == 128).for_each(|x| *x = 129);
        let small = w.map(|w| w & 63);
        let halves: [u8; 2 * LANES] = from_fn(|i| if i % 2 == 1 { w[i] & 0xbb } else { w[i] });
        let bits = u64::from_le_bytes(from_fn(|i| w[i]));
        let head = SixBitHead::of_bytes(from_fn(|i| if i < 4 { halves[i] } else { w[3 * i] }));
        let (half, _) = w.as_chunks::<32>();
        let (quarter, _) = w.as_chunks::<16>();

        let float = |v| {
            let mut out = [0.0; LANES];
            s.store(v, &mut out);
            out.iter().map(|v| v.to_bits()).collect()
        };
        let eight = |v| {
            let mut out = [0.0; 8];
            s.store8(v, &mut out);
            out.iter().map(|v| v.to_bits()).collect()
        };
        let (a8, b8): ([f32; 8], [f32; 8]) = (from_fn(|i| a[i]), from_fn(|i| b[i]));
        let int = |v| {
            let mut out = [0; LANES];
            s.store_i32(v, &mut out);
            out.iter().map(|v| *v as u32).collect()
        };
        let (fa, fb) = (s.load(&a), s.load(&b));
        let (iw, ix, is) = (s.load_bytes(&w), s.load_bytes(&x), s.load_bytes(&small));
        let mut f16 = [0; 2 * LANES];
        s.store_f16(fa, &mut f16);
        let mut stored = [0; STRIPE];
        s.store_bytes(iw, &mut stored);
        let minus_one = s.splat_i32(-1);
        let negated = s.xor(s.dot_unsigned(minus_one, s.splat_u8(1), ix), minus_one);
        let start = S::SIGNED_ZERO.map_or(s.splat_i32(0), |zero| s.shl_i32(negated, zero));
        vec![
            ("splat", float(s.splat(a[0]))),
            ("add", float(s.add(fa, fb))),
            ("sub", float(s.sub(fa, fb))),
            ("mul", float(s.mul(fa, fb))),
            ("div", float(s.div(fa, fb))),
            ("fma", float(s.fma(s.to_f32(s.splat_i32(3)), s.splat(7.0), fb))),
            ("max", float(s.max(fa, fb))),
            ("min", float(s.min(fa, fb))),
            ("max with NaN on the left", float(s.max(s.splat(f32::NAN), fb))),
            ("max with NaN on the right", float(s.max(fa, s.splat(f32::NAN)))),
            ("min with NaN on the left", float(s.min(s.splat(f32::NAN), fb))),
            ("min with NaN on the right", float(s.min(fa, s.splat(f32::NAN)))),
            ("max of zeros", float(s.max(s.splat(0.0), s.splat(-0.0)))),
            ("min of zeros", float(s.min(s.splat(-0.0), s.splat(0.0)))),
            ("ties", int(s.to_i32(s.mul(s.to_f32(s.to_i32(fa)), s.splat(0.5))))),
            ("abs", float(s.abs(fa))),
            ("swap_pairs", float(s.swap_pairs(fa))),
            ("sum", vec![s.sum(fa).to_bits()]),
            ("sums of four", s.sums([fa, fb, s.add(fa, fb), s.sub(fb, fa)]).map(f32::to_bits).to_vec()),
            ("sums of two", s.sums([fb, fa]).map(f32::to_bits).to_vec()),
            ("max_lane", vec![s.max_lane(fa).to_bits()]),
            ("load_f16", float(s.load_f16(&halves))),
            ("store_f16", f16.iter().map(|b| u32::from(*b)).collect()),
            ("load_bf16", float(s.load_bf16(&halves))),
            ("to_bf16", int(s.to_bf16(fa, fb))),
            ("splat_i32", int(s.splat_i32(-5))),
            ("add_i32", int(s.add_i32(iw, ix))),
            ("shl_i32", int(s.shl_i32(iw, 5))),
            ("to_f32", float(s.to_f32(iw))),
            ("to_i32", int(s.to_i32(fa))),
            ("bit_cast", float(s.bit_cast(s.shl_i32(s.splat_i32(127), 23)))),
            ("bytes", stored.iter().map(|b| u32::from(*b)).collect()),
            ("splat_u8", int(s.splat_u8(200))),
            ("transpose", {
                let lines = from_fn(|i| from_fn(|j| w[(7 * i + j) % STRIPE].wrapping_mul(i as u8 | 1)));
                let mut out = [[1; STRIPE]; 28];
                s.transpose(&lines, &mut out, 8);
                out.iter().flatten().map(|b| u32::from(*b)).collect()
            }),
            ("fours", {
                let rows: [[u8; 40]; LANES] = from_fn(|r| from_fn(|i| w[(7 * r + 3 * i) % STRIPE]));
                s.fours(&rows.each_ref(), 21).into_iter().flat_map(int).collect()
            }),
            ("floats_f16", {
                let words = from_fn(|i| halves[i % 32] ^ (i % 5) as u8 & 0x3b);
                s.floats_f16(s.load_bytes(&words)).into_iter().flat_map(float).collect()
            }),
            ("to_bits", int(s.to_bits(fa))),
            ("dot_bf16", {
                // Integers: exact in whatever order an instruction adds them up.
                let i = |q: usize| s.to_f32(s.widen_i8(&quarter[q]));
                float(s.dot_bf16(s.splat(3.0), s.to_bf16(i(0), i(1)), s.to_bf16(i(2), i(3))))
            }),
            ("dot_shorts", {
                let [a, b] = [s.load_bytes(&w), s.load_bytes(&from_fn(|i| w[(5 * i + 1) % STRIPE]))];
                int(s.dot_shorts(s.splat_i32(7), a, b))
            }),
            ("pack_shorts, sorted", {
                let small = |q: usize| s.widen_i8(&quarter[q]);
                let mut words = int(s.pack_shorts(small(0), small(1)));
                let mut shorts: Vec<u32> = words.drain(..).flat_map(|w| [w & 0xffff, w >> 16]).collect();
                shorts.sort_unstable();
                shorts
            }),
            ("max_shorts", int(s.max_shorts(iw, ix))),
            ("quarters", int(s.quarters([&quarter[0], &quarter[3], &quarter[1], &quarter[2]]))),
            (
                "strided 18, last",
                int(s.strided::<18>(&from_fn(|i| from_fn(|j| w[(18 * i + 3 * j) % STRIPE])), 1)),
            ),
            ("strided 22", int(s.strided::<22>(&from_fn(|i| from_fn(|j| w[(22 * i + 3 * j) % STRIPE])), 0))),
            ("strided 18", int(s.strided::<18>(&from_fn(|i| from_fn(|j| w[(18 * i + 3 * j) % STRIPE])), 0))),
            ("strided 20", int(s.strided::<20>(&from_fn(|i| from_fn(|j| w[(20 * i + 3 * j) % STRIPE])), 1))),
            ("strided 24", int(s.strided::<24>(&from_fn(|i| from_fn(|j| x[(23 * i + j) % STRIPE])), 1))),
            ("regroup, first", int(s.regroup(iw, ix)[0])),
            ("regroup, second", int(s.regroup(iw, ix)[1])),
            ("ungroup, first", int(s.ungroup(iw, ix)[0])),
            ("ungroup, second", int(s.ungroup(iw, ix)[1])),
            ("and", int(s.and(iw, ix))),
            ("or", int(s.or(iw, ix))),
            ("xor", int(s.xor(iw, ix))),
            ("sub_u8", int(s.sub_u8(iw, ix))),
            ("mul_u8", int(s.mul_u8(iw, ix))),
            ("shr_halves", int(s.shr_halves(iw, 2, 5))),
            ("shr_quarters", int(s.and(s.shr_quarters(iw, [0, 3, 1, 4]), s.splat_u8(15)))),
            ("widen_u8", int(s.widen_u8([w[32..].first_chunk().unwrap(), x.first_chunk().unwrap()]))),
            ("bits, to the right", int(s.bits(iw, [0, 4, 1, 3], 0x0d))),
            ("bits, to the left", int(s.bits(iw, [-4, -4, -2, -2], 0x30))),
            ("bits, of both halves", int(s.bits(iw, [4, 4, 2, 2], 15))),
            ("mask", int(s.mask(bits))),
            ("lookup", int(s.lookup(&quarter[2], s.and(iw, s.splat_u8(15))))),
            ("halves", int(s.halves(&half[1], &half[0]))),
            (
                "to_i8",
                int(s.to_i8(
                    [s.mul(fa, s.splat(0.8)), s.mul(fb, s.splat(0.8)), fa, fb]
                        .map(|v| s.max(s.splat(-127.0), s.min(v, s.splat(127.0)))),
                )),
            ),
            ("dot_unsigned", int(s.dot_unsigned(ix, is, ix))),
            ("dot_signed", int(s.dot_signed(start, iw, ix))),
            (
                "words",
                int(s.words(
                    w.as_chunks::<8>()
                        .0
                        .try_into()
                        .map(|x: [[u8; 8]; 8]| x.map(u64::from_le_bytes))
                        .expect("eight words"),
                )),
            ),
            ("widen_i8", int(s.widen_i8(&quarter[1]))),
            ("dot_pair, small", int(s.dot_pair::<Lane<6, Of32, Nothing>>([is, is], [ix, iw]))),
            (
                "dot_span, small",
                int(s.dot_span::<Lane<6, Of32, Nothing>>(iw, [is, is, is, is], [ix, iw, ix, ix])),
            ),
            ("dot_span, smaller", {
                let five = s.and(is, s.splat_u8(31));
                int(s.dot_span::<Lane<5, Of32, Nothing>>(iw, [five, five, five, five], [ix, iw, ix, ix]))
            }),
            ("add_where", int(s.add_where(iw, ix, s.splat_u8(0x24), 16))),
            ("zip4, first", int(s.zip::<4>(iw, ix)[0])),
            ("zip4, second", int(s.zip::<4>(iw, ix)[1])),
            ("eights", {
                let rows = from_fn(|r| from_fn(|i| w[(7 * r + 3 * i) % STRIPE]));
                let all =
                    [s.eights::<0>(&rows), s.eights::<1>(&rows), s.eights::<2>(&rows), s.eights::<3>(&rows)];
                all.into_iter().flat_map(int).collect()
            }),
            ("zip8, first", int(s.zip::<8>(iw, ix)[0])),
            ("zip8, second", int(s.zip::<8>(iw, ix)[1])),
            ("load8, mul8", eight(s.mul8(s.load8(&a8), s.splat8(b[0])))),
            ("fma8", eight(s.fma8(s.splat8(2.0), s.load8(&a8), s.load8(&b8)))),
            ("floats8_i8", eight(s.floats8_i8(bits))),
            ("floats8_f16", eight(s.floats8_f16(from_fn(|i| [halves[2 * i], halves[2 * i + 1]])))),
            (
                "strided8_f16 34",
                eight(s.strided8_f16::<34>(&from_fn(|i| from_fn(|j| halves[(34 * i + j) % 32])))),
            ),
            (
                "strided8_f16 20",
                eight(s.strided8_f16::<20>(&from_fn(|i| from_fn(|j| halves[(20 * i + j) % 32])))),
            ),
            (
                "strided8_f16 18",
                eight(s.strided8_f16::<18>(&from_fn(|i| from_fn(|j| halves[(18 * i + j) % 32])))),
            ),
            (
                "strided8_f16 22",
                eight(s.strided8_f16::<22>(&from_fn(|i| from_fn(|j| halves[(22 * i + j) % 32])))),
            ),
            ("six_bits, scales", eight(s.six_bits(&head)[0])),
            ("six_bits, minimums", eight(s.six_bits(&head)[1])),
            ("splat8_f16", eight(s.splat8_f16([halves[0], halves[1]]))),
            ("half 0", float(s.half::<0>(s.load8(&a8)))),
            ("half 1", float(s.half::<1>(s.load8(&a8)))),
            ("twice", float(s.twice(s.load8(&a8)))),
            ("widen8", float(s.widen8(s.load8(&a8)))),
            ("splat_f16", float(s.splat_f16([halves[0], halves[1]]))),
            ("quarter 0", float(s.quarter::<0>(fa))),
            ("quarter 1", float(s.quarter::<1>(fa))),
            ("quarter 2", float(s.quarter::<2>(fa))),
            ("quarter 3", float(s.quarter::<3>(fa))),
            ("turn", float(s.turn(fa))),
        ]
    }
}

/// Every half-precision number (but NaNs) read, and written back with its last bit's worth around it.
struct Halves;

impl Kernel for Halves {
    type Out = Vec<(u16, u32, [u16; 3])>;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Self::Out {
        let mut out = Vec::new();
        for half in (0..=u16::MAX).filter(|half| half & 0x7fff <= 0x7c00) {
            let mut wide = [0.0; LANES];
            s.store(s.load_f16(&from_fn(|i| half.to_le_bytes()[i % 2])), &mut wide);
            let mut bytes = [0; 2 * LANES];
            // A half of a step up is a tie in normal numbers.
            let steps: [f32; LANES] =
                from_fn(|i| f32::from_bits((wide[0].to_bits()).saturating_add([0, 0xfff, 0x1000][i % 3])));
            s.store_f16(s.load(&steps), &mut bytes);
            out.push((
                half,
                wide[15].to_bits(),
                from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])),
            ));
        }
        out
    }
}

/// Any numbers but NaNs, ties among them, rounded to bfloat16.
struct Rounded {
    seed: u64,
}

impl Kernel for Rounded {
    type Out = Vec<(f32, bf16)>;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Self::Out {
        let (mut state, mut out) = (self.seed, Vec::new());
        for tail in [None, Some(0x7fff), Some(0x8000), Some(0x8001)] {
            let mut x: [f32; 2 * LANES] = from_fn(|i| {
                let bits = next(&mut state) as u32;
                let bits = if i < 4 { (bits & 0x80ff_ffff) | [0x7f00_0000, 0][i % 2] } else { bits };
                f32::from_bits(tail.map_or(bits, |tail| bits & 0xffff_0000 | tail))
            });
            x.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = f32::INFINITY.copysign(*x));
            let (lanes, _) = x.as_chunks::<LANES>();
            let mut bytes = [0; STRIPE];
            s.store_bytes(s.to_bf16(s.load(&lanes[0]), s.load(&lanes[1])), &mut bytes);
            let rounded = bytes.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes));
            out.extend(x.into_iter().zip(rounded));
        }
        out
    }
}

/// Tokens of whole tiles of every instruction set of the architecture.
const TOKENS: usize = if cfg!(target_arch = "x86_64") { 12 } else { 4 };

/// The same with two panels at once.
const FEW: usize = 4;

/// The dot products of a panel of `QUADS` x 4 columns, and of two.
struct Panel<L, const QUADS: usize> {
    w: [[u8; STRIPE]; QUADS],
    x: [[i32; TOKENS]; QUADS],
    lanes: PhantomData<L>,
}

impl<L: Lanes, const QUADS: usize> Panel<L, QUADS> {
    /// Anything within the range of the lanes if `seed` is odd, its ends if it is even.
    fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut pick = |low: i16, high: i16| {
            let (random, ends) = (next(&mut state) as i16, [low, high]);
            let inside = low + random.rem_euclid(high - low + 1);
            (if seed & 1 == 1 { inside } else { ends[usize::from(random & 1 == 1)] }) as u8
        };
        let (low, high) = if L::BITS < 8 { (0, (1 << L::BITS) - 1) } else { (-128, 127) };
        Panel {
            w: from_fn(|_| from_fn(|_| pick(low, high))),
            x: from_fn(|_| from_fn(|_| i32::from_le_bytes(from_fn(|_| pick(-127, 127))))),
            lanes: PhantomData,
        }
    }
}

impl<L: Lanes, const QUADS: usize> Kernel for Panel<L, QUADS> {
    type Out = [[i32; LANES]; TOKENS + 2 * FEW];

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) -> Self::Out {
        let mut start = [s.splat_i32(7); TOKENS];
        let sum = |t: usize| -> i32 {
            self.x.iter().flat_map(|x| x[t].to_le_bytes()).map(|x| i32::from(x as i8)).sum()
        };
        // As the engine does it: a zero point is taken off, and signed weights may become unsigned.
        for (t, start) in start.iter_mut().enumerate() {
            *start = match (L::Less::ZERO, S::SIGNED_ZERO) {
                (Some(zero), _) => s.splat_i32(7 - (sum(t) << zero)),
                (None, Some(zero)) if L::BITS == 8 => s.splat_i32(7 - (sum(t) << zero)),
                _ => *start,
            };
        }
        if let (8, Some(zero)) = (L::BITS, S::SIGNED_ZERO) {
            self.w.as_flattened_mut().iter_mut().for_each(|w| *w = w.wrapping_add(1 << zero));
        }
        let mut other = self.w;
        other.reverse();
        s.arrange_panel(&mut self.w);
        s.arrange_panel(&mut other);
        let mut out = [[0; LANES]; TOKENS + 2 * FEW];
        let (one, two) = out.split_at_mut(TOKENS);
        let dots = s.dot_panel::<L, QUADS, TOKENS>(start, &self.w, &self.x);
        for (&dots, out) in dots.iter().zip(one) {
            s.store_i32(dots, out);
        }
        let (mut few, mut x) = ([s.splat_i32(0); FEW], [[0; FEW]; QUADS]);
        few.copy_from_slice(&start[..FEW]);
        for (few, x) in x.iter_mut().zip(&self.x) {
            few.copy_from_slice(&x[..FEW]);
        }
        let dots = s.dot_panels::<L, 2, QUADS, FEW>([few; 2], [&self.w, &other], &x);
        for (&dots, out) in dots.as_flattened().iter().zip(two) {
            s.store_i32(dots, out);
        }
        out
    }
}

fn check_panels<S: Simd, L: Lanes>(s: S) {
    for seed in 0..200 {
        let name = format!("dot_panel of {} with {} bits, seed {seed}", S::NAME, L::BITS);
        let panel = || Panel::<L, 4>::new(seed);
        assert_eq!(Scalar.run(panel()), s.run(panel()), "{name}");
        if L::Grouping::LEN == 32 {
            let panel = || Panel::<L, 8>::new(seed);
            assert_eq!(Scalar.run(panel()), s.run(panel()), "{name}");
        }
    }
}

/// Checks one instruction set: its operations, and every format's use of them.
struct Check;

impl Kernel for Check {
    type Out = ();

    // Not inlined: the kernels that it runs are compiled with the features, this need not be.
    fn call<S: Simd>(self, s: S) {
        for (expected, found) in Scalar.run(Halves).into_iter().zip(s.run(Halves)) {
            assert_eq!(expected, found, "{}", S::NAME);
        }
        check_panels::<S, Lane<2, Of32, Zero<0>>>(s);
        check_panels::<S, Lane<2, Of16, Minimum>>(s);
        check_panels::<S, Lane<3, Of16, Zero<2>>>(s);
        check_panels::<S, Lane<4, Of32, Zero<3>>>(s);
        check_panels::<S, Lane<4, Of32, Minimum>>(s);
        check_panels::<S, Lane<5, Of32, Zero<4>>>(s);
        check_panels::<S, Lane<5, Of32, Minimum>>(s);
        check_panels::<S, Lane<6, Of16, Zero<5>>>(s);
        check_panels::<S, Lane<8, Of32, Nothing>>(s);
        for (x, found) in (0..200).flat_map(|seed| s.run(Rounded { seed })) {
            let expected = bf16::from_f32(x);
            let zero = x.is_subnormal() && found.to_bits() == expected.to_bits() & 0x8000;
            let right = zero || found.to_bits() == expected.to_bits();
            assert!(right, "{x:e} rounded by {}: {found:e}", S::NAME);
        }
        for seed in 0..200 {
            let expected = Scalar.run(All { seed });
            let found = s.run(All { seed });
            for ((name, expected), (_, found)) in expected.iter().zip(&found) {
                assert_eq!(expected, found, "{} of {}, seed {seed}", name, S::NAME);
            }
        }
        unpack_agrees_with_dequantize(s);
    }
}

#[test]
fn every_instruction_set_of_this_cpu() {
    for isa in available() {
        run_on(isa, Check).expect("it is available");
    }
}
