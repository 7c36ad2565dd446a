//! Byte-level byte-pair merges, GPT-2's.
//!
//! User-defined pieces are cut out of the text as they stand, the rest is normalised and cut into words by the
//! pre-tokenizer, and each word starts as its bytes. Of all adjacent pairs that are in the list of merges, the one that stands first
//! there is merged, the leftmost of equals, until none is left.
//!
//! A byte that has no piece is the unknown piece, or nothing where there is none: most vocabularies lack the bytes
//! that UTF-8 never has, but Falcon's lacks control characters.

use super::merge::Merger;
use super::pretokenizer::PreTokenizer;
use super::trie::{Part, Trie};
use super::vocab::{Kind, Vocab, invalid};
use super::{Token, alphabet};
use crate::error::Result;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// A vocabulary, indexed for encoding.
#[derive(Clone, Debug)]
pub(super) struct Bpe {
    pre: PreTokenizer,
    user_defined: Trie,
    /// Two pieces to the merge's place in the list and what it makes.
    merges: HashMap<(Token, Token), (u32, Token)>,
    /// All pieces by their bytes, if the pre-tokenizer's words are looked up before they are merged.
    whole_words: HashMap<Box<[u8]>, Token>,
    bytes: [Option<Token>; 256],
    unk: Option<Token>,
}

impl Bpe {
    /// The index of `vocab`, whose pieces have these `kinds`.
    pub(super) fn new(vocab: &Vocab, merges: &[String], pre: PreTokenizer, kinds: &[Kind]) -> Result<Bpe> {
        let mut bpe = Bpe {
            pre,
            user_defined: Trie::new(),
            merges: HashMap::new(),
            whole_words: HashMap::new(),
            bytes: [None; 256],
            unk: vocab.unk,
        };
        // Of each spelling the piece that merges may make, or else any.
        let mut pieces = HashMap::<&str, (Token, Kind)>::with_capacity(kinds.len());
        for (id, (piece, &kind)) in vocab.pieces.iter().zip(kinds).enumerate() {
            let token = Token(id as u32);
            match pieces.entry(piece) {
                Entry::Occupied(known) if known.get().1 == Kind::Merge || kind != Kind::Merge => {}
                Entry::Occupied(mut known) => drop(known.insert((token, kind))),
                Entry::Vacant(free) => drop(free.insert((token, kind))),
            }
            match kind {
                Kind::Merge => bpe.insert(piece, token),
                Kind::UserDefined => bpe.user_defined.insert(piece, token),
                Kind::Unknown | Kind::Control | Kind::Byte(_) => {}
            }
        }
        bpe.read_merges(merges, &pieces)?;
        Ok(bpe)
    }

    fn insert(&mut self, piece: &str, token: Token) {
        let Some(bytes) = alphabet::bytes(piece) else { return };
        if let [byte] = bytes[..] {
            self.bytes[usize::from(byte)].get_or_insert(token);
        }
        if self.pre.whole_words() && !bytes.is_empty() {
            self.whole_words.entry(bytes).or_insert(token);
        }
    }

    /// Indexes the list of merges. One with a special piece in it is none: text cannot make such a piece.
    fn read_merges(&mut self, merges: &[String], pieces: &HashMap<&str, (Token, Kind)>) -> Result<()> {
        let invalid = |rank, expected: &str, found: &str| {
            Err(invalid("merges", format!("{expected} for merge {rank}"), format!("{found:?}")))
        };
        if u32::try_from(merges.len()).is_err() {
            return Err(super::vocab::invalid("merges", "at most 4294967295 merges", merges.len()));
        }
        self.merges.reserve(merges.len());
        let mut joined = String::new();
        for (rank, merge) in merges.iter().enumerate() {
            // A piece may begin with a space, where it is the user's.
            let space = merge.bytes().skip(1).position(|byte| byte == b' ').map(|at| at + 1);
            let Some((left, right)) =
                space.map(|at| (&merge[..at], &merge[at + 1..])).filter(|(_, right)| !right.is_empty())
            else {
                return invalid(rank, "two pieces with a space between them", merge);
            };
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let mut found = [Token(0); 3];
            let mut special = false;
            for (spelling, token) in [left, right, &joined].into_iter().zip(&mut found) {
                let Some(&(piece, kind)) = pieces.get(spelling) else {
                    return invalid(rank, "pieces of the vocabulary", spelling);
                };
                *token = piece;
                special |= kind != Kind::Merge;
            }
            if !special {
                let [left, right, joined] = found;
                self.merges.entry((left, right)).or_insert((rank as u32, joined));
            }
        }
        Ok(())
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<Token>) {
        let mut merger = Merger::new();
        self.user_defined.cut(text, |part| match part {
            Part::Piece(token) => out.push(token),
            Part::Text(text) => {
                let text = self.pre.normalized(text);
                self.pre.split(&text, |word| self.encode_word(word, &mut merger, out));
            }
        });
    }

    fn encode_word(&self, word: &[u8], merger: &mut Merger<Reverse<u32>>, out: &mut Vec<Token>) {
        if let Some(&token) = self.whole_words.get(word) {
            return out.push(token);
        }
        let bytes = word.iter().enumerate().map(|(at, &byte)| (at + 1, self.bytes[usize::from(byte)]));
        let symbols = merger.merge(bytes, |left, right| {
            let &(rank, token) = self.merges.get(&(left.token?, right.token?))?;
            Some((Reverse(rank), token))
        });
        out.extend(symbols.filter_map(|symbol| symbol.token.or(self.unk)));
    }
}
