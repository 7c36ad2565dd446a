//! Decoding tokens as they come.
//!
//! A character may be spread over several tokens, so bytes wait until they are whole characters. What comes out,
//! joined, is [`Tokenizer::decode`] of all the tokens.

use super::{Token, Tokenizer};

/// Turns tokens into text, one at a time, and never emits a part of a character.
///
/// A text begins where the tokens begin: only there is the space taken away that the prefix adds. So a
/// continuation keeps its leading space if the tokens that it continues are [skipped](Self::skip) first.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    /// Whether no token has added to the text yet.
    at_start: bool,
    /// The bytes of a character that is not whole yet.
    pending: Vec<u8>,
    /// What the last token completed.
    text: String,
}

impl<'a> Stream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Stream<'a> {
        Stream { tokenizer, at_start: true, pending: Vec::new(), text: String::new() }
    }

    /// A stream in the midst of a text.
    pub(crate) fn continued(tokenizer: &'a Tokenizer) -> Stream<'a> {
        Stream { at_start: false, ..Stream::new(tokenizer) }
    }

    /// Whether no character is incomplete.
    pub(crate) fn is_whole(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes in tokens that precede, a prompt say, without emitting them.
    pub fn skip(&mut self, tokens: &[Token]) {
        for &token in tokens {
            self.push(token);
        }
    }

    /// Takes in a token and returns the characters that are whole now, often just the token's own text.
    ///
    /// Empty for control tokens, and as long as a character is incomplete. Bytes that cannot become a character
    /// come out as U+FFFD.
    pub fn push(&mut self, token: Token) -> &str {
        self.text.clear();
        let bytes = self.tokenizer.bytes(token);
        if bytes.is_empty() {
            return &self.text;
        }
        let bytes = if self.at_start { self.tokenizer.strip_prefix(bytes) } else { bytes };
        self.at_start = false;
        self.pending.extend_from_slice(bytes);

        let mut taken = 0;
        for chunk in self.pending.utf8_chunks() {
            self.text.push_str(chunk.valid());
            taken += chunk.valid().len();
            let (invalid, last) = (chunk.invalid(), taken + chunk.invalid().len() == self.pending.len());
            let unfinished = last && str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if !invalid.is_empty() && !unfinished {
                self.text.push(char::REPLACEMENT_CHARACTER);
                taken += invalid.len();
            }
        }
        self.pending.drain(..taken);
        &self.text
    }

    /// Ends the text: U+FFFD if its last character is incomplete, else nothing.
    pub fn finish(self) -> &'static str {
        if self.pending.is_empty() { "" } else { "\u{FFFD}" }
    }
}
