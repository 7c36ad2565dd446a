//! The `llama` command as its users see it: streams, exit codes, files.

mod bad_input;
mod bench;
mod chat;
mod doctor;
mod fixture;
mod infill;
mod inspect;
mod run;
mod synth;
mod tokenize;
