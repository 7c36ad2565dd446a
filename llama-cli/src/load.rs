//! What every subcommand starts with: a text and a model.

use crate::args::{Cache, Rope, Text};
use crate::demo;
use crate::failure::Failure;
use crate::source::Source;
use llama_core::gguf::Gguf;
use llama_core::{Model, Options, RopeOptions};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

impl Text {
    /// The text, if one was given.
    pub(crate) fn read(&self) -> Result<Option<String>, Failure> {
        match (&self.prompt, &self.file) {
            (Some(text), _) => Ok(Some(text.clone())),
            (None, Some(path)) => text(path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// All of a file; `-` is standard input.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    if path.as_os_str() == "-" {
        return stdin();
    }
    let bytes = fs::read(path).map_err(|e| unreadable(path.to_owned(), e))?;
    utf8(path.to_owned(), bytes)
}

/// All of standard input.
pub(crate) fn stdin() -> Result<String, Failure> {
    let path = PathBuf::from("standard input");
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).map_err(|e| unreadable(path.clone(), e))?;
    utf8(path, bytes)
}

impl Cache {
    /// The options with these types.
    pub(crate) fn apply(&self, options: Options) -> Options {
        options.cache_type_k(self.cache_type_k).cache_type_v(self.cache_type_v)
    }
}

impl Rope {
    /// What the flags change.
    pub(crate) fn options(&self) -> RopeOptions {
        RopeOptions {
            scaling: self.rope_scaling,
            factor: self.rope_scale.or(self.rope_freq_scale.map(|scale| 1.0 / scale)),
            freq_base: self.rope_freq_base,
            original_context: self.yarn_orig_ctx.map(|positions| positions as usize),
            ext_factor: self.yarn_ext_factor,
            attn_factor: self.yarn_attn_factor,
            beta_fast: self.yarn_beta_fast,
            beta_slow: self.yarn_beta_slow,
        }
    }
}

/// The file of a source, mapped, or the demo if nobody names one.
pub(crate) fn gguf(source: &Source) -> Result<Gguf, Failure> {
    match source.locate()? {
        Some(path) => map(&path),
        None => demo::gguf(),
    }
}

/// The model of a source.
pub(crate) fn model(source: &Source) -> Result<Model, Failure> {
    Ok(Model::from_gguf(gguf(source)?)?)
}

/// Maps a file.
#[expect(unsafe_code, reason = "a mapped file is shared with everybody who may write to it")]
pub(crate) fn map(path: &Path) -> Result<Gguf, Failure> {
    // SAFETY: this program never writes to a file that it has mapped, and its users know that a
    // model's file must not change while it is in use.
    Ok(unsafe { Gguf::map(path) }?)
}

fn utf8(path: PathBuf, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|e| Failure::Text { path, offset: e.utf8_error().valid_up_to() })
}

fn unreadable(path: PathBuf, source: io::Error) -> Failure {
    Failure::File { action: "read", path, source }
}
