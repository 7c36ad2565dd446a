//! A conversation of several turns: what is said, and the session in which it is evaluated.
//!
//! Each token is evaluated once. A turn is rendered with the whole conversation before it, in which a private
//! character stands for each answer of the model; if all that went before is rendered as it was (which is so in every
//! format but those that change earlier answers), only what follows the last answer is new, and the session keeps the
//! tokens of the answers *as they were sampled*: other tokens may spell the same text. If it is not so, and after
//! changes to the past, the session keeps the prefix that both have in common and evaluates the rest.
//!
//! # The system message
//!
//! It stands where the format wants it, and where a template has no place for one it goes before the first question.
//! With [`Options::context_shift`](crate::Options::context_shift) a full context forgets the oldest turns, but never
//! the system message: what is kept grows to hold it.
//!
//! [`Conversation::system_every_turn`] attaches it to every question. Llama 2-Chat was trained on such conversations
//! ("ghost attention": Touvron et al. 2023, section 3.3), so that it remembers its instructions without being told
//! again; models that drift can be told. This costs the tokens of the system message again in each turn, in time and
//! in context: 100 tokens of instructions over 20 turns are 1,900 tokens more.

mod file;
#[cfg(test)]
mod tests;

use crate::generate::Generate;
use crate::template::{Message, Role, Template};
use crate::tokenizer::{Prompt, Segment, Token};
use crate::{Chat, Result, Sampler, Session};

/// How a conversation becomes a prompt.
#[derive(Debug)]
pub enum ChatFormat {
    /// Llama 2's, written natively ([`Chat`]).
    Llama2,
    /// A template's.
    Template(Box<Template>),
}

/// A conversation with a model, turn by turn.
///
/// ```no_run
/// use llama_core::{Conversation, Model, Options, Sampler};
///
/// # fn main() -> llama_core::Result<()> {
/// let model = Model::read("llama-2-7b-chat.Q4_0.gguf")?;
/// let mut chat = Conversation::new(model.session(Options::default())?, model.chat_format()?)?;
/// chat.set_system(Some("Be brief.".into()));
/// let mut sampler = Sampler::new(42).temperature(0.7);
/// for question in ["Why is the sky blue?", "And at night?"] {
///     chat.user(question)?;
///     for piece in chat.reply(&mut sampler) {
///         print!("{}", piece?);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Conversation {
    session: Session,
    format: ChatFormat,
    system: Option<String>,
    every_turn: bool,
    /// Whether the template has no place for a system message.
    folds: bool,
    /// What the session was told to keep, beside the system message.
    keep: Option<usize>,
    turns: Vec<Turn>,
    /// Whether the session's tokens are not those of the turns.
    stale: bool,
}

/// A question and perhaps its answer.
struct Turn {
    user: String,
    /// The conversation up to this answer, with [`MARKER`]s for earlier ones.
    view: Prompt,
    /// Where its own tokens begin, and where the answer does, counted from the beginning of all that was said.
    start: usize,
    end: usize,
    answer: Option<Answer>,
}

#[derive(Clone, Default, PartialEq, Debug)]
struct Answer {
    text: String,
    /// As they were sampled, with the one that ended it.
    tokens: Vec<Token>,
}

/// Stands for an answer in a rendered conversation: private use, the last character of its plane.
const MARKER: char = '\u{10FFFD}';

impl Conversation {
    /// An empty conversation; what the session holds is forgotten.
    ///
    /// # Errors
    /// [`Error::Key`](crate::Error::Key) if the native format's special tokens are not in the vocabulary.
    pub fn new(mut session: Session, format: ChatFormat) -> Result<Conversation> {
        session.clear();
        let folds = match &format {
            ChatFormat::Llama2 => session.model().chat().map(|_| false)?,
            ChatFormat::Template(template) => {
                let probe = [Message::new(Role::System, MARKER), Message::new(Role::User, "a")];
                let shows = |prompt: Prompt| prompt.segments().iter().any(|s| text_of(s).contains(MARKER));
                !template.render(&probe, true).is_ok_and(shows)
            }
        };
        let keep = session.evaluation.keep;
        Ok(Conversation {
            session,
            format,
            system: None,
            every_turn: false,
            folds,
            keep,
            turns: Vec::new(),
            stale: false,
        })
    }

    /// Sets or removes the instructions that stand before the first question. In the midst of a conversation the next
    /// question evaluates all of it anew.
    pub fn set_system(&mut self, text: Option<String>) {
        self.stale |= !self.turns.is_empty() && text != self.system;
        self.system = text;
    }

