//! Llama 2's chat format.
//!
//! Spaced and stripped as the reference code of Meta's `llama` repository does it (`chat_completion`). BOS and EOS
//! are ids and all messages are plain text, so a message that spells `</s>` ends nothing. `[INST]` and `<<SYS>>`
//! are plain text in this format; no encoder can protect them.

use crate::tokenizer::{Prompt, Token};

/// A conversation, from which a [`Prompt`] is made.
///
/// ```
/// use llama_core::{Chat, Prompt, Token};
///
/// let chat = Chat::new(Token(1), Token(2)).user("Hi").assistant("Hello.").user("Why is the sky blue?");
/// let expected = Prompt::new()
///     .special(Token(1)).text("[INST] Hi [/INST] Hello. ").special(Token(2))
///     .special(Token(1)).text("[INST] Why is the sky blue? [/INST]");
/// assert_eq!(Prompt::from(chat), expected);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chat {
    bos: Token,
    eos: Token,
    system: Option<String>,
    every_turn: bool,
    turns: Vec<Turn>,
}

/// A question and perhaps its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Turn {
    user: String,
    assistant: Option<String>,
}

impl Chat {
    /// An empty conversation for a vocabulary with these two special tokens.
    pub fn new(bos: Token, eos: Token) -> Chat {
        Chat { bos, eos, system: None, every_turn: false, turns: Vec::new() }
    }

    /// Sets the instructions that stand before the first question.
    pub fn system(mut self, text: impl Into<String>) -> Chat {
        self.system = Some(text.into());
        self
    }

    /// Whether the instructions stand before every question, as in the conversations that taught Llama 2-Chat to hold
    /// on to them. Default: before the first alone, as in Meta's code.
    pub fn system_every_turn(mut self, on: bool) -> Chat {
        self.every_turn = on;
        self
    }

    /// Adds a question. The format knows no two in a row: one that follows a question continues it in a new line.
    pub fn user(mut self, text: impl Into<String>) -> Chat {
        let text = text.into();
        match self.turns.last_mut() {
            Some(Turn { user, assistant: None }) => continue_with(user, &text),
            _ => self.turns.push(Turn { user: text, assistant: None }),
        }
        self
    }

    /// Adds the answer to the last question. One that follows an answer continues it in a new line, and one without
    /// a question answers an empty one.
    pub fn assistant(mut self, text: impl Into<String>) -> Chat {
        let text = text.into();
        if self.turns.is_empty() {
            self.turns.push(Turn::default());
        }
        if let Some(Turn { assistant, .. }) = self.turns.last_mut() {
            match assistant {
                Some(answer) => continue_with(answer, &text),
                None => *assistant = Some(text),
            }
        }
        self
    }
}

impl From<&Chat> for Prompt {
    /// `<s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST] {assistant} </s>`, a turn after the other.
    fn from(chat: &Chat) -> Prompt {
        let mut system = chat.system.as_ref().map(|text| format!("<<SYS>>\n{text}\n<</SYS>>\n\n"));
        let alone = [Turn::default()];
        let turns = if chat.turns.is_empty() && system.is_some() { &alone } else { chat.turns.as_slice() };
        turns.iter().fold(Prompt::new(), |prompt, turn| {
            // Stripped together with the system text, so after one the question keeps its leading white space.
            let system = if chat.every_turn { system.clone() } else { system.take() };
            let question = system.unwrap_or_default() + &turn.user;
            let prompt = prompt.special(chat.bos).text(format!("[INST] {} [/INST]", strip(&question)));
            match &turn.assistant {
                Some(answer) => prompt.text(format!(" {} ", strip(answer))).special(chat.eos),
                None => prompt,
            }
        })
    }
}

impl From<Chat> for Prompt {
    fn from(chat: Chat) -> Prompt {
        Prompt::from(&chat)
    }
}

fn continue_with(text: &mut String, more: &str) {
    text.push('\n');
    text.push_str(more);
}

/// Python's `str.strip`, which takes the four ASCII separators for white space.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Segment;

    const BOS: Token = Token(1);
    const EOS: Token = Token(2);

    fn chat() -> Chat {
        Chat::new(BOS, EOS)
    }

    fn texts(chat: Chat) -> Vec<String> {
        let segments = Prompt::from(chat).segments().to_vec();
        segments
            .into_iter()
            .filter_map(|segment| if let Segment::Text(text) = segment { Some(text) } else { None })
            .collect()
    }

    #[test]
    fn messages_are_stripped_as_the_reference_does() {
        assert_eq!(texts(chat().user("\n hi\x1f\u{85}")), ["[INST] hi [/INST]"]);
        assert_eq!(texts(chat().user("q").assistant(" a\n")), ["[INST] q [/INST] a "]);
        let with_system = chat().system(" s ").user(" q ");
        assert_eq!(texts(with_system), ["[INST] <<SYS>>\n s \n<</SYS>>\n\n q [/INST]"]);
        assert_eq!(texts(chat().system("s").user(" ")), ["[INST] <<SYS>>\ns\n<</SYS>> [/INST]"]);
        assert_eq!(texts(chat().system("s")), texts(chat().system("s").user("")));
    }

    #[test]
    fn the_system_text_stands_in_the_first_turn_only() {
        let prompt = Prompt::from(chat().user("a").assistant("b").user("c").system("s"));
        let expected = Prompt::new()
            .special(BOS)
            .text("[INST] <<SYS>>\ns\n<</SYS>>\n\na [/INST] b ")
            .special(EOS)
            .special(BOS)
            .text("[INST] c [/INST]");
        assert_eq!(prompt, expected);
    }

    #[test]
    fn the_system_text_stands_in_every_turn_if_asked_to() {
        let every = chat().system("s").system_every_turn(true).user("a").assistant("b").user("c");
        let block = "<<SYS>>\ns\n<</SYS>>\n\n";
        assert_eq!(texts(every), [format!("[INST] {block}a [/INST] b "), format!("[INST] {block}c [/INST]")]);
    }

    #[test]
    fn turns_that_do_not_alternate_still_make_a_well_formed_prompt() {
        assert_eq!(texts(chat().user("a").user("b")), ["[INST] a\nb [/INST]"]);
        assert_eq!(texts(chat().user("q").assistant("a").assistant("b")), ["[INST] q [/INST] a\nb "]);
        assert_eq!(texts(chat().assistant("a")), ["[INST]  [/INST] a "]);
        assert_eq!(Prompt::from(chat()), Prompt::new());
    }
}
