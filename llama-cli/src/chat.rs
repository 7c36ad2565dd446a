//! `llama chat`: a conversation in the terminal, or of the lines of standard input.
//!
//! Standard output carries the answers; the prompt, if somebody is there to see it, goes there too. What commands
//! say goes to standard error.

mod input;

use crate::args::{Chat as Args, Settings};
use crate::failure::Failure;
use crate::output::{label, note, print, printable};
use crate::run::timings;
use crate::{interrupt, load};
use input::Input;
use llama_core::{ChatFormat, Conversation, Error, Model, Role, Sampler, StopReason, Template};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Each command with what follows it and what it does.
const COMMANDS: [(&str, &str, &str); 12] = [
    ("/help", "", "show these commands"),
    ("/system", "[TEXT]", "show the instructions, or replace them; - removes them"),
    ("/regen", "", "take the last answer back and give another one"),
    ("/undo", "", "take the last question and its answer back"),
    ("/clear", "", "forget the conversation, but not the instructions"),
    ("/save", "FILE", "save the conversation, with all that was computed"),
    ("/load", "FILE", "go on with a saved conversation"),
    ("/tokens", "", "show how much of the context is used"),
    ("/stats", "", "show what was evaluated, and how fast"),
    (
        "/set",
        "KEY VALUE",
        "change a setting: temp, top-k, top-p, min-p, repeat-penalty,\n                 repeat-last-n, seed, predict",
    ),
    ("/exit", "", "end the chat, as Ctrl-D does"),
    ("//", "TEXT", "say something that begins with a slash"),
];

pub(crate) fn chat(args: &Args) -> Result<(), Failure> {
    let kind = "a chat model, such as -hf TheBloke/Llama-2-7B-Chat-GGUF (the demo inside this program only tells stories)";
    args.source.named()?.ok_or(Failure::NoModel { kind })?;
    let system = args.system()?;
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let commands = COMMANDS.map(|(name, ..)| name).to_vec();
    // Before Ctrl-C is watched: the editor takes the signal for itself when it is made.
    let mut input = if terminal { Input::terminal(commands)? } else { Input::pipe() };
    let cancel = interrupt::watch()?;

    let clock = Instant::now();
    let options = args.generation.options(cancel.clone())?;
    let options = if args.context_shift { options.context_shift(args.keep as usize) } else { options };
    let model = load::model(&args.source)?;
    let format = args.format(&model)?;
    let mut conversation = Conversation::new(model.session(options)?, format)?;
    conversation.system_every_turn(args.system_every_turn);
    conversation.set_system(system);
    let load_time = clock.elapsed();

    let settings = Settings::new(&args.generation).map_err(|error| Failure::Setting(first_line(&error)))?;
    let seed = settings.sampling.seed();
    let sampler = settings.sampling.sampler(seed, conversation.session().context());
    let mut chat = Chat { conversation, settings, seed, sampler, cancel };
    let result = chat.talk(&mut input, terminal);
    match result {
        Ok(()) | Err(Failure::Interrupted) => timings(chat.seed, load_time, chat.conversation.session()),
        Err(_) => {}
    }
    result
}

impl Args {
    fn system(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.system_file else { return Ok(self.system.clone()) };
        let mut text = load::text(path)?;
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(Some(text))
    }

    fn format(&self, model: &Model) -> Result<ChatFormat, Failure> {
        let source = match self.template.to_str() {
            Some("native") => return Ok(ChatFormat::Llama2),
            Some("auto") => return Ok(model.chat_format()?),
            Some("file") => model.chat_template()?.ok_or(Failure::NoTemplate)?.to_owned(),
            _ => load::text(&self.template)?,
        };
        Ok(ChatFormat::Template(Box::new(Template::new(&source, model.tokenizer())?)))
    }
}

struct Chat {
    conversation: Conversation,
    settings: Settings,
    seed: Option<u64>,
    sampler: Sampler,
    cancel: Arc<AtomicBool>,
}

impl Chat {
    fn talk(&mut self, input: &mut Input, terminal: bool) -> Result<(), Failure> {
        if terminal {
            note("Ctrl-C stops an answer, \\ at a line's end goes on in the next, /help shows more");
        }
        while let Some(line) = input.line()? {
            // A Ctrl-C that came too late for the answer before.
            self.cancel.store(false, Ordering::Relaxed);
            let result = match line.trim_end() {
                "" => Ok(()),
                "/exit" | "/quit" => break,
                text if text.starts_with("//") => self.say(&line[1..]),
                text if text.starts_with('/') => self.command(text),
                _ => self.say(&line),
            };
            match result {
                Ok(()) => {}
                Err(Failure::Interrupted) if terminal => {}
                Err(failure) if failure.ends_chat() => return Err(failure),
                Err(failure) => note(format_args!("{} {}", label("error"), printable(&failure.to_string()))),
            }
        }
        Ok(())
    }

