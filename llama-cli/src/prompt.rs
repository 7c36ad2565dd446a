//! A long prompt, and how far it is.

use crate::output::shows_progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use llama_core::{Prompt, Result, Session};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// A prompt that is done sooner needs no bar.
const SOON: Duration = Duration::from_secs(1);

/// [`Session::push`], with a bar on standard error if that is a terminal and the prompt takes its time.
///
/// # Errors
/// Those of [`Session::push`].
pub(crate) fn push(session: &mut Session, prompt: impl Into<Prompt>, batch: usize) -> Result<()> {
    let (prompt, tokenizer) = (prompt.into(), session.model().tokenizer());
    let is_start = session.tokens().is_empty();
    let tokens = if is_start { tokenizer.encode_start(&prompt) } else { tokenizer.encode(&prompt) };
    if tokens.is_empty() {
        return Ok(());
    }
    let room = session.context() - session.tokens().len();
    if !shows_progress() || tokens.len() <= batch || tokens.len() > room {
        return session.forward(&tokens).map(drop);
    }
    let style = ProgressStyle::with_template("prompt {wide_bar} {pos}/{len} tokens, {speed} t/s, {eta} left");
    let speed = |state: &ProgressState, out: &mut dyn Write| {
        let _ = write!(out, "{:.0}", state.per_sec());
    };
    let bar = ProgressBar::with_draw_target(Some(tokens.len() as u64), ProgressDrawTarget::hidden());
    let bar = bar.with_style(style.expect("a valid template").with_key("speed", speed));
    let clock = Instant::now();
    for part in tokens.chunks(batch.max(1)) {
        session.forward(part)?;
        bar.inc(part.len() as u64);
        let rest = clock.elapsed().mul_f64(tokens.len() as f64 / bar.position() as f64);
        if bar.is_hidden() && rest > SOON {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
    bar.finish_and_clear();
    Ok(())
}
