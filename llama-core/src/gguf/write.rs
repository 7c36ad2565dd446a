//! Writing GGUF version 3, streaming: the header knows every size before the first weight exists,
//! so a model larger than memory passes through row by row.

use super::value::{Value, write_string};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_DIMS, shape};
use crate::{Error, Result};
use llama_kernels::Format;
use std::io::{self, Write};

/// The largest tensor: no sum of sizes can then overflow.
const MAX_BYTES: u64 = 1 << 48;

/// The header of a file to be written: metadata and the description of every tensor.
///
/// ```
/// use llama_core::gguf::{ArrayBuf, Writer};
/// use llama_kernels::Format;
/// use std::io::Write;
///
/// let mut header = Writer::new();
/// header.set("llama.block_count", 22u32);
/// header.set("tokenizer.ggml.tokens", &["<unk>", "<s>"].into_iter().collect::<ArrayBuf>());
/// header.tensor("output_norm.weight", &[3], Format::F32)?;
///
/// let mut data = header.begin(Vec::new())?;
/// for weight in [1.0f32, 0.5, 2.0] {
///     data.write_all(&weight.to_le_bytes())?;
/// }
/// let file = data.finish()?;
/// assert_eq!(file.len() as u64, header.file_bytes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// Keys and their encoded values, type id included.
    metadata: Vec<(String, Vec<u8>)>,
    tensors: Vec<Description>,
}

/// A tensor to be written.
#[derive(Clone, Debug)]
struct Description {
    name: String,
    dims: Vec<usize>,
    format: Format,
    size: u64,
}

impl Writer {
    /// A header without metadata and tensors.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Sets a metadata value; a key that is set again keeps its place.
    ///
    /// `general.alignment` (32 if never set) also decides where tensors begin.
    pub fn set<'v>(&mut self, key: &str, value: impl Into<Value<'v>>) {
        let value = value.into();
        let mut bytes = (value.kind() as u32).to_le_bytes().to_vec();
        value.write(&mut bytes);
        match self.metadata.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = bytes,
            None => self.metadata.push((key.to_owned(), bytes)),
        }
    }

    /// Adds a tensor; `dims` are in ggml's order, the length of a row first.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the name is taken, there are more than four dimensions, a row is no
    /// whole number of blocks or there are more than 2^48 bytes.
    pub fn tensor(&mut self, name: &str, dims: &[usize], format: Format) -> Result<()> {
        let error = |expected: String, found: String| {
            Err(Error::Tensor { name: name.to_owned(), offset: None, expected, found })
        };
        if self.tensors.iter().any(|known| known.name == name) {
            return error("a name of its own".into(), "a second tensor of this name".into());
        }
        if dims.len() > MAX_DIMS {
            return error(format!("at most {MAX_DIMS} dimensions"), dims.len().to_string());
        }
        let Some(size) = super::tensor_bytes(dims, format).filter(|&size| size <= MAX_BYTES) else {
            let expected = format!(
                "rows of whole {format} blocks ({} weights) and at most 2^48 bytes",
                format.block_len()
            );
            return error(expected, shape(dims));
        };
        self.tensors.push(Description { name: name.to_owned(), dims: dims.to_vec(), format, size });
        Ok(())
    }

    /// The size of the complete file.
    pub fn file_bytes(&self) -> u64 {
        let alignment = self.alignment().unwrap_or(DEFAULT_ALIGNMENT);
        self.tensors.iter().fold(self.header(alignment).len() as u64, |sum, tensor| {
            sum.saturating_add(tensor.size).saturating_add(padding(tensor.size, alignment))
        })
    }

    /// Writes the header. What is then written to the result is the tensors' bytes, in the order
    /// in which they were added, one after the other; padding is inserted where it belongs.
    ///
    /// # Errors
    /// Those of `out`, and [`io::ErrorKind::InvalidInput`] if `general.alignment` was set to
    /// anything but a u32 that is a power of two and at least 8.
    pub fn begin<W: Write>(&self, mut out: W) -> io::Result<Data<W>> {
        let Some(alignment) = self.alignment() else {
            return Err(invalid(format!("key \"{ALIGNMENT_KEY}\": expected a u32, a power of two from 8")));
        };
        out.write_all(&self.header(alignment))?;
        let tensors = self.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.size));
        let tensors = tensors.collect::<Vec<_>>().into_iter();
        let left = tensors.as_slice().first().map_or(0, |(_, size)| *size);
        let mut data = Data { out, alignment, tensors, left };
        data.skip_complete()?;
        Ok(data)
    }

    /// Magic, version, metadata and tensor descriptions, padded to where the data begin.
    fn header(&self, alignment: u64) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            write_string(key.as_bytes(), &mut out);
            out.extend(value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            write_string(tensor.name.as_bytes(), &mut out);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            for &dim in &tensor.dims {
                out.extend((dim as u64).to_le_bytes());
            }
            out.extend(tensor.format.id().to_le_bytes());
            out.extend(u64::to_le_bytes(offset));
            offset += tensor.size + padding(tensor.size, alignment);
        }
        out.resize(out.len() + padding(out.len() as u64, alignment) as usize, 0);
        out
    }

    /// `None` if it was set to something that no reader accepts.
    fn alignment(&self) -> Option<u64> {
        let Some((_, value)) = self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) else {
            return Some(DEFAULT_ALIGNMENT);
        };
        let value = value.strip_prefix(&(super::Kind::U32 as u32).to_le_bytes())?;
        let alignment = u32::from_le_bytes(value.try_into().ok()?).into();
        super::is_alignment(alignment).then_some(alignment)
    }
}

