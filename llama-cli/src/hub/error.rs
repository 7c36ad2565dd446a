//! Why there is no model to be had.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("model: {0}")]
    Reference(String),
    #[error("no place for downloads: expected one of LLAMA_CACHE, HF_HUB_CACHE, HF_HOME and HOME to be set")]
    NoCache,
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{url}: expected an http or https address, found {found}")]
    Address { url: String, found: String },
    #[error("cannot reach {url}: {why}")]
    Unreachable { url: String, why: String },
    #[error("{url}: the server answered {status}{hint}")]
    Status { url: String, status: u16, hint: String },
    #[error("{url}: expected {expected}, found {found}")]
    Answer { url: String, expected: String, found: String },
    #[error("{name}: expected {expected} bytes, found {found}; what was downloaded is discarded")]
    Length { name: String, expected: u64, found: u64 },
    #[error(
        "{name}: expected a file with SHA-256 {expected}, found {found}; what was downloaded is discarded"
    )]
    Digest { name: String, expected: String, found: String },
    #[error("{name}: the download broke off after {kept} bytes: {why}; the same command resumes it")]
    Broken { name: String, kept: u64, why: String },
    #[error("{repo}: expected a GGUF file {wanted}, found {found}")]
    NoFile { repo: String, wanted: String, found: String },
    #[error("{repo}: not in the cache {}, and nothing is downloaded offline", cache.display())]
    Offline { repo: String, cache: PathBuf },
    #[error(
        "https needs a CPU with AES, AVX2, ADX and BMI2 (x86-64) or AES and SHA-2 (aarch64) instructions, which this \
         one lacks; download the file by other means and give it with -m"
    )]
    Tls,
}

impl Error {
    /// Whether nobody answered, so that the cache may.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Error::Unreachable { .. }) || matches!(self, Error::Status { status: 500.., .. })
    }
}
