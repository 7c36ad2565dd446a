//! `llama tokenize`: the tokens of a text.

use crate::args::Tokenize;
use crate::failure::Failure;
use crate::load;
use crate::output::{print, printable};
use llama_core::{Token, Tokenizer};
use serde_json::json;
use std::fmt::Write;

pub(crate) fn tokenize(args: &Tokenize) -> Result<(), Failure> {
    let tokenizer = Tokenizer::from_gguf(&load::gguf(&args.source)?)?;
    let text = match args.text.read()? {
        Some(text) => text,
        None => load::stdin()?,
    };
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos() && !args.no_bos);
    let tokens: Vec<Token> = bos.into_iter().chain(tokenizer.encode_text(&text)).collect();
    let pieces = tokens.iter().map(|&token| tokenizer.piece(token).unwrap_or_default());
    if args.json {
        let ids = tokens.iter().map(|token| token.0);
        let object = json!({ "ids": ids.collect::<Vec<_>>(), "pieces": pieces.collect::<Vec<_>>() });
        return print(format_args!("{object}\n"));
    }
    let mut lines = String::new();
    for (token, piece) in tokens.iter().zip(pieces) {
        let _ = writeln!(lines, "{:>6} {}", token.0, printable(piece));
    }
    print(lines)
}
