//! The `llama` command as its users see it: streams, exit codes, files.

mod about;
mod bad_input;
mod bench;
mod chat;
mod demo;
mod doctor;
mod fixture;
mod hub;
mod hub_server;
mod infill;
mod inspect;
mod models;
mod plot;
mod run;
mod synth;
mod tokenize;
