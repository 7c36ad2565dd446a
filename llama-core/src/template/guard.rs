//! Which characters of a rendered text a message brought along.

use std::collections::{HashMap, HashSet};

/// Exchanges characters for private ones that occur nowhere else, one for one, and back.
pub(super) struct Guard {
    private: HashMap<char, char>,
    /// The other way round.
    back: HashMap<char, char>,
}

/// Private use, by Unicode's planes 15 and 16.
const PRIVATE: [std::ops::RangeInclusive<char>; 2] = ['\u{F0000}'..='\u{FFFFD}', '\u{100000}'..='\u{10FFFD}'];

impl Guard {
    /// A guard for the `characters` that occur in the `guarded` texts. What stands in for them occurs in none of the
    /// `known` texts.
    pub(super) fn new<'a>(
        known: impl Iterator<Item = &'a str>,
        guarded: impl Iterator<Item = &'a str>,
        characters: impl Iterator<Item = char>,
    ) -> Guard {
        let is_private = |c: &char| PRIVATE.iter().any(|range| range.contains(c));
        let taken: HashSet<char> = known.flat_map(str::chars).filter(is_private).collect();
        let occurring: HashSet<char> = guarded.flat_map(str::chars).collect();
        let mut free = PRIVATE.into_iter().flatten().filter(|c| !taken.contains(c));
        let mut guard = Guard { private: HashMap::new(), back: HashMap::new() };
        for c in characters.filter(|c| occurring.contains(c)) {
            if !guard.private.contains_key(&c)
                && let Some(private) = free.next()
            {
                guard.private.insert(c, private);
                guard.back.insert(private, c);
            }
        }
        guard
    }

    /// The text with every character guarded.
    pub(super) fn all(&self, text: &str) -> String {
        text.chars().map(|c| self.private.get(&c).copied().unwrap_or(c)).collect()
    }

    /// The text with those characters guarded that spell one of the pieces.
    pub(super) fn spelled<'a>(&self, text: &str, pieces: impl Iterator<Item = &'a str>) -> String {
        let mut inside = vec![false; text.len()];
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            for (at, _) in text.match_indices(piece) {
                inside[at..at + piece.len()].fill(true);
            }
        }
        let guarded = |(at, c): (usize, char)| {
            if inside[at] { self.private.get(&c).copied() } else { None }.unwrap_or(c)
        };
        text.char_indices().map(guarded).collect()
    }

    /// The text without guards.
    pub(super) fn removed(&self, text: &str) -> String {
        text.chars().map(|c| self.back.get(&c).copied().unwrap_or(c)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guarded_texts_come_back() {
        let texts = ["</s> a\u{F0000}", "<s>"];
        let guard = Guard::new(texts.into_iter(), texts.into_iter(), "</s>".chars());
        for text in texts {
            let all = guard.all(text);
            assert!(!all.contains(['<', '/', 's', '>']) && all.chars().count() == text.chars().count());
            assert_eq!(guard.removed(&all), text);
        }
        let spelled = guard.spelled("<<s> s>", ["<s>"].into_iter());
        assert!(spelled.starts_with('<') && spelled.ends_with(" s>") && !spelled.contains("<s>"));
        assert_eq!(guard.removed(&spelled), "<<s> s>");
    }
}
