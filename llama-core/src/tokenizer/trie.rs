//! The pieces that are cut out of a text before anything else: the user-defined ones.

use super::Token;
use std::collections::HashMap;

/// User-defined pieces, by prefix.
#[derive(Clone, Debug)]
pub(super) struct Trie {
    /// Node and byte to node; node 0 is the root.
    edges: HashMap<(u32, u8), u32>,
    /// The piece that ends at a node, but for the root.
    ends: HashMap<u32, Token>,
    /// The bytes that pieces begin with, so that most places of a text need no look-up.
    first: [bool; 256],
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Text(&'a str),
    Piece(Token),
}

impl Trie {
    pub(super) fn new() -> Trie {
        Trie { edges: HashMap::new(), ends: HashMap::new(), first: [false; 256] }
    }

    /// Adds a piece; of two with the same spelling the first stays.
    pub(super) fn insert(&mut self, piece: &str, token: Token) {
        let mut node = 0;
        for byte in piece.bytes() {
            let fresh = self.edges.len() as u32 + 1;
            node = *self.edges.entry((node, byte)).or_insert(fresh);
        }
        if let Some(&first) = piece.as_bytes().first() {
            self.first[usize::from(first)] = true;
            self.ends.entry(node).or_insert(token);
        }
    }

    /// Cuts the pieces out of a text, from the left, at each place the longest; no part is empty.
    pub(super) fn cut<'a>(&self, text: &'a str, mut emit: impl FnMut(Part<'a>)) {
        let (mut done, mut at) = (0, 0);
        while at < text.len() {
            let found =
                self.first[usize::from(text.as_bytes()[at])].then(|| self.longest(&text.as_bytes()[at..]));
            match found.flatten() {
                Some((len, token)) => {
                    if done < at {
                        emit(Part::Text(&text[done..at]));
                    }
                    emit(Part::Piece(token));
                    at += len;
                    done = at;
                }
                None => at += 1,
            }
        }
        if done < text.len() {
            emit(Part::Text(&text[done..]));
        }
    }

    /// The longest piece that `text` starts with, and its length.
    fn longest(&self, text: &[u8]) -> Option<(usize, Token)> {
        let mut node = 0;
        let mut found = None;
        for (i, byte) in text.iter().enumerate() {
            match self.edges.get(&(node, *byte)) {
                Some(&next) => node = next,
                None => break,
            }
            found = self.ends.get(&node).map(|&token| (i + 1, token)).or(found);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leftmost_piece_is_cut_and_there_the_longest() {
        let mut trie = Trie::new();
        for (id, piece) in ["ab", "abc", "cde", "", "é", "abc"].iter().enumerate() {
            trie.insert(piece, Token(id as u32));
        }
        let cut = |text| {
            let mut parts = Vec::new();
            trie.cut(text, |part| parts.push(part));
            parts
        };
        let (text, piece) = (Part::Text, |id| Part::Piece(Token(id)));
        assert_eq!(cut("xabcdex"), [text("x"), piece(1), text("dex")]);
        assert_eq!(cut("abab"), [piece(0), piece(0)]);
        assert_eq!(cut("è é"), [text("è "), piece(4)]);
        assert_eq!(cut(""), []);
    }
}
