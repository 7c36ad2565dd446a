//! How many threads to use: the physical cores that this process may run on.

/// Physical cores allowed to the process: affinity and cgroup quota respected, hyper-threads not
/// counted where the system tells (Linux). At least 1.
///
/// Kernels that live on memory bandwidth and vector units gain nothing from a core's second thread.
pub fn default_threads() -> usize {
    // The standard library looks at the affinity mask and at the cgroup's quota.
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(allowed, |cores| cores.clamp(1, allowed))
}

/// Distinct cores among the processors in the affinity mask.
fn physical_cores() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores: Vec<String> = parse_list(list)?
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
        assert!(default_threads() >= 1);
    }
}
