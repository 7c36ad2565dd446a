//! Threads: a private rayon pool, captured once per forward and split many times.
//!
//! A fork-join per matrix product costs 3 to 30 microseconds, a few hundred times per token. So a
//! [`Pool::region`] is one rayon `broadcast`: worker 0 runs the caller's closure as plain sequential
//! code, and the others serve its [`Team::split`]s, which cost a fraction of a microsecond. Waiting is a
//! short bounded spin, then `yield_now`, so that a busy machine is left to others.
//!
//! Each worker has pieces that lie side by side, an equal part of them, and takes them in their order; what reads
//! memory reads it in one long run. Whoever has finished takes the last piece of the worker that has most left: a slow
//! core does less. (Pieces from one counter, in turns: a token's matrices took 1.05 to 1.1 times as long, for each piece
//! began without lines that had been asked for.) Which worker computes a piece never changes its result.

use crate::placement::Placement;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Turns of the spin loop before a waiting thread yields: some ten microseconds.
const SPINS: u32 = 256;

/// The threads of one `Cpu`.
pub(crate) struct Pool {
    /// None with one thread that may run anywhere, when the caller's own does the work.
    rayon: Option<ThreadPool>,
    threads: usize,
    /// Regions take turns.
    turn: Mutex<()>,
}

/// Locks, also after a panic elsewhere: what these mutexes guard is valid at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(crate) fn new(threads: usize, placement: Placement) -> Result<Pool, ThreadPoolBuildError> {
        // The caller's own thread is not ours to place.
        let rayon = if threads > 1 || !placement.is_plain() {
            let name = |i| format!("llama-{i}");
            let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(name);
            Some(pool.start_handler(move |worker| placement.apply(worker)).build()?)
        } else {
            None
        };
        Ok(Pool { rayon, threads: threads.max(1), turn: Mutex::new(()) })
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `graph` with all of the pool's threads at its service.
    ///
    /// # Panics
    /// If `graph` or one of its pieces does: the other threads are released first.
    pub(crate) fn region<R: Send>(&self, graph: impl FnOnce(&Team) -> R + Send) -> R {
        let _turn = lock(&self.turn);
        let team = Team::new(self.threads);
        let Some(rayon) = &self.rayon else { return graph(&team) };
        let graph = Mutex::new(Some(graph));
        let result = Mutex::new(None);
        rayon.broadcast(|worker| {
            if worker.index() > 0 {
                return team.serve(worker.index());
            }
            let _dismiss = Dismiss(&team);
            if let Some(graph) = lock(&graph).take() {
                let value = graph(&team);
                *lock(&result) = Some(value);
            }
        });
        result.into_inner().unwrap_or_else(PoisonError::into_inner).expect("worker 0 has run the graph")
    }
}

/// Sends the serving workers home, also when the graph panics.
struct Dismiss<'a>(&'a Team);

impl Drop for Dismiss<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// What the workers are to do: a function of the worker and the piece.
type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A value on a cache line of its own.
#[repr(align(128))]
struct Line<T>(T);

/// Pieces that lie side by side: the first and the one after the last, in the halves of a word.
#[derive(Default)]
struct Left(AtomicU64);

impl Left {
    fn put(&self, pieces: Range<usize>) {
        let half = |piece: usize| u64::from(u32::try_from(piece).expect("pieces are few"));
        self.0.store(half(pieces.start) << 32 | half(pieces.end), Ordering::Relaxed);
    }

    fn range(word: u64) -> Range<u32> {
        (word >> 32) as u32..word as u32
    }

    fn len(&self) -> usize {
        Left::range(self.0.load(Ordering::Relaxed)).len()
    }

    /// Takes the first one.
    fn first(&self) -> Option<usize> {
        self.take(|word| word + (1 << 32)).map(|left| left.start as usize)
    }

    /// Takes the last one.
    fn last(&self) -> Option<usize> {
        self.take(|word| word - 1).map(|left| left.end as usize - 1)
    }

