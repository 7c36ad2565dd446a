//! The parallel operations that a graph calls: how the work of each is cut and dealt out.
//!
//! Activations are token-major between operations: `[token][feature]`. Every output element is
//! computed whole by one worker, in an order that does not depend on the number of workers.

mod attention;
mod beside;
mod cut;
mod experts;
mod heads;
mod options;
mod parts;
pub mod profile;
mod shift;

pub use self::options::{CpuError, CpuOptions};

use self::attention::{Attention, Rows};
use self::cut::Cut;
use self::parts::Parts;
use self::profile::{Profile, Work};
use crate::acts::{Acts, Form, GROUP, Layout, PAIR_TOKENS, spans};
use crate::backend::{self, Backend};
use crate::buffer::Buffer;
use crate::kv::{KvLayer, KvShape};
use crate::matrix::Matrix;
use crate::ops::fixed_point::SHORT_WORDS;
use crate::ops::floats::{self, Interleave};
use crate::ops::pack::Panel;
use crate::ops::place::{Epilogue, Place};
use crate::ops::push::{Push, Role};
use crate::ops::rope::Pairs;
use crate::placement::Placement;
use crate::simd::{LANES, SPAN};
use crate::team::{Pool, Team};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads and an instruction set: what a model runs on. Sessions may share one; they take turns.
pub struct Cpu {
    pool: Pool,
    backend: &'static dyn Backend,
    workers: Vec<Mutex<Worker>>,
    shared: Mutex<Shared>,
    /// What operations cost, while that is recorded.
    profile: Mutex<Option<Profile>>,
    placement: Placement,
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cpu")
            .field("isa", &self.isa())
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

impl Cpu {
    /// More threads than any machine has.
    pub const MAX_THREADS: usize = 1024;

    /// Batches of up to this many tokens go through kernels that read each row of weights where it lies;
    /// larger ones through kernels that unpack panels of rows.
    pub const FEW_TOKENS: usize = Acts::ROWS_MAX;

    /// Starts the threads.
    ///
    /// # Errors
    /// If the thread count or the instruction set is not to be had.
    pub fn new(options: &CpuOptions) -> Result<Cpu, CpuError> {
        let threads = options.threads.unwrap_or_else(crate::default_threads);
        if threads == 0 || threads > Self::MAX_THREADS {
            return Err(CpuError::Threads(threads));
        }
        let backend = match &options.isa {
            None => backend::best(),
            Some(name) => backend::by_name(name).ok_or_else(|| CpuError::Isa(name.clone()))?,
        };
        let placement = options.placement(threads);
        let pool = Pool::new(threads, placement.clone()).map_err(|e| CpuError::Pool(e.to_string()))?;
        let workers = (0..threads).map(|_| Mutex::default()).collect();
        Ok(Cpu { pool, backend, workers, shared: Mutex::default(), profile: Mutex::default(), placement })
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Name of the instruction set in use.
    pub fn isa(&self) -> &'static str {
        self.backend.name()
    }

