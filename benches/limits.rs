//! What the machine can do at most, measured without the kernels.

use llama_kernels::format::Lane;
use llama_kernels::simd::{self, Kernel, LANES, STRIPE, Simd};
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Passes of which the fastest counts.
const PASSES: usize = 3;

/// Bytes per second at which `threads` threads, each with a part of its own, read memory.
pub fn stream(memory: &[u8], threads: usize) -> f64 {
    let parts = memory.chunks(memory.len().div_ceil(threads)).collect();
    let seconds = fastest(parts, |part| {
        let mut sums = [0u64; 16];
        for line in part.as_chunks::<128>().0 {
            for (sum, word) in sums.iter_mut().zip(line.as_chunks().0) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
            }
        }
        black_box(sums);
    });
    memory.len() as f64 / seconds
}

/// Bytes per second, those read and those written, at which `threads` threads copy `bytes` bytes.
pub fn copy(bytes: usize, threads: usize) -> f64 {
    let part = || vec![1u8; bytes / threads];
    let parts = (0..threads).map(|_| (part(), part())).collect();
    2.0 * bytes as f64 / fastest(parts, |(from, to)| to.copy_from_slice(black_box(from)))
}

/// Operations per second of an ISA's integer dot products on operands in the first-level cache;
/// `None` if this function does not know the ISA.
pub fn integer_peak(isa: &str, threads: usize) -> Option<f64> {
    // The tile that fits the registers best counts.
    let peaks = [
        peak(isa, threads, Integers::<3>, Integers::<3>::OPERATIONS)?,
        peak(isa, threads, Integers::<6>, Integers::<6>::OPERATIONS)?,
        peak(isa, threads, Integers::<12>, Integers::<12>::OPERATIONS)?,
    ];
    peaks.into_iter().reduce(f64::max)
}

/// Operations per second of an ISA's fused multiply-adds in registers; `None` if this function does
/// not know the ISA.
pub fn float_peak(isa: &str, threads: usize) -> Option<f64> {
    let peaks = [
        peak(isa, threads, Floats::<6>, Floats::<6>::OPERATIONS)?,
        peak(isa, threads, Floats::<12>, Floats::<12>::OPERATIONS)?,
    ];
    peaks.into_iter().reduce(f64::max)
}

/// Times per second that a cache line goes from one thread to another and back; `None` on one core.
pub fn round_trips(threads: usize) -> Option<f64> {
    const TRIPS: usize = 100_000;
    let turn = AtomicUsize::new(0);
    let seconds = (threads > 1).then(|| {
        fastest(vec![0, 1], |&mut me| {
            let start = turn.load(Ordering::Acquire) / (2 * TRIPS) * (2 * TRIPS);
            for trip in 0..TRIPS {
                let mine = start + 2 * trip + me;
                while turn.load(Ordering::Acquire) != mine {
                    std::hint::spin_loop();
                }
                turn.store(mine + 1, Ordering::Release);
            }
        })
    });
    seconds.map(|seconds| TRIPS as f64 / seconds)
}

/// Seconds until all threads, each with its part, have done the work.
fn fastest<P: Send>(mut parts: Vec<P>, work: impl Fn(&mut P) + Sync) -> f64 {
    let barrier = Barrier::new(parts.len());
    let timed = |part: &mut P| {
        barrier.wait();
        let clock = Instant::now();
        work(part);
        clock.elapsed()
    };
    let mut pass = || -> Option<Duration> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = parts.iter_mut().map(|part| scope.spawn(|| timed(part))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).max()
        })
    };
    (0..PASSES).filter_map(|_| pass()).min().unwrap_or_default().as_secs_f64()
}

/// Repetitions of a peak's inner loop: some tens of milliseconds at a billion a second.
const ROUNDS: usize = 1 << 16;

fn peak<K: Kernel + Copy + Sync>(isa: &str, threads: usize, kernel: K, operations: usize) -> Option<f64> {
    run(isa, kernel)?;
    let seconds = fastest(vec![(); threads], |()| {
        run(isa, kernel);
    });
    Some((threads * operations) as f64 / seconds)
}

/// Runs a kernel on the ISA of this name. An ISA that is missing here has no known ceiling.
fn run<K: Kernel + Copy>(isa: &str, kernel: K) -> Option<K::Out> {
    fn on<S: Simd, K: Kernel>(isa: &str, kernel: K) -> Option<K::Out> {
        (S::NAME == isa).then(S::new).flatten().map(|s| s.run(kernel))
    }
    let out = on::<simd::Scalar, K>(isa, kernel);
    #[cfg(target_arch = "x86_64")]
    let out = out
        .or_else(|| on::<simd::Avx2<false>, K>(isa, kernel))
        .or_else(|| on::<simd::Avx2<true>, K>(isa, kernel))
        .or_else(|| on::<simd::Avx512<false>, K>(isa, kernel))
        .or_else(|| on::<simd::Avx512<true>, K>(isa, kernel));
    out
}

/// Groups of four columns that share a scale.
const QUADS: usize = 8;

/// Dot products of 4-bit weights of sixteen rows with the bytes of `MT` tokens.
#[derive(Clone, Copy)]
struct Integers<const MT: usize>;

impl<const MT: usize> Integers<MT> {
    const OPERATIONS: usize = 2 * ROUNDS * QUADS * STRIPE * MT;
}

impl<const MT: usize> Kernel for Integers<MT> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (w, x) = ([[7; STRIPE]; QUADS], [[0x0102_0304; MT]; QUADS]);
        let mut total = [s.splat_i32(0); MT];
        for _ in 0..ROUNDS {
            let dots = s.dot_panel::<Lane<4, false, false>, QUADS, MT>(black_box(&w), black_box(&x));
            for (total, dot) in total.iter_mut().zip(dots) {
                *total = s.add_i32(*total, dot);
            }
        }
        let mut out = [0; LANES];
        for total in total {
            s.store_i32(total, &mut out);
            black_box(&out);
        }
    }
}

/// Chains of multiply-adds, `N` of sixteen lanes each.
#[derive(Clone, Copy)]
struct Floats<const N: usize>;

impl<const N: usize> Floats<N> {
    const OPERATIONS: usize = 2 * ROUNDS * 8 * N * LANES;
}

impl<const N: usize> Kernel for Floats<N> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (half, one) = (s.splat(black_box(0.5)), s.splat(black_box(1.0)));
        let mut x = [one; N];
        for _ in 0..8 * ROUNDS {
            for x in &mut x {
                *x = s.fma(*x, half, one);
            }
        }
        let mut out = [0.0; LANES];
        for x in x {
            s.store(x, &mut out);
            black_box(&out);
        }
    }
}
