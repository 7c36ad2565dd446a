//! Cutting a text into the words that byte-pair merges do not cross.
//!
//! A pre-tokenizer is a list of stages. Each cuts every piece that the stage before left, by itself: what its
//! pattern finds is a piece, and so is what lies between. The table names all of them, with the aliases that files
//! use; a new one is an entry there, and a scanner in `scan.rs` if its pattern is new.
//!
//! Some tokenizers compose characters first ([`COMPOSING`]), so that `e` and a combining acute are the `é` that their
//! models have seen. That is a property of a name, not of the way to cut that it shares with others.

mod class;
mod scan;

use scan::Found;
use std::borrow::Cow;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// How a byte-level vocabulary cuts text into words: what `tokenizer.ggml.pre` names.
///
/// The default is what GGUF means by `default` or by no name at all.
///
/// ```
/// use llama_core::tokenizer::PreTokenizer;
///
/// let cut = |name| {
///     let mut words = Vec::new();
///     PreTokenizer::from_name(name).unwrap().split("We'll pay 1234", |word| words.push(word));
///     words.join(&b'|')
/// };
/// assert_eq!(cut("gpt-2"), b"We|'ll| pay| 1234");
/// assert_eq!(cut("llama-bpe"), b"We|'ll| pay| |123|4");
/// assert_eq!(cut("starcoder"), b"We|'ll| pay| |1|2|3|4");
/// ```
#[derive(Clone, Copy)]
pub struct PreTokenizer {
    definition: &'static Definition,
    /// Whether characters are composed first.
    composes: bool,
}

/// What a name stands for.
struct Definition {
    /// The name and its aliases.
    names: &'static [&'static str],
    stages: &'static [Stage],
    /// Whether a word that is a piece is that piece, whatever merges would make of it.
    whole_words: bool,
    /// Whether a text begins with `bos` where the file does not say.
    add_bos: bool,
}

enum Stage {
    /// Cuts out what a pattern finds.
    Text(fn(&str) -> Found),
    /// Cuts the bytes, perhaps inside of a character; after all of the text's stages.
    Bytes(fn(&[u8]) -> Found),
}

use Stage::{Bytes, Text};

/// The definitions are those of the `tokenizer.json` files of the models, but for the default, which is GGUF's own.
static TABLE: &[Definition] = &[
    Definition {
        names: &["default"],
        stages: &[
            Text(scan::most_punctuation),
            Text(scan::gpt2),
            Text(scan::all_numbers),
            Text(scan::three_digits),
        ],
        ..PLAIN
    },
    Definition {
        names: &[
            "gpt-2",
            "mpt",
            "olmo",
            "phi-2",
            "jais",
            "trillion",
            "exaone4",
            "gigachat",
            "granite-docling",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
        ],
        stages: &[Text(scan::gpt2)],
        ..PLAIN
    },
    Definition {
        names: &[
            "starcoder",
            "refact",
            "command-r",
            "cohere2_moe",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        stages: &[Text(scan::each_number), Text(scan::gpt2)],
        ..PLAIN
    },
    Definition {
        names: &["falcon"],
        stages: &[
            Text(scan::all_punctuation),
            Text(scan::gpt2),
            Bytes(alphabet_numbers),
            Bytes(three_ascii_digits),
        ],
        ..PLAIN
    },
    Definition {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "laguna",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        stages: &[Text(scan::llama3)],
        whole_words: true,
        add_bos: true,
    },
    Definition {
        names: &["smaug-bpe", "dbrx", "chatglm-bpe", "glm4"],
        stages: &[Text(scan::llama3)],
        ..PLAIN
    },
    Definition {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "stablelm2",
            "megrez",
            "hunyuan",
            "solar-open",
            "grok-2",
            "kormo",
            "openpangu",
            "f2llmv2",
        ],
        stages: &[Text(scan::qwen2)],
        ..PLAIN
    },
    Definition { names: &["qwen35"], stages: &[Text(scan::qwen35)], ..PLAIN },
    Definition { names: &["tekken"], stages: &[Text(scan::tekken)], whole_words: true, add_bos: true },
    Definition {
        names: &["gpt-4o", "llama4", "kanana2", "minimax-m2"],
        stages: &[Text(scan::gpt4o)],
        ..PLAIN
    },
    Definition {
        names: &["deepseek-llm"],
        stages: &[
            Text(scan::each_newline),
            Text(scan::deepseek_letters),
            Text(scan::deepseek_punctuation),
            Text(scan::last_whitespace),
            Text(scan::deepseek_east),
            Text(scan::each_number),
        ],
        ..PLAIN
    },
    Definition {
        names: &["deepseek-coder"],
        stages: &[
            Text(scan::each_newline),
            Text(scan::spaced_letters),
            Text(scan::spaced_punctuation),
            Text(scan::deepseek_east),
            Text(scan::each_number),
        ],
        ..PLAIN
    },
    Definition {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        stages: &[Text(scan::three_numbers), Text(scan::deepseek3_east), Text(scan::deepseek3)],
        ..PLAIN
    },
    Definition { names: &["bloom", "poro-chat", "gpt3-finnish"], stages: &[Text(scan::bloom)], ..PLAIN },
    Definition { names: &["viking"], stages: &[Text(scan::bloom), Text(scan::each_number)], ..PLAIN },
];

