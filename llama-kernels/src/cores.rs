//! How many threads to use: the physical cores that this process may run on.

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
}

/// What the process may run on.
pub fn cores() -> Cores {
    // The standard library looks at the affinity mask and at the cgroup's quota.
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let processors = processors();
    Cores {
        allowed,
        processors: processors.as_ref().map(Vec::len),
        physical: processors.and_then(physical_cores),
    }
}

/// Physical cores allowed to the process: affinity and cgroup quota respected, hyper-threads not
/// counted where the system tells (Linux). At least 1.
///
/// Kernels that live on memory bandwidth and vector units gain nothing from a core's second thread.
pub fn default_threads() -> usize {
    let Cores { allowed, physical, .. } = cores();
    physical.map_or(allowed, |cores| cores.clamp(1, allowed))
}

/// The processors in the affinity mask.
fn processors() -> Option<Vec<usize>> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_list(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)
}

/// Distinct cores among processors.
fn physical_cores(processors: Vec<usize>) -> Option<usize> {
    let mut cores: Vec<String> = processors
        .into_iter()
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
    fn there_is_a_core() {
        let cores = cores();
        assert!((1..=cores.allowed).contains(&default_threads()), "{cores:?}");
        if let (Some(processors), Some(physical)) = (cores.processors, cores.physical) {
            assert!(1 <= physical && physical <= processors, "{cores:?}");
        }
    }
}
