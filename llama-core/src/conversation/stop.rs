//! Where an answer is over, in formats whose turns end in plain text.
//!
//! What a format puts between an answer and the next question tells: a special token there ends an answer whatever
//! the vocabulary says of it, and text there does once the model writes it. Of a text its first line is enough, and
//! of a line that begins with a tag (`<|im_end|>`, `[INST]`) the tag. Where the format begins a line with it, so must
//! the model: an answer may well say `User:` in the midst of a sentence.

use super::MARKER;
use super::parts::text_of;
use crate::tokenizer::{Prompt, Segment, Token};

/// What ends an answer.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Stop {
    /// Beside the tokens that end a text.
    pub(super) token: Option<Token>,
    text: String,
    after: After,
}

/// What a stop text has to stand behind; the beginning of an answer is as good as any of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum After {
    #[default]
    Anything,
    Space,
    Newline,
}

impl Stop {
    /// What ends an answer in a format that makes `prompt` of a conversation in which the last answer and the
    /// question behind it are [`MARKER`]s.
    pub(super) fn new(prompt: &Prompt) -> Stop {
        let between = between(prompt);
        let (text, special) = match between.segments() {
            [Segment::Special(token), ..] => ("", Some(*token)),
            [text, Segment::Special(token), ..] if text_of(text).trim().is_empty() => ("", Some(*token)),
            [text, ..] => (text_of(text), None),
            [] => ("", None),
        };
        let stop = text.trim();
        let space = &text[..text.len() - text.trim_start().len()];
        let after = match space {
            "" => After::Anything,
            space if space.contains('\n') => After::Newline,
            _ => After::Space,
        };
        Stop { token: special, text: beginning(stop).to_owned(), after }
    }

    /// Where the stop text begins in an answer, if it does at `from` or behind.
    pub(super) fn find(&self, answer: &str, from: usize) -> Option<usize> {
        if self.text.is_empty() {
            return None;
        }
        let mut at = from;
        loop {
            at += answer[at..].find(&self.text)?;
            if self.may_begin(answer, at) {
                return Some(at);
            }
            at += self.text.chars().next().map_or(1, char::len_utf8);
        }
    }

    /// How much of an answer that goes on is surely no part of a stop text, nor the space before one.
    pub(super) fn safe(&self, answer: &str) -> usize {
        if self.text.is_empty() {
            return answer.len();
        }
        let first = answer.len().saturating_sub(self.text.len() - 1);
        let may_be = |&at: &usize| {
            answer.is_char_boundary(at) && self.text.starts_with(&answer[at..]) && self.may_begin(answer, at)
        };
        let at = (first..answer.len()).find(may_be).unwrap_or(answer.len());
        answer[..at].trim_end().len()
    }

    /// The first place of an answer at which a stop text may begin that was not found in its first `seen` bytes.
    pub(super) fn unseen(&self, answer: &str, seen: usize) -> usize {
        let mut at = seen.saturating_sub(self.text.len().saturating_sub(1));
        while !answer.is_char_boundary(at) {
            at -= 1;
        }
        at
    }

    fn may_begin(&self, answer: &str, at: usize) -> bool {
        let before = &answer[..at];
        match self.after {
            After::Anything => true,
            After::Space => before.is_empty() || before.ends_with(char::is_whitespace),
            After::Newline => {
                let before = before.trim_end_matches([' ', '\t']);
                before.is_empty() || before.ends_with('\n')
            }
        }
    }
}

/// What stands between the last two markers.
fn between(prompt: &Prompt) -> Prompt {
    let mut last = Prompt::new();
    let mut open: Option<Prompt> = None;
    for segment in prompt.segments() {
        if matches!(segment, Segment::Special(_)) {
            open = open.map(|open| open.with(segment.clone()));
            continue;
        }
        for (at, part) in text_of(segment).split(MARKER).enumerate() {
            if at > 0 {
                last = open.take().unwrap_or_default();
                open = Some(Prompt::new());
            }
            open = open.map(|open| if part.is_empty() { open } else { open.text(part) });
        }
    }
    last
}

