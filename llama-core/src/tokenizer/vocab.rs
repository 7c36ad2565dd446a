//! A vocabulary as a file gives it, and the checks that it must pass.

use super::pretokenizer::PreTokenizer;
use super::{Token, alphabet, spm};
use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// What a file says about a vocabulary, not yet checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocab {
    /// The pieces by id, as the file spells them: `▁Once` or `ĠOnce`, `<0x0A>`, `<s>`.
    pub pieces: Vec<String>,
    /// The pieces' types: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
    /// How characters become pieces.
    pub merges: Merges,
    /// Begins a text.
    pub bos: Option<Token>,
    /// Ends a text.
    pub eos: Option<Token>,
    /// Ends a turn of a conversation.
    pub eot: Option<Token>,
    /// Ends a message within a turn, where a tool is to answer.
    pub eom: Option<Token>,
    /// Stands before the text that precedes a gap which is to be filled in.
    pub fim_pre: Option<Token>,
    /// Stands before the text that follows the gap.
    pub fim_suf: Option<Token>,
    /// Stands where the text of the gap begins.
    pub fim_mid: Option<Token>,
    /// Stands for what neither pieces nor bytes can spell.
    pub unk: Option<Token>,
    /// Whether a text is to begin with `bos`.
    pub add_bos: bool,
    /// Whether a text is to end with `eos`.
    pub add_eos: bool,
    /// Whether a text is encoded as if a space stood before it; SentencePiece only.
    pub add_space_prefix: bool,
}

/// How a vocabulary makes pieces of characters.
#[derive(Clone, Debug, PartialEq)]
pub enum Merges {
    /// SentencePiece's way (`tokenizer.ggml.model = llama`): the pieces' scores. Of two possible merges the one to
    /// the piece with the higher score goes first.
    Scores(Vec<f32>),
    /// GPT-2's way (`gpt2`), over bytes.
    Ranks {
        /// Two pieces each, with a space between them; of two possible merges the earlier one goes first.
        merges: Vec<String>,
        /// What cuts the text into words, which merges do not cross.
        pre: PreTokenizer,
    },
}

/// Pieces of Code Llama 7B and 13B, whose files often do not name the tokens of infill.
const CODE_LLAMA: usize = 32_016;

/// Pieces that end a generation whatever a file says of them, by their spelling: those of the chat formats.
const ENDS: [&str; 13] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<EOT>",
    "▁<EOT>",
    "[EOT]",
    "<step>",
];

impl Vocab {
    /// A SentencePiece vocabulary with the defaults that GGUF files rely on: unk 0, bos 1, eos 2, a BOS, no EOS, a
    /// space prefix; and with 32,016 pieces, as Code Llama 7B and 13B have them, the tokens of infill, 32007 to
    /// 32009, and the end of what is filled in, 32010.
    pub fn spm(pieces: Vec<String>, scores: Vec<f32>, types: Vec<i32>) -> Vocab {
        let code_llama = |id| (pieces.len() == CODE_LLAMA).then_some(Token(id));
        let (eot, fim_mid) = (code_llama(32_010), code_llama(32_009));
        let (fim_pre, fim_suf) = (code_llama(32_007), code_llama(32_008));
        Vocab {
            pieces,
            types,
            merges: Merges::Scores(scores),
            bos: Some(Token(1)),
            eos: Some(Token(2)),
            eot,
            eom: None,
            fim_pre,
            fim_suf,
            fim_mid,
            unk: Some(Token(0)),
            add_bos: true,
            add_eos: false,
            add_space_prefix: true,
        }
    }

    /// A byte-level vocabulary with the defaults that GGUF files rely on: no special tokens, a BOS if the
    /// pre-tokenizer is that of a family which has one (`llama-bpe`, `tekken`), no EOS.
    pub fn bpe(pieces: Vec<String>, types: Vec<i32>, merges: Vec<String>, pre: PreTokenizer) -> Vocab {
        Vocab {
            pieces,
            types,
            merges: Merges::Ranks { merges, pre },
            bos: None,
            eos: None,
            eot: None,
            eom: None,
            fim_pre: None,
            fim_suf: None,
            fim_mid: None,
            unk: None,
            add_bos: pre.add_bos(),
            add_eos: false,
            add_space_prefix: false,
        }
    }

