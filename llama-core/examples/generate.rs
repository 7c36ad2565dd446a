//! Streams text from a GGUF file, always taking the likeliest token:
//! `cargo run --release --example generate -- FILE [PROMPT]`.

use llama_core::{Model, Options, Result, Sampler};
use std::io::{self, Write};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let Some(path) = args.next() else {
        eprintln!("usage: generate FILE [PROMPT]");
        std::process::exit(2);
    };
    // SAFETY: nothing writes to this file while it is mapped.
    let model = unsafe { Model::map(path)? };
    let mut session = model.session(Options::default())?;
    let mut sampler = Sampler::greedy();
    // Without a prompt, generation starts from the token that begins a text.
    if let Some(prompt) = args.next() {
        session.push(prompt)?;
    }
    for piece in session.generate(&mut sampler).take(200) {
        print!("{}", piece?);
        let _ = io::stdout().flush();
    }
    eprintln!("\n{}", session.stats());
    Ok(())
}
