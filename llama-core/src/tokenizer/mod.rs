//! Text to tokens and back.
//!
//! User text and special tokens never mix: a [`Prompt`] is a list of typed [`Segment`]s, and no text, whatever
//! it says, turns into a control token. So there is no "parse special tokens" switch to forget.
//!
//! There are two families. SentencePiece's vocabularies (Llama 2's) spell characters, and merge by the pieces'
//! scores; the byte-level ones, GPT-2's, spell bytes, merge by a list, and only within the words that a
//! [`PreTokenizer`] cuts the text into. A file does not say whether its model was trained on normalised text; where
//! the name of its pre-tokenizer does, characters are composed first, and a text comes back composed.
//!
//! User-defined pieces are neither merged nor special: they are cut out of any text before anything else, from the
//! left, at each place the longest.

mod alphabet;
mod bpe;
mod merge;
mod pretokenizer;
mod prompt;
mod spm;
mod stream;
#[cfg(test)]
mod tests;
mod trie;
mod vocab;

pub use pretokenizer::PreTokenizer;
pub use prompt::{Prompt, Segment};
pub use stream::Stream;
pub use vocab::{Merges, Vocab};

use crate::error::Result;
use crate::gguf::Gguf;
use bpe::Bpe;
use spm::Spm;
use std::collections::HashMap;
use vocab::Kind;

/// The id of a piece of the vocabulary.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u32);

/// A tokenizer: SentencePiece's (`tokenizer.ggml.model = llama`) or a byte-level one (`gpt2`).
///
/// `decode(&encode_text(s)) == s` for a vocabulary with pieces for all bytes; in SentencePiece's family, for text
/// without U+2581, which these vocabularies cannot tell from a space, and where the pre-tokenizer
/// [normalises](PreTokenizer::normalized), for text in that form.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pieces: Vec<String>,
    bytes: Vec<Box<[u8]>>,
    encoder: Encoder,
    /// The control tokens and the user-defined ones.
    special: HashMap<Box<str>, Token>,
    /// In order.
    ends: Vec<Token>,
    bos: Option<Token>,
    eos: Option<Token>,
    fim_pre: Option<Token>,
    fim_suf: Option<Token>,
    fim_mid: Option<Token>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
}

#[derive(Clone, Debug)]
enum Encoder {
    Spm(Spm),
    Bpe(Bpe),
}

impl Tokenizer {
    /// A tokenizer for `vocab`.
    ///
    /// Of pieces with the same spelling the lowest id is the one that text is encoded to. `bos`, `unk`, the
    /// tokens that [end](Self::ends) a generation and those of infill never come out of text, whatever their types
    /// say.
    ///
    /// # Errors
    /// [`Error::Key`](crate::Error::Key) if the lists differ in length, a special id is not below the vocabulary's
    /// size, a type is unknown, a score is NaN, a byte piece is not spelled `<0xXX>`, a merge is not of two pieces to
    /// a third, or a SentencePiece vocabulary has neither all bytes nor `unk`.
    pub fn new(vocab: Vocab) -> Result<Tokenizer> {
        let kinds = vocab::kinds(&vocab)?;
        let encoder = match &vocab.merges {
            Merges::Scores(scores) => Encoder::Spm(Spm::new(&vocab, scores, &kinds)?),
            Merges::Ranks { merges, pre } => Encoder::Bpe(Bpe::new(&vocab, merges, *pre, &kinds)?),
        };
        let bytes = vocab.pieces.iter().zip(&kinds).map(|(piece, &kind)| vocab.bytes(piece, kind)).collect();
        let mut special = HashMap::<Box<str>, Token>::new();
        for (id, (piece, kind)) in vocab.pieces.iter().zip(&kinds).enumerate() {
            if matches!(kind, Kind::Control | Kind::UserDefined) {
                special.entry(piece.as_str().into()).or_insert(Token(id as u32));
            }
        }
        let ends = vocab.ends();
        let Vocab { bos, eos, fim_pre, fim_suf, fim_mid, add_bos, add_eos, add_space_prefix, .. } = vocab;
        Ok(Tokenizer {
            pieces: vocab.pieces,
            bytes,
            encoder,
            special,
            ends,
            bos,
            eos,
            fim_pre,
            fim_suf,
            fim_mid,
            add_bos,
            add_eos,
            add_space_prefix,
        })
    }

