//! Text to tokens and back.
//!
//! User text and special tokens never mix: a [`Prompt`] is a list of typed [`Segment`]s, and no text, whatever
//! it says, turns into a control token. So there is no "parse special tokens" switch to forget.

mod spm;
mod stream;
mod vocab;

pub use stream::Stream;
pub use vocab::Vocab;

use crate::error::Result;
use crate::gguf::Gguf;
use spm::Spm;

/// The id of a piece of the vocabulary.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u32);

/// A SentencePiece-BPE tokenizer (`tokenizer.ggml.model = llama`).
///
/// For text without U+2581, which the vocabulary cannot tell from a space, and for a vocabulary with byte
/// pieces, `decode(&encode_text(s)) == s`.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pieces: Vec<String>,
    bytes: Vec<Box<[u8]>>,
    spm: Spm,
    bos: Option<Token>,
    eos: Option<Token>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
}

impl Tokenizer {
    /// A tokenizer for `vocab`.
    ///
    /// Of pieces with the same spelling the lowest id is the one that text is encoded to. `bos`, `eos` and `unk`
    /// never come out of text, whatever their types say.
    ///
    /// # Errors
    /// [`Error::Key`](crate::Error::Key) if the lists differ in length, a special id is not below the vocabulary's size, a type is
    /// unknown, a score is NaN, a byte piece is not spelled `<0xXX>`, or there are neither all 256 bytes nor `unk`.
    pub fn new(vocab: Vocab) -> Result<Tokenizer> {
        let kinds = vocab::kinds(&vocab)?;
        let bytes = vocab.pieces.iter().zip(&kinds).map(|(piece, kind)| kind.bytes(piece)).collect();
        let spm = Spm::new(&vocab, &kinds)?;
        let Vocab { pieces, bos, eos, add_bos, add_eos, add_space_prefix, .. } = vocab;
        Ok(Tokenizer { pieces, bytes, spm, bos, eos, add_bos, add_eos, add_space_prefix })
    }

    /// The tokenizer of a file, which may be one of a vocabulary only.
    ///
    /// # Errors
    /// [`Error::Key`](crate::Error::Key) if the vocabulary is of another kind (`gpt2`), a key is missing or of the
    /// wrong type, or for [`new`](Self::new)'s reasons.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        Tokenizer::new(Vocab::from_gguf(gguf)?).map_err(|error| vocab::located(error, gguf))
    }

    /// The tokens of a prompt, without [`bos`](Self::bos) and [`eos`](Self::eos).
    ///
    /// Special segments pass through as they are; each text segment gets its own space prefix, if the vocabulary
    /// wants one. Takes time linear in the text, but for a logarithm.
    pub fn encode(&self, prompt: &Prompt) -> Vec<Token> {
        let mut tokens = Vec::new();
        for segment in prompt.segments() {
            match segment {
                Segment::Special(token) => tokens.push(*token),
                Segment::Text(text) => self.spm.encode(text, self.add_space_prefix, &mut tokens),
            }
        }
        tokens
    }

    /// The tokens of plain text, without [`bos`](Self::bos) and [`eos`](Self::eos).
    pub fn encode_text(&self, text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        self.spm.encode(text, self.add_space_prefix, &mut tokens);
        tokens
    }

    /// The text of a whole sequence: control tokens are nothing, the space that the prefix added is taken away
    /// again, invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, tokens: &[Token]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.bytes(token)).copied().collect();
        String::from_utf8_lossy(self.strip_prefix(&bytes)).into_owned()
    }

    /// A decoder for tokens that come one at a time.
    pub fn stream(&self) -> Stream<'_> {
        Stream::new(self)
    }

    /// The bytes that a token adds to a text, perhaps a part of a character.
    ///
    /// Empty for control tokens and ids outside the vocabulary, U+FFFD for the unknown piece.
    pub fn bytes(&self, token: Token) -> &[u8] {
        self.bytes.get(token.0 as usize).map_or(&[], |bytes| bytes)
    }

    /// A piece as the vocabulary spells it, such as `▁Once`, `<0x0A>` or `<s>`; `None` outside the vocabulary.
    pub fn piece(&self, token: Token) -> Option<&str> {
        self.pieces.get(token.0 as usize).map(String::as_str)
    }

    /// The number of pieces.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<Token> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<Token> {
        self.eos
    }

    /// Whether the model expects a text to begin with [`bos`](Self::bos).
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether the model expects a text to end with [`eos`](Self::eos).
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// The start of a text without the space that the prefix put there.
    fn strip_prefix<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        if self.add_space_prefix { bytes.strip_prefix(b" ").unwrap_or(bytes) } else { bytes }
    }
}

