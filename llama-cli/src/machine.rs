//! What the system tells about the machine and this process. Linux tells in files; elsewhere most of this
//! is not known.

use std::fs;
use std::path::Path;

/// The CPU's name.
pub(crate) fn cpu_name() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    // x86 has a model's name, some ARM boards only the machine's.
    let line = |key: &str| {
        let (_, value) =
            info.lines().filter_map(|line| line.split_once(':')).find(|(k, _)| k.trim() == key)?;
        Some(value.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|value| !value.is_empty())
    };
    ["model name", "Model", "Hardware"].into_iter().find_map(line)
}

/// Bytes of the largest cache of the first processor.
pub(crate) fn last_level_cache() -> Option<u64> {
    let caches = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let sizes =
        caches.flatten().filter_map(|cache| scaled(&fs::read_to_string(cache.path().join("size")).ok()?));
    sizes.max()
}

/// `48K`, `32M`: the kernel's notation for sizes.
fn scaled(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// The machine's memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    /// What a process could have without anybody else's being swapped out; files that can be dropped count.
    pub(crate) available: u64,
}

pub(crate) fn memory() -> Option<Memory> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    Some(Memory { total: kilobytes(&info, "MemTotal:")?, available: kilobytes(&info, "MemAvailable:")? })
}

/// The most memory that this process has held since [`forget_peak`], or since it began.
pub(crate) fn peak_memory() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Begins a new peak, if the system lets us.
pub(crate) fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The bytes of the line `key 1234 kB`.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The setting of transparent huge pages: `always`, `madvise` or `never`.
pub(crate) fn huge_pages() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Whether a battery is being emptied, and nothing but it gives power.
pub(crate) fn on_battery() -> bool {
    drains(Path::new("/sys/class/power_supply"))
}

fn drains(supplies: &Path) -> bool {
    let supplies: Vec<_> =
        fs::read_dir(supplies).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let is = |supply: &Path, name: &str, value: &str| {
        fs::read_to_string(supply.join(name)).is_ok_and(|text| text.trim() == value)
    };
    // A mouse's battery has the scope of a device.
    let battery = |supply: &Path| is(supply, "type", "Battery") && !is(supply, "scope", "Device");
    let discharging = supplies.iter().any(|supply| battery(supply) && is(supply, "status", "Discharging"));
    discharging && !supplies.iter().any(|supply| is(supply, "type", "Mains") && is(supply, "online", "1"))
}

/// What the process's control group, or one above it, allows.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Limits {
    /// CPUs' worth of time.
    pub(crate) cpus: Option<f64>,
    /// Bytes of memory.
    pub(crate) memory: Option<u64>,
    /// Bytes of it that are in use.
    pub(crate) used: Option<u64>,
}

/// The tightest limits, of either version of control groups.
pub(crate) fn limits() -> Limits {
    fs::read_to_string("/proc/self/cgroup").map_or(Limits::default(), |groups| {
        groups.lines().fold(Limits::default(), |limits, line| limits.and(line, Path::new("/sys/fs/cgroup")))
    })
}

impl Limits {
    /// Adds the limits of one line of `/proc/self/cgroup`: `4:memory:/path`, or `0::/path` of version 2.
    fn and(mut self, line: &str, root: &Path) -> Limits {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return self };
        let root = if controllers.is_empty() { root.to_path_buf() } else { root.join(controllers) };
        let read = |at: &Path, name: &str| fs::read_to_string(at.join(name)).ok();
        let number = |at: &Path, name: &str| read(at, name)?.trim().parse::<f64>().ok();
        // A group in another namespace has a path that is not below our root; the root itself is.
        for group in Path::new(path).ancestors().filter_map(|path| path.strip_prefix("/").ok()) {
            let at = root.join(group);
            let quota = read(&at, "cpu.max").and_then(|text| ratio(&text)).or_else(|| {
                Some(
                    number(&at, "cpu.cfs_quota_us").filter(|us| *us > 0.0)?
                        / number(&at, "cpu.cfs_period_us")?,
                )
            });
            if let Some(quota) = quota {
                self.cpus = Some(self.cpus.map_or(quota, |cpus| cpus.min(quota)));
            }
            let limit = number(&at, "memory.max").or_else(|| number(&at, "memory.limit_in_bytes"));
            // Version 1 writes the largest number of pages for none.
            if let Some(limit) = limit.filter(|limit| *limit < 1e18).map(|limit| limit as u64)
                && self.memory.is_none_or(|memory| limit < memory)
            {
                let used = number(&at, "memory.current").or_else(|| number(&at, "memory.usage_in_bytes"));
                (self.memory, self.used) = (Some(limit), used.map(|used| used as u64));
            }
        }
        self
    }
}

/// `200000 100000` is 2; `max 100000` is no limit.
fn ratio(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok().filter(|period| *period > 0.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_notations() {
        assert_eq!(
            (scaled("48K\n"), scaled("32M"), scaled("12"), scaled("x")),
            (Some(49152), Some(32 << 20), Some(12), None)
        );
        let status = "VmPeak:\t  100 kB\nVmHWM:\t    2048 kB\n";
        assert_eq!((kilobytes(status, "VmHWM:"), kilobytes(status, "VmRSS:")), (Some(2 << 20), None));
        assert_eq!((ratio("150000 100000\n"), ratio("max 100000"), ratio("1 0")), (Some(1.5), None, None));
    }

    #[test]
    fn a_battery_drains_if_it_alone_gives_power() {
        let root = tempfile::tempdir().unwrap();
        let supply = |name: &str, files: &[(&str, &str)]| {
            fs::create_dir_all(root.path().join(name)).unwrap();
            files.iter().for_each(|(file, text)| fs::write(root.path().join(name).join(file), text).unwrap());
        };
        supply("mouse", &[("type", "Battery\n"), ("scope", "Device\n"), ("status", "Discharging\n")]);
        assert!(!drains(root.path()));
        supply("BAT0", &[("type", "Battery\n"), ("status", "Discharging\n")]);
        assert!(drains(root.path()));
        supply("AC", &[("type", "Mains\n"), ("online", "1\n")]);
        assert!(!drains(root.path()));
    }

    #[test]
    fn limits_of_both_versions_and_of_the_groups_above() {
        let root = tempfile::tempdir().unwrap();
        let group = |name: &str, files: &[(&str, &str)]| {
            fs::create_dir_all(root.path().join(name)).unwrap();
            files.iter().for_each(|(file, text)| fs::write(root.path().join(name).join(file), text).unwrap());
        };
        group("a/b", &[("cpu.max", "max 100000\n"), ("memory.max", "max\n")]);
        group("a", &[("cpu.max", "150000 100000\n"), ("memory.max", "1000\n"), ("memory.current", "400\n")]);
        let second = Limits::default().and("0::/a/b", root.path());
        assert_eq!((second.cpus, second.memory, second.used), (Some(1.5), Some(1000), Some(400)));

        group("memory/c", &[("memory.limit_in_bytes", "500"), ("memory.usage_in_bytes", "10")]);
        group("memory", &[("memory.limit_in_bytes", "9223372036854771712")]);
        group("cpu", &[("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "100000")]);
        let first = second.and("4:memory:/c", root.path()).and("1:cpu:/", root.path());
        assert_eq!((first.cpus, first.memory, first.used), (Some(1.5), Some(500), Some(10)));
        assert_eq!(Limits::default().and("nonsense", root.path()).memory, None);
    }
}
