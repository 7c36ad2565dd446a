//! Chat templates: the Jinja text (`tokenizer.chat_template`) with which a file says how its model reads a
//! conversation.
//!
//! Rendered as Hugging Face's `apply_chat_template` does it: blocks are trimmed, one newline at the end is dropped,
//! `messages`, `add_generation_prompt`, `bos_token`, `eos_token`, `raise_exception` and `strftime_now` (in UTC) are
//! there, `tools` and `documents` are none, and strings have Python's methods.
//!
//! What comes out are typed segments: where the *template* spells a control token, that is its id; where a *message*
//! spells one, that is text. To tell them apart the template is rendered again with guarded messages, in which
//! characters of control tokens are exchanged for private ones, each for another, so that lengths, slices, searches
//! for other texts and stripping are as before ([`guard`]). At first every character that occurs in any control
//! token is guarded; that also finds a token which a message and the template spell together. If the template looks
//! into messages and then says something else, only the tokens that are spelled in full within a message are guarded.
//!
//! A template is as hostile as the file that it comes from, so its time, its memory and its depth are limited; see
//! [`limits`].

mod guard;
mod json;
mod limits;
mod python;
mod rewrite;
mod time;

#[cfg(test)]
mod tests;

use crate::tokenizer::{Prompt, Token, Tokenizer};
use crate::{Error, Result};
use guard::Guard;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, ErrorKind, State, Value, context};
use std::fmt;

/// Who says a [`Message`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Whoever sets the rules.
    System,
    /// Whoever asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that templates know.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// A part of a conversation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said: plain text, whatever it spells.
    pub text: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, text: impl Into<String>) -> Message {
        Message { role, text: text.into() }
    }
}

/// A compiled chat template, for one vocabulary.
///
/// ```no_run
/// use llama_core::{Message, Model, Role, Template};
///
/// # fn main() -> llama_core::Result<()> {
/// let model = Model::read("tinyllama-1.1b-chat.Q8_0.gguf")?;
/// let source = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}";
/// let template = Template::new(source, model.tokenizer())?;
/// let prompt = template.render(&[Message::new(Role::User, "Hi </s>")], true)?;
/// # Ok(())
/// # }
/// ```
pub struct Template {
    environment: Environment<'static>,
    source: String,
    /// The control tokens' spellings, longest first.
    control: Vec<(String, Token)>,
    bos: Option<Token>,
    bos_text: String,
    eos_text: String,
}

/// Bytes of a template's source. Those with long instructions for tools have 20,000.
const MAX_SOURCE: usize = 1 << 18;

/// The name of the only template.
const NAME: &str = "chat_template";

