//! How well a model predicts a text, whatever its vocabulary: bits per byte, less is better.
//! `cargo run --release --example bits_per_byte -- MODEL.gguf TEXT`.
//!
//! `<|endoftext|>` separates documents, each of which is trimmed and judged alone, from the token that begins a text.
//! Windows hold at most 512 tokens; one follows the other by half of that, so that no token of a long document is
//! predicted from fewer than 255 before it.

use llama_core::{Model, Options, Token};
use std::error::Error;

const WINDOW: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text] = &args[..] else {
        eprintln!("usage: bits_per_byte MODEL.gguf TEXT");
        std::process::exit(2);
    };
    let model = Model::read(model)?;
    let text = std::fs::read_to_string(text)?;
    let mut session = model.session(Options::default().context(WINDOW))?;

    let (mut bits, mut bytes, mut count) = (0.0, 0, 0);
    for document in text.split("<|endoftext|>").map(str::trim).filter(|document| !document.is_empty()) {
        let tokens: Vec<Token> =
            model.tokenizer().bos().into_iter().chain(model.tokenizer().encode_text(document)).collect();
        // `known` are predicted, or given: the first token.
        let mut known = 1;
        while known < tokens.len() {
            let start = if known == 1 { 0 } else { known - WINDOW / 2 };
            let end = tokens.len().min(start + WINDOW);
            session.clear();
            let rows = session.forward_all(&tokens[start..end - 1])?;
            let rows = rows.chunks_exact(model.tokenizer().vocab_size());
            for (row, token) in rows.zip(&tokens[start + 1..end]).skip(known - start - 1) {
                bits += surprise(row, *token);
            }
            known = end;
        }
        bytes += document.len();
        count += tokens.len() - 1;
    }
    println!("{:.4} bits per byte ({bytes} bytes, {count} tokens)", bits / bytes as f64);
    Ok(())
}

/// The bits that a token costs: the negative logarithm of its probability.
fn surprise(logits: &[f32], token: Token) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    (sum.ln() - f64::from(logits[token.0 as usize] - most)) / std::f64::consts::LN_2
}