    /// The instructions.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Whether the instructions are attached to every question, and not to the first alone. Default: `false`.
    pub fn system_every_turn(&mut self, on: bool) {
        self.stale |= !self.turns.is_empty() && on != self.every_turn;
        self.every_turn = on;
    }

    /// Adds a question and evaluates it. One that follows a question without an answer continues it in a new line.
    ///
    /// # Errors
    /// [`Error::Template`](crate::Error::Template) if the template refuses the conversation,
    /// [`Error::Context`](crate::Error::Context) if there is no room,
    /// [`Error::Cancelled`](crate::Error::Cancelled): the conversation is as before, but for a question without an
    /// answer, which is gone.
    pub fn user(&mut self, text: impl Into<String>) -> Result<()> {
        let mut text = text.into();
        if self.turns.last().is_some_and(|turn| turn.answer.is_none())
            && let Some(earlier) = self.undo()
        {
            text = earlier + "\n" + &text;
        }
        let start = self.position();
        self.turns.push(Turn { user: text, view: Prompt::new(), start, end: start, answer: None });
        let result = self.evaluate();
        if result.is_err() {
            self.turns.pop();
            self.go_back(start);
        }
        result
    }

    /// Generates the answer to the last question, token by token as [`Session::generate`] does; goes on with an
    /// answer that has not ended. White space before an answer is left out.
    ///
    /// An answer that is stopped early, by its reader or by a cancellation, is a part of the conversation as far as
    /// it went. Without a question there is no answer.
    pub fn reply<'a>(&'a mut self, sampler: &'a mut Sampler) -> Reply<'a> {
        let answer = self.turns.last_mut().map(|turn| turn.answer.get_or_insert_default());
        let tokenizer = self.session.model.tokenizer();
        let ended = answer
            .as_ref()
            .is_none_or(|answer| answer.tokens.last().is_some_and(|&last| tokenizer.ends(last)));
        let generate = (!ended && !self.stale).then(|| self.session.generate(sampler));
        Reply { generate, answer }
    }

    /// Takes the last question and its answer back, and returns the question.
    pub fn undo(&mut self) -> Option<String> {
        let turn = self.turns.pop()?;
        self.go_back(turn.start);
        Some(turn.user)
    }

    /// Takes the last answer back, so that [`reply`](Self::reply) gives another one; tells whether there is a
    /// question.
    ///
    /// # Errors
    /// Those of [`user`](Self::user), if the question has to be evaluated again.
    pub fn retract_answer(&mut self) -> Result<bool> {
        let Some(turn) = self.turns.last_mut() else { return Ok(false) };
        turn.answer = None;
        let end = turn.end;
        self.go_back(end);
        if self.stale {
            self.evaluate()?;
        }
        Ok(true)
    }

    /// Forgets everything but the system message.
    pub fn clear(&mut self) {
        self.turns.clear();
        self.session.clear();
        self.stale = false;
    }