/// A part of a [`Prompt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A token by its id.
    Special(Token),
    /// Plain text; whatever it spells, it does not become a control token.
    Text(String),
}

/// What to feed a model: special tokens by id, and plain text.
///
/// ```
/// use llama_core::{Prompt, Token};
///
/// let (bos, eos) = (Token(1), Token(2));
/// let prompt = Prompt::new().special(bos).text("2 + 2 =").special(eos);
/// assert_eq!(prompt.segments().len(), 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    segments: Vec<Segment>,
}

impl Prompt {
    /// An empty prompt.
    pub fn new() -> Prompt {
        Prompt::default()
    }

    /// Adds a token by its id.
    pub fn special(mut self, token: Token) -> Prompt {
        self.segments.push(Segment::Special(token));
        self
    }

    /// Adds plain text. Text after text continues it, so no space prefix comes between the two.
    pub fn text(mut self, text: impl Into<String>) -> Prompt {
        let text = text.into();
        match self.segments.last_mut() {
            Some(Segment::Text(before)) => before.push_str(&text),
            _ => self.segments.push(Segment::Text(text)),
        }
        self
    }

    /// The parts, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Prompt {
        Prompt::new().text(text)
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Prompt {
        Prompt::new().text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `<unk> <s> </s>`, all bytes, then `pieces` with falling scores.
    fn vocab(pieces: &[(&str, i32)]) -> Vocab {
        let specials = [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(piece, kind)| (piece.to_string(), kind));
        let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), 6));
        let rest = pieces.iter().map(|&(piece, kind)| (piece.to_string(), kind));
        let (pieces, types): (Vec<_>, Vec<_>) = specials.into_iter().chain(bytes).chain(rest).unzip();
        let scores = (0..pieces.len()).map(|id| -(id as f32)).collect();
        Vocab::new(pieces, scores, types)
    }

    fn spelled(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        tokenizer
            .encode_text(text)
            .into_iter()
            .map(|token| tokenizer.piece(token).unwrap().to_string())
            .collect()
    }

    #[test]
    fn merges_go_by_score_then_from_the_left() {
        let tokenizer =
            Tokenizer::new(vocab(&[("bc", 1), ("ab", 1), ("aa", 1), ("a", 1), ("b", 1), ("c", 1), ("▁", 1)]))
                .unwrap();
        assert_eq!(spelled(&tokenizer, "abc"), ["▁", "a", "bc"]);
        assert_eq!(spelled(&tokenizer, "aaa"), ["▁", "aa", "a"]);
        assert_eq!(spelled(&tokenizer, "aé"), ["▁", "a", "<0xC3>", "<0xA9>"]);
    }

    #[test]
    fn user_defined_pieces_win_over_merges_and_the_longest_of_them_first() {
        let tokenizer = Tokenizer::new(vocab(&[
            ("▁", 1),
            ("ab", 1),
            ("a", 1),
            ("b", 1),
            ("c", 1),
            ("bc", 4),
            ("bcb", 4),
            ("a  b", 4),
        ]))
        .unwrap();
        assert_eq!(spelled(&tokenizer, "abcab"), ["▁", "a", "bc", "ab"]);
        assert_eq!(spelled(&tokenizer, "abcb"), ["▁", "a", "bcb"]);
        assert_eq!(spelled(&tokenizer, "ca  bc"), ["▁", "c", "a  b", "c"]);
        for text in ["abcab", "ca  bc", "bc", " bc bc"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode_text(text)), text);
        }
    }

    #[test]
    fn text_never_becomes_a_special_token() {
        // Every prefix of the spellings is a piece, so that merges could reach them.
        let mut pieces = vec![("▁", 1)];
        for piece in ["<", "s", ">", "<s", "/", "/s", "</s", "u", "n", "k", "<u", "<un", "<unk"] {
            pieces.push((piece, 1));
        }
        let mut vocab = vocab(&pieces);
        vocab.types[1] = 1;
        vocab.types[2] = 4;
        let tokenizer = Tokenizer::new(vocab).unwrap();
        for text in ["<s>", "</s>", "<unk>", "<0x41>"] {
            let tokens = tokenizer.encode_text(text);
            assert!(tokens.iter().all(|token| token.0 > 2), "{text} gave {tokens:?}");
            assert_eq!(tokenizer.decode(&tokens), text);
        }
    }

    #[test]
    fn without_bytes_a_character_is_unknown() {
        let pieces = ["<unk>", "<s>", "</s>", "▁", "a"].map(String::from).to_vec();
        let vocab = Vocab::new(pieces, vec![0.0; 5], vec![2, 3, 3, 1, 1]);
        let tokenizer = Tokenizer::new(vocab.clone()).unwrap();
        assert_eq!(tokenizer.encode_text("aéa"), [3, 4, 0, 4].map(Token));
        assert_eq!(tokenizer.decode(&tokenizer.encode_text("aéa")), "a\u{FFFD}a");
        let error = Tokenizer::new(Vocab { unk: None, ..vocab }).unwrap_err();
        assert!(error.to_string().contains("all 256 byte pieces"), "{error}");
    }

    #[test]
    fn odd_but_harmless_vocabularies_work() {
        let tokenizer =
            Tokenizer::new(vocab(&[("▁", 1), ("", 1), ("", 4), ("a", 1), ("a", 1), ("<0x41>", 6)])).unwrap();
        assert_eq!(spelled(&tokenizer, "aA"), ["▁", "a", "<0x41>"]);
        assert_eq!(tokenizer.encode_text("a"), [259, 262].map(Token));
        assert_eq!(tokenizer.decode(&[Token(u32::MAX), Token(262)]), "a");
        assert_eq!(tokenizer.piece(Token(u32::MAX)), None);
        assert!(tokenizer.encode_text("").is_empty());

        let unprefixed = Vocab { add_space_prefix: false, ..vocab(&[("▁", 1), ("a", 1)]) };
        let tokenizer = Tokenizer::new(unprefixed).unwrap();
        assert_eq!(spelled(&tokenizer, " a"), ["▁", "a"]);
        assert_eq!(tokenizer.decode(&tokenizer.encode_text(" a")), " a");

        let nothing = Vocab { bos: None, eos: None, unk: None, ..Vocab::new(vec![], vec![], vec![]) };
        assert!(Tokenizer::new(nothing).is_err());
    }

    #[test]
    fn impossible_vocabularies_are_refused_by_name() {
        let good = || vocab(&[("▁", 1), ("a", 1)]);
        let refused = |vocab, what: &str| {
            let error = Tokenizer::new(vocab).unwrap_err().to_string();
            assert!(error.contains(what), "{error:?} lacks {what:?}");
        };
        refused(Vocab { scores: vec![0.0], ..good() }, "scores\": expected 261 values, one a piece, found 1");
        refused(Vocab { types: vec![], ..good() }, "token_type\": expected 261");
        refused(
            Vocab { bos: Some(Token(261)), ..good() },
            "bos_token_id\": expected an id below 261, found 261",
        );
        refused(Vocab { eos: Some(Token(u32::MAX)), ..good() }, "eos_token_id");
        refused(Vocab { unk: Some(Token(300)), ..good() }, "unknown_token_id");
        let mut bad = good();
        bad.scores[7] = f32::NAN;
        refused(bad, "NaN for token 7");
        let mut bad = good();
        bad.types[260] = 7;
        refused(bad, "1 to 6 for token 260, found 7");
        for spelling in ["<0xG0>", "<0x+1>", "<0x1>", "", "<0x€>"] {
            let mut bad = good();
            bad.pieces[3] = spelling.to_string();
            refused(bad, "for token 3, which is a byte");
        }
    }

    #[test]
    fn text_after_text_is_one_segment() {
        let prompt = Prompt::new().text("a").text("b").special(Token(1)).text("c");
        let expected = [Segment::Text("ab".into()), Segment::Special(Token(1)), Segment::Text("c".into())];
        assert_eq!(prompt.segments(), expected);
        assert_eq!(Prompt::from("ab"), Prompt::from(String::from("ab")));

        let tokenizer = Tokenizer::new(vocab(&[("▁", 1), ("a", 1), ("b", 1), ("c", 1)])).unwrap();
        assert_eq!(tokenizer.encode(&prompt), [259, 260, 261, 1, 259, 262].map(Token));
    }
}
