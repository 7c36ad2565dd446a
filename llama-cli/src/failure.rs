//! How the command ends when it does not end well.

use crate::infill::MARKER;
use crate::output::{label, note, printable};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Why a subcommand stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Model(#[from] llama_core::Error),
    #[error(transparent)]
    Cpu(#[from] llama_kernels::CpuError),
    #[error(transparent)]
    Hub(#[from] crate::hub::Error),
    #[error("no model: expected -m FILE, -hf USER/MODEL or -mu URL of {kind}")]
    NoModel { kind: &'static str },
    #[error("{model}: expected a model in the cache {}, found none (llama models lists them)", cache.display())]
    NotCached { model: String, cache: PathBuf },
    #[error("{model}: a process is downloading it")]
    Busy { model: String },
    #[error("nothing was removed: expected a confirmation, or -y")]
    NotConfirmed,
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: expected UTF-8 text, found another byte at offset {offset}", path.display())]
    Text { path: PathBuf, offset: usize },
    #[error("{}: expected {expected}, found {found}", path.display())]
    Earlier { path: PathBuf, expected: &'static str, found: String },
    #[error("{}: expected {MARKER} where text is to be filled in, found none", path.display())]
    Marker { path: PathBuf },
    #[error(
        "--template file: expected the key \"tokenizer.chat_template\" in the model's file, found no such key"
    )]
    NoTemplate,
    #[error("expected {expected}, found {found}")]
    Command { expected: String, found: String },
    #[error("/set: {0}")]
    Setting(String),
    #[error("cannot read a line: {0}")]
    Line(#[from] rustyline::error::ReadlineError),
    #[error("cannot write to standard output: {0}")]
    Stdout(io::Error),
    #[error("cannot listen for Ctrl-C: {0}")]
    Signal(#[from] ctrlc::Error),
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// Says on standard error what there is to say, and with which code to leave.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            // Whoever read the output has seen enough: `llama run … | head` is no error.
            Failure::Stdout(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Failure::Interrupted | Failure::Model(llama_core::Error::Cancelled) => {
                ExitCode::from(crate::interrupt::EXIT_CODE)
            }
            failure => {
                note(format_args!("{} {}", label("error"), printable(&failure.to_string())));
                if matches!(failure, Failure::NoModel { .. }) { ExitCode::from(2) } else { ExitCode::FAILURE }
            }
        }
    }
}
