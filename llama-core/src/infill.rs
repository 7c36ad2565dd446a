//! Filling a gap in: the text between a prefix and a suffix, which models such as Code Llama 7B and 13B were trained
//! to write ("Code Llama: Open Foundation Models for Code", 2023, section 2.3).
//!
//! Special tokens are ids and both texts are plain, so code that spells `<MID>` is code. The prefix begins a text and
//! gets its space; the suffix continues one and gets none, as in the reference code of Meta's `codellama` repository.

use crate::tokenizer::{Prompt, Token, Tokenizer};
use crate::{Error, Result};

/// Which text a [`Prompt`] of [`Infill`] holds first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Order {
    /// `<PRE> prefix <SUF> suffix <MID>`.
    #[default]
    PrefixFirst,
    /// `<PRE> <SUF> suffix <MID> prefix`, for prefixes that end within a token.
    SuffixFirst,
}

/// A gap and the text around it, from which a [`Prompt`] is made. What a model generates next belongs into the gap,
/// up to a token that [ends](Tokenizer::ends) it.
///
/// ```no_run
/// use llama_core::{Model, Options, Sampler};
///
/// # fn main() -> llama_core::Result<()> {
/// let model = Model::read("codellama-7b.Q4_0.gguf")?;
/// let mut session = model.session(Options::default())?;
/// session.push(&model.infill()?.prefix("def add(a, b):\n    return ").suffix("\n"))?;
/// let middle: String = session.generate(&mut Sampler::greedy()).take(256).collect::<Result<_, _>>()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Infill {
    /// If a text is to begin with it.
    bos: Option<Token>,
    fim_pre: Token,
    fim_suf: Token,
    fim_mid: Token,
    prefix: String,
    suffix: String,
    order: Order,
}

impl Infill {
    /// A gap with nothing around it, for a model with this tokenizer.
    ///
    /// # Errors
    /// [`Error::Key`] if the vocabulary lacks one of the three special tokens.
    pub fn new(tokenizer: &Tokenizer) -> Result<Infill> {
        let special = |token: Option<Token>, key: &str| {
            token.ok_or_else(|| Error::Key {
                key: format!("tokenizer.ggml.{key}_token_id"),
                offset: None,
                expected:
                    "the id of a token, for infill (Code Llama 7B and 13B have it, but not 34B and Python)"
                        .into(),
                found: format!("none in a vocabulary of {} pieces", tokenizer.vocab_size()),
            })
        };
        Ok(Infill {
            bos: tokenizer.bos().filter(|_| tokenizer.add_bos()),
            fim_pre: special(tokenizer.fim_pre(), "fim_pre")?,
            fim_suf: special(tokenizer.fim_suf(), "fim_suf")?,
            fim_mid: special(tokenizer.fim_mid(), "fim_mid")?,
            prefix: String::new(),
            suffix: String::new(),
            order: Order::default(),
        })
    }

    /// Sets the text before the gap.
    pub fn prefix(mut self, text: impl Into<String>) -> Infill {
        self.prefix = text.into();
        self
    }

    /// Sets the text after the gap.
    pub fn suffix(mut self, text: impl Into<String>) -> Infill {
        self.suffix = text.into();
        self
    }

    /// Sets which of the two comes first. Default: the prefix.
    pub fn order(mut self, order: Order) -> Infill {
        self.order = order;
        self
    }
}

impl From<&Infill> for Prompt {
    fn from(infill: &Infill) -> Prompt {
        let start = infill.bos.into_iter().fold(Prompt::new(), Prompt::special).special(infill.fim_pre);
        let (prefix, suffix) = (infill.prefix.as_str(), infill.suffix.as_str());
        match infill.order {
            Order::PrefixFirst => {
                start.text(prefix).special(infill.fim_suf).continuation(suffix).special(infill.fim_mid)
            }
            Order::SuffixFirst => {
                start.special(infill.fim_suf).continuation(suffix).special(infill.fim_mid).text(prefix)
            }
        }
    }
}

impl From<Infill> for Prompt {
    fn from(infill: Infill) -> Prompt {
        Prompt::from(&infill)
    }
}
