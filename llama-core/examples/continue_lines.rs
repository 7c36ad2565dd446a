//! Continues every line of standard input, each on its own, one thread and one session to a core:
//! `cargo run --release --example continue_lines -- MODEL.gguf TEMPERATURE TOKENS < LINES > TEXTS`.
//!
//! A text is written if it ended by itself within so many tokens; `<|endoftext|>` follows each. The line's number is
//! the seed of its sampler, so the texts are the same on every number of cores; their order is not.

use llama_core::{Model, Options, Sampler, Token};
use llama_kernels::{Cpu, CpuOptions};
use std::error::Error;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, temperature, tokens] = &args[..] else {
        eprintln!("usage: continue_lines MODEL.gguf TEMPERATURE TOKENS");
        std::process::exit(2);
    };
    let (temperature, limit) = (temperature.parse::<f32>()?, tokens.parse::<usize>()?);
    let model = Model::read(model)?;
    let lines: Vec<String> = io::stdin().lines().collect::<Result<_, _>>()?;

    let vocabulary = model.tokenizer();
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), Box<dyn Error + Send + Sync>> {
        let cpu = Arc::new(Cpu::new(&CpuOptions { threads: Some(1), ..CpuOptions::default() })?);
        let mut session = model.session(Options::default().context(limit).cpu(cpu))?;
        loop {
            let line = next.fetch_add(1, Ordering::Relaxed);
            let Some(text) = lines.get(line) else { return Ok(()) };
            let mut sampler = Sampler::new(line as u64).temperature(temperature);
            let mut tokens: Vec<Token> =
                vocabulary.bos().into_iter().chain(vocabulary.encode_text(text)).collect();
            let mut known = 0;
            session.clear();
            while tokens.len() < limit {
                let token = sampler.sample(session.forward(&tokens[known..])?, &tokens);
                // Models of llama2.c end a text with the token that begins the next.
                if vocabulary.ends(token) || vocabulary.bos() == Some(token) {
                    let text = format!("{}\n<|endoftext|>\n", vocabulary.decode(&tokens));
                    io::stdout().lock().write_all(text.as_bytes())?;
                    break;
                }
                known = tokens.len();
                tokens.push(token);
            }
        }
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok(())
}
