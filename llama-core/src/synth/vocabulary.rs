//! A SentencePiece vocabulary from a seed: the special pieces, every byte, single characters, and
//! merges of two earlier pieces each, so that the tokenizer can put every one of them together.
//! They read like syllables.

use super::Rng;
use crate::gguf::{ArrayBuf, Writer};
use std::collections::HashSet;

/// Sets the tokenizer's metadata, for `len` pieces.
pub(super) fn write(header: &mut Writer, len: usize, seed: u64) {
    let mut pieces: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    pieces.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    pieces.extend(CHARACTERS.chars().map(String::from));

    let mut rng = Rng::named(seed, "vocabulary");
    let mut known: HashSet<String> = pieces.iter().cloned().collect();
    let mut starts = vec![String::from("▁")];
    let mut parts: Vec<String> = ('a'..='z').map(String::from).collect();
    while pieces.len() < len {
        // The smaller of two draws prefers short and early pieces, as frequencies in text do.
        let mut below = |n: usize| rng.below(n).min(rng.below(n));
        let heads = if below(4) == 0 { &starts } else { &parts };
        let head = &heads[below(heads.len())];
        let tail = &parts[below(parts.len())];
        let piece = format!("{head}{tail}");
        let is_vowel = |c: char| "aeiou".contains(c);
        let (before, after) = (head.chars().next_back(), tail.chars().next());
        let joins = head == "▁" || before.map(is_vowel) != after.map(is_vowel);
        if joins && piece.chars().count() <= LONGEST_PIECE && known.insert(piece.clone()) {
            if head.starts_with('▁') { &mut starts } else { &mut parts }.push(piece.clone());
            pieces.push(piece);
        }
    }

    let kind = |id: usize| match id {
        0 => 2,       // unknown
        1 | 2 => 3,   // control
        3..=258 => 6, // byte
        _ => 1i32,    // normal
    };
    let score = |id: usize| if id < 259 { 0.0 } else { -((id - 259) as f32) };
    header.set("tokenizer.ggml.model", "llama");
    header.set("tokenizer.ggml.pre", "default");
    header.set("tokenizer.ggml.tokens", &pieces.iter().map(String::as_str).collect::<ArrayBuf>());
    header.set("tokenizer.ggml.scores", &(0..len).map(score).collect::<ArrayBuf>());
    header.set("tokenizer.ggml.token_type", &(0..len).map(kind).collect::<ArrayBuf>());
    header.set("tokenizer.ggml.bos_token_id", 1u32);
    header.set("tokenizer.ggml.eos_token_id", 2u32);
    header.set("tokenizer.ggml.unknown_token_id", 0u32);
    header.set("tokenizer.ggml.add_bos_token", true);
    header.set("tokenizer.ggml.add_eos_token", false);
}

/// The space, and all printable ASCII but the space.
const CHARACTERS: &str = "▁etaoinshrdlucmfwygpbvkxjqzETAOINSHRDLUCMFWYGPBVKXJQZ0123456789\
    .,;:!?'\"-()[]{}<>/\\|@#$%^&*_+=~`";

/// Special pieces, bytes and characters.
pub(super) const SMALLEST: usize = 3 + 256 + 95;

/// Characters of the longest merged piece.
const LONGEST_PIECE: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::tests::from_bytes;

    #[test]
    fn pieces_are_unique_and_made_of_earlier_ones() {
        let mut header = Writer::new();
        write(&mut header, 32_000, 1);
        let gguf = from_bytes(header.begin(Vec::new()).unwrap().finish().unwrap()).unwrap();
        let pieces: Vec<&str> = gguf.strs("tokenizer.ggml.tokens").unwrap().collect();
        let mut known = HashSet::new();
        for (id, piece) in pieces.iter().enumerate() {
            let mut splits = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
            let merges = id >= SMALLEST;
            assert_eq!(merges, splits.any(|(a, b)| known.contains(a) && known.contains(b)), "{id} {piece}");
            assert!(known.insert(*piece), "{id} {piece} again");
        }
        let words = pieces.iter().filter(|piece| piece.starts_with('▁')).count();
        assert!((10_000..20_000).contains(&words), "{words} pieces begin a word");
    }
}
