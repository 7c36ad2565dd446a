//! What the machine can do at most: loops that do one thing, with the instructions that the kernels have.
//!
//! A ceiling is worth as much as its moment: a shared machine changes its speed from minute to minute. So
//! each of these takes a time, of which some ten milliseconds are enough, and is meant to be called again
//! right before or between the runs that it is put beside. The best of several short runs counts, except
//! for [`clock`], which is there to notice a disturbance.
//!
//! Threads are started for each call and not taken from a [`Cpu`](crate::Cpu).

use crate::format::{Lane, Nothing, Of32};
use crate::runs::RUNS;
use crate::simd::{Kernel, LANES, STRIPE, Simd};
use crate::{default_isa, run_on};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Runs of which the fastest counts, where no time is given.
const REPEATS: usize = 3;

/// Bytes that are read from memory in one go: short enough for a busy machine not to interrupt each.
const SLICE: usize = 64 << 20;

/// Turns of waiting after which others may have the processor.
const SPINS: usize = 1 << 10;

/// A run shorter than this says little; one much longer will be interrupted.
const RUN: Duration = Duration::from_millis(4);

/// Bytes per second at which `threads` threads read memory that no cache holds.
///
/// Memory is read from its beginning, again and again until the time is over. If it is not at least twice
/// as large as the last-level cache, the figure is the cache's.
///
/// # Panics
/// If there are no threads, or the system cannot start them.
pub fn stream(memory: &[u8], threads: usize, time: Duration) -> f64 {
    let isa = default_isa();
    // In one run and in several, with and without the help of prefetches.
    let ways = [(1, 0), (1, 8192), (RUNS, 0), (RUNS, 2048), (RUNS, 4096)].into_iter().cycle();
    let (clock, mut best) = (Instant::now(), 0.0f64);
    for (slice, (runs, ahead)) in memory.chunks(SLICE).cycle().zip(ways) {
        // A rest would be read faster than memory can be.
        if slice.len() == SLICE || memory.len() < SLICE {
            let mut parts: Vec<_> = slice.chunks(slice.len().div_ceil(threads)).collect();
            let seconds = together(&mut parts, |part| {
                match runs {
                    1 => run_on(isa, Read { runs: [*part], ahead }),
                    _ => run_on(isa, Read::<RUNS> { runs: apart(part), ahead }),
                };
            });
            best = best.max(slice.len() as f64 / seconds);
        }
        if clock.elapsed() >= time {
            break;
        }
    }
    best
}

/// Bytes per second, those read and those written, at which `threads` threads copy `bytes` bytes.
pub fn copy(bytes: usize, threads: usize) -> f64 {
    let part = || vec![1u8; bytes / threads];
    let mut parts: Vec<_> = (0..threads).map(|_| (part(), part())).collect();
    2.0 * bytes as f64 / fastest(&mut parts, |(from, to)| to.copy_from_slice(black_box(from)))
}

/// Operations per second, a multiplication and an addition being two, of an ISA's integer dot products on
/// operands in the first-level cache; `None` if this CPU does not have the ISA.
pub fn integer_peak(isa: &str, threads: usize, time: Duration) -> Option<f64> {
    peak(isa, threads, time, |rounds| Integers { rounds })
}

/// Operations per second of an ISA's fused multiply-adds in registers; `None` if this CPU does not have
/// the ISA.
pub fn float_peak(isa: &str, threads: usize, time: Duration) -> Option<f64> {
    let peaks = [
        peak(isa, threads, time / 2, |rounds| Floats::<6> { rounds })?,
        peak(isa, threads, time / 2, |rounds| Floats::<12> { rounds })?,
    ];
    peaks.into_iter().reduce(f64::max)
}

/// Operations per second of an ISA's matrix tiles on operands in the first-level cache; `None` if it has
/// no tiles, or this CPU does not have the ISA.
pub fn tile_peak(isa: &str, threads: usize, time: Duration) -> Option<f64> {
    peak(isa, threads, time, |rounds| Tiles { rounds })
}

/// Operations per second of an ISA's dot products of bfloat16 in vectors, on operands in registers; `None` if its
/// kernels have none, or this CPU does not have the ISA.
pub fn pair_peak(isa: &str, threads: usize, time: Duration) -> Option<f64> {
    peak(isa, threads, time, |rounds| Pairs { rounds })
}

/// Operations per second of an ISA's engine of weights of two bytes in fixed point, on operands in the first-level cache; `None` if
/// it has none, or this CPU does not have the ISA. (Products of bytes of which a product of weights is made count as one.)
pub fn fixed_peak(isa: &str, threads: usize, time: Duration) -> Option<f64> {
    peak(isa, threads, time, |rounds| Fixed { rounds })
}

