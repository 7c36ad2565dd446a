//! Moving what a cache holds.

use super::profile::Work;
use super::{Ops, Parts};
use crate::kv::KvLayer;
use crate::ops::rope::Pairs;
use crate::ops::shift::Shift;
use std::ops::Range;

impl Ops<'_> {
    /// Makes the cached positions `from` those from `to` on: values as they are, keys turned by `tables`
    /// ([`Rotation::change`](crate::Rotation::change)), one for each position or one for all.
    ///
    /// # Panics
    /// If the cache has no such positions, `to` lies behind them, or the lengths do not fit.
    pub fn shift_kv(&self, kv: &mut KvLayer, from: Range<usize>, to: usize, tables: &[f32], pairs: Pairs) {
        let shape = *kv.shape();
        assert!(
            from.start <= from.end && from.end <= shape.positions && to <= from.start,
            "{from:?} of {} positions become those from {to} on",
            shape.positions
        );
        if from.is_empty() {
            return;
        }
        let longest = 2 * shape.key_dim;
        let table = if tables.len() > longest { tables.len() / from.len() } else { tables.len() };
        assert!(
            table <= longest
                && table.is_multiple_of(4)
                && [table, table * from.len()].contains(&tables.len()),
            "a table for all positions, or one for each"
        );
        let _span = self.span(|| Work::shift_kv(kv, from.len()));
        let head = |bytes: usize, head: usize| head * bytes..(head + 1) * bytes;
        let [key_bytes, value_bytes] = [&kv.keys, &kv.values].map(|buffer| buffer.len() / shape.heads.max(1));
        let (keys, values) = (Parts::new(&mut kv.keys), Parts::new(&mut kv.values));
        self.team.split(shape.heads, &|_, i| {
            // SAFETY: each piece reads and writes its own head.
            let (keys, values) =
                unsafe { (keys.part(head(key_bytes, i)), values.part(head(value_bytes, i))) };
            let shape = &shape;
            let from = from.clone();
            self.cpu.backend.shift(Shift { keys, values, shape, from, to, tables, table, pairs });
        });
    }
}
