//! The `llama` command: run, chat, infill, inspect, tokenize, benchmark and synthesise Llama models on the CPU, and say
//! what the CPU is good for.
//!
//! Standard output carries results alone; timings, notes, progress and errors go to standard error.

#![deny(unsafe_code)]

mod about;
mod args;
mod bench;
mod chat;
mod compute;
mod demo;
mod doctor;
mod failure;
mod hub;
mod infill;
mod inspect;
mod interrupt;
mod list;
mod load;
mod machine;
mod models;
mod output;
mod prompt;
mod run;
mod source;
mod synth;
mod tokenize;

use args::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = args::parse();
    if cli.simple_io {
        output::be_simple();
    }
    let Some(command) = cli.command else { return end(about::welcome()) };
    end(match command {
        Command::Run(args) => run::run(&args),
        Command::Chat(args) => chat::chat(&args),
        Command::Infill(args) => infill::infill(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Tokenize(args) => tokenize::tokenize(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Synth(args) => synth::synth(&args),
        Command::Models(args) => models::models(&args),
        Command::Rm(args) => models::remove(&args),
        Command::Completions(args) => about::completions(&args),
        Command::Man => about::man(),
    })
}

fn end(result: Result<(), failure::Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