/// The names whose `tokenizer.json` has Unicode's normalisation form C before everything else.
const COMPOSING: [&str; 4] = ["qwen2", "qwen35", "command-r", "mpt"];

/// What most definitions do not ask for.
const PLAIN: Definition = Definition { names: &[], stages: &[], whole_words: false, add_bos: false };

impl PreTokenizer {
    /// The one that files call by this name.
    pub fn from_name(name: &str) -> Option<PreTokenizer> {
        let definition = TABLE.iter().find(|definition| definition.names.contains(&name))?;
        Some(PreTokenizer { definition, composes: COMPOSING.contains(&name) })
    }

    /// All of them, each once, by the first of its names.
    pub fn all() -> impl ExactSizeIterator<Item = PreTokenizer> {
        TABLE
            .iter()
            .map(|definition| PreTokenizer { definition, composes: COMPOSING.contains(&definition.names[0]) })
    }

    /// Its name and the aliases that files use for it.
    pub fn names(self) -> &'static [&'static str] {
        self.definition.names
    }

    /// A text as it is to be cut: in normalisation form C where the model's own tokenizer has that, else as it is.
    ///
    /// ```
    /// use llama_core::tokenizer::PreTokenizer;
    ///
    /// let text = |name| PreTokenizer::from_name(name).unwrap().normalized("e\u{301}").into_owned();
    /// assert_eq!((text("qwen2"), text("llama-bpe")), ("\u{e9}".into(), "e\u{301}".into()));
    /// ```
    pub fn normalized(self, text: &str) -> Cow<'_, str> {
        if !self.composes || text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.nfc().collect())
    }

    /// Hands the words of a text to `emit`, in order; joined, they are the text.
    ///
    /// Words are bytes, because Falcon's may end inside of a character. Takes time linear in the text.
    pub fn split<'a>(self, text: &'a str, mut emit: impl FnMut(&'a [u8])) {
        cut(self.definition.stages, text, &mut emit);
    }

    /// Whether a word that is a piece is that piece, whatever merges would make of it.
    pub(super) fn whole_words(self) -> bool {
        self.definition.whole_words
    }

    /// Whether a text begins with `bos` where the file does not say.
    pub(super) fn add_bos(self) -> bool {
        self.definition.add_bos
    }
}

impl Default for PreTokenizer {
    fn default() -> PreTokenizer {
        PreTokenizer { definition: &TABLE[0], composes: false }
    }
}

impl PartialEq for PreTokenizer {
    fn eq(&self, other: &PreTokenizer) -> bool {
        std::ptr::eq(self.definition, other.definition) && self.composes == other.composes
    }
}

impl Eq for PreTokenizer {}

impl std::fmt::Debug for PreTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PreTokenizer").field(&self.definition.names[0]).finish()
    }
}

fn cut<'a>(stages: &[Stage], piece: &'a str, emit: &mut impl FnMut(&'a [u8])) {
    match stages {
        [Text(pattern), rest @ ..] => {
            let find = |at| pattern(&piece[at..]);
            pieces(piece.len(), find, |part| cut(rest, &piece[part], emit));
        }
        _ => cut_bytes(stages, piece.as_bytes(), emit),
    }
}

fn cut_bytes<'a>(stages: &[Stage], piece: &'a [u8], emit: &mut impl FnMut(&'a [u8])) {
    match stages {
        [Bytes(pattern), rest @ ..] => {
            let find = |at| pattern(&piece[at..]);
            pieces(piece.len(), find, |part| cut_bytes(rest, &piece[part], emit));
        }
        [Text(_), ..] => unreachable!("the table has text's stages first"),
        [] => emit(piece),
    }
}

/// The matches and what lies between them, of a piece of `len` bytes in which `find` looks from a place on.
fn pieces(len: usize, find: impl Fn(usize) -> Found, mut emit: impl FnMut(std::ops::Range<usize>)) {
    let (mut done, mut at) = (0, 0);
    while at < len {
        match find(at) {
            Found::Gap(gap) => at += gap,
            Found::Piece(found) => {
                if done < at {
                    emit(done..at);
                }
                emit(at..at + found);
                at += found;
                done = at;
            }
        }
    }
    if done < len {
        emit(done..len);
    }
}

/// `\p{N}+` in the byte-level alphabet: Falcon looks for numbers after it has spelled its bytes, and six of the
/// characters that stand for bytes are superscripts and fractions (`²³¹¼½¾`).
fn alphabet_numbers(bytes: &[u8]) -> Found {
    let number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, 0xB2 | 0xB3 | 0xB9 | 0xBC | 0xBD | 0xBE);
    let end = bytes.iter().position(|byte| !number(byte)).unwrap_or(bytes.len());
    if end > 0 { Found::Piece(end) } else { Found::Gap(1) }
}

/// `[0-9][0-9][0-9]`
fn three_ascii_digits(bytes: &[u8]) -> Found {
    let three = bytes.get(..3).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit));
    if three { Found::Piece(3) } else { Found::Gap(1) }
}
