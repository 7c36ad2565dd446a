//! The lines of a chat: from an editor, if somebody sits there, or from standard input as they come.

use crate::failure::Failure;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, Helper};
use std::io::{self, BufRead};
use std::path::PathBuf;

pub(super) enum Input {
    Terminal(Box<Editor<Line, MemHistory>>),
    Pipe { offset: usize },
}

/// What a line is to the editor.
pub(super) struct Line {
    commands: Vec<&'static str>,
}

impl Input {
    /// Lines with editing, and a history in memory. Pasted lines are one text.
    pub(super) fn terminal(commands: Vec<&'static str>) -> Result<Input, Failure> {
        let config = Config::builder().auto_add_history(true).bracketed_paste(true).build();
        let mut editor = Editor::with_history(config, MemHistory::new())?;
        editor.set_helper(Some(Line { commands }));
        Ok(Input::Terminal(Box::new(editor)))
    }

    pub(super) fn pipe() -> Input {
        Input::Pipe { offset: 0 }
    }

    /// The next line, without the backslashes that make several one; `None` at the end.
    pub(super) fn line(&mut self) -> Result<Option<String>, Failure> {
        match self {
            Input::Terminal(editor) => loop {
                match editor.readline("> ") {
                    Ok(text) => return Ok(Some(joined(&text))),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(ReadlineError::Interrupted) => {}
                    Err(error) => return Err(error.into()),
                }
            },
            Input::Pipe { offset } => {
                let mut text = String::new();
                loop {
                    let line = read_line(offset)?;
                    let end = line.is_none();
                    text += &line.unwrap_or_default();
                    if end && text.is_empty() {
                        return Ok(None);
                    }
                    if end || !goes_on(&text) {
                        return Ok(Some(joined(&text)));
                    }
                    text.push('\n');
                }
            }
        }
    }
}

/// A line of standard input without its end.
fn read_line(offset: &mut usize) -> Result<Option<String>, Failure> {
    let path = || PathBuf::from("standard input");
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut bytes);
    let read = read.map_err(|source| Failure::File { action: "read", path: path(), source })?;
    if read == 0 {
        return Ok(None);
    }
    let start = *offset;
    *offset += read;
    let text = String::from_utf8(bytes)
        .map_err(|e| Failure::Text { path: path(), offset: start + e.utf8_error().valid_up_to() })?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

/// Whether the next line belongs to this text: it ends with a backslash that is not itself behind one.
fn goes_on(text: &str) -> bool {
    text.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 1
}

/// The text with its lines put together where they go on.
fn joined(text: &str) -> String {
    let mut out = String::new();
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            if goes_on(&out) {
                out.pop();
            }
            out.push('\n');
        }
        out += line;
    }
    out
}

impl Helper for Line {}

impl Highlighter for Line {}

impl Hinter for Line {
    type Hint = String;
}

impl Validator for Line {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let more = goes_on(context.input());
        Ok(if more { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Line {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let known =
            self.commands.iter().filter(|command| line.starts_with('/') && command.starts_with(&line[..at]));
        Ok((0, known.map(|command| command.to_string()).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_at_the_end_of_a_line_goes_on_in_the_next() {
        assert!(goes_on("a\\") && goes_on("\\\\\\") && !goes_on("a") && !goes_on("a\\\\") && !goes_on(""));
        assert_eq!(joined("a\\\nb\\\nc"), "a\nb\nc");
        assert_eq!(joined("a\nb\\\\\nc"), "a\nb\\\\\nc");
        assert_eq!(joined("a\\"), "a\\");
    }
}
