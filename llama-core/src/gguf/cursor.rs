//! A position in a file's bytes that cannot move past their end, and why a field was refused.

use super::{Kind, Value};
use crate::Error;
use byteorder::{ByteOrder, LittleEndian};
use std::fmt;
use std::path::Path;

/// Bytes of a key or of a tensor's name. ggml stops at 64 for tensors.
const MAX_NAME: usize = 256;

/// Strings and nested arrays in all of a file's metadata. The largest vocabularies of today have
/// some 800,000 pieces and merges; walking four million takes milliseconds.
const MAX_WALKED: u64 = 1 << 22;

/// Why a field was refused; [`of`](Fault::of) adds which field, of which file.
#[derive(Debug)]
pub(super) struct Fault {
    offset: usize,
    expected: String,
    found: String,
}

impl Fault {
    pub(super) fn new(offset: usize, expected: impl Into<String>, found: impl ToString) -> Fault {
        Fault { offset, expected: expected.into(), found: found.to_string() }
    }

    pub(super) fn of(self, path: &Path, what: impl fmt::Display) -> Error {
        let Fault { offset, expected, found } = self;
        Error::Gguf { path: path.to_owned(), what: what.to_string(), offset: offset as u64, expected, found }
    }
}

/// A position in the file's bytes that cannot move past their end.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Lengths and counts are 64 bits wide (all versions but the first).
    wide: bool,
    /// Elements that may still be walked.
    budget: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], wide: bool) -> Cursor<'a> {
        Cursor { bytes, at: 0, wide, budget: MAX_WALKED }
    }

    /// The same position with lengths of 64 (or 32) bits.
    pub(super) fn widen(self, wide: bool) -> Cursor<'a> {
        Cursor { wide, ..self }
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that follow.
    pub(super) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub(super) fn wide(&self) -> bool {
        self.wide
    }

    /// Bytes of a length.
    pub(super) fn length_size(&self) -> u64 {
        if self.wide { 8 } else { 4 }
    }

    /// The bytes from `start` to here.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// A fault at the next byte.
    pub(super) fn fault(&self, expected: impl Into<String>, found: impl ToString) -> Fault {
        Fault::new(self.at, expected, found)
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: u64) -> Result<&'a [u8], Fault> {
        if n > self.left() {
            return Err(self.fault(format!("{n} bytes"), format!("{} to the end of the file", self.left())));
        }
        let start = self.at;
        self.at += n as usize;
        Ok(self.since(start))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        Ok(LittleEndian::read_u32(self.take(4)?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        Ok(LittleEndian::read_u64(self.take(8)?))
    }

    pub(super) fn bool(&mut self) -> Result<bool, Fault> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => Err(Fault::new(self.at - 1, "a bool, 0 or 1", byte)),
        }
    }

    /// A length or a count, in the width of the file's version.
    pub(super) fn length(&mut self) -> Result<u64, Fault> {
        if self.wide { self.u64() } else { Ok(self.u32()?.into()) }
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Fault> {
        let at = self.at;
        let len = self.length()?;
        let left = self.left();
        self.take(len).map_err(|_| {
            Fault::new(
                at,
                format!("a string that fits in the {left} bytes that follow"),
                format!("{len} bytes"),
            )
        })
    }

    /// A key or a tensor's name; it will stand in messages of one line.
    pub(super) fn name(&mut self) -> Result<&'a str, Fault> {
        let at = self.at;
        let bytes = self.string()?;
        let name = std::str::from_utf8(bytes)
            .ok()
            .filter(|name| !name.is_empty() && name.len() <= MAX_NAME && !name.contains(char::is_control));
        name.ok_or_else(|| {
            let expected = format!("a name, 1 to {MAX_NAME} bytes of UTF-8 without control characters");
            Fault::new(at, expected, format!("{} bytes {}", bytes.len(), Value::String(bytes)))
        })
    }

    /// A number of things, capped before anybody allocates by it.
    pub(super) fn count(&mut self, max: u64) -> Result<u64, Fault> {
        let at = self.at;
        let count = self.length()?;
        if count <= max { Ok(count) } else { Err(Fault::new(at, format!("at most {max}"), count)) }
    }

    pub(super) fn kind(&mut self) -> Result<Kind, Fault> {
        let at = self.at;
        let id = self.u32()?;
        Kind::from_id(id).ok_or_else(|| Fault::new(at, "the id of a value type, 0 to 12", id))
    }

    /// Accounts for `n` elements that are about to be walked; `at` is where their number stands.
    pub(super) fn spend(&mut self, at: usize, n: u64) -> Result<(), Fault> {
        self.budget = self.budget.checked_sub(n).ok_or_else(|| {
            Fault::new(
                at,
                format!("at most {MAX_WALKED} strings and nested arrays in all"),
                format!("{n} more"),
            )
        })?;
        Ok(())
    }
}
