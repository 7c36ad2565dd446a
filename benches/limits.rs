//! What the machine can do at most: loops that do one thing, with the instructions that the kernels have.

use llama_kernels::format::Lane;
use llama_kernels::simd::{Kernel, LANES, STRIPE, Simd};
use llama_kernels::{default_isa, run_on};
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Runs of which the fastest counts.
const RUNS: usize = 3;

/// Bytes that are read from memory in one go: short enough for a busy machine not to interrupt each.
const SLICE: usize = 64 << 20;

/// Bytes per second at which `threads` threads read memory that no cache holds.
///
/// # Panics
/// If there is none.
pub fn stream(memory: &[u8], threads: usize) -> f64 {
    let isa = default_isa();
    // With and without the help of prefetches.
    let distances = [0, 4096, 8192].into_iter().cycle();
    let rate = |(slice, ahead): (&[u8], usize)| {
        let mut parts: Vec<_> = slice.chunks(slice.len().div_ceil(threads)).collect();
        let seconds = together(&mut parts, |part| {
            run_on(isa, Read { part, ahead });
        });
        slice.len() as f64 / seconds
    };
    memory.chunks_exact(SLICE).zip(distances).map(rate).reduce(f64::max).expect("memory to read")
}

/// Bytes per second, those read and those written, at which `threads` threads copy `bytes` bytes.
pub fn copy(bytes: usize, threads: usize) -> f64 {
    let part = || vec![1u8; bytes / threads];
    let mut parts: Vec<_> = (0..threads).map(|_| (part(), part())).collect();
    2.0 * bytes as f64 / fastest(&mut parts, |(from, to)| to.copy_from_slice(black_box(from)))
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
        fastest(&mut [0, 1], |&mut me| {
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
fn together<P: Send>(parts: &mut [P], work: impl Fn(&mut P) + Sync) -> f64 {
    let barrier = Barrier::new(parts.len());
    let timed = |part: &mut P| {
        barrier.wait();
        let clock = Instant::now();
        work(part);
        clock.elapsed()
    };
    let slowest = std::thread::scope(|scope| {
        let threads: Vec<_> = parts.iter_mut().map(|part| scope.spawn(|| timed(part))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).max()
    });
    slowest.unwrap_or_default().as_secs_f64()
}

/// The same for the fastest of some runs.
fn fastest<P: Send>(parts: &mut [P], work: impl Fn(&mut P) + Sync) -> f64 {
    (0..RUNS).map(|_| together(parts, &work)).fold(f64::INFINITY, f64::min)
}

/// Repetitions of a peak's inner loop: some tens of milliseconds at a billion a second.
const ROUNDS: usize = 1 << 16;

fn peak<K: Kernel + Copy + Sync>(isa: &str, threads: usize, kernel: K, operations: usize) -> Option<f64> {
    run_on(isa, kernel)?;
    let seconds = fastest(&mut vec![(); threads], |()| {
        run_on(isa, kernel);
    });
    Some((threads * operations) as f64 / seconds)
}

/// Adds up the bytes' words, prefetching `ahead` bytes before they are needed.
#[derive(Clone, Copy)]
struct Read<'a> {
    part: &'a [u8],
    ahead: usize,
}

impl Kernel for Read<'_> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let mut sums = [s.splat_i32(0); 4];
        for lines in self.part.as_chunks::<STRIPE>().0.as_chunks::<4>().0 {
            for (sum, line) in sums.iter_mut().zip(lines) {
                if self.ahead > 0 {
                    s.prefetch(line.as_ptr().wrapping_add(self.ahead));
                }
                *sum = s.add_i32(*sum, s.load_bytes(line));
            }
        }
        let mut out = [0; LANES];
        for sum in sums {
            s.store_i32(sum, &mut out);
            black_box(&out);
        }
    }
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