    /// Runs a graph of operations with all threads at its service. With `deterministic`, every batch
    /// size uses the same kernels and the same order of summation.
    ///
    /// # Panics
    /// If `graph` does.
    pub fn region<R: Send>(&self, deterministic: bool, graph: impl FnOnce(&Ops<'_>) -> R + Send) -> R {
        let profile = lock(&self.profile).is_some().then_some(&self.profile);
        self.pool.region(|team| {
            if profile.is_some() {
                team.take_time();
            }
            graph(&Ops { team, cpu: self, deterministic, profile })
        })
    }

    /// Bytes of scratch that batches of `tokens` tokens with at most `cols` features make a `Cpu` hold.
    pub fn scratch_size(threads: usize, tokens: usize, cols: usize) -> usize {
        let tile = (tokens + PAIR_TOKENS) * Layout::Pairs.rows() * 4;
        threads * (Panel::SIZE + 2 * tile) + Acts::size(tokens, cols)
    }

    /// Bytes of scratch that attention of `heads` heads to such a cache makes a `Cpu` hold, for batches
    /// of up to `tokens` tokens.
    pub fn attention_size(threads: usize, tokens: usize, heads: usize, kv: &KvShape) -> usize {
        attention::scratch_size(threads, tokens, heads, kv)
    }
}

/// One worker's scratch.
#[derive(Default)]
struct Worker {
    panel: Panel,
    tile: Buffer<[f32; LANES]>,
    other: Buffer<[f32; LANES]>,
    rows: Rows,
}

/// What the workers of a region share.
struct Shared {
    acts: Acts,
    records: Buffer<[f32; LANES]>,
}

impl Default for Shared {
    fn default() -> Self {
        Shared { acts: Acts::new(), records: Buffer::new(0) }
    }
}

/// Scratch is valid whatever a panic left in it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The operations, within a [region](Cpu::region).
pub struct Ops<'a> {
    team: &'a Team,
    cpu: &'a Cpu,
    deterministic: bool,
    /// Where operations are recorded, if they are.
    profile: Option<&'a Mutex<Option<Profile>>>,
}

impl Ops<'_> {
    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// `out[t] = row tokens[t] of the table`, decoded.
    ///
    /// # Panics
    /// If a token is no row of the table, or `out` is not `tokens x table.cols()`.
    pub fn embed(&self, out: &mut [f32], table: Matrix<'_>, tokens: &[u32]) {
        assert_eq!(out.len(), tokens.len() * table.cols(), "one row a token");
        let _span = self.span(|| Work::embedding(table, tokens.len()));
        let (out, cols) = (Parts::new(out), table.cols());
        self.team.split(tokens.len(), &|_, t| {
            // SAFETY: each piece writes the row of its own token.
            let out = unsafe { out.part(t * cols..(t + 1) * cols) };
            table.dequantize_row(tokens[t] as usize, out);
        });
    }

    /// `out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight`
    ///
    /// # Panics
    /// If `out` and `x` are not of the same length, a multiple of `weight`'s.
    pub fn rmsnorm(&self, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let d = weight.len();
        assert!(
            out.len() == x.len() && d > 0 && x.len().is_multiple_of(d),
            "{} features, weights for {d}",
            x.len()
        );
        let _span = self.span(|| Work::rmsnorm(x.len()));
        let out = Parts::new(out);
        self.team.split(x.len() / d, &|_, t| {
            // SAFETY: each piece writes the row of its own token.
            let out = unsafe { out.part(t * d..(t + 1) * d) };
            self.cpu.backend.rmsnorm(out, &x[t * d..(t + 1) * d], weight, eps);
        });
    }

