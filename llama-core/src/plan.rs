//! How much memory a session will need, before anything is loaded.

use crate::kv_cache::{self, KvCache};
use crate::session::Options;
use crate::state::State;
use crate::{Config, Error, Result};
use llama_kernels::{Cpu, KvType};
use std::fmt;

/// Positions of any context.
const MAX_CONTEXT: usize = 1 << 31;

/// Values of any cache: more than the memory of all machines.
const MAX_CACHED: usize = 1 << 56;

/// The memory of one model with one session: promised before loading, computed from the header.
///
/// ```no_run
/// use llama_core::gguf::Gguf;
/// use llama_core::{Options, Plan};
///
/// # fn main() -> llama_core::Result<()> {
/// let gguf = Gguf::read("llama-2-7b.Q4_0.gguf")?;
/// println!("{}", Plan::new(&gguf, &Options::default().context(2048))?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Positions of the context.
    pub context: usize,
    /// Tokens of one pass through the model.
    pub ubatch: usize,
    /// What keys are cached as.
    pub cache_type_k: KvType,
    /// What values are cached as.
    pub cache_type_v: KvType,
    /// Bytes of the mapped file; the system may drop and reload them. Sessions share them.
    pub mapped: u64,
    /// Bytes of the cache of keys and values.
    pub kv: u64,
    /// Bytes of a pass's scratch.
    pub scratch: u64,
}

impl Plan {
    /// The plan of a session with these options on the model of this file.
    ///
    /// # Errors
    /// [`Error::Key`] if the header describes no model that this library runs; [`Error::Option`]
    /// if context or ubatch is zero, the context beyond all that a machine could hold, or the tokens to be
    /// kept leave no room in it.
    pub fn new(gguf: &crate::gguf::Gguf, options: &Options) -> Result<Plan> {
        Plan::of(&Config::new(gguf)?, gguf.file_bytes(), options)
    }

    pub(crate) fn of(config: &Config, mapped: u64, options: &Options) -> Result<Plan> {
        let checked = |option, value: usize, max| match (1..=max).contains(&value) {
            true => Ok(value),
            false => Err(Error::Option { option, expected: format!("1 to {max}"), found: value.to_string() }),
        };
        if let Some(keep) =
            options.keep.filter(|&keep| keep.saturating_add(3) > options.context.unwrap_or(config.context))
        {
            // One that begins the text, one to forget, one to go on from.
            let expected = "a number at least 3 below the context".into();
            return Err(Error::Option { option: "keep", expected, found: keep.to_string() });
        }
        // No size computed below this limit can overflow.
        let per_position = (config.k_width() + config.v_width()).saturating_mul(config.n_layers);
        let max = (MAX_CACHED / per_position.max(1)).clamp(1, MAX_CONTEXT);
        let context = checked("context", options.context.unwrap_or(config.context), max)?;
        let ubatch = checked("ubatch", options.ubatch, usize::MAX)?.min(context);
        let threads = options.cpu.as_ref().map_or_else(llama_kernels::default_threads, |cpu| cpu.threads());
        let layer = kv_cache::shape(config, context, options);
        let kv = KvCache::bytes(&layer, config.n_layers);
        let attention = Cpu::attention_size(threads, ubatch, config.n_heads, &layer);
        let scratch = State::bytes(config, ubatch, threads).saturating_add(attention as u64);
        let (cache_type_k, cache_type_v) = (options.cache_type_k, options.cache_type_v);
        Ok(Plan { context, ubatch, cache_type_k, cache_type_v, mapped, kv, scratch })
    }

    /// All of it, in bytes.
    pub fn total(&self) -> u64 {
        self.mapped.saturating_add(self.kv).saturating_add(self.scratch)
    }
}

/// One line: `3.6 GiB mapped + 2.0 GiB cache (4096 positions, f16) + 82 MiB scratch = 5.7 GiB`, with
/// both types (`q8_0 and f16`) where keys and values differ.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (k, v) = (self.cache_type_k, self.cache_type_v);
        let types = if k == v { k.to_string() } else { format!("{k} and {v}") };
        write!(
            f,
            "{} mapped + {} cache ({} positions, {types}) + {} scratch = {}",
            Bytes(self.mapped),
            Bytes(self.kv),
            self.context,
            Bytes(self.scratch),
            Bytes(self.total())
        )
    }
}

/// A size with two to four digits and a binary unit.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut size = self.0 as f64;
        let mut unit = "B";
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if size < 1024.0 {
                break;
            }
            (size, unit) = (size / 1024.0, larger);
        }
        let digits = usize::from(unit != "B" && size < 10.0);
        write!(f, "{size:.digits$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let sizes =
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (10 << 20, "10 MiB"), (7 << 29, "3.5 GiB")];
        for (bytes, expected) in sizes {
            assert_eq!(Bytes(bytes).to_string(), expected);
        }
    }

    #[test]
    fn the_total_is_the_sum_and_never_wraps() {
        let (cache_type_k, cache_type_v) = (KvType::F16, KvType::F16);
        let plan =
            Plan { context: 8, ubatch: 8, cache_type_k, cache_type_v, mapped: 1024, kv: 512, scratch: 512 };
        assert_eq!(plan.total(), 2048);
        let text = |plan: Plan| plan.to_string();
        assert_eq!(text(plan), "1.0 KiB mapped + 512 B cache (8 positions, f16) + 512 B scratch = 2.0 KiB");
        let mixed = Plan { cache_type_k: KvType::Q8_0, ..plan };
        assert!(text(mixed).contains("(8 positions, q8_0 and f16)"), "{mixed}");
        assert_eq!(Plan { kv: u64::MAX, ..plan }.total(), u64::MAX);
    }
}
