//! A vocabulary as a file gives it, and the checks that it must pass.

use super::{Token, spm};
use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// What a file says about a SentencePiece-BPE vocabulary, not yet checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocab {
    /// The pieces by id, as the file spells them: `▁Once`, `<0x0A>`, `<s>`.
    pub pieces: Vec<String>,
    /// The pieces' scores: of two possible merges the higher score goes first.
    pub scores: Vec<f32>,
    /// The pieces' types: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
    /// Begins a text.
    pub bos: Option<Token>,
    /// Ends a text.
    pub eos: Option<Token>,
    /// Stands for a character that neither pieces nor bytes can spell.
    pub unk: Option<Token>,
    /// Whether a text is to begin with `bos`.
    pub add_bos: bool,
    /// Whether a text is to end with `eos`.
    pub add_eos: bool,
    /// Whether a text is encoded as if a space stood before it.
    pub add_space_prefix: bool,
}

impl Vocab {
    /// A vocabulary with the defaults that GGUF files rely on: unk 0, bos 1, eos 2, a BOS, no EOS, a space prefix.
    pub fn new(pieces: Vec<String>, scores: Vec<f32>, types: Vec<i32>) -> Vocab {
        Vocab {
            pieces,
            scores,
            types,
            bos: Some(Token(1)),
            eos: Some(Token(2)),
            unk: Some(Token(0)),
            add_bos: true,
            add_eos: false,
            add_space_prefix: true,
        }
    }

    /// The vocabulary of a file, as it stands there; keys that are missing have [`new`](Self::new)'s defaults.
    pub(super) fn from_gguf(gguf: &Gguf) -> Result<Vocab> {
        if gguf.str(&key("model"))? != "llama" {
            return Err(gguf.key_error(&key("model"), "\"llama\", a SentencePiece vocabulary"));
        }
        let default = Vocab::new(
            gguf.strs(&key("tokens"))?.map(str::to_owned).collect(),
            gguf.f32s(&key("scores"))?.collect(),
            gguf.i32s(&key("token_type"))?.collect(),
        );
        let special = |name, default| {
            let id = gguf.opt_u32(&key(name))?;
            // Files write -1, in 32 bits, for "none".
            Ok(id.map_or(default, |id| (id != u32::MAX).then_some(Token(id))))
        };
        let flag = |name, default| Ok(gguf.opt_bool(&key(name))?.unwrap_or(default));
        Ok(Vocab {
            bos: special("bos_token_id", default.bos)?,
            eos: special("eos_token_id", default.eos)?,
            unk: special("unknown_token_id", default.unk)?,
            add_bos: flag("add_bos_token", default.add_bos)?,
            add_eos: flag("add_eos_token", default.add_eos)?,
            add_space_prefix: flag("add_space_prefix", default.add_space_prefix)?,
            ..default
        })
    }
}

/// What a piece is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A result of merges: the normal and the unused pieces.
    Merge,
    Unknown,
    Control,
    UserDefined,
    Byte(u8),
}

impl Kind {
    /// The bytes that a piece of this kind adds to a text.
    pub(super) fn bytes(self, piece: &str) -> Box<[u8]> {
        match self {
            Kind::Merge | Kind::UserDefined => piece.replace(spm::SPACE, " ").into_bytes().into(),
            Kind::Unknown => Box::from("\u{FFFD}".as_bytes()),
            Kind::Control => Box::default(),
            Kind::Byte(byte) => Box::new([byte]),
        }
    }
}

/// The kind of each piece; every check of a vocabulary that needs no index of it.
pub(super) fn kinds(vocab: &Vocab) -> Result<Vec<Kind>> {
    let size = vocab.pieces.len();
    if u32::try_from(size).is_err() {
        return Err(invalid("tokens", "at most 4294967295 pieces", size));
    }
    for (key, len) in [("scores", vocab.scores.len()), ("token_type", vocab.types.len())] {
        if len != size {
            return Err(invalid(key, format!("{size} values, one a piece"), len));
        }
    }
    for (key, id) in [("bos", vocab.bos), ("eos", vocab.eos), ("unknown", vocab.unk)] {
        if let Some(id) = id.filter(|id| id.0 as usize >= size) {
            return Err(invalid(&format!("{key}_token_id"), format!("an id below {size}"), id.0));
        }
    }
    if let Some(at) = vocab.scores.iter().position(|score| score.is_nan()) {
        return Err(invalid("scores", "numbers", format!("NaN for token {at}")));
    }
    let mut kinds = Vec::with_capacity(size);
    for (id, (piece, kind)) in vocab.pieces.iter().zip(&vocab.types).enumerate() {
        kinds.push(match kind {
            1 | 5 => Kind::Merge,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            6 => Kind::Byte(spelled_byte(piece).ok_or_else(|| {
                invalid("tokens", format!("\"<0xXX>\" for token {id}, which is a byte"), format!("{piece:?}"))
            })?),
            _ => return Err(invalid("token_type", format!("1 to 6 for token {id}"), kind)),
        });
    }
    for (id, kind) in [(vocab.unk, Kind::Unknown), (vocab.bos, Kind::Control), (vocab.eos, Kind::Control)] {
        if let Some(id) = id {
            kinds[id.0 as usize] = kind;
        }
    }
    Ok(kinds)
}

/// The byte that `<0xXX>` stands for.
fn spelled_byte(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let digits = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u8::from_str_radix(hex, 16).ok())?
}

/// A vocabulary that cannot be used.
pub(super) fn invalid(name: &str, expected: impl Into<String>, found: impl ToString) -> Error {
    Error::Key { key: key(name), offset: None, expected: expected.into(), found: found.to_string() }
}

/// Adds to an error of [`invalid`]'s where in the file the key is.
pub(super) fn located(error: Error, gguf: &Gguf) -> Error {
    let Error::Key { key, expected, found, .. } = error else { return error };
    match gguf.key_error(&key, expected) {
        Error::Key { key, offset, expected, .. } => Error::Key { key, offset, expected, found },
        other => other,
    }
}

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}
