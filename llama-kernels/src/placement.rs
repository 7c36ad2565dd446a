//! Where threads run, and before whom: affinity and priority, as far as the system has them.
//!
//! On Linux a thread is bound by `sched_setaffinity` and its priority is its own nice value; elsewhere these are
//! hints that nothing is made of.

use std::fmt;

/// A set of processors, by their numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Processors(Vec<usize>);

impl Processors {
    /// Processors of the largest machine.
    pub const MAX: usize = 1024;

    /// The processors with these numbers, each once; `None` if there are none, or one is beyond [`MAX`](Self::MAX).
    pub fn new(numbers: impl IntoIterator<Item = usize>) -> Option<Processors> {
        let mut numbers: Vec<usize> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        (!numbers.is_empty() && numbers.iter().all(|&number| number < Self::MAX))
            .then_some(Processors(numbers))
    }

    /// The numbers, in ascending order; at least one.
    pub fn numbers(&self) -> &[usize] {
        &self.0
    }
}

/// The numbers, with ranges where they are consecutive: `0-3,8`.
impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for run in self.0.chunk_by(|a, b| a + 1 == *b) {
            match run {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
            comma = ",";
        }
        Ok(())
    }
}

/// Before whom threads run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Priority {
    /// After others.
    Low,
    /// As the process was started.
    #[default]
    Normal,
    /// Before others, which a system may grant to the privileged alone.
    Medium,
    /// Well before others, on the same terms.
    High,
}

/// What each thread of a pool does when it starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placement {
    /// Where threads may run; `None`: wherever the process may.
    pub(crate) processors: Option<Processors>,
    /// Whether each thread has a processor of its own among them.
    pub(crate) strict: bool,
    pub(crate) priority: Priority,
}

impl Placement {
    /// Whether threads are to do anything at all.
    pub(crate) fn is_plain(&self) -> bool {
        self.processors.is_none() && self.priority == Priority::Normal
    }

    /// Places the calling thread, which is that worker. What the system refuses is left as it was: a thread that
    /// runs elsewhere is slower, not wrong.
    pub(crate) fn apply(&self, worker: usize) {
        if let Some(Processors(numbers)) = &self.processors {
            if self.strict {
                system::bind(&numbers[worker % numbers.len()..][..1]);
            } else {
                system::bind(numbers);
            }
        }
        system::prioritise(self.priority);
    }

    /// Places the calling thread, which is none of the workers, wherever one of them may run.
    pub(crate) fn apply_to_another(&self) {
        Placement { strict: false, ..self.clone() }.apply(0);
    }
}

#[cfg(target_os = "linux")]
mod system {
    use super::Priority;
    use rustix::process::setpriority_process;
    use rustix::thread::{CpuSet, gettid, sched_setaffinity};

    pub(super) fn bind(processors: &[usize]) {
        let mut set = CpuSet::new();
        processors.iter().filter(|&&number| number < CpuSet::MAX_CPU).for_each(|&number| set.set(number));
        let _ = sched_setaffinity(None, &set);
    }

    pub(super) fn prioritise(priority: Priority) {
        let nice = match priority {
            Priority::Normal => return,
            Priority::Low => 10,
            Priority::Medium => -5,
            Priority::High => -10,
        };
        // To Linux a nice value is a thread's, and a thread's number is as good as a process's.
        let _ = setpriority_process(Some(gettid()), nice);
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::Priority;

    pub(super) fn bind(_: &[usize]) {}

    pub(super) fn prioritise(_: Priority) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        let set = |numbers: &[usize]| Processors::new(numbers.iter().copied());
        assert_eq!(set(&[3, 1, 2, 8, 1]).unwrap().to_string(), "1-3,8");
        assert_eq!(set(&[5]).unwrap().numbers(), [5]);
        assert_eq!((set(&[]), set(&[Processors::MAX])), (None, None));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn threads_run_where_they_are_bound() {
        let allowed = crate::cores::processors().unwrap();
        let one = *allowed.last().unwrap();
        let bound = std::thread::spawn(move || {
            let placement =
                Placement { processors: Processors::new([one]), strict: true, priority: Priority::Low };
            placement.apply(7);
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let list = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
                .unwrap()
                .trim()
                .to_owned();
            // The nineteenth field, counted from behind the name in parentheses, which is the second.
            (list, stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().to_owned())
        });
        let (list, nice) = bound.join().unwrap();
        assert_eq!(list, one.to_string());
        assert!(nice.parse::<i32>().unwrap() >= 10, "{nice}");
        // And nobody else.
        assert_eq!(crate::cores::processors(), Some(allowed));
    }
}
