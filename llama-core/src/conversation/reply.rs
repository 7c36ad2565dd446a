//! An answer, token by token, up to where the format begins the next turn.

use super::stop::Stop;
use crate::generate::Generate;
use crate::tokenizer::{Prompt, Stream, Token};
use crate::{Result, StopReason};

/// What the model said.
#[derive(Clone, Default, PartialEq, Debug)]
pub(super) struct Answer {
    pub(super) text: String,
    /// As they were sampled, with the one that ended it, or up to the text that did.
    pub(super) tokens: Vec<Token>,
    /// Whether the model has ended it.
    pub(super) ended: bool,
    /// How much of the text was handed out.
    pub(super) shown: usize,
}

impl Answer {
    /// The text up to `end` that was not handed out yet.
    fn show(&mut self, end: usize) -> String {
        let piece = self.text.get(self.shown..end).unwrap_or_default().to_owned();
        self.shown = self.shown.max(end);
        piece
    }
}

/// An answer, token by token: the iterator that [`Conversation::reply`](super::Conversation::reply) returns.
///
/// Items are as those of [`Generate`]; [`Session::stopped`](crate::Session::stopped) tells why it ended. Where the
/// format ends turns in plain text, what may be the beginning of such an end is held back until it is known, and
/// comes with a later item; the last one may be of no token.
pub struct Reply<'a> {
    pub(super) generate: Option<Generate<'a>>,
    pub(super) answer: Option<&'a mut Answer>,
    pub(super) stop: Stop,
    /// Whether the session's tokens are not those of the conversation.
    pub(super) stale: &'a mut bool,
}

impl Reply<'_> {
    /// Hands out what is held back, for a reader who does not wait for more.
    pub fn rest(&mut self) -> String {
        self.answer.as_mut().map_or_else(String::new, |answer| answer.show(answer.text.len()))
    }

    /// Ends the answer at this place of its text, and takes the tokens behind it back.
    fn end(&mut self, end: usize) {
        let (Some(generate), Some(answer)) = (&mut self.generate, &mut self.answer) else { return };
        let tokenizer = generate.tokenizer();
        let mut stream = Stream::continued(tokenizer);
        let mut text = String::new();
        // Tokens that spell no more than the answer, and the text that they spell.
        let (mut kept, mut spelled) = (0, 0);
        for (at, &token) in answer.tokens.iter().enumerate() {
            text += stream.push(token);
            let len = text.trim_start().len();
            if len > end {
                break;
            }
            if len > 0 && stream.is_whole() {
                (kept, spelled) = (at + 1, text.len());
            }
        }
        let space = text.len() - text.trim_start().len();
        // A token may hold the end of the answer and the beginning of the stop text.
        let rest = if end > 0 { text.get(spelled..space + end).unwrap_or_default() } else { "" };
        let again = match rest {
            "" => Vec::new(),
            rest => tokenizer.encode(&Prompt::new().continuation(rest)),
        };
        *self.stale |= !generate.take_back(answer.tokens.len() - kept, &again);
        answer.tokens.truncate(kept);
        answer.tokens.extend(again);
        answer.text.truncate(end);
        answer.ended = true;
    }
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
        let piece = match item {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => return Some(Err(error)),
            None => {
                answer.ended |= matches!(generate.stopped(), Some(StopReason::Eos | StopReason::Turn));
                let rest = self.rest();
                return if rest.is_empty() { None } else { Some(Ok(rest)) };
            }
        };
        let seen = answer.text.len();
        answer.text += if seen == 0 { piece.trim_start() } else { &piece };
        let end = match self.stop.find(&answer.text, self.stop.unseen(&answer.text, seen)) {
            Some(at) => {
                let end = answer.text[..at].trim_end().len();
                self.end(end);
                end
            }
            None => self.stop.safe(&answer.text),
        };
        self.answer.as_mut().map(|answer| Ok(answer.show(end)))
    }
}
