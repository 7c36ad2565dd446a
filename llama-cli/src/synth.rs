//! `llama synth`: a model of a real shape with random weights.
//!
//! It grows under a temporary name beside its final one and is renamed when it is complete, so that
//! neither an error nor Ctrl-C leaves half a model behind.

use crate::args::Synth as Args;
use crate::failure::Failure;
use crate::interrupt;
use crate::output::{note, shows_progress, temporary};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use llama_core::synth::{Shape, Spec, Synth};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::NamedTempFile;

pub(crate) fn synth(args: &Args) -> Result<(), Failure> {
    let failed = |source| Failure::File { action: "write", path: args.output.clone(), source };
    if !args.force && args.output.symlink_metadata().is_ok() {
        return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "it exists (--force replaces it)")));
    }
    let layers = args.layers.map_or(args.shape.layers, |layers| layers as usize);
    let shape = Shape { layers, ..args.shape.of(args.arch) };
    let model = Synth::new(&Spec { shape, format: args.format, seed: args.seed })?;

    let cancel = interrupt::watch()?;
    let mut file = temporary(&args.output, ".llama-synth-").map_err(failed)?;
    let bar = progress_bar(model.file_bytes());
    let out = Cancellable { out: file.as_file_mut(), cancel: cancel.clone() };
    let result = model.write(out, |written| bar.set_position(written)).map(drop);
    bar.finish_and_clear();
    if cancel.load(Ordering::Relaxed) {
        return Err(Failure::Interrupted);
    }
    result.map_err(failed)?;
    let persist = if args.force { NamedTempFile::persist } else { NamedTempFile::persist_noclobber };
    persist(file, &args.output).map_err(|e| failed(e.error))?;
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
