//! GGUF files: metadata and tensors, read where they lie and written as a stream.
//!
//! Layout: magic, version, two counts; the metadata (key, type, value); a description of each
//! tensor; padding; the tensors' data. Versions 1 (32-bit lengths), 2 and 3, little-endian.

mod read;
mod value;
mod write;

pub use value::{Array, ArrayBuf, Element, Elements, Kind, Value};
pub use write::{Data, Writer};

use llama_kernels::Format;

const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMS: usize = 4;

/// Powers of two from 8: the format asks for multiples of 8, ggml for powers of two.
fn is_alignment(value: u64) -> bool {
    value.is_power_of_two() && value >= 8
}

/// Bytes of a tensor, `dims[0]` being the length of a row; `None` if a row is no whole number of
/// blocks or the size overflows.
fn tensor_bytes(dims: &[usize], format: Format) -> Option<u64> {
    let row = format.row_bytes(dims.first().copied().unwrap_or(1))?;
    let size = dims.iter().skip(1).try_fold(row, |size, &dim| size.checked_mul(dim))?;
    u64::try_from(size).ok()
}

/// `4096x11008`: dimensions in ggml's order.
fn shape(dims: &[usize]) -> String {
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