    /// What was said, in order.
    pub fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new(Role::System, text));
        let turns = self.turns.iter().flat_map(|turn| {
            let answer = turn.answer.as_ref().map(|answer| Message::new(Role::Assistant, &answer.text));
            [Some(Message::new(Role::User, &turn.user)), answer].into_iter().flatten()
        });
        system.chain(turns).collect()
    }

    /// The session in which it is evaluated.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// How it becomes a prompt.
    pub fn format(&self) -> &ChatFormat {
        &self.format
    }

    /// How many tokens were said so far, forgotten ones included.
    fn position(&self) -> usize {
        self.session.tokens().len() + self.session.stats().forgotten_tokens
    }

    /// Forgets what was said from a position on, if the session still holds what was before.
    fn go_back(&mut self, position: usize) {
        let forgotten = self.session.stats().forgotten_tokens;
        let kept = self.session.evaluation.kept();
        match position.checked_sub(forgotten) {
            Some(len) if len >= kept || forgotten == 0 => self.session.truncate(len),
            _ => self.stale = true,
        }
        if self.turns.is_empty() {
            self.session.clear();
            self.stale = false;
        }
    }

    /// Evaluates the last question.
    fn evaluate(&mut self) -> Result<()> {
        let last = self.turns.len() - 1;
        let view = self.view(self.turns.len(), true)?;
        let fresh = last == 0;
        let suffix = if fresh { None } else { self.suffix(last, &view)? };
        self.turns[last].view = view.clone();
        match suffix {
            _ if self.stale => self.rebuild()?,
            Some(suffix) => self.session.push(suffix)?,
            None if fresh => {
                self.session.clear();
                self.session.push(view)?;
            }
            None => self.rebuild()?,
        }
        let end = self.position();
        self.turns[last].end = end;
        self.keep_system()
    }

    /// What follows the answer before turn `at`, if all before it is as it was. `view` is that of the turn.
    fn suffix(&self, at: usize, view: &Prompt) -> Result<Option<Prompt>> {
        let before = &self.turns[at - 1];
        let Some(answer) = &before.answer else { return Ok(None) };
        if !self.is_intact(at + 1, view)? {
            return Ok(None);
        }
        let tokenizer = self.session.model().tokenizer();
        let ended = answer.tokens.last().is_some_and(|&last| tokenizer.ends(last));
        Ok(after(&before.view, view)
            .map(|rest| if ended { without_end(rest, |token| tokenizer.ends(token)) } else { rest }))
    }

    /// Whether the answers' texts stand where the markers are, in a conversation of so many turns.
    fn is_intact(&self, turns: usize, view: &Prompt) -> Result<bool> {
        if self.turns[..turns].iter().any(|turn| turn.user.contains(MARKER)) {
            return Ok(false);
        }
        if matches!(self.format, ChatFormat::Llama2) {
            return Ok(true);
        }
        let plain = self.view(turns, false)?;
        let spelled = |change: fn(&str) -> &str| {
            let mut answers = self.turns.iter().filter_map(|turn| turn.answer.as_ref());
            let mut prompt = Prompt::new();
            for segment in view.segments() {
                let Segment::Text(text) = segment else {
                    prompt = prompt.with(segment.clone());
                    continue;
                };
                let mut parts = text.split(MARKER);
                let mut out = parts.next().unwrap_or_default().to_owned();
                for part in parts {
                    out += answers.next().map_or("", |answer| change(&answer.text));
                    out += part;
                }
                if !out.is_empty() {
                    prompt = prompt.text(out);
                }
            }
            prompt
        };
        Ok(spelled(|text| text) == plain || spelled(str::trim) == plain)
    }

    /// The first `turns` of the conversation, up to where the next answer begins, with answers or markers for them.
    fn view(&self, turns: usize, marked: bool) -> Result<Prompt> {
        let marker = MARKER.to_string();
        let turn = |(at, turn): (usize, &Turn)| {
            let said = turn.answer.as_ref().filter(|_| at + 1 < turns);
            let text = said.map(|answer| if marked { marker.clone() } else { answer.text.clone() });
            (turn.user.clone(), text)
        };
        self.render(self.turns[..turns].iter().enumerate().map(turn))
    }

    /// The prompt of questions and answers.
    fn render(&self, turns: impl Iterator<Item = (String, Option<String>)>) -> Result<Prompt> {
        let system = self.system.as_ref();
        match &self.format {
            ChatFormat::Llama2 => {
                let chat = self.session.model().chat()?.system_every_turn(self.every_turn);
                let chat = system.into_iter().fold(chat, Chat::system);
                let chat = turns.fold(chat, |chat, (user, answer)| {
                    answer.into_iter().fold(chat.user(user), Chat::assistant)
                });
                Ok(chat.into())
            }
            ChatFormat::Template(template) => {
                let first = system.filter(|_| !self.folds).map(|text| Message::new(Role::System, text));
                let mut messages: Vec<Message> = first.into_iter().collect();
                for (at, (user, answer)) in turns.enumerate() {
                    let attached = if at == 0 { self.folds } else { self.every_turn };
                    let user = match system.filter(|_| attached) {
                        Some(system) => format!("{system}\n\n{user}"),
                        None => user,
                    };
                    messages.push(Message::new(Role::User, user));
                    messages.extend(answer.map(|text| Message::new(Role::Assistant, text)));
                }
                template.render(&messages, true)
            }
        }
    }

    /// Makes the session's tokens those of the conversation, from the first on that differs.
    fn rebuild(&mut self) -> Result<()> {
        self.stale = true;
        let model = self.session.model().clone();
        let tokenizer = model.tokenizer();
        let mut tokens = Vec::new();
        let mut places = Vec::new();
        for at in 0..self.turns.len() {
            let view = self.view(at + 1, true)?;
            let start = tokens.len();
            let suffix = if at == 0 { None } else { self.suffix(at, &view)? };
            match suffix {
                Some(suffix) => tokens.extend(tokenizer.encode(&suffix)),
                None if at == 0 => tokens = tokenizer.encode_start(&view),
                None => tokens = tokenizer.encode_start(&self.view(at + 1, false)?),
            }
            places.push((start.min(tokens.len()), tokens.len()));
            self.turns[at].view = view;
            if at + 1 < self.turns.len()
                && let Some(answer) = &self.turns[at].answer
            {
                tokens.extend_from_slice(&answer.tokens);
            }
        }
        let forgotten = self.session.stats().forgotten_tokens;
        for (turn, (start, end)) in self.turns.iter_mut().zip(places) {
            (turn.start, turn.end) = (start + forgotten, end + forgotten);
        }
        let context = self.session.context();
        if self.keep.is_some() && tokens.len() > context {
            let kept = self.system_tokens(&tokens)?;
            let excess = tokens.len() - context / 2;
            let left = tokens.len().saturating_sub(kept + 1);
            let cut = excess.min(left);
            tokens.drain(kept..kept + cut);
            self.session.evaluation.stats.forgotten_tokens += cut;
        }
        let old = self.session.tokens();
        let common = old.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        self.session.truncate(common);
        self.session.extend(&tokens[common..])?;
        self.stale = false;
        Ok(())
    }

    /// Sees to it that a full context does not forget the system message.
    fn keep_system(&mut self) -> Result<()> {
        if let Some(keep) = self.keep {
            let tokens = self.session.tokens().to_vec();
            let bos = self.session.model().tokenizer().bos();
            let first = usize::from(bos.is_some() && tokens.first().copied() == bos);
            let system = self.system_tokens(&tokens)?.saturating_sub(first);
            self.session.evaluation.keep = Some(keep.max(system));
        }
        Ok(())
    }

    /// How many of these tokens, the conversation's first, the system message takes.
    fn system_tokens(&self, tokens: &[Token]) -> Result<usize> {
        if self.system.is_none() {
            return Ok(0);
        }
        let prompt = self.render([(MARKER.to_string(), None)].into_iter())?;
        let mut before = Prompt::new();
        for segment in prompt.segments() {
            match text_of(segment).split_once(MARKER) {
                Some((text, _)) => {
                    before = before.text(text);
                    break;
                }
                None => before = before.with(segment.clone()),
            }
        }
        let system = self.session.model().tokenizer().encode_start(&before);
        Ok(system.iter().zip(tokens).take_while(|(a, b)| a == b).count())
    }
}

