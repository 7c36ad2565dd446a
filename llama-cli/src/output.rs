//! Writing to the two standard streams, neither of which need be open.

use crate::failure::Failure;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::NamedTempFile;

/// Whether neither colours nor bars are wanted, whatever the streams are.
static SIMPLE: AtomicBool = AtomicBool::new(false);

/// From now on there are neither colours nor bars.
pub(crate) fn be_simple() {
    SIMPLE.store(true, Ordering::Relaxed);
}

/// Whether somebody sees a bar on standard error that moves.
pub(crate) fn shows_progress() -> bool {
    !SIMPLE.load(Ordering::Relaxed)
        && io::stderr().is_terminal()
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A file that has another name beside its own until it is whole; removed when it is dropped before. Its errors name
/// what the user has named.
pub(crate) struct Pending {
    path: PathBuf,
    file: NamedTempFile,
}

impl Pending {
    /// Sees that there is a place for the file.
    pub(crate) fn new(path: &Path, prefix: &str) -> Result<Pending, Failure> {
        // `parent` of a bare name is the empty path.
        let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        // Opened as any other file: tempfile's own way is for secrets, and puts its name into the error.
        let file = match path.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => builder.prefix(prefix).suffix(".part").make_in(directory, |path| File::create_new(path)),
        };
        Ok(Pending { path: path.to_owned(), file: file.map_err(|e| unwritable(path, e))? })
    }

    pub(crate) fn write(&mut self, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Failure> {
        write(self.file.as_file_mut()).map_err(|e| unwritable(&self.path, e))
    }

    /// Gives the file its name, also if another has it where that is to be replaced.
    pub(crate) fn keep(self, replace: bool) -> Result<(), Failure> {
        let persist = if replace { NamedTempFile::persist } else { NamedTempFile::persist_noclobber };
        persist(self.file, &self.path).map(drop).map_err(|e| unwritable(&self.path, e.error))
    }
}

/// Why a file was not written.
pub(crate) fn unwritable(path: &Path, source: io::Error) -> Failure {
    Failure::File { action: "write", path: path.to_owned(), source }
}

/// Writes to standard output, at once.
pub(crate) fn print(text: impl fmt::Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::Stdout)
}

/// `error`, `warning`: a word at the beginning of a line, red where somebody sees colours.
pub(crate) fn label(word: &str) -> String {
    let colourless = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if shows_progress() && !colourless { format!("\x1b[1;31m{word}:\x1b[0m") } else { format!("{word}:") }
}

/// Writes a line to standard error. If nobody can read it, there is nobody to tell.
pub(crate) fn note(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a text to standard error, on the same terms.
pub(crate) fn complain(text: impl fmt::Display) {
    let _ = write!(io::stderr(), "{text}");
}

/// A line as lines of at most 79 columns, as far as words allow; all but the first are indented.
pub(crate) fn wrapped(line: &str, indent: usize) -> String {
    const COLUMNS: usize = 79;
    let (mut out, mut column) = (String::new(), 0);
    // Spaces belong to the word after them.
    let letters: Vec<&str> = line.split_inclusive(|c| c != ' ').collect();
    for word in letters.chunk_by(|_, next| !next.starts_with(' ')) {
        let word = word.concat();
        let width = word.chars().count();
        if column > indent && column + width > COLUMNS {
            out += &format!("\n{:indent$}{}", "", word.trim_start());
            column = indent + word.trim_start().chars().count();
        } else {
            out += &word;
            column += width;
        }
    }
    out
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
    fn long_lines_are_wrapped_between_words() {
        assert_eq!(wrapped("  a   b c", 4), "  a   b c");
        let long = format!("  {:15} {}", "name", "word ".repeat(20).trim_end());
        let lines: Vec<String> = wrapped(&long, 18).lines().map(str::to_owned).collect();
        assert_eq!((lines.len(), lines.iter().all(|line| line.len() <= 79)), (2, true), "{lines:?}");
        assert!(lines[0].starts_with("  name            word ") && lines[1].starts_with(&" ".repeat(18)));
        assert_eq!(lines.join(" ").split_whitespace().count(), 21);
        let endless = "x".repeat(100);
        assert_eq!(wrapped(&endless, 4), endless);
    }

    #[test]
    fn a_hostile_name_stays_on_its_line() {
        assert_eq!(printable("tensor \"a\n\u{1b}[2J\" é"), "tensor \"a\\n\\u{1b}[2J\" é");
    }
}
