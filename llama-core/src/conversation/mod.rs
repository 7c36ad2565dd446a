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
//! With [`Options::context_shift`](crate::Options::context_shift) a full context forgets the oldest turns, each as a
//! whole, but never the system message: what is kept is all that stands before the first question's own text, and what
//! leaves reaches up to the own text of another one, so that what remains is a conversation that began later. Only a
//! turn that does not fit by itself loses half of its tokens.
//!
//! [`Conversation::system_every_turn`] attaches it to every question. Llama 2-Chat was trained on such conversations
//! ("ghost attention": Touvron et al. 2023, section 3.3), so that it remembers its instructions without being told
//! again; models that drift can be told. This costs the tokens of the system message again in each turn, in time and
//! in context: 100 tokens of instructions over 20 turns are 1,900 tokens more.

mod file;
mod parts;
mod reply;
mod stop;
#[cfg(test)]
mod tests;
mod view;

pub use reply::Reply;

use crate::evaluation;
use crate::template::{Message, Role, Template};
use crate::tokenizer::Prompt;
use crate::{Error, Result, Sampler, Session};
use parts::text_of;
use reply::Answer;
use view::common;

/// How a conversation becomes a prompt.
#[derive(Debug)]
pub enum ChatFormat {
    /// Llama 2's, written natively ([`Chat`](crate::Chat)).
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
    /// Where the question's own text begins, if it is known: up to there all before it may leave.
    question: Option<usize>,
    answer: Option<Answer>,
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
        self.turns.push(Turn::new(text, start));
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
    /// It ends with a token that ends a text, and where it goes on as the format begins the next turn: with a token,
    /// or in plain text, of which nothing is handed out or remembered.
    ///
    /// An answer that is stopped early, by its reader or by a cancellation, is a part of the conversation as far as
    /// it went. Without a question there is no answer.
    pub fn reply<'a>(&'a mut self, sampler: &'a mut Sampler) -> Reply<'a> {
        let stop = self.stop();
        let answer = self.turns.last_mut().map(|turn| turn.answer.get_or_insert_default());
        let goes_on = answer.as_ref().is_some_and(|answer| !answer.ended) && !self.stale;
        let generate = goes_on.then(|| self.session.generate(sampler).ends_with(stop.token));
        Reply { generate, answer, stop, stale: &mut self.stale }
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
        self.tell_turns();
    }

    /// Tells the session where turns begin, after something has happened to them.
    fn tell_turns(&mut self) {
        self.session.evaluation.turns = self.turns.iter().filter_map(|turn| turn.question).collect();
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
            Some(suffix) => self.extend(suffix)?,
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

    /// Evaluates what the last turn adds. Without room for it earlier turns leave, all of them if need be.
    fn extend(&mut self, suffix: Prompt) -> Result<()> {
        let tokens = self.session.model().tokenizer().encode(&suffix);
        let Some(last) = self.turns.len().checked_sub(1).filter(|_| self.keep.is_some()) else {
            return self.session.extend(&tokens);
        };
        let head = self.head(last, &tokens)?;
        self.turns[last].question = Some(self.position() + head);
        let (context, len) = (self.session.context(), self.session.tokens().len());
        let (missing, kept) = ((len + tokens.len()).saturating_sub(context), self.session.evaluation.kept());
        let alone = missing > 0 && self.session.evaluation.leaving(missing).is_none();
        if alone && kept <= len && kept + tokens.len() - head <= context {
            self.session.evaluation.stats.forgotten_tokens += head;
            return self.session.extend_anew(kept, &tokens[head..]);
        }
        self.session.extend(&tokens)
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
            let mut question = None;
            match suffix {
                Some(suffix) => {
                    let suffix = tokenizer.encode(&suffix);
                    question = Some(start + self.head(at, &suffix)?);
                    tokens.extend(suffix);
                }
                None if at == 0 => {
                    tokens = tokenizer.encode_start(&view);
                    question = Some(self.first_tokens(&tokens)?);
                }
                None => {
                    tokens = tokenizer.encode_start(&self.view(at + 1, false)?);
                    places.iter_mut().for_each(|(_, _, question)| *question = None);
                }
            }
            places.push((start.min(tokens.len()), tokens.len(), question));
            self.turns[at].view = view;
            if at + 1 < self.turns.len()
                && let Some(answer) = &self.turns[at].answer
            {
                tokens.extend_from_slice(&answer.tokens);
            }
        }
        let forgotten = self.session.stats().forgotten_tokens;
        for (turn, (start, end, question)) in self.turns.iter_mut().zip(&places) {
            (turn.start, turn.end) = (start + forgotten, end + forgotten);
            turn.question = question.map(|question| question + forgotten);
        }
        let context = self.session.context();
        if let Some(keep) = self.keep
            && tokens.len() > context
        {
            let kept = keep.max(self.first_tokens(&tokens)?).min(tokens.len() - 1);
            let (missing, most) = (tokens.len() - context, tokens.len() - 1 - kept);
            let excess = (tokens.len() - context / 2).min(most);
            let turns = places.iter().filter_map(|(_, _, question)| question.as_ref()?.checked_sub(kept));
            let cut = match (evaluation::nearest(turns, missing, most, excess), places.last()) {
                (Some(cut), _) => cut,
                (None, Some((_, _, Some(question)))) => {
                    let (tokens, room) = (tokens.len() - question, context.saturating_sub(kept));
                    return Err(Error::Context { tokens, room, context });
                }
                (None, _) => excess,
            };
            tokens.drain(kept..kept + cut);
            self.session.evaluation.stats.forgotten_tokens += cut;
        }
        let common = common(self.session.tokens(), &tokens);
        self.session.truncate(common);
        self.session.extend(&tokens[common..])?;
        self.stale = false;
        Ok(())
    }

    /// Sees to it that a full context forgets whole turns, and not the system message.
    fn keep_system(&mut self) -> Result<()> {
        self.tell_turns();
        if let Some(keep) = self.keep {
            let tokens = self.session.tokens().to_vec();
            let bos = self.session.model().tokenizer().bos();
            let first = usize::from(bos.is_some() && tokens.first().copied() == bos);
            let own = self.first_tokens(&tokens)?.saturating_sub(first);
            self.session.evaluation.keep = Some(keep.max(own));
        }
        Ok(())
    }
}

impl Turn {
    /// A question at this place of what was said.
    fn new(user: String, start: usize) -> Turn {
        Turn { user, view: Prompt::new(), start, end: start, question: None, answer: None }
    }
}
