//! One file from a server to the disk, whatever happens on the way.
//!
//! The bytes grow in a file of their own, which survives this process and is continued by the next one, and take
//! their final name when there are as many as announced and their SHA-256 is the announced one. One process
//! downloads, the others wait for its lock and then find the file.

use super::cache::{create_parents, failed};
use super::client::Client;
use super::{Error, bar};
use crate::output::note;
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Body;
use ureq::http::{Response, header};

/// Tries in a row that bring no byte.
const TRIES: u32 = 4;
/// The first wait between two tries; each is twice as long as the one before.
const WAIT: Duration = Duration::from_millis(250);
/// The longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const BUFFER: usize = 256 << 10;

pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) url: String,
    /// What it is called in messages.
    pub(super) name: String,
    pub(super) size: Option<u64>,
    pub(super) sha256: Option<String>,
    /// The `ETag`, without which bytes of two tries cannot be known to belong together.
    pub(super) version: Option<String>,
    pub(super) partial: PathBuf,
    pub(super) target: PathBuf,
    pub(super) lock: PathBuf,
}

/// The partial file and what is known of it.
struct Partial {
    file: File,
    hash: Sha256,
    len: u64,
}

/// Why a try ended before the file did.
enum Stop {
    /// The next try may go on.
    Broken {
        why: String,
        wait: Option<Duration>,
    },
    Failed(Error),
}