/// An answer, token by token: the iterator that [`Conversation::reply`] returns.
///
/// Items are as those of [`Generate`]; [`Session::stopped`] tells why it ended.
pub struct Reply<'a> {
    generate: Option<Generate<'a>>,
    answer: Option<&'a mut Answer>,
}

impl Iterator for Reply<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        let (generate, answer) = (self.generate.as_mut()?, self.answer.as_mut()?);
        let before = generate.generated();
        let item = generate.next();
        if generate.generated() > before {
            answer.tokens.extend(generate.last_token());
        }
        let piece = match item? {
            Ok(piece) => piece,
            Err(error) => return Some(Err(error)),
        };
        let piece = if answer.text.is_empty() { piece.trim_start().to_owned() } else { piece };
        answer.text += &piece;
        Some(Ok(piece))
    }
}

/// A segment's text; of a special token none.
fn text_of(segment: &Segment) -> &str {
    match segment {
        Segment::Special(_) => "",
        Segment::Text(text) | Segment::Continuation(text) => text,
    }
}

/// What `now` has behind all that is in `before` and a marker; `None` if it does not begin with these. White space
/// around the place of the marker makes no difference: what stands there is what the model made of `before`.
fn after(before: &Prompt, now: &Prompt) -> Option<Prompt> {
    let (before, now) = (before.segments(), now.segments());
    let (last, most) = before.split_last()?;
    let (same, rest) = now.split_at_checked(most.len())?;
    if same != most {
        return None;
    }
    let (text, rest) = match (last, rest) {
        (Segment::Text(end), [Segment::Text(text), rest @ ..]) => (text.strip_prefix(end.trim_end())?, rest),
        (last, [special, Segment::Text(text), rest @ ..]) if last == special => (text.as_str(), rest),
        _ => return None,
    };
    let text = text.trim_start().strip_prefix(MARKER)?;
    let prompt = if text.is_empty() { Prompt::new() } else { Prompt::new().continuation(text) };
    Some(rest.iter().cloned().fold(prompt, Prompt::with))
}

/// The same without the token that ends the answer, and the white space before it: the model has chosen it itself.
fn without_end(prompt: Prompt, ends: impl Fn(Token) -> bool) -> Prompt {
    let rest = match prompt.segments() {
        [Segment::Special(end), rest @ ..] if ends(*end) => rest,
        [Segment::Continuation(space), Segment::Special(end), rest @ ..]
            if ends(*end) && space.trim().is_empty() =>
        {
            rest
        }
        _ => return prompt,
    };
    rest.iter().cloned().fold(Prompt::new(), Prompt::with)
}