/// As much of a text as tells what it is: a tag, or else the lines up to the first that says something.
fn beginning(text: &str) -> &str {
    let closing = [('<', '>'), ('[', ']')].into_iter().find(|(open, _)| text.starts_with(*open));
    if let Some((_, close)) = closing
        && let Some(end) = text.find(close)
        && !text[..end].contains(char::is_whitespace)
    {
        return &text[..=end];
    }
    let says = text.find(char::is_alphanumeric).unwrap_or(text.len());
    let end = text[says..].find('\n').map_or(text.len(), |line| says + line);
    text[..end].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(between: &str) -> Stop {
        Stop::new(&format!("question{MARKER}{between}{MARKER}answer:").into())
    }

    #[test]
    fn a_tag_or_a_line_is_enough() {
        for (between, text, after) in [
            ("\n\n### Instruction:\n", "### Instruction:", After::Newline),
            ("<|im_end|>\n<|im_start|>user\n", "<|im_end|>", After::Anything),
            (" </s><s>[INST] ", "</s>", After::Space),
            (" <step> Source: user\n\n ", "<step>", After::Space),
            (" USER: ", "USER:", After::Space),
            ("\n[INST] ", "[INST]", After::Newline),
            ("\n---\nUser: ", "---\nUser:", After::Newline),
            ("\n<a b>: ", "<a b>:", After::Newline),
            ("\n###\n", "###", After::Newline),
            ("\n", "", After::Newline),
            ("", "", After::Anything),
        ] {
            assert_eq!(stop(between), Stop { token: None, text: text.into(), after }, "{between:?}");
        }
    }

    #[test]
    fn a_token_is_enough_too() {
        let (user, marker) = (Token(7), MARKER.to_string());
        let prompt = |end: &str| {
            let answered = Prompt::new().special(user).text("a").special(Token(8)).text(marker.clone());
            let answered = if end.is_empty() { answered } else { answered.text(end) };
            answered.special(user).text(marker.clone() + "\n")
        };
        for end in ["", "\n"] {
            assert_eq!((Stop::new(&prompt(end)).token, &*Stop::new(&prompt(end)).text), (Some(user), ""));
        }
        assert_eq!((Stop::new(&prompt(" END ")).token, &*Stop::new(&prompt("END")).text), (None, "END"));
        assert_eq!(Stop::new(&Prompt::from("a question without an answer")), Stop::default());
    }

    #[test]
    fn it_is_found_where_it_stands_as_in_the_format() {
        let line = stop("\n\nUser: ");
        assert_eq!(line.find("The User: he", 0), None);
        assert_eq!(line.find("The User: he\n  User: I", 0), Some(15));
        assert_eq!(line.find("User: I", 0), Some(0));
        assert_eq!(line.find("\nUser: I", 2), None);
        let space = stop(" USER: ");
        assert_eq!((space.find("aUSER:", 0), space.find("a\nUSER:", 0)), (None, Some(2)));
        assert_eq!(stop("ä: ").find("ää:", 0), Some(2));
        assert_eq!(stop("").find("anything", 0), None);
    }

    #[test]
    fn no_part_of_it_is_let_through_before_it_is_known() {
        for between in ["\n\n### Instruction:\n", " USER: ", "</s>\n", "\nä: "] {
            let stop = stop(between);
            let before = "Answer ### USER </ ä, ";
            let answer = format!("{before}\n{}", stop.text);
            let end = answer.len() - stop.text.len();
            for (len, _) in answer.char_indices().skip(1) {
                let safe = stop.safe(&answer[..len]);
                assert!(
                    safe <= end && (len < end || safe == before.trim_end().len()),
                    "{between:?} {len} {safe}"
                );
                assert_eq!(stop.find(&answer[..len], 0), None);
            }
            assert_eq!(stop.find(&answer, stop.unseen(&answer, answer.len() - 1)), Some(end), "{between:?}");
            // What turns out to be something else is let through.
            let other = answer[..answer.len() - 1].to_owned() + "!";
            assert_eq!(stop.safe(&other), other.len());
        }
        assert_eq!(stop("").safe("all \n"), 5);
    }
}