    /// The vocabulary of a file, as it stands there; keys that are missing have [`spm`](Self::spm)'s or
    /// [`bpe`](Self::bpe)'s defaults.
    pub(super) fn from_gguf(gguf: &Gguf) -> Result<Vocab> {
        let strings = |name| Ok(gguf.strs(&key(name))?.map(str::to_owned).collect::<Vec<_>>());
        let default = match gguf.str(&key("model"))? {
            "llama" => Vocab::spm(
                strings("tokens")?,
                gguf.f32s(&key("scores"))?.collect(),
                gguf.i32s(&key("token_type"))?.collect(),
            ),
            "gpt2" => {
                let pre = pre_tokenizer(gguf)?;
                let pieces = strings("tokens")?;
                let types = gguf.opt_i32s(&key("token_type"))?;
                let types = types.map_or_else(|| vec![1; pieces.len()], Iterator::collect);
                Vocab::bpe(pieces, types, strings("merges")?, pre)
            }
            _ => {
                let expected = "\"llama\", a SentencePiece vocabulary, or \"gpt2\", a byte-level one";
                return Err(gguf.key_error(&key("model"), expected));
            }
        };
        let special = |name, default| {
            let id = gguf.opt_u32(&key(name))?;
            // Files write -1, in 32 bits, for "none".
            Ok(id.map_or(default, |id| (id != u32::MAX).then_some(Token(id))))
        };
        let flag = |name, default| Ok(gguf.opt_bool(&key(name))?.unwrap_or(default));
        let add_space_prefix = match default.merges {
            Merges::Scores(_) => flag("add_space_prefix", default.add_space_prefix)?,
            Merges::Ranks { .. } => false,
        };
        Ok(Vocab {
            bos: special("bos_token_id", default.bos)?,
            eos: special("eos_token_id", default.eos)?,
            eot: special("eot_token_id", default.eot)?,
            eom: special("eom_token_id", default.eom)?,
            // The earlier names of these keys are those of Code Llama's first files.
            fim_pre: special("fim_pre_token_id", special("prefix_token_id", default.fim_pre)?)?,
            fim_suf: special("fim_suf_token_id", special("suffix_token_id", default.fim_suf)?)?,
            fim_mid: special("fim_mid_token_id", special("middle_token_id", default.fim_mid)?)?,
            unk: special("unknown_token_id", default.unk)?,
            add_bos: flag("add_bos_token", default.add_bos)?,
            add_eos: flag("add_eos_token", default.add_eos)?,
            add_space_prefix,
            ..default
        })
    }

    /// The tokens that end a generation, in order.
    pub(super) fn ends(&self) -> Vec<Token> {
        let spelled = self.pieces.iter().enumerate().filter(|(_, piece)| ENDS.contains(&piece.as_str()));
        let mut ends: Vec<Token> = spelled.map(|(id, _)| Token(id as u32)).collect();
        ends.extend([self.eos, self.eot, self.eom].into_iter().flatten());
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// The bytes that a piece adds to a text.
    pub(super) fn bytes(&self, piece: &str, kind: Kind) -> Box<[u8]> {
        match (kind, &self.merges) {
            (Kind::Merge | Kind::UserDefined, Merges::Scores(_)) => {
                piece.replace(spm::SPACE, " ").into_bytes().into()
            }
            (Kind::Merge, Merges::Ranks { .. }) => {
                alphabet::bytes(piece).unwrap_or_else(|| Box::from(piece.as_bytes()))
            }
            // Not in the alphabet: it stands for its own characters.
            (Kind::UserDefined, Merges::Ranks { .. }) => Box::from(piece.as_bytes()),
            (Kind::Unknown, _) => Box::from("\u{FFFD}".as_bytes()),
            (Kind::Control, _) => Box::default(),
            (Kind::Byte(byte), _) => Box::new([byte]),
        }
    }
}

/// The pre-tokenizer that a file names.
fn pre_tokenizer(gguf: &Gguf) -> Result<PreTokenizer> {
    let Some(name) = gguf.opt_str(&key("pre"))? else { return Ok(PreTokenizer::default()) };
    PreTokenizer::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = PreTokenizer::all().flat_map(PreTokenizer::names).copied().collect();
        gguf.key_error(&key("pre"), format!("one of {}", names.join(", ")))
    })
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

/// The kind of each piece; every check of a vocabulary that needs no index of it.
///
/// `bos`, the tokens that end a generation and those of infill are control tokens, whatever their types say: no text
/// becomes one.
pub(super) fn kinds(vocab: &Vocab) -> Result<Vec<Kind>> {
    let size = vocab.pieces.len();
    if u32::try_from(size).is_err() {
        return Err(invalid("tokens", "at most 4294967295 pieces", size));
    }
    let scores = if let Merges::Scores(scores) = &vocab.merges { Some(scores) } else { None };
    let lists = [("scores", scores.map(Vec::len)), ("token_type", Some(vocab.types.len()))];
    for (key, len) in lists {
        if let Some(len) = len.filter(|&len| len != size) {
            return Err(invalid(key, format!("{size} values, one a piece"), len));
        }
    }
    let ids = [
        ("bos", vocab.bos),
        ("eos", vocab.eos),
        ("eot", vocab.eot),
        ("eom", vocab.eom),
        ("fim_pre", vocab.fim_pre),
        ("fim_suf", vocab.fim_suf),
        ("fim_mid", vocab.fim_mid),
        ("unknown", vocab.unk),
    ];
    for (key, id) in ids {
        if let Some(id) = id.filter(|id| id.0 as usize >= size) {
            return Err(invalid(&format!("{key}_token_id"), format!("an id below {size}"), id.0));
        }
    }
    if let Some(at) = scores.and_then(|scores| scores.iter().position(|score| score.is_nan())) {
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
    if let Some(unk) = vocab.unk {
        kinds[unk.0 as usize] = Kind::Unknown;
    }
    let special = [vocab.bos, vocab.fim_pre, vocab.fim_suf, vocab.fim_mid];
    for id in vocab.ends().into_iter().chain(special.into_iter().flatten()) {
        kinds[id.0 as usize] = Kind::Control;
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