    fn command(&mut self, line: &str) -> Result<(), Failure> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let known = COMMANDS.iter().find(|(command, ..)| *command == name);
        let Some((_, operand, _)) = known else {
            return Err(Failure::Command {
                expected: "a command that /help shows".into(),
                found: name.into(),
            });
        };
        if operand.is_empty() != rest.is_empty() && *operand != "[TEXT]" {
            let expected =
                if operand.is_empty() { format!("{name} alone") } else { format!("{name} {operand}") };
            return Err(Failure::Command { expected, found: line.into() });
        }
        match name {
            "/help" => {
                for (name, operand, what) in COMMANDS {
                    note(format_args!("{:<16} {what}", format!("{name} {operand}")));
                }
            }
            "/system" => self.system(rest),
            "/regen" => {
                let again = self.conversation.retract_answer();
                if !self.done(again)? {
                    return Err(Failure::Command {
                        expected: "a question before /regen".into(),
                        found: "none".into(),
                    });
                }
                return self.answer();
            }
            "/undo" => match self.conversation.undo() {
                Some(question) => note(format_args!("taken back: {}", printable(&question))),
                None => {
                    return Err(Failure::Command {
                        expected: "a question before /undo".into(),
                        found: "none".into(),
                    });
                }
            },
            "/clear" => self.conversation.clear(),
            "/save" => {
                self.conversation.save(rest, &self.sampler)?;
                note(format_args!("saved: {}", self.turns()));
            }
            "/load" => {
                self.conversation.load(rest, &mut self.sampler)?;
                note(format_args!("loaded: {}", self.turns()));
            }
            "/tokens" => note(self.tokens()),
            "/stats" => note(self.conversation.session().stats()),
            _ => self.set(rest)?,
        }
        Ok(())
    }

    fn system(&mut self, text: &str) {
        match text {
            "" => match self.conversation.system() {
                Some(text) => note(format_args!("instructions: {}", printable(text))),
                None => note("no instructions"),
            },
            "-" => self.conversation.set_system(None),
            text => self.conversation.set_system(Some(text.to_owned())),
        }
    }

    fn set(&mut self, pair: &str) -> Result<(), Failure> {
        let Some((key, value)) = pair.split_once(char::is_whitespace) else {
            return Err(Failure::Command {
                expected: "/set KEY VALUE".into(),
                found: format!("/set {pair}"),
            });
        };
        let settings =
            self.settings.with(key, value.trim()).map_err(|error| Failure::Setting(first_line(&error)))?;
        // A length alone leaves the random stream where it is.
        if !matches!(key, "n" | "predict") {
            self.seed =
                if key == "seed" || self.seed.is_none() { settings.sampling.seed() } else { self.seed };
            self.seed = self.seed.filter(|_| settings.sampling.temp > 0.0);
            self.sampler = settings.sampling.sampler(self.seed, self.conversation.session().context());
        }
        self.settings = settings;
        Ok(())
    }

    /// Asks, and prints the answer.
    fn say(&mut self, text: &str) -> Result<(), Failure> {
        let asked = self.conversation.user(text);
        self.done(asked)?;
        self.answer()
    }

    /// A result, of which a cancellation is no error of the model's.
    fn done<T>(&self, result: llama_core::Result<T>) -> Result<T, Failure> {
        result.map_err(|error| match error {
            Error::Cancelled => Failure::Interrupted,
            error => error.into(),
        })
    }

    fn answer(&mut self) -> Result<(), Failure> {
        let most = self.settings.most();
        let mut at_start = true;
        let mut count = 0;
        let mut reply = self.conversation.reply(&mut self.sampler);
        loop {
            let piece = if count == most { None } else { reply.next().transpose()? };
            let last = piece.is_none();
            let piece = piece.unwrap_or_else(|| reply.rest());
            at_start = if piece.is_empty() { at_start } else { piece.ends_with('\n') };
            print(piece)?;
            if last {
                break;
            }
            count += 1;
        }
        if !at_start || count == 0 {
            print("\n")?;
        }
        match self.conversation.session().stopped() {
            Some(StopReason::Cancelled) => Err(Failure::Interrupted),
            Some(StopReason::Context) => {
                let context = self.conversation.session().context();
                note(format_args!(
                    "the context of {context} tokens is full: /undo, /clear, or start with --context-shift or a larger -c"
                ));
                Ok(())
            }
            None if count == most => {
                note(format_args!("the answer was cut at {most} tokens (/set predict N)"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn turns(&self) -> String {
        let turns = self.conversation.messages().iter().filter(|message| message.role == Role::User).count();
        format!("{turns} turn{}, {}", if turns == 1 { "" } else { "s" }, self.tokens())
    }

    fn tokens(&self) -> String {
        let session = self.conversation.session();
        let forgotten = match session.stats().forgotten_tokens {
            0 => String::new(),
            tokens => format!(", {tokens} forgotten"),
        };
        format!("{} of {} tokens{forgotten}", session.tokens().len(), session.context())
    }
}

impl Failure {
    /// Whether there is nobody left to talk to.
    fn ends_chat(&self) -> bool {
        matches!(self, Failure::Stdout(_) | Failure::Interrupted | Failure::Line(_))
    }
}

/// What clap has to say, without its usage.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
