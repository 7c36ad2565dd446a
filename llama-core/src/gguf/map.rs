//! A file's bytes, mapped, read or part of the program, shared by whoever holds a part of them. The crate's only unsafe.
#![expect(unsafe_code, reason = "mapping a file is unsafe: another process may change it")]

use super::{Gguf, read};
use crate::{Error, Result};
use memmap2::Mmap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

impl Gguf {
    /// Maps a file and reads its header; of a split file, given by its first part, every part.
    ///
    /// The mapping is read-only and is the only copy of the weights; the system loads pages as they
    /// are touched and may drop them again. [`Gguf::read`] is the safe twin.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be opened or mapped, else those of [`Gguf::read`].
    ///
    /// # Safety
    /// While the result or anything made from it (a [`Mapped`]) lives, nobody may write to the
    /// file or truncate it, in this process or another.
    pub unsafe fn map(path: impl AsRef<Path>) -> Result<Gguf> {
        // SAFETY: our caller keeps the file, and so each of its parts, as it is.
        read::open(path.as_ref(), |path| unsafe { Map::map_file(path) })
    }
}

/// A range of a file's bytes that keeps the file alive; cloning copies no data.
#[derive(Clone)]
pub struct Mapped {
    map: Arc<Map>,
    /// Lies within `map`.
    range: Range<usize>,
}

impl Mapped {
    /// The range, if the file has it.
    pub(super) fn new(map: &Arc<Map>, range: Range<usize>) -> Option<Mapped> {
        map.get(range.clone())?;
        Some(Mapped { map: Arc::clone(map), range })
    }

    /// A part of the range, if it has it.
    pub(crate) fn part(&self, part: Range<usize>) -> Option<Mapped> {
        self.get(part.clone())?;
        let start = self.range.start;
        Some(Mapped { map: Arc::clone(&self.map), range: start + part.start..start + part.end })
    }

    /// Where in the file the range begins.
    pub fn offset(&self) -> usize {
        self.range.start
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Mapped").field(&self.range).finish()
    }
}

/// All bytes of a file.
pub(super) enum Map {
    Mapped(Mmap),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

impl Map {
    /// # Safety
    /// As for [`Gguf::map`].
    unsafe fn map_file(path: &Path) -> Result<Map> {
        let (file, _) = regular_file(path)?;
        // SAFETY: nobody changes the file while it is mapped (the contract of this function).
        let map = unsafe { Mmap::map(&file) }.map_err(error("map", path))?;
        advise(&map);
        Ok(Map::Mapped(map))
    }

    /// Reads the file into memory.
    pub(super) fn read_file(path: &Path) -> Result<Map> {
        let (file, len) = regular_file(path)?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(len.try_into().unwrap_or(usize::MAX))
            .map_err(|e| error("read", path)(e.into()))?;
        file.take(len).read_to_end(&mut bytes).map_err(error("read", path))?;
        Ok(Map::Owned(bytes))
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Map::Mapped(map) => map,
            Map::Owned(bytes) => bytes,
            Map::Static(bytes) => bytes,
        }
    }
}

/// Opens a regular file and says how long it is. Anything else is refused before it is opened:
/// a pipe would block, a device may never end.
fn regular_file(path: &Path) -> Result<(File, u64)> {
    let metadata = fs::metadata(path).map_err(error("open", path))?;
    if !metadata.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(error("open", path)(source));
    }
    let file = File::open(path).map_err(error("open", path))?;
    Ok((file, metadata.len()))
}

/// Asks for huge pages, which must happen before the first touch, and for read-ahead. These are
/// hints: a system that knows neither still maps the file.
fn advise(map: &Mmap) {
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    #[cfg(unix)]
    let _ = map.advise(memmap2::Advice::WillNeed);
    #[cfg(not(unix))]
    let _ = map;
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}
