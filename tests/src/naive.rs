//! A whole transformer in f64.