    /// What was left before one of it was taken.
    fn take(&self, one: impl Fn(u64) -> u64) -> Option<Range<u32>> {
        let some = |word| (!Left::range(word).is_empty()).then(|| one(word));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, some).ok().map(Left::range)
    }
}

/// The workers of one region.
pub(crate) struct Team {
    threads: usize,
    /// Bumped when work is published.
    epoch: Line<AtomicUsize>,
    /// What each worker has left.
    left: Vec<Line<Left>>,
    /// Workers that have not finished this epoch's work.
    busy: Line<AtomicUsize>,
    done: AtomicBool,
    /// Whether the time of the pieces is taken.
    clocked: AtomicBool,
    /// Nanoseconds that the workers spent in pieces, all together.
    worked: Line<AtomicU64>,
    work: Mutex<Option<&'static Work<'static>>>,
    /// The first panic of a piece.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Team {
    fn new(threads: usize) -> Team {
        Team {
            threads,
            epoch: Line(AtomicUsize::new(0)),
            left: (0..threads).map(|_| Line(Left::default())).collect(),
            busy: Line(AtomicUsize::new(0)),
            done: AtomicBool::new(false),
            clocked: AtomicBool::new(false),
            worked: Line(AtomicU64::new(0)),
            work: Mutex::new(None),
            panic: Mutex::new(None),
        }
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// From now on the time of the pieces is taken. Only the region's own thread calls it.
    pub(crate) fn take_time(&self) {
        self.clocked.store(true, Ordering::Relaxed);
    }

    /// The time that the workers spent in pieces, all together, since it is taken.
    pub(crate) fn worked(&self) -> Duration {
        Duration::from_nanos(self.worked.0.load(Ordering::Relaxed))
    }

    /// Calls `work(worker, piece)` once for each piece in `0..pieces`, on all workers, and returns when
    /// all are done. Only the region's own thread calls it.
    ///
    /// # Panics
    /// If a piece does, after all workers have stopped.
    pub(crate) fn split(&self, pieces: usize, work: &Work<'_>) {
        if self.threads == 1 || pieces <= 1 {
            return self.clock(|| (0..pieces).for_each(|piece| work(0, piece)));
        }
        // SAFETY: the lifetime is erased only until `wait` is dropped, at the end of this function or
        // while it unwinds: its drop returns when no worker can call `work` any more.
        let erased = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        *lock(&self.work) = Some(erased);
        for (worker, Line(left)) in self.left.iter().enumerate() {
            left.put(worker * pieces / self.threads..(worker + 1) * pieces / self.threads);
        }
        self.busy.0.store(self.threads - 1, Ordering::Relaxed);
        self.epoch.0.fetch_add(1, Ordering::Release);
        let wait = Wait(self);
        self.claim(0, work);
        drop(wait);
        if let Some(panic) = lock(&self.panic).take() {
            resume_unwind(panic);
        }
    }

    fn claim(&self, worker: usize, work: &Work<'_>) {
        self.clock(|| {
            while let Some(piece) = self.left[worker].0.first() {
                work(worker, piece);
            }
            let most = || self.left.iter().map(|Line(left)| left).max_by_key(|left| left.len());
            while let Some(left) = most().filter(|left| left.len() > 0) {
                // Another one may have been faster.
                if let Some(piece) = left.last() {
                    work(worker, piece);
                }
            }
        });
    }

    /// Nothing more is claimed.
    fn stop(&self) {
        self.left.iter().for_each(|Line(left)| left.put(0..0));
    }

    /// Runs some pieces, and takes their time if that is wanted: once a worker and split, not once a piece.
    fn clock(&self, pieces: impl FnOnce()) {
        let clock = self.clocked.load(Ordering::Relaxed).then(Instant::now);
        pieces();
        if let Some(clock) = clock {
            self.worked.0.fetch_add(clock.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// The life of every worker but the first.
    fn serve(&self, worker: usize) {
        let mut seen = 0;
        loop {
            wait_until(|| self.epoch.0.load(Ordering::Acquire) != seen || self.done.load(Ordering::Acquire));
            let epoch = self.epoch.0.load(Ordering::Acquire);
            if epoch == seen {
                return;
            }
            seen = epoch;
            let work = *lock(&self.work);
            if let Some(work) = work
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.claim(worker, work)))
            {
                self.stop();
                lock(&self.panic).get_or_insert(panic);
            }
            self.busy.0.fetch_sub(1, Ordering::Release);
        }
    }
}

/// Returns from its drop when no worker is busy.
struct Wait<'a>(&'a Team);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let team = self.0;
        if std::thread::panicking() {
            team.stop();
        }
        wait_until(|| team.busy.0.load(Ordering::Acquire) == 0);
        *lock(&team.work) = None;
    }
}