impl Template {
    /// Compiles a template for a vocabulary.
    ///
    /// # Errors
    /// [`Error::Template`] if it is no Jinja template, or longer than 256 KiB.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Template> {
        if source.len() > MAX_SOURCE {
            let reason = format!("expected at most {MAX_SOURCE} bytes, found {}", source.len());
            return Err(Error::Template { line: None, reason });
        }
        let rewrite::Rewritten { source: checked, longest } = rewrite::rewrite(source).map_err(|at| {
            let line = Some(1 + source[..at].matches('\n').count());
            Error::Template {
                line,
                reason: "expected a tag that ends, of at most 100 brackets within each other".into(),
            }
        })?;
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_keep_trailing_newline(false);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(python::method);
        environment.add_function("raise_exception", raise);
        environment.add_function("strftime_now", |format: &str| time::now(format));
        environment.add_filter("tojson", tojson);
        limits::apply(&mut environment, longest);
        environment.add_template_owned(NAME, checked).map_err(failed)?;
        let mut control: Vec<(String, Token)> =
            tokenizer.control_tokens().map(|(piece, token)| (piece.to_owned(), token)).collect();
        control.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        let spelled =
            |token: Option<Token>| token.and_then(|token| tokenizer.piece(token)).unwrap_or("").to_owned();
        Ok(Template {
            environment,
            source: source.to_owned(),
            control,
            bos: tokenizer.bos(),
            bos_text: spelled(tokenizer.bos()),
            eos_text: spelled(tokenizer.eos()),
        })
    }

    /// The source that it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt of a conversation; with `generation`, up to where the model's answer begins.
    ///
    /// However often the template spells it, the beginning-of-text token stands at the start at most once.
    ///
    /// # Errors
    /// [`Error::Template`] if the template refuses the messages, fails, or goes on for too long.
    pub fn render(&self, messages: &[Message], generation: bool) -> Result<Prompt> {
        let texts = || messages.iter().map(|message| message.text.as_str());
        let plain = self.text(messages, generation)?;
        let characters =
            self.control.iter().flat_map(|(piece, _)| piece.chars()).filter(|c| !c.is_whitespace());
        let guard = Guard::new(texts().chain([self.source.as_str()]), texts(), characters);
        let guarded = |change: &dyn Fn(&str) -> String| {
            let change = |message: &Message| Message::new(message.role, change(&message.text));
            self.text(&messages.iter().map(change).collect::<Vec<_>>(), generation)
        };
        let text = match guarded(&|text| guard.all(text)) {
            Ok(text) if guard.removed(&text) == plain => text,
            _ => guarded(&|text| guard.spelled(text, self.control.iter().map(|(piece, _)| piece.as_str())))?,
        };
        Ok(self.segments(&text, &guard))
    }

    /// What the template makes of these messages.
    fn text(&self, messages: &[Message], generation: bool) -> Result<String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.name(), content => message.text.as_str() })
            .collect();
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let none = Value::from(());
        template
            .render(context! {
                messages,
                add_generation_prompt => generation,
                bos_token => self.bos_text.as_str(),
                eos_token => self.eos_text.as_str(),
                tools => none,
                documents => none,
            })
            .map_err(failed)
    }

    /// Cuts a text at the control tokens that it spells, and takes the guards away.
    fn segments(&self, text: &str, guard: &Guard) -> Prompt {
        let mut prompt = Prompt::new();
        let (mut start, mut at) = (0, 0);
        let mut first = true;
        while at < text.len() {
            let Some((piece, token)) =
                self.control.iter().find(|(piece, _)| text[at..].starts_with(piece.as_str()))
            else {
                at += text[at..].chars().next().map_or(1, char::len_utf8);
                continue;
            };
            if start < at {
                prompt = prompt.text(guard.removed(&text[start..at]));
                first = false;
            }
            let again = first && Some(*token) == self.bos && !prompt.segments().is_empty();
            if !again {
                prompt = prompt.special(*token);
                first = first && Some(*token) == self.bos;
            }
            at += piece.len();
            start = at;
        }
        if start < text.len() { prompt.text(guard.removed(&text[start..])) } else { prompt }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("source", &self.source).finish_non_exhaustive()
    }
}

/// What a template calls to refuse a conversation.
fn raise(message: &str) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("the template refuses: {message}")))
}

/// Python's `json.dumps` without escapes for other alphabets, as Hugging Face defines this filter.
fn tojson(
    state: &State<'_, '_>,
    value: Value,
    indent: Option<usize>,
    options: Kwargs,
) -> std::result::Result<String, minijinja::Error> {
    let indent = indent.or(options.get::<Option<usize>>("indent")?);
    let _ = (options.get::<Option<bool>>("ensure_ascii")?, options.get::<Option<bool>>("sort_keys")?);
    options.assert_all_used()?;
    limits::charge_deep(state, &value)?;
    let text = json::text(&value, indent.map(|indent| indent.min(16)));
    limits::charge(state, text.len())?;
    Ok(text)
}

/// An error of the template's engine.
fn failed(error: minijinja::Error) -> Error {
    let reason = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    Error::Template { line: error.line(), reason }
}
