//! How many threads to use: the physical cores that this process may run on, and of a hybrid processor's those that
//! are fast.

use crate::placement::Processors;
use std::path::Path;

/// What the process may run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Cores {
    /// Threads that can run at the same time: the affinity mask and the cgroup's quota respected. At least 1.
    pub allowed: usize,
    /// Processors in the affinity mask, a core's hyper-threads counted each; `None` where the system does
    /// not tell (it is Linux that does).
    pub processors: Option<usize>,
    /// Distinct cores among them.
    pub physical: Option<usize>,
    /// Those of them that are performance cores; `None` where all are alike, or nobody tells.
    pub performance: Option<usize>,
}

/// What the process may run on.
pub fn cores() -> Cores {
    // The standard library looks at the affinity mask and at the cgroup's quota.
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let processors = processors();
    Cores {
        allowed,
        processors: processors.as_ref().map(Vec::len),
        physical: processors.as_deref().and_then(physical_cores),
        performance: performance_processors().and_then(|fast| physical_cores(fast.numbers())),
    }
}

/// The processors of the performance cores that this process may run on, if it may also run on others that are
/// slower. Linux tells.
///
/// A thread on a slow core holds the others up wherever they wait for each other, a few hundred times a token.
pub fn performance_processors() -> Option<Processors> {
    let processors = processors()?;
    let system = Path::new("/sys/devices");
    let fast = fast_processors(system, &processors)?;
    (!fast.is_empty() && fast.len() < processors.len()).then_some(Processors::new(fast)?)
}

/// Of these processors the fast ones. Intel's hybrids name them; ARM's have a capacity each, of which the slow ones
/// have less than half of the largest.
fn fast_processors(system: &Path, processors: &[usize]) -> Option<Vec<usize>> {
    if let Ok(list) = std::fs::read_to_string(system.join("cpu_core/cpus")) {
        let fast = parse_list(&list)?;
        return Some(processors.iter().copied().filter(|cpu| fast.contains(cpu)).collect());
    }
    let capacity = |cpu: &usize| {
        let text = std::fs::read_to_string(system.join(format!("system/cpu/cpu{cpu}/cpu_capacity"))).ok()?;
        text.trim().parse::<u32>().ok()
    };
    let capacities: Vec<u32> = processors.iter().map(capacity).collect::<Option<_>>()?;
    let largest = *capacities.iter().max()?;
    let fast = processors.iter().zip(capacities).filter(|(_, capacity)| 2 * capacity >= largest);
    Some(fast.map(|(&cpu, _)| cpu).collect())
}

/// Physical cores allowed to the process: affinity and cgroup quota respected, hyper-threads not
/// counted where the system tells (Linux), and of a hybrid processor the performance cores alone. At least 1.
///
/// Kernels that live on memory bandwidth and vector units gain nothing from a core's second thread.
pub fn default_threads() -> usize {
    let Cores { allowed, physical, performance, .. } = cores();
    performance.or(physical).map_or(allowed, |cores| cores.clamp(1, allowed))
}

/// The processors in the affinity mask.
pub(crate) fn processors() -> Option<Vec<usize>> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_list(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)
}

/// Distinct cores among processors.
fn physical_cores(processors: &[usize]) -> Option<usize> {
    let mut cores: Vec<String> = processors
        .iter()
        .map(|cpu| {
            // Processors with the same list of siblings are one core.
            std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
                .ok()
        })
        .collect::<Option<_>>()?;
    cores.sort_unstable();
    cores.dedup();
    (!cores.is_empty()).then_some(cores.len())
}

/// The kernel's notation for sets of processors: `0-3,8,10-11`.
fn parse_list(list: &str) -> Option<Vec<usize>> {
    const MAX: usize = 1 << 16;
    let mut cpus = Vec::new();
    for range in list.trim().split(',').filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed() {
        assert_eq!(parse_list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_list(""), Some(vec![]));
        assert_eq!(parse_list("x"), None);
        assert_eq!(parse_list("0-99999999999"), None);
    }

    #[test]
    fn fast_cores_are_those_that_the_system_calls_so() {
        let system = std::env::temp_dir().join(format!("llama-cores-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = system.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let fast = |processors: &[usize]| fast_processors(&system, processors);
        assert_eq!(fast(&[0, 1]), None);
        // A phone: one fast, two less so, two slow.
        for (cpu, capacity) in ["1024\n", "900\n", "900\n", "250\n", "250\n"].iter().enumerate() {
            write(&format!("system/cpu/cpu{cpu}/cpu_capacity"), capacity);
        }
        assert_eq!(fast(&[0, 1, 2, 3, 4]), Some(vec![0, 1, 2]));
        // The slow ones are all that there is.
        assert_eq!(fast(&[3, 4]), Some(vec![3, 4]));
        assert_eq!(fast(&[0, 9]), None);
        // A laptop: two fast cores of two threads each, and slow ones.
        write("cpu_core/cpus", "0-3\n");
        assert_eq!(fast(&[0, 2, 4, 5, 6]), Some(vec![0, 2]));
        std::fs::remove_dir_all(&system).unwrap();
    }

    #[test]
    fn there_is_a_core() {
        let cores = cores();
        assert!((1..=cores.allowed).contains(&default_threads()), "{cores:?}");
        if let (Some(processors), Some(physical)) = (cores.processors, cores.physical) {
            assert!(1 <= physical && physical <= processors, "{cores:?}");
        }
    }
}