/// Cycles of a turn of [`clock`]'s loop on a CPU that multiplies in three, as nearly all of today's do.
pub const CYCLES_PER_TURN: u32 = 4;

/// Turns per second of a loop of dependent multiplications, by the slowest of `threads` threads. It does not depend on
/// memory: it changes with the clock, and where others take a thread's core.
///
/// The chain stays in a register. One through memory takes a few cycles or almost none, as the CPU guesses what it
/// will read; and one of additions alone is a sum, which some CPUs and every compiler shorten.
pub fn clock(threads: usize, time: Duration) -> f64 {
    const TURNS: u32 = 4096;
    let mut rates = vec![0.0; threads];
    together(&mut rates, |rate| {
        let (factor, bits) = (black_box(0x9E37_79B9_7F4A_7C15_u64), black_box(0x2545_F491_u64));
        let (clock, mut turns, mut x) = (Instant::now(), 0.0, factor);
        while clock.elapsed() < time {
            for _ in 0..TURNS {
                // Neither may go before the other, so that no two turns become one.
                x = x.wrapping_mul(factor) ^ bits;
            }
            x = black_box(x);
            turns += f64::from(TURNS);
        }
        *rate = turns / clock.elapsed().as_secs_f64();
    });
    rates.into_iter().fold(f64::INFINITY, f64::min)
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

/// Seconds from the first thread's start until all threads, each with its part, have done the work.
///
/// They wait for each other awake, for the system wakes them one after the other; and no thread's own time counts: two
/// that do not run at the same time read memory at the speed of one each, and so, by their own clocks, at twice what
/// both reach together.
fn together<P: Send>(parts: &mut [P], work: impl Fn(&mut P) + Sync) -> f64 {
    let (threads, ready) = (parts.len(), AtomicUsize::new(0));
    let timed = |part: &mut P| {
        ready.fetch_add(1, Ordering::Release);
        let mut turns = 0;
        while ready.load(Ordering::Acquire) < threads {
            turns += 1;
            // There may be fewer processors than threads.
            if turns % SPINS == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let start = Instant::now();
        work(part);
        (start, Instant::now())
    };
    let times: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = parts.iter_mut().map(|part| scope.spawn(|| timed(part))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let start = times.iter().map(|(start, _)| *start).min();
    let end = times.iter().map(|(_, end)| *end).max();
    let seconds = end.zip(start).map(|(end, start)| end.duration_since(start).as_secs_f64());
    seconds.unwrap_or_default().max(1e-9)
}

/// The same for the fastest of some runs.
fn fastest<P: Send>(parts: &mut [P], work: impl Fn(&mut P) + Sync) -> f64 {
    (0..REPEATS).map(|_| together(parts, &work)).fold(f64::INFINITY, f64::min)
}

/// The best rate of a kernel that repeats its loop as often as it is told and returns how many operations
/// that were; `None` if they are none, or there is no such ISA.
fn peak<K: Kernel<Out = f64>>(
    isa: &str,
    threads: usize,
    time: Duration,
    kernel: impl Fn(usize) -> K + Sync,
) -> Option<f64> {
    let (clock, mut rounds, mut best) = (Instant::now(), 16, 0.0f64);
    run_on(isa, kernel(1)).filter(|&operations| operations > 0.0)?;
    loop {
        let mut operations = vec![0.0; threads];
        let seconds = together(&mut operations, |operations| {
            *operations = run_on(isa, kernel(rounds)).unwrap_or_default();
        });
        best = best.max(operations.iter().sum::<f64>() / seconds);
        if clock.elapsed() >= time {
            return Some(best);
        }
        if seconds < RUN.as_secs_f64() / 2.0 {
            rounds *= 2;
        }
    }
}

/// Runs of the same length, far apart.
fn apart<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let len = bytes.len() / N / STRIPE * STRIPE;
    std::array::from_fn(|run| &bytes[run * len..(run + 1) * len])
}

/// Adds up the words of some runs side by side, prefetching `ahead` bytes before they are needed.
#[derive(Clone, Copy)]
struct Read<'a, const N: usize> {
    runs: [&'a [u8]; N],
    ahead: usize,
}

impl<const N: usize> Kernel for Read<'_, N> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let mut sums = [s.splat_i32(0); 4];
        let mut runs = [[].as_slice(); N];
        for (lines, run) in runs.iter_mut().zip(self.runs) {
            *lines = run.as_chunks::<STRIPE>().0.as_chunks::<4>().0;
        }
        for at in 0..runs[0].len() {
            for lines in &runs {
                for (sum, line) in sums.iter_mut().zip(&lines[at]) {
                    if self.ahead > 0 {
                        s.prefetch(line.as_ptr().wrapping_add(self.ahead));
                    }
                    *sum = s.add_i32(*sum, s.load_bytes(line));
                }
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

/// Dot products of 4-bit weights of sixteen rows with the bytes of a tile of tokens.
struct Integers {
    rounds: usize,
}

impl Kernel for Integers {
    type Out = f64;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f64 {
        (2 * self.rounds * s.multiply_bytes(self.rounds)) as f64
    }
}

/// [`Simd::multiply_bytes`] for `P` panels at once and tiles of `MT` tokens.
#[inline(always)]
pub(crate) fn multiply_bytes<S: Simd, const P: usize, const MT: usize>(s: S, rounds: usize) -> usize {
    let (w, x) = ([[[7; STRIPE]; QUADS]; P], [[0x0102_0304; MT]; QUADS]);
    let mut total = [[s.splat_i32(0); MT]; P];
    // With sums of 16 bits the totals are nothing that means anything: they only make each round wait for the one before.
    for _ in 0..rounds {
        total = s.dot_panels::<Lane<4, Of32, Nothing>, P, QUADS, MT>(
            total,
            black_box(&w).each_ref(),
            black_box(&x),
        );
    }
    let mut out = [0; LANES];
    for &total in total.as_flattened() {
        s.store_i32(total, &mut out);
        black_box(&out);
    }
    QUADS * STRIPE * P * MT
}

/// Chains of multiply-adds, `N` of sixteen lanes each.
struct Floats<const N: usize> {
    rounds: usize,
}

impl<const N: usize> Kernel for Floats<N> {
    type Out = f64;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f64 {
        let (half, one) = (s.splat(black_box(0.5)), s.splat(black_box(1.0)));
        let mut x = [one; N];
        for _ in 0..8 * self.rounds {
            for x in &mut x {
                *x = s.fma(*x, half, one);
            }
        }
        let mut out = [0.0; LANES];
        for x in x {
            s.store(x, &mut out);
            black_box(&out);
        }
        (2 * 8 * self.rounds * N * LANES) as f64
    }
}

/// Products of matrix tiles.
struct Tiles {
    rounds: usize,
}

impl Kernel for Tiles {
    type Out = f64;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f64 {
        (2 * self.rounds * s.multiply_tiles(self.rounds)) as f64
    }
}

/// Dot products of pairs of bfloat16.
struct Pairs {
    rounds: usize,
}

impl Kernel for Pairs {
    type Out = f64;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f64 {
        (2 * self.rounds * s.multiply_pairs(self.rounds)) as f64
    }
}

/// Products in fixed point.
struct Fixed {
    rounds: usize,
}

impl Kernel for Fixed {
    type Out = f64;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f64 {
        (2 * self.rounds * s.multiply_fixed(self.rounds)) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::available;

    const SHORT: Duration = Duration::from_millis(2);

    #[test]
    fn every_available_instruction_set_has_its_peaks_and_no_other() {
        for isa in available() {
            for threads in [1, 2] {
                let integer = integer_peak(isa, threads, SHORT).unwrap();
                let float = float_peak(isa, threads, SHORT).unwrap();
                assert!(integer.is_finite() && integer > 1e6 && float.is_finite() && float > 1e6, "{isa}");
            }
            assert_eq!(tile_peak(isa, 1, SHORT).is_some(), isa == "amx", "{isa}");
            assert_eq!(pair_peak(isa, 1, SHORT).is_some(), isa == "avx512bf16", "{isa}");
            let fixed = ["avx2", "avxvnni", "avx512vnni", "avx512bf16", "amx"].contains(&isa);
            assert_eq!(fixed_peak(isa, 1, SHORT).is_some(), fixed, "{isa}");
        }
        assert!(integer_peak("z80", 1, SHORT).is_none() && tile_peak("z80", 1, SHORT).is_none());
    }

    #[test]
    fn memory_of_any_size_is_read_at_some_speed() {
        for len in [1, 1000, SLICE + 1] {
            let rate = stream(&vec![1; len], 2, SHORT);
            assert!(rate.is_finite() && rate > 0.0, "{len} bytes: {rate}");
        }
        assert_eq!(stream(&[], 2, SHORT), 0.0);
    }

    #[test]
    fn the_clock_ticks() {
        for threads in [1, 3] {
            // A busy machine may leave a thread waiting for as long as one of them takes.
            let rate = (0..50)
                .map(|_| clock(threads, SHORT))
                .find(|rate| *rate > 1e6)
                .expect("a million turns a second");
            assert!(rate.is_finite(), "{threads} threads: {rate}");
            // Not even at ten gigahertz is a chain of multiplications faster than this: no turn was left out.
            assert!(rate * f64::from(CYCLES_PER_TURN) < 1e10, "{threads} threads: {rate}");
        }
    }
}
