//! What the format makes of a conversation, and of parts of it.

use super::parts::{after, up_to_marker, without_end};
use super::stop::Stop;
use super::{ChatFormat, Conversation, MARKER, Turn};
use crate::template::{Message, Role};
use crate::tokenizer::{Prompt, Segment, Token};
use crate::{Chat, Result};

impl Conversation {
    /// What ends the answer to the last question.
    pub(super) fn stop(&self) -> Stop {
        let marker = || MARKER.to_string();
        let Some((last, before)) = self.turns.split_last() else { return Stop::default() };
        if matches!(self.format, ChatFormat::Llama2) {
            return Stop::default();
        }
        let answered = before
            .iter()
            .map(|turn| (turn.user.clone(), turn.answer.as_ref().map(|answer| answer.text.clone())));
        let next = [(last.user.clone(), Some(marker())), (marker(), None)];
        self.render(answered.chain(next)).map(|prompt| Stop::new(&prompt)).unwrap_or_default()
    }

    /// What follows the answer before turn `at`, if all before it is as it was. `view` is that of the turn.
    pub(super) fn suffix(&self, at: usize, view: &Prompt) -> Result<Option<Prompt>> {
        Ok(if self.is_intact(at + 1, view)? { self.rest(at, view) } else { None })
    }

    /// What a view has behind the answer before turn `at`.
    pub(super) fn rest(&self, at: usize, view: &Prompt) -> Option<Prompt> {
        let before = &self.turns[at - 1];
        let last = before.answer.as_ref()?.tokens.last().copied();
        let tokenizer = self.session.model().tokenizer();
        let ended = last.is_some_and(|last| tokenizer.ends(last));
        let ends = |token| ended && tokenizer.ends(token) || last == Some(token);
        after(&before.view, view).map(|rest| without_end(rest, ends))
    }

    /// Whether the answers' texts stand where the markers are, in a conversation of so many turns.
    pub(super) fn is_intact(&self, turns: usize, view: &Prompt) -> Result<bool> {
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
    pub(super) fn view(&self, turns: usize, marked: bool) -> Result<Prompt> {
        let marker = MARKER.to_string();
        let turn = |(at, turn): (usize, &Turn)| {
            let said = turn.answer.as_ref().filter(|_| at + 1 < turns);
            let text = said.map(|answer| if marked { marker.clone() } else { answer.text.clone() });
            (turn.user.clone(), text)
        };
        self.render(self.turns[..turns].iter().enumerate().map(turn))
    }

    /// The prompt of questions and answers.
    pub(super) fn render(&self, turns: impl Iterator<Item = (String, Option<String>)>) -> Result<Prompt> {
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

    /// How many of these tokens, with which turn `at` follows the answer before it, stand before the question's own.
    pub(super) fn head(&self, at: usize, tokens: &[Token]) -> Result<usize> {
        let turns = self.turns[..at].iter().map(|turn| {
            let answer = turn.answer.as_ref().map(|_| MARKER.to_string());
            (turn.user.clone(), answer)
        });
        let view = self.render(turns.chain([(MARKER.to_string(), None)]))?;
        let head = self.rest(at, &view).map(|rest| up_to_marker(&rest)).unwrap_or_default();
        Ok(common(&self.session.model().tokenizer().encode(&head), tokens))
    }

    /// How many of these tokens, the conversation's first, stand before the first question's own: the system message
    /// and what the format says there.
    pub(super) fn first_tokens(&self, tokens: &[Token]) -> Result<usize> {
        let prompt = self.render([(MARKER.to_string(), None)].into_iter())?;
        let first = self.session.model().tokenizer().encode_start(&up_to_marker(&prompt));
        Ok(common(&first, tokens))
    }
}

/// With how many tokens both begin.
pub(super) fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
