//! The `llama` command.
fn main() {}