/// The data section of a file being written, after [`Writer::begin`].
#[derive(Debug)]
pub struct Data<W: Write> {
    out: W,
    alignment: u64,
    /// Names and sizes of the tensors that are not complete.
    tensors: std::vec::IntoIter<(String, u64)>,
    /// Bytes that the first of them still needs.
    left: u64,
}

impl<W: Write> Data<W> {
    /// Ends the file and gives the destination back, flushed.
    ///
    /// # Errors
    /// Those of the destination, and [`io::ErrorKind::InvalidInput`] naming the first tensor that
    /// has not received all its bytes.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some((name, size)) = self.tensors.next() {
            let given = size - self.left;
            return Err(invalid(format!("tensor \"{name}\": expected {size} bytes, found {given}")));
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// Pads and leaves every tensor that is complete.
    fn skip_complete(&mut self) -> io::Result<()> {
        while self.left == 0
            && let Some((_, size)) = self.tensors.next()
        {
            io::copy(&mut io::Read::take(io::repeat(0), padding(size, self.alignment)), &mut self.out)?;
            self.left = self.tensors.as_slice().first().map_or(0, |(_, size)| *size);
        }
        Ok(())
    }
}

impl<W: Write> Write for Data<W> {
    /// Writes bytes of the current tensor, at most to its end.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 && !bytes.is_empty() {
            return Err(invalid(format!("expected no more data, found {} bytes", bytes.len())));
        }
        let n = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let n = self.out.write(&bytes[..n])?;
        self.left -= n as u64;
        self.skip_complete()?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Bytes from `size` to the next multiple of `alignment`, a power of two.
fn padding(size: u64, alignment: u64) -> u64 {
    size.wrapping_neg() & (alignment - 1)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_tensors() -> Writer {
        let mut header = Writer::new();
        header.tensor("none", &[0, 7], Format::F32).unwrap();
        header.tensor("a", &[3], Format::F32).unwrap();
        header.tensor("b", &[32, 2], Format::Q8_0).unwrap();
        header
    }

    #[test]
    fn padding_does_not_depend_on_how_bytes_arrive() {
        let header = two_tensors();
        let bytes: Vec<u8> = (0..12 + 68).collect();
        let mut whole = header.begin(Vec::new()).unwrap();
        whole.write_all(&bytes).unwrap();
        let whole = whole.finish().unwrap();
        let mut single = header.begin(Vec::new()).unwrap();
        for byte in &bytes {
            single.write_all(&[*byte]).unwrap();
        }
        assert_eq!(whole, single.finish().unwrap());
        assert_eq!(whole.len() as u64, header.file_bytes());
        let data = &whole[whole.len() - 32 - 96..];
        assert_eq!((&data[..12], &data[12..32], &data[32..100]), (&bytes[..12], &[0; 20][..], &bytes[12..]));
    }

    #[test]
    fn wrong_amounts_of_data_are_errors() {
        let mut data = two_tensors().begin(Vec::new()).unwrap();
        assert!(data.write_all(&[0; 81]).is_err());
        let mut data = two_tensors().begin(Vec::new()).unwrap();
        data.write_all(&[0; 79]).unwrap();
        let message = data.finish().unwrap_err().to_string();
        assert_eq!(message, "tensor \"b\": expected 68 bytes, found 67");
    }

    #[test]
    fn impossible_tensors_are_errors() {
        let mut header = two_tensors();
        for (name, dims) in
            [("a", &[32][..]), ("c", &[31]), ("d", &[32, 1, 1, 1, 1]), ("e", &[1 << 60, 1 << 60])]
        {
            assert!(matches!(header.tensor(name, dims, Format::Q8_0), Err(Error::Tensor { .. })), "{name}");
        }
    }

    #[test]
    fn alignment_is_what_was_set() {
        let mut header = two_tensors();
        header.set(ALIGNMENT_KEY, 4096u32);
        assert_eq!(header.file_bytes(), 3 * 4096);
        header.set(ALIGNMENT_KEY, 48u32);
        assert!(header.begin(Vec::new()).is_err());
    }
}