    /// `out[t] = [w x[t] for w in weights]`, the products of all matrices side by side.
    ///
    /// # Panics
    /// If the matrices have different columns, or the lengths of `x` and `out` do not fit them.
    pub fn matmul(&self, out: &mut [f32], weights: &[Matrix<'_>], x: &[f32]) {
        self.product(out, weights, x, Epilogue::Store);
    }

    /// `out[t] += w x[t]`
    ///
    /// # Panics
    /// As [`matmul`](Self::matmul).
    pub fn matmul_add(&self, out: &mut [f32], w: Matrix<'_>, x: &[f32]) {
        self.product(out, &[w], x, Epilogue::Add);
    }

    fn product(&self, out: &mut [f32], weights: &[Matrix<'_>], x: &[f32], epilogue: Epilogue) {
        let Some((cols, tokens)) = batch(weights, x) else { return };
        let features: usize = weights.iter().map(Matrix::rows).sum();
        assert_eq!(out.len(), tokens * features, "{tokens} tokens of {features} features");
        let mut shared = lock(&self.cpu.shared);
        let acts = &mut shared.acts;
        self.prepare(acts, weights, x, cols, tokens);
        let _span = self.span(|| Work::matmul(weights, tokens, acts.layout));
        let (acts, out, cut) = (&*acts, Parts::new(out), Cut::new(weights, acts, self.threads()));
        let padded = tokens.next_multiple_of(acts.layout.tile());
        self.team.split(cut.pieces(), &|worker, piece| {
            let Worker { panel, tile, .. } = &mut *lock(&self.cpu.workers[worker]);
            self.begin(&cut, weights, acts, piece);
            for (w, runs, column) in cut.blocks(weights, piece) {
                let tile = tile.room(runs.lines(padded));
                self.cpu.backend.product(w, &runs, x, acts, tile, panel);
                for (rows, tile) in runs.parts(tile, padded) {
                    // SAFETY: blocks are disjoint ranges of columns.
                    let out = unsafe { out.strided(column + rows.start, features, rows.len(), tokens) };
                    self.cpu.backend.place(Place { tile, turned: acts.turned, out, epilogue });
                }
            }
        });
    }

    /// `out[t] = silu(gate x[t]) * (up x[t])`
    ///
    /// # Panics
    /// If the matrices are not of the same shape, or the lengths of `x` and `out` do not fit them.
    pub fn swiglu(&self, out: &mut [f32], gate: Matrix<'_>, up: Matrix<'_>, x: &[f32]) {
        let Some((cols, tokens)) = batch(&[gate, up], x) else { return };
        let features = gate.rows();
        assert!(
            up.rows() == features && out.len() == tokens * features,
            "{tokens} tokens of {features} features"
        );
        let mut shared = lock(&self.cpu.shared);
        let acts = &mut shared.acts;
        self.prepare(acts, &[gate, up], x, cols, tokens);
        let _span = self.span(|| Work::swiglu(gate, up, tokens, acts.layout));
        let (acts, out, cut) = (&*acts, Parts::new(out), Cut::new(&[gate], acts, self.threads()));
        let padded = tokens.next_multiple_of(acts.layout.tile());
        self.team.split(cut.pieces(), &|worker, piece| {
            let Worker { panel, tile, other, .. } = &mut *lock(&self.cpu.workers[worker]);
            self.begin(&cut, &[gate], acts, piece);
            self.begin(&cut, &[up], acts, piece);
            for (_, runs, column) in cut.blocks(&[gate], piece) {
                let (tile, other) = (tile.room(runs.lines(padded)), other.room(runs.lines(padded)));
                self.cpu.backend.product(gate, &runs, x, acts, tile, panel);
                self.cpu.backend.product(up, &runs, x, acts, other, panel);
                self.cpu.backend.swiglu(tile, other);
                for (rows, tile) in runs.parts(tile, padded) {
                    // SAFETY: blocks are disjoint ranges of columns.
                    let out = unsafe { out.strided(column + rows.start, features, rows.len(), tokens) };
                    let epilogue = Epilogue::Store;
                    self.cpu.backend.place(Place { tile, turned: acts.turned, out, epilogue });
                }
            }
        });
    }

    /// Asks for the first lines of a piece that few tokens stream through.
    fn begin(&self, cut: &Cut, weights: &[Matrix<'_>], acts: &Acts, piece: usize) {
        if acts.layout == Layout::Rows
            && let Some((w, runs, _)) = cut.blocks(weights, piece).next()
        {
            self.cpu.backend.begin(w, &runs);
        }
    }

    /// Chooses the layout for a batch, and prepares it if one of the matrices wants that.
    fn prepare(&self, acts: &mut Acts, weights: &[Matrix<'_>], x: &[f32], cols: usize, tokens: usize) {
        let backend = self.cpu.backend;
        let rows = self.deterministic || tokens <= Acts::ROWS_MAX;
        let layout = if rows { Layout::Rows } else { backend.layout(weights, tokens) };
        let wanted = |form| weights.iter().any(|w| backend.form(w.format(), layout, tokens) == form);
        acts.reshape(tokens, cols, layout, wanted);
        acts.alone = self.deterministic;
        let in_tiles =
            |w: &Matrix<'_>| matches!(backend.form(w.format(), layout, tokens), Form::Pairs | Form::Fixed);
        acts.turned = layout == Layout::Pairs && weights.iter().all(in_tiles);
        let tile = layout.tile() * cols;
        let bytes = wanted(Form::Bytes16) || wanted(Form::Bytes32);
        let side_by_side = [Form::Columns, Form::PairColumns, Form::Shorts];
        if !bytes && !wanted(Form::Pairs) && !wanted(Form::Fixed) && !side_by_side.into_iter().any(wanted) {
            return;
        }
        let _span = self.span(|| Work::quantize(x.len()));
        if bytes && layout == Layout::Rows {
            // A token's spans are few, and so are the tokens: each thread takes a part.
            let n = spans(cols);
            let part = n.div_ceil(self.threads().div_ceil(tokens.max(1)));
            let parts = n.div_ceil(part);
            let (all16, all32) = (wanted(Form::Bytes16), wanted(Form::Bytes32));
            let (of16, of32) = (Parts::new(&mut acts.spans16), Parts::new(&mut acts.spans32));
            self.team.split(tokens * parts, &|_, piece| {
                let (t, first) = (piece / parts, piece % parts * part);
                let end = n.min(first + part);
                let x = &x[t * cols + first * SPAN..t * cols + cols.min(end * SPAN)];
                let range = |wanted| if wanted { t * n + first..t * n + end } else { 0..0 };
                // SAFETY: each piece writes its own spans.
                let (of16, of32) = unsafe { (of16.part(range(all16)), of32.part(range(all32))) };
                backend.quantize_row(x, of16, of32);
            });
        } else if bytes {
            let words = layout.tile_words(cols);
            self.each_tile(&mut acts.tiles, words, x, tile, |x, out| {
                backend.quantize_tile(x, cols, layout, out)
            });
        }
        if wanted(Form::Pairs) {
            let words = layout.pair_words(cols);
            self.each_tile(&mut acts.pairs, words, x, tile, |x, out| {
                backend.round_tile(x, cols, layout, out)
            });
        }
        if wanted(Form::Fixed) {
            let words = layout.fixed_words(cols);
            self.each_tile(&mut acts.fixed, words, x, tile, |x, out| backend.fix_tile(x, cols, out));
        }
        for form in side_by_side {
            if !wanted(form) {
                continue;
            }
            let (words, row) = match form {
                Form::PairColumns => (&mut acts.pairs, layout.pair_words(cols) / layout.tile()),
                Form::Shorts => (&mut acts.shorts, cols.div_ceil(GROUP) * SHORT_WORDS),
                _ => (&mut acts.columns, cols),
            };
            let (tiles, words) = (floats::tiles(tokens), Parts::new(words));
            self.team.split(tiles.len(), &|_, tile| {
                let Range { start, end } = tiles.clone().nth(tile).expect("a tile for each piece");
                // SAFETY: each piece writes its own tile.
                let out = unsafe { words.part(start * row..end * row) };
                backend.interleave(Interleave { x: &x[start * cols..end * cols], cols, form, out });
            });
        }
    }

    /// Calls `f` with each `n` activations (the last ones may be fewer) and the `words` of their tile.
    fn each_tile(
        &self,
        tiles: &mut [i32],
        words: usize,
        x: &[f32],
        n: usize,
        f: impl Fn(&[f32], &mut [i32]) + Sync,
    ) {
        let tiles = Parts::new(tiles);
        self.team.split(x.len().div_ceil(n), &|_, tile| {
            // SAFETY: each piece writes its own tile.
            let out = unsafe { tiles.part(tile * words..(tile + 1) * words) };
            f(&x[tile * n..x.len().min((tile + 1) * n)], out);
        });
    }

    /// Softmax of each row of `cols` values, in place. Rows of `-inf` alone are left as they are.
    ///
    /// # Panics
    /// If `x` is not whole rows.
    pub fn softmax(&self, x: &mut [f32], cols: usize) {
        assert!(cols > 0 && x.len().is_multiple_of(cols), "{} values are no rows of {cols}", x.len());
        let _span = self.span(|| Work::softmax(x.len()));
        let (rows, x) = (x.len() / cols, Parts::new(x));
        self.team.split(rows, &|_, row| {
            // SAFETY: each piece writes its own row.
            self.cpu.backend.softmax(unsafe { x.part(row * cols..(row + 1) * cols) });
        });
    }

    /// Rotates the first `heads` heads of each of `tokens` tokens by its position's table
    /// ([`Rotation::table`](crate::Rotation::table)); what follows them in a token's features stays.
    ///
    /// # Panics
    /// If the lengths do not fit, or a table rotates more than a head.
    pub fn rope(
        &self,
        x: &mut [f32],
        tokens: usize,
        heads: usize,
        head_dim: usize,
        tables: &[f32],
        pairs: Pairs,
    ) {
        let Some(features) = x.len().checked_div(tokens) else { return };
        assert!(
            x.len() == tokens * features && heads * head_dim <= features,
            "{heads} heads within {features}"
        );
        let table = tables.len() / tokens;
        assert!(tables.len() == tokens * table && table.is_multiple_of(4), "a table for each token");
        assert!(table / 2 <= head_dim, "{} rotated dimensions within a head of {head_dim}", table / 2);
        if table == 0 {
            return;
        }
        let _span = self.span(|| Work::rope(tokens * heads * head_dim, tables.len()));
        let x = Parts::new(x);
        self.team.split(tokens, &|_, t| {
            // SAFETY: each piece writes the row of its own token.
            let x = unsafe { x.part(t * features..t * features + heads * head_dim) };
            self.cpu.backend.rope(x, head_dim, &tables[t * table..(t + 1) * table], pairs);
        });
    }

    /// Writes the keys and values of a batch into the cache, from position `start` on.
    /// `qkv` holds `tokens` rows of all queries, all keys, all values.
    ///
    /// # Panics
    /// If the cache has no room, or the lengths do not fit.
    pub fn push_kv(&self, kv: &mut KvLayer, qkv: &[f32], tokens: usize, start: usize) {
        let shape = *kv.shape();
        let KvShape { heads, positions, key_dim, value_dim, .. } = shape;
        assert!(
            start + tokens <= positions,
            "{tokens} tokens from position {start} on, room for {positions}"
        );
        let Some(features) = qkv.len().checked_div(tokens) else { return };
        let own = heads * (key_dim + value_dim);
        let _span = self.span(|| Work::push_kv(tokens * own, kv, tokens));
        assert!(qkv.len() == tokens * features && own <= features, "{own} keys and values within {features}");
        let first_key = features - own;
        let first_value = first_key + heads * key_dim;
        let (keys, values) = (Parts::new(&mut kv.keys), Parts::new(&mut kv.values));
        // Tokens of the same block lie interleaved in it: a piece is a block, for one head or for all.
        let first = start / LANES;
        let blocks = (start + tokens).div_ceil(LANES) - first;
        let at_once = if blocks == 1 { heads } else { 1 };
        self.team.split(blocks * heads.div_ceil(at_once), &|_, piece| {
            let (block, head) = (first + piece % blocks, piece / blocks);
            let own = (block * LANES).max(start)..((block + 1) * LANES).min(start + tokens);
            for head in head..head + at_once {
                let at = |bytes| shape.block(head, block, bytes);
                // SAFETY: each piece writes its own block of its own heads.
                let (key, value) =
                    unsafe { (keys.part(at(shape.key_block())), values.part(at(shape.value_block()))) };
                for position in own.clone() {
                    let row = &qkv[(position - start) * features..][..features];
                    let x = &row[first_key + head * key_dim..][..key_dim];
                    let (role, kind, slot) = (Role::Key, shape.key_type, position % LANES);
                    self.cpu.backend.push(Push { role, kind, x, block: key, slot });
                    let x = &row[first_value + head * value_dim..][..value_dim];
                    let (role, kind) = (Role::Value, shape.value_type);
                    self.cpu.backend.push(Push { role, kind, x, block: value, slot });
                }
            }
        });
    }

    /// `out[t] = softmax(q[t] K^T / sqrt(d)) V` for each head, over positions `0..=start + t`.
    ///
    /// `qkv` is as for [`push_kv`](Self::push_kv), `out` holds `tokens` rows of `heads` values. Query
    /// heads share KV heads in consecutive groups.
    ///
    /// # Panics
    /// If `heads` is no multiple of the cache's, or the lengths do not fit.
    pub fn attention(
        &self,
        out: &mut [f32],
        qkv: &[f32],
        kv: &KvLayer,
        heads: usize,
        tokens: usize,
        start: usize,
    ) {
        let shape = kv.shape();
        assert!(
            heads.is_multiple_of(shape.heads) && start + tokens <= shape.positions,
            "{heads} heads over {}",
            shape.heads
        );
        assert_eq!(out.len(), tokens * heads * shape.value_dim, "{tokens} tokens of {heads} heads");
        let _span = self.span(|| Work::attention(kv, heads, tokens, start));
        let features = qkv.len().checked_div(tokens).unwrap_or(0);
        let group = heads / shape.heads;
        let (exact, out) = (self.deterministic, Parts::new(out));
        let job = Attention { ops: self, qkv, kv, features, group, heads, start, exact, out };
        job.run(tokens);
    }
}

/// The common number of columns of some matrices, and how many rows of it `x` holds.
fn batch(weights: &[Matrix<'_>], x: &[f32]) -> Option<(usize, usize)> {
    let cols = weights.first()?.cols();
    assert!(weights.iter().all(|w| w.cols() == cols), "matrices of one product have the same columns");
    assert!(cols > 0 && x.len().is_multiple_of(cols), "{} activations are no rows of {cols}", x.len());
    Some((cols, x.len() / cols))
}
