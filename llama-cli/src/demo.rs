//! The demo: a model of little stories that is part of the program, for those who have named none.

use crate::failure::Failure;
use crate::output::note;
use llama_core::gguf::Gguf;

/// As a file is mapped: tensors lie at multiples of 32 bytes.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// Made by `llama-cli/demo`.
static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("../demo/demo.gguf"));

/// The demo's file where it lies in the program; standard error is told.
pub(crate) fn gguf() -> Result<Gguf, Failure> {
    note(
        "no model named: using the demo inside this program, which tells little stories and knows nothing else",
    );
    Ok(Gguf::from_static("demo.gguf (inside this program)", &FILE.0)?)
}