fn wait_until(ready: impl Fn() -> bool) {
    for _ in 0..SPINS {
        if ready() {
            return;
        }
        std::hint::spin_loop();
    }
    while !ready() {
        // Never a rayon call: that could run another session's region on this worker.
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads, Placement::default()).unwrap();
            for pieces in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                pool.region(|team| {
                    for _ in 0..50 {
                        team.split(pieces, &|_, i| {
                            counts[i].fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 50));
            }
        }
    }

    #[test]
    fn what_a_slow_worker_has_left_is_done_by_the_others() {
        const PIECES: usize = 64;
        for threads in [2, 3] {
            let (pool, done) = (Pool::new(threads, Placement::default()).unwrap(), AtomicUsize::new(0));
            let start = Instant::now();
            // The first worker's first piece takes until all others are done.
            let all_others = |i: usize| i != 0 || done.load(Ordering::Acquire) == PIECES - 1;
            pool.region(|team| {
                team.split(PIECES, &|_, i| {
                    while !all_others(i) && start.elapsed() < Duration::from_secs(60) {
                        std::thread::yield_now();
                    }
                    assert!(all_others(i), "{} of {PIECES} pieces are done", done.load(Ordering::Acquire));
                    done.fetch_add(1, Ordering::Release);
                });
            });
        }
    }

    #[test]
    fn a_panic_in_a_piece_reaches_the_caller_and_the_pool_lives_on() {
        for threads in [1, 3] {
            let pool = Pool::new(threads, Placement::default()).unwrap();
            for bad in [0, 1, 63] {
                let caught = catch_unwind(AssertUnwindSafe(|| {
                    pool.region(|team| team.split(64, &|_, i| assert!(i != bad, "piece {bad}")));
                }));
                assert!(caught.is_err());
            }
            let caught = catch_unwind(AssertUnwindSafe(|| pool.region(|_| panic!("graph"))));
            assert!(caught.is_err());
            assert_eq!(pool.region(|team| team.threads()), threads);
        }
    }

    #[test]
    fn the_time_of_pieces_is_taken_only_if_that_is_wanted() {
        const PIECE: Duration = Duration::from_millis(1);
        for threads in [1, 3] {
            let pool = Pool::new(threads, Placement::default()).unwrap();
            let worked = |wanted: bool, pieces| {
                pool.region(|team| {
                    if wanted {
                        team.take_time();
                    }
                    team.split(pieces, &|_, _| std::thread::sleep(PIECE));
                    team.worked()
                })
            };
            assert_eq!(worked(false, 4), Duration::ZERO);
            assert!(worked(true, 1) >= PIECE && worked(true, 6) >= 6 * PIECE);
        }
    }

    #[test]
    fn two_callers_take_turns() {
        let pool = Pool::new(2, Placement::default()).unwrap();
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        pool.region(|team| {
                            team.split(10, &|_, i| {
                                sum.fetch_add(i, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 20 * 45);
    }
}