    /// The tokenizer of a file, which may be one of a vocabulary only.
    ///
    /// # Errors
    /// [`Error::Key`](crate::Error::Key) if the vocabulary or its pre-tokenizer is of another kind, a key is missing
    /// or of the wrong type, or for [`new`](Self::new)'s reasons.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        Tokenizer::new(Vocab::from_gguf(gguf)?).map_err(|error| vocab::located(error, gguf))
    }

    /// The tokens of a prompt, without [`bos`](Self::bos) and [`eos`](Self::eos).
    ///
    /// Special segments pass through as they are; each text segment gets its own space prefix, if the vocabulary
    /// wants one, unless it is a continuation. Takes time linear in the text, but for a logarithm.
    pub fn encode(&self, prompt: &Prompt) -> Vec<Token> {
        let mut tokens = Vec::new();
        for segment in prompt.segments() {
            match segment {
                Segment::Special(token) => tokens.push(*token),
                Segment::Text(text) => self.append(text, self.add_space_prefix, &mut tokens),
                Segment::Continuation(text) => self.append(text, false, &mut tokens),
            }
        }
        tokens
    }

    /// The tokens of a prompt that begins a text: with [`bos`](Self::bos) before it if the model expects one and the
    /// prompt does not bring it along.
    pub fn encode_start(&self, prompt: &Prompt) -> Vec<Token> {
        let mut tokens = self.encode(prompt);
        if let Some(bos) = self.bos.filter(|_| self.add_bos)
            && prompt.segments().first() != Some(&Segment::Special(bos))
        {
            tokens.insert(0, bos);
        }
        tokens
    }

    /// The tokens of plain text, without [`bos`](Self::bos) and [`eos`](Self::eos).
    pub fn encode_text(&self, text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        self.append(text, self.add_space_prefix, &mut tokens);
        tokens
    }

    fn append(&self, text: &str, space_prefix: bool, tokens: &mut Vec<Token>) {
        match &self.encoder {
            Encoder::Spm(spm) => spm.encode(text, space_prefix, tokens),
            Encoder::Bpe(bpe) => bpe.encode(text, tokens),
        }
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

    /// A piece as the vocabulary spells it, such as `▁Once`, `ĠOnce`, `<0x0A>` or `<s>`; `None` outside the
    /// vocabulary.
    pub fn piece(&self, token: Token) -> Option<&str> {
        self.pieces.get(token.0 as usize).map(String::as_str)
    }

    /// The control token or the user-defined one with exactly this spelling, such as `<|im_start|>`.
    ///
    /// Of several the lowest id. For a [`Prompt`] that a program puts together; text does not become such a token
    /// by itself, unless it is user-defined.
    pub fn special(&self, piece: &str) -> Option<Token> {
        self.special.get(piece).copied()
    }

    /// The control tokens with their spellings, in no order; those that no text becomes.
    pub fn control_tokens(&self) -> impl Iterator<Item = (&str, Token)> {
        let named = self.special.iter().map(|(piece, &token)| (&**piece, token));
        named.filter(|&(piece, token)| !piece.is_empty() && self.bytes(token).is_empty())
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

    /// The token before the text that precedes a gap which is to be filled in.
    pub fn fim_pre(&self) -> Option<Token> {
        self.fim_pre
    }

    /// The token before the text that follows the gap.
    pub fn fim_suf(&self) -> Option<Token> {
        self.fim_suf
    }

    /// The token where the text of the gap begins.
    pub fn fim_mid(&self) -> Option<Token> {
        self.fim_mid
    }

    /// Whether a generation ends with this token.
    pub fn ends(&self, token: Token) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// The tokens that end a generation, in order.
    ///
    /// [`eos`](Self::eos), those that the file names as the end of a turn (`eot_token_id`) and of a message
    /// (`eom_token_id`), and those with the spelling of such a token in a known chat format, such as `<|eot_id|>`
    /// and `<|im_end|>`: most files name but one of them.
    pub fn end_tokens(&self) -> impl ExactSizeIterator<Item = Token> {
        self.ends.iter().copied()
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
