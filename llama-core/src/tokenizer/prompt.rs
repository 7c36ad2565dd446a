//! What to feed a model, as typed segments.

use super::Token;

/// A part of a [`Prompt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A token by its id.
    Special(Token),
    /// Plain text; whatever it spells, it does not become a control token.
    Text(String),
    /// The same in the middle of something: encoded without the space that a vocabulary imagines before a text.
    Continuation(String),
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
            Some(Segment::Text(before) | Segment::Continuation(before)) => before.push_str(&text),
            _ => self.segments.push(Segment::Text(text)),
        }
        self
    }

    /// Adds plain text that gets no space prefix, whatever stands before it.
    pub fn continuation(mut self, text: impl Into<String>) -> Prompt {
        let text = text.into();
        match self.segments.last_mut() {
            Some(Segment::Text(before) | Segment::Continuation(before)) => before.push_str(&text),
            _ => self.segments.push(Segment::Continuation(text)),
        }
        self
    }

    /// Adds a segment.
    pub(crate) fn with(self, segment: Segment) -> Prompt {
        match segment {
            Segment::Special(token) => self.special(token),
            Segment::Text(text) => self.text(text),
            Segment::Continuation(text) => self.continuation(text),
        }
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