impl Download<'_> {
    /// Brings the file to its place, or finds it there.
    pub(super) fn run(&self) -> Result<(), Error> {
        let lock = self.lock()?;
        let result = if self.target.exists() { Ok(()) } else { self.download() };
        drop(lock);
        result
    }

    fn lock(&self) -> Result<Option<File>, Error> {
        create_parents(&self.lock)?;
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&self.lock);
        let file = open.map_err(failed("open", &self.lock))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {
                note(format_args!("another process is downloading {}: waiting for it", self.name));
                file.lock().map_err(failed("lock", &self.lock))?;
                Ok(Some(file))
            }
            // A file system without locks.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(None),
            Err(TryLockError::Error(e)) => Err(failed("lock", &self.lock)(e)),
        }
    }

    fn download(&self) -> Result<(), Error> {
        create_parents(&self.partial)?;
        let bar = bar::new(self.size, &self.name);
        let mut partial = self.open(&bar)?;
        let result = self.fill(&mut partial, &bar).and_then(|()| self.verify(&mut partial));
        let Partial { file, len, .. } = partial;
        bar.finish_and_clear();
        let write = failed("write", &self.partial);
        let synced = if result.is_ok() { file.sync_all() } else { Ok(()) };
        // Windows moves no open file.
        drop(file);
        let worthless = matches!(result, Err(Error::Length { .. } | Error::Digest { .. }));
        if worthless || (result.is_err() && (len == 0 || self.version.is_none())) {
            let _ = fs::remove_file(&self.partial);
        }
        result?;
        synced.map_err(write)?;
        create_parents(&self.target)?;
        fs::rename(&self.partial, &self.target).map_err(failed("move", &self.partial))
    }

    /// The partial file, with what is there already taken into account.
    fn open(&self, bar: &ProgressBar) -> Result<Partial, Error> {
        let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&self.partial);
        let mut partial =
            Partial { file: open.map_err(failed("open", &self.partial))?, hash: Sha256::new(), len: 0 };
        self.take_in(&mut partial, bar).map_err(failed("read", &self.partial))?;
        bar.reset_eta();
        Ok(partial)
    }

    fn take_in(&self, partial: &mut Partial, bar: &ProgressBar) -> io::Result<()> {
        let present = partial.file.metadata()?.len();
        if self.version.is_none() || self.size.is_some_and(|size| present > size) {
            return partial.clear();
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = partial.file.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            partial.hash.update(&buffer[..n]);
            partial.len += n as u64;
            bar.set_position(partial.len);
        }
    }

    /// Gets bytes until there are all of them.
    fn fill(&self, partial: &mut Partial, bar: &ProgressBar) -> Result<(), Error> {
        let mut tries = 0;
        while self.size.is_none_or(|size| partial.len < size) {
            let before = partial.len;
            let (why, wait) = match self.attempt(partial, bar) {
                Ok(()) => return Ok(()),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Broken { why, wait }) => (why, wait),
            };
            tries = if partial.len > before { 1 } else { tries + 1 };
            if tries >= TRIES {
                return Err(Error::Broken { name: self.name.clone(), kept: partial.len, why });
            }
            std::thread::sleep(wait.unwrap_or(WAIT * (1 << (tries - 1))).min(LONGEST_WAIT));
        }
        Ok(())
    }

    /// One request, from where the partial file ends.
    fn attempt(&self, partial: &mut Partial, bar: &ProgressBar) -> Result<(), Stop> {
        let broken = |why: String| Stop::Broken { why, wait: None };
        let answer = self.client.get(&self.url, partial.len, self.version.as_deref());
        let mut answer = answer.map_err(|error| match error {
            Error::Unreachable { why, .. } => broken(why),
            error => Stop::Failed(error),
        })?;
        let status = answer.status().as_u16();
        if status == 416 && partial.len > 0 {
            // The server has less than what is here: that was another file.
            self.clear(partial, bar)?;
            return Err(broken("the server has no such range".into()));
        }
        if status == 429 || status >= 500 {
            let wait =
                answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            return Err(Stop::Broken {
                why: format!("the server answered {status}"),
                wait: wait.map(Duration::from_secs),
            });
        }
        answer = self.client.accept(answer, &self.url, &self.name).map_err(Stop::Failed)?;
        let total = match range(&answer) {
            Some((from, total)) if status == 206 => {
                if from != partial.len {
                    self.clear(partial, bar)?;
                    return Err(broken("the server sent another range".into()));
                }
                total
            }
            _ if status == 200 => {
                // All of the file, whatever was asked for.
                if partial.len > 0 {
                    self.clear(partial, bar)?;
                }
                let length = answer.headers().get(header::CONTENT_LENGTH);
                length.and_then(|value| value.to_str().ok()?.parse().ok())
            }
            _ => {
                let (expected, found) = ("the file, or a range of it".into(), format!("status {status}"));
                return Err(Stop::Failed(Error::Answer { url: self.url.clone(), expected, found }));
            }
        };
        let size = self.size.or(total);
        if let (Some(expected), Some(found)) = (size, total)
            && expected != found
        {
            return Err(Stop::Failed(self.length(expected, found)));
        }
        if let Some(size) = size {
            bar.set_length(size);
        }
        self.copy(answer, size, partial, bar)
    }

    fn copy(
        &self,
        mut answer: Response<Body>,
        size: Option<u64>,
        partial: &mut Partial,
        bar: &ProgressBar,
    ) -> Result<(), Stop> {
        let mut body = answer.body_mut().with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Stop::Broken { why: e.to_string(), wait: None }),
            };
            if n == 0 {
                break;
            }
            let found = partial.len + n as u64;
            if let Some(expected) = size.filter(|size| found > *size) {
                return Err(Stop::Failed(self.length(expected, found)));
            }
            let wrote = partial.file.write_all(&buffer[..n]);
            wrote.map_err(|e| Stop::Failed(failed("write", &self.partial)(e)))?;
            partial.hash.update(&buffer[..n]);
            partial.len = found;
            bar.set_position(found);
        }
        match size {
            Some(size) if partial.len < size => {
                Err(Stop::Broken { why: "the connection was closed".into(), wait: None })
            }
            _ => Ok(()),
        }
    }

    fn clear(&self, partial: &mut Partial, bar: &ProgressBar) -> Result<(), Stop> {
        bar.set_position(0);
        partial.clear().map_err(|e| Stop::Failed(failed("write", &self.partial)(e)))
    }

    fn verify(&self, partial: &mut Partial) -> Result<(), Error> {
        if let Some(expected) = self.size.filter(|size| *size != partial.len) {
            return Err(self.length(expected, partial.len));
        }
        let Some(expected) = &self.sha256 else { return Ok(()) };
        let found = hex(&partial.hash.finalize_reset());
        if !expected.eq_ignore_ascii_case(&found) {
            return Err(Error::Digest { name: self.name.clone(), expected: expected.clone(), found });
        }
        Ok(())
    }

    fn length(&self, expected: u64, found: u64) -> Error {
        Error::Length { name: self.name.clone(), expected, found }
    }
}

impl Partial {
    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hash, self.len) = (Sha256::new(), 0);
        Ok(())
    }
}

/// The first byte of a `Content-Range`, and how many the whole has, if that is said.
fn range(answer: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let text = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the bytes grow that will be at `path`.
pub(super) fn incomplete(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".incomplete");
    path.with_file_name(name)
}
