//! Writing to the two standard streams, neither of which need be open.

use crate::failure::Failure;
use std::fmt;
use std::io::{self, IsTerminal, Write};

/// Whether somebody sees a bar on standard error that moves.
pub(crate) fn shows_progress() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes to standard output, at once.
pub(crate) fn print(text: impl fmt::Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::Stdout)
}

/// Writes a line to standard error. If nobody can read it, there is nobody to tell.
pub(crate) fn note(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a text to standard error, on the same terms.
pub(crate) fn complain(text: impl fmt::Display) {
    let _ = write!(io::stderr(), "{text}");
}

/// The text on one line: control characters, which a path or a model's file may hold, are escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_stays_on_its_line() {
        assert_eq!(printable("tensor \"a\n\u{1b}[2J\" é"), "tensor \"a\\n\\u{1b}[2J\" é");
    }
}
