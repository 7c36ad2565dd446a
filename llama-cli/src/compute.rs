//! What computes: threads, where they run, and the instruction set.

use crate::failure::Failure;
use crate::machine;
use clap::{Args, ValueEnum};
use llama_kernels::{Cpu, CpuOptions, Priority, Processors, default_threads};
use std::str::FromStr;
use std::sync::Arc;

#[derive(Args)]
pub(crate) struct Compute {
    /// Threads; auto: as by default, and half as many on battery [default: the physical cores that this process
    /// may use, of a hybrid processor the performance cores]
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_THREADS", hide_env_values = true)]
    pub(crate) threads: Option<Threads>,
    /// Instruction set [default: the best that this machine has]
    #[arg(long, value_name = "NAME")]
    pub(crate) isa: Option<String>,
    #[command(flatten)]
    pub(crate) placement: Placement,
}

/// Where threads run, and before whom.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Placement {
    /// Processors to run on, as the bits of a hexadecimal number; on Linux, elsewhere the system alone decides, as it
    /// does about --cpu-range, --cpu-strict and --prio [default: the performance cores]
    #[arg(short = 'C', long, value_name = "HEX", conflicts_with = "cpu_range", value_parser = mask)]
    pub(crate) cpu_mask: Option<Processors>,
    /// Processors to run on, from and to a number, also spelled -Cr
    #[arg(long, value_name = "FROM-TO", value_parser = range)]
    pub(crate) cpu_range: Option<Processors>,
    /// Whether each thread stays on a processor of its own: 1 or 0
    #[arg(long, value_name = "0|1", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) cpu_strict: u8,
    /// Priority of the threads; above normal the system may want privileges, and without them nothing changes
    #[arg(long, value_enum, value_name = "PRIORITY", default_value_t = Prio::Normal, allow_negative_numbers = true)]
    pub(crate) prio: Prio,
}

/// How many threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Threads {
    /// The default, or half of it on battery.
    Auto,
    Fixed(usize),
}

impl FromStr for Threads {
    type Err = String;

    fn from_str(text: &str) -> Result<Threads, String> {
        let number = text.parse().ok().filter(|number| (1..=Cpu::MAX_THREADS).contains(number));
        match number {
            Some(number) => Ok(Threads::Fixed(number)),
            None if text.eq_ignore_ascii_case("auto") => Ok(Threads::Auto),
            None => Err(format!("expected auto or a number from 1 to {}", Cpu::MAX_THREADS)),
        }
    }
}

/// A priority, by its name or by llama.cpp's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Prio {
    #[value(alias = "-1")]
    Low = -1,
    #[value(alias = "0")]
    Normal,
    #[value(alias = "1")]
    Medium,
    #[value(alias = "2")]
    High,
}

impl Compute {
    pub(crate) fn cpu(&self) -> Result<Arc<Cpu>, Failure> {
        let threads = self.threads.map(|threads| match threads {
            Threads::Fixed(number) => number,
            Threads::Auto if machine::on_battery() => default_threads().div_ceil(2),
            Threads::Auto => default_threads(),
        });
        self.placement.cpu(threads.unwrap_or_else(|| self.placement.default_threads()), self.isa.as_deref())
    }
}

impl Placement {
    /// The processors that are named, if any are.
    pub(crate) fn processors(&self) -> Option<&Processors> {
        self.cpu_mask.as_ref().or(self.cpu_range.as_ref())
    }

    /// Without a number of threads, no more than there are processors for them.
    pub(crate) fn default_threads(&self) -> usize {
        self.processors().map_or(usize::MAX, |set| set.numbers().len()).min(default_threads())
    }

    /// So many threads, placed like this.
    pub(crate) fn cpu(&self, threads: usize, isa: Option<&str>) -> Result<Arc<Cpu>, Failure> {
        let priority = match self.prio {
            Prio::Low => Priority::Low,
            Prio::Normal => Priority::Normal,
            Prio::Medium => Priority::Medium,
            Prio::High => Priority::High,
        };
        let strict = self.cpu_strict == 1;
        let processors = self.processors().cloned();
        let (threads, isa) = (Some(threads), isa.map(str::to_owned));
        Ok(Arc::new(Cpu::new(&CpuOptions { threads, isa, processors, strict, priority })?))
    }
}

/// A parser of masks: `0xff`, `F0`.
fn mask(text: &str) -> Result<Processors, String> {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or(text);
    let digit = |c: char| c.to_digit(16).ok_or(());
    let digits: Result<Vec<u32>, ()> = digits.chars().rev().map(digit).collect();
    let bits = |digits: Vec<u32>| {
        let of = |(i, digit): (usize, u32)| {
            (0..4).filter(move |bit| digit >> bit & 1 == 1).map(move |bit| 4 * i + bit)
        };
        Processors::new(digits.into_iter().enumerate().flat_map(of))
    };
    digits.ok().and_then(bits).ok_or_else(|| {
        format!(
            "expected a hexadecimal number whose bits are processors, at least one and below {}",
            Processors::MAX
        )
    })
}

/// A parser of ranges: `0-3`.
fn range(text: &str) -> Result<Processors, String> {
    let ends = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let ends = ends.filter(|&(first, last): &(usize, usize)| first <= last && last < Processors::MAX);
    let set = ends.and_then(|(first, last)| Processors::new(first..=last));
    set.ok_or_else(|| format!("expected two numbers of processors below {}, as 0-3", Processors::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_bits_or_a_range() {
        let numbers = |set: Result<Processors, String>| set.ok().map(|set| set.numbers().to_vec());
        assert_eq!(numbers(mask("0x15")), Some(vec![0, 2, 4]));
        assert_eq!(numbers(mask("F0")), Some(vec![4, 5, 6, 7]));
        assert_eq!(numbers(mask("80000000000000000")), Some(vec![67]));
        assert_eq!(numbers(range("2-4")), Some(vec![2, 3, 4]));
        for bad in ["", "0", "0x", "xyz", "-1"] {
            assert_eq!(numbers(mask(bad)), None, "{bad}");
        }
        for bad in ["", "1", "4-2", "0-1024", "a-b", "-3"] {
            assert_eq!(numbers(range(bad)), None, "{bad}");
        }
    }

    #[test]
    fn threads_are_a_number_or_auto() {
        assert_eq!(("8".parse(), "AUTO".parse()), (Ok(Threads::Fixed(8)), Ok(Threads::Auto)));
        for bad in ["0", "-1", "many", "100000"] {
            assert!(bad.parse::<Threads>().is_err(), "{bad}");
        }
    }
}
