//! How far a download is.

use crate::output::{note, shows_progress};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// A bar on a terminal, elsewhere a line.
pub(super) fn new(size: Option<u64>, name: &str) -> ProgressBar {
    if !shows_progress() {
        let size = size.map_or("of unknown size".into(), |size| format!("{}", HumanBytes(size)));
        note(format_args!("downloading {name}, {size}"));
        return ProgressBar::with_draw_target(size_of(None), ProgressDrawTarget::hidden());
    }
    note(format_args!("downloading {name}"));
    let style = ProgressStyle::with_template(
        "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
    );
    let bar = ProgressBar::with_draw_target(size_of(size), ProgressDrawTarget::stderr());
    let bar = bar.with_style(style.expect("a valid template"));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// Zero stands for a length that is not known yet.
fn size_of(size: Option<u64>) -> Option<u64> {
    Some(size.unwrap_or(0))
}
