//! Merging adjacent symbols, the best pair first, until no pair can be merged.
//!
//! The pairs wait in a heap, and a pair whose parts have changed meanwhile is dropped when it comes up, so n symbols
//! take O(n log n). Rescanning after each merge, the textbook version, is quadratic.

use super::Token;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A part of the text, linked to its neighbours.
pub(super) struct Symbol {
    pub(super) start: usize,
    /// Equal to `start` once it has been merged into the symbol before.
    pub(super) end: usize,
    prev: usize,
    /// The number of symbols if this is the last.
    next: usize,
    /// The piece that it spells.
    pub(super) token: Option<Token>,
}

/// The state of merging, kept from word to word for its memory.
pub(super) struct Merger<P> {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Pair<P>>,
}

/// A symbol and its successor, which together spell a piece.
struct Pair<P> {
    priority: P,
    left: usize,
    /// Where the successor ended when the pair was found.
    end: usize,
    token: Token,
}

impl<P: Ord> Merger<P> {
    pub(super) fn new() -> Merger<P> {
        Merger { symbols: Vec::new(), heap: BinaryHeap::new() }
    }

    /// Merges the symbols that end at these places, and returns what is left of them.
    ///
    /// `join` says what piece two neighbours merge to, and how early: the greatest priority goes first, the leftmost
    /// of equals.
    pub(super) fn merge(
        &mut self,
        parts: impl Iterator<Item = (usize, Option<Token>)>,
        join: impl Fn(&Symbol, &Symbol) -> Option<(P, Token)>,
    ) -> impl Iterator<Item = &Symbol> {
        self.symbols.clear();
        let mut start = 0;
        self.symbols.extend(parts.enumerate().map(|(i, (end, token))| {
            let symbol = Symbol { start, end, prev: i.wrapping_sub(1), next: i + 1, token };
            start = end;
            symbol
        }));
        for left in 0..self.symbols.len() {
            self.find(left, &join);
        }
        while let Some(Pair { left, end, token, .. }) = self.heap.pop() {
            let Symbol { start, end: middle, next, .. } = self.symbols[left];
            let changed = start == middle || self.symbols.get(next).is_none_or(|right| right.end != end);
            if changed {
                continue;
            }
            let right = &mut self.symbols[next];
            let after = right.next;
            right.end = right.start;
            let merged = &mut self.symbols[left];
            (merged.end, merged.next, merged.token) = (end, after, Some(token));
            let before = merged.prev;
            if let Some(after) = self.symbols.get_mut(after) {
                after.prev = left;
            }
            self.find(before, &join);
            self.find(left, &join);
        }
        self.symbols.iter().filter(|symbol| symbol.start != symbol.end)
    }

    /// Puts a symbol and its successor on the heap, if there are two and they spell a piece.
    fn find(&mut self, left: usize, join: &impl Fn(&Symbol, &Symbol) -> Option<(P, Token)>) {
        let Some(symbol) = self.symbols.get(left) else { return };
        let Some(next) = self.symbols.get(symbol.next) else { return };
        if let Some((priority, token)) = join(symbol, next) {
            self.heap.push(Pair { priority, left, end: next.end, token });
        }
    }
}

impl<P: Ord> Ord for Pair<P> {
    /// The pair to merge first is the greatest.
    fn cmp(&self, other: &Pair<P>) -> Ordering {
        self.priority.cmp(&other.priority).then(other.left.cmp(&self.left))
    }
}

impl<P: Ord> PartialOrd for Pair<P> {
    fn partial_cmp(&self, other: &Pair<P>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P: Ord> PartialEq for Pair<P> {
    fn eq(&self, other: &Pair<P>) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<P: Ord> Eq for Pair<P> {}
