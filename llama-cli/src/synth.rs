//! `llama synth`: a model of a real shape with random weights.
//!
//! It grows under a temporary name beside its final one and is renamed when it is complete, so that
//! neither an error nor Ctrl-C leaves half a model behind.

use crate::args::Synth as Args;
use crate::failure::Failure;
use crate::interrupt;
use crate::output::{Pending, note, shows_progress, unwritable};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use llama_core::synth::{Shape, Spec, Synth};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) fn synth(args: &Args) -> Result<(), Failure> {
    if !args.force && args.output.symlink_metadata().is_ok() {
        let exists = io::Error::new(io::ErrorKind::AlreadyExists, "it exists (--force replaces it)");
        return Err(unwritable(&args.output, exists));
    }
    let layers = args.layers.map_or(args.shape.layers, |layers| layers as usize);
    let shape = Shape { layers, ..args.shape.of(args.arch) };
    let model = Synth::new(&Spec { shape, format: args.format, seed: args.seed })?;

    let cancel = interrupt::watch()?;
    let mut file = Pending::new(&args.output, ".llama-synth-")?;
    let bar = progress_bar(model.file_bytes());
    let result = file.write(|file| {
        let out = Cancellable { out: file, cancel: cancel.clone() };
        model.write(out, |written| bar.set_position(written)).map(drop)
    });
    bar.finish_and_clear();
    if cancel.load(Ordering::Relaxed) {
        return Err(Failure::Interrupted);
    }
    result?;
    file.keep(args.force)?;
    note(format_args!("wrote {}: {} bytes", args.output.display(), model.file_bytes()));
    Ok(())
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let target = match shows_progress() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template(
        "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
    );
    ProgressBar::with_draw_target(Some(bytes), target).with_style(style.expect("a valid template"))
}

/// Refuses to write once the flag is set.
struct Cancellable<W> {
    out: W,
    cancel: Arc<AtomicBool>,
}

impl<W: Write> Write for Cancellable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.load(Ordering::Relaxed) {
            // Not `Interrupted`, after which writing is tried again.
            return Err(io::Error::other("cancelled"));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
