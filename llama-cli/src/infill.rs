//! `llama infill`: text around gaps in, what belongs into them out.

use crate::args::Infill as Args;
use crate::failure::Failure;
use crate::output::print;
use crate::run::timings;
use crate::{interrupt, load};
use llama_core::{Error, Infill, Order, Prompt, Sampler, Session, StopReason};
use std::path::Path;
use std::time::Instant;

/// Marks a gap in a file.
pub(crate) const MARKER: &str = "<FILL_ME>";

/// What is given.
enum Around {
    /// The text before the only gap and the one after it.
    Two(String, String),
    /// The texts between the gaps.
    File(Vec<String>),
}

pub(crate) fn infill(args: &Args) -> Result<(), Failure> {
    let kind = "Code Llama 7B or 13B, such as -hf TheBloke/CodeLlama-7B-GGUF";
    args.source.named()?.ok_or(Failure::NoModel { kind })?;
    let around = args.around()?;
    let cancel = interrupt::watch()?;

    let clock = Instant::now();
    let options = args.generation.options(cancel)?;
    let model = load::model(&args.source)?;
    let order = if args.spm { Order::SuffixFirst } else { Order::PrefixFirst };
    let gap = model.infill()?.order(order);
    let mut session = model.session(options)?;
    let load_time = clock.elapsed();

    let sampling = &args.generation.sampling;
    let seed = sampling.seed();
    let mut sampler = sampling.sampler(seed, session.context());
    let mut fill = Fill { session: &mut session, sampler: &mut sampler, most: args.generation.most() };
    let end = match &around {
        Around::Two(prefix, suffix) => fill.gap(gap.prefix(prefix).suffix(suffix), "").map(drop),
        Around::File(parts) => fill.file(&gap, parts),
    };
    match end {
        Ok(()) | Err(Failure::Interrupted) => timings(seed, load_time, &session),
        Err(_) => {}
    }
    end
}

impl Args {
    fn around(&self) -> Result<Around, Failure> {
        let text =
            |path: &Option<_>| path.as_deref().map_or(Ok(String::new()), |path: &Path| load::text(path));
        let Some(path) = &self.file else { return Ok(Around::Two(text(&self.prefix)?, text(&self.suffix)?)) };
        let file = load::text(path)?;
        let parts: Vec<String> = file.split(MARKER).map(String::from).collect();
        if parts.len() == 1 { Err(Failure::Marker { path: path.clone() }) } else { Ok(Around::File(parts)) }
    }
}

struct Fill<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    /// Tokens of a gap.
    most: usize,
}

impl Fill<'_> {
    /// Fills the gaps between these parts one after the other, and prints everything.
    fn file(&mut self, gap: &Infill, parts: &[String]) -> Result<(), Failure> {
        let mut before = String::new();
        for (at, part) in parts.iter().enumerate() {
            before += part;
            match &parts[at + 1..] {
                [] => print(part)?,
                after => {
                    let gap = gap.clone().prefix(&before).suffix(after.concat());
                    before += &self.gap(gap, part)?;
                }
            }
        }
        Ok(())
    }

    /// Prints `lead` and the text that belongs into the gap, and returns the latter. If there is an error in the
    /// prompt, nothing is printed.
    fn gap(&mut self, gap: Infill, lead: &str) -> Result<String, Failure> {
        self.session.clear();
        self.session.push(Prompt::from(gap)).map_err(|error| match error {
            Error::Cancelled => Failure::Interrupted,
            error => error.into(),
        })?;
        print(lead)?;
        let mut middle = String::new();
        for piece in self.session.generate(self.sampler).take(self.most) {
            let piece = piece?;
            print(&piece)?;
            middle += &piece;
        }
        if self.session.stopped() == Some(StopReason::Cancelled) {
            Err(Failure::Interrupted)
        } else {
            Ok(middle)
        }
    }
}
