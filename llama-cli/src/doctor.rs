//! `llama doctor`: what this machine has, what is chosen and why, and what to expect of it.

mod expect;

use self::expect::Expectation;
use crate::args::Doctor;
use crate::bench::{memory_beyond, scaled};
use crate::failure::Failure;
use crate::machine::{self, Limits, Memory};
use crate::output::{print, wrapped};
use llama_kernels::{Cores, Isa, cores, default_threads, isas, limits};
use serde_json::{Value, json};
use std::env::consts::{ARCH, OS};
use std::fmt::Write;
use std::time::Duration;

/// How long each rate is measured; all of them together take about two seconds.
const MEMORY: Duration = Duration::from_millis(300);
const PEAK: Duration = Duration::from_millis(80);
const CLOCK: Duration = Duration::from_millis(20);
const CLOCKS: usize = 5;

pub(crate) fn doctor(args: &Doctor) -> Result<(), Failure> {
    let cpu = args.compute.cpu()?;
    let facts = Facts::gather(cpu.threads(), cpu.isa());
    let rates = cpu.beside(|| Rates::measure(&facts));
    let expectations = expect::all(rates.memory, rates.engines(&facts), facts.free());
    let advice = advice(&facts, &rates, &expectations);
    if args.json {
        print(format_args!("{:#}\n", json(&facts, &rates, &expectations, &advice)))
    } else {
        print(text(args, &facts, &rates, &expectations, &advice))
    }
}

/// What the system tells.
struct Facts {
    cpu: Option<String>,
    cache: Option<u64>,
    cores: Cores,
    /// Threads that would be used, and without a flag.
    threads: usize,
    default_threads: usize,
    /// Threads that are measured: no more than can run at the same time.
    measured: usize,
    isas: Vec<Isa>,
    /// The instruction set that would be used.
    isa: &'static str,
    memory: Option<Memory>,
    huge_pages: Option<String>,
    limits: Limits,
    on_battery: bool,
}

impl Facts {
    fn gather(threads: usize, isa: &'static str) -> Facts {
        let cores = cores();
        Facts {
            cpu: machine::cpu_name(),
            cache: machine::last_level_cache(),
            cores,
            measured: threads.min(cores.allowed),
            threads,
            default_threads: default_threads(),
            isas: isas(),
            isa,
            memory: machine::memory(),
            huge_pages: machine::huge_pages(),
            limits: machine::limits(),
            on_battery: machine::on_battery(),
        }
    }

    /// Bytes that a model may take: those available, or what is left of the control group's limit.
    fn free(&self) -> Option<u64> {
        let left = self.limits.memory.map(|limit| limit.saturating_sub(self.limits.used.unwrap_or(0)));
        [self.memory.map(|memory| memory.available), left].into_iter().flatten().min()
    }
}

const ENGINES: [&str; 4] = ["integers", "tiles", "bfloat16", "floats"];

/// What was measured: bytes or operations per second.
struct Rates {
    memory: f64,
    memory_of_one: f64,
    /// Of each instruction set of the facts, where it is available, what [`ENGINES`] names.
    peaks: Vec<[Option<f64>; 4]>,
    /// Cycles per second at best, of a CPU like most.
    clock: f64,
    /// How much the clock changed meanwhile.
    clock_spread: f64,
}

impl Rates {
    fn measure(facts: &Facts) -> Rates {
        let n = facts.measured;
        let buffer = memory_beyond(facts.cache.unwrap_or(32 << 20));
        let mut clocks = Vec::with_capacity(CLOCKS);
        let mut tick = || clocks.push(limits::clock(n, CLOCK));
        tick();
        let memory = limits::stream(&buffer, n, MEMORY);
        tick();
        let memory_of_one = if n == 1 { memory } else { limits::stream(&buffer, 1, MEMORY) };
        drop(buffer);
        tick();
        let peaks = facts.isas.iter().map(|isa| {
            // Asking would cost time where the answer is known.
            if !isa.is_available() {
                return [None; 4];
            }
            let peaks = [limits::integer_peak, limits::tile_peak, limits::pair_peak, limits::float_peak];
            peaks.map(|peak| peak(isa.name, n, PEAK))
        });
        let peaks = peaks.collect();
        tick();
        tick();
        let (slow, fast) = clocks.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &c| (a.min(c), b.max(c)));
        // Of the fastest moment of one thread: what others take of a core is no matter of its clock.
        let turns = (0..CLOCKS).map(|_| limits::clock(1, CLOCK / 4)).fold(0.0, f64::max);
        let clock = turns * f64::from(limits::CYCLES_PER_TURN);
        Rates { memory, memory_of_one, peaks, clock, clock_spread: (fast - slow) / fast.max(1.0) }
    }

    /// The peaks of integers and of tiles of the instruction set that would be used.
    fn engines(&self, facts: &Facts) -> [Option<f64>; 2] {
        let chosen = facts.isas.iter().position(|isa| isa.name == facts.isa);
        let peaks = chosen.and_then(|chosen| self.peaks.get(chosen));
        peaks.map_or([None; 2], |[integers, tiles, ..]| [*integers, *tiles])
    }
}

/// What the user might do about it.
fn advice(facts: &Facts, rates: &Rates, expectations: &[Expectation]) -> Vec<String> {
    let mut advice = Vec::new();
    let (threads, allowed) = (facts.threads, facts.cores.allowed);
    if threads > allowed {
        advice.push(format!(
            "{threads} threads on {allowed} processors wait for each other: -t {} is faster",
            facts.default_threads
        ));
    } else if threads < facts.default_threads {
        advice
            .push(format!("{threads} of {} cores are used: leave -t out to use all", facts.default_threads));
    }
    if let (Some(cpus), Some(processors)) = (facts.limits.cpus, facts.cores.processors)
        && cpus < processors as f64
    {
        advice.push(format!(
            "the control group allows {cpus:.1} CPUs' time on {processors} processors: more threads than \
             that are stopped in the middle of their work"
        ));
    }
    if let Some(preferred) = facts.isas.iter().find(|isa| isa.preferred && isa.name != facts.isa) {
        advice
            .push(format!("{} is available and faster than {}: leave --isa out", preferred.name, facts.isa));
    }
    if let [plain, vector, ..] = &facts.isas[..]
        && plain.preferred
    {
        advice.push(format!(
            "no {} (this CPU, or the virtual machine, lacks {}): everything runs on plain Rust, many times slower",
            vector.name,
            missing(vector).join(", ")
        ));
    }
    if facts.huge_pages.as_deref() == Some("never") {
        advice.push(
            "huge pages are off: weights and caches lie in small pages, which costs some speed; as root, \
             write madvise to /sys/kernel/mm/transparent_hugepage/enabled"
                .into(),
        );
    }
    if !expectations.is_empty() && expectations.iter().all(|expectation| expectation.fits == Some(false)) {
        advice.push("no Llama 2 fits into the memory that is free: a smaller type, a shorter context (-c) or more memory would help".into());
    }
    if facts.on_battery {
        advice
            .push("on battery: -t auto uses half of the threads, and plugging in may raise the clock".into());
    }
    if rates.clock_spread > 0.1 {
        advice.push(format!(
            "the clock changed by {:.0} % while this was measured: others use this machine, or it saves power",
            100.0 * rates.clock_spread
        ));
    }
    if cfg!(debug_assertions) {
        advice.push("this is a debug build: build with --release".into());
    }
    advice
}

/// The names of what an instruction set lacks here.
fn missing(isa: &Isa) -> Vec<&'static str> {
    isa.needs.iter().filter(|need| !need.found).map(|need| need.name).collect()
}

fn bytes(size: u64) -> String {
    scaled(size as f64, 1024.0, ["KiB", "MiB", "GiB"])
}

fn giga(rate: f64) -> String {
    format!("{:.1}", rate / 1e9)
}

fn text(
    args: &Doctor,
    facts: &Facts,
    rates: &Rates,
    expectations: &[Expectation],
    advice: &[String],
) -> String {
    let mut out = String::from("machine\n");
    // Writing to a string cannot fail.
    let mut line = |what: &str, value: String| {
        let _ = writeln!(out, "{}", wrapped(&format!("  {what:15} {value}"), 18));
    };
    let unknown = || "unknown".to_owned();
    line("CPU", format!("{} ({ARCH}, {OS})", facts.cpu.clone().unwrap_or_else(unknown)));
    let Cores { allowed, processors, physical, .. } = facts.cores;
    line(
        "processors",
        match (processors, physical) {
            (Some(processors), Some(physical)) => {
                let fast =
                    facts.cores.performance.map_or(String::new(), |fast| format!(" ({fast} of them fast)"));
                format!("{processors} on {physical} cores{fast}, {allowed} usable at the same time")
            }
            _ => format!("{allowed} usable at the same time"),
        },
    );
    line("threads", format!("{}: {}", facts.threads, threads_reason(args, facts)));
    line("last cache", facts.cache.map_or_else(unknown, bytes));
    let memory = |memory: Memory| format!("{}, {} available", bytes(memory.total), bytes(memory.available));
    line("memory", facts.memory.map_or_else(unknown, memory));
    line("huge pages", facts.huge_pages.clone().unwrap_or_else(unknown));
    let Limits { cpus, memory, .. } = facts.limits;
    let cpus = cpus.map_or("CPU time not limited".into(), |cpus| format!("{cpus:.1} CPUs' time"));
    let memory = memory.map_or("memory not limited".into(), |limit| format!("{} of memory", bytes(limit)));
    line("control group", format!("{cpus}, {memory}"));

    let _ = writeln!(out, "\ninstruction sets, the best last (GOP/s on {} threads)", facts.measured);
    for (isa, peaks) in facts.isas.iter().zip(&rates.peaks) {
        let mut state = match (isa.name == facts.isa, isa.is_available()) {
            (true, _) if args.compute.isa.is_some() => "chosen by --isa".to_owned(),
            (true, _) => "chosen: the best of those found".to_owned(),
            (false, true) => "found".to_owned(),
            (false, false) => format!("not found: {} missing", missing(isa).join(", ")),
        };
        for (what, rate) in ENGINES.iter().zip(peaks) {
            if let Some(rate) = rate {
                let _ = write!(state, "; {what} {}", giga(*rate));
            }
        }
        let _ = writeln!(out, "{}", wrapped(&format!("  {:15} {}", isa.name, isa.summary), 18));
        let _ = writeln!(out, "{}", wrapped(&format!("  {:15} {state}", ""), 18));
    }

    let _ = writeln!(out, "\nmemory, read as fast as possible");
    let _ = writeln!(out, "  {:15} {} GB/s", format!("{} threads", facts.measured), giga(rates.memory));
    let _ = writeln!(out, "  {:15} {} GB/s", "1 thread", giga(rates.memory_of_one));
    let clock = format!("about {:.1} GHz at best", rates.clock / 1e9);
    let _ = writeln!(out, "\nclock\n  {:15} {clock}", "while measured");
    out += &expect::table(expectations);
    out += "\nadvice\n";
    for line in advice {
        let _ = writeln!(out, "{}", wrapped(&format!("  {line}"), 4));
    }
    if advice.is_empty() {
        out += "  none: this machine is set up well\n";
    }
    out
}

/// Why there are so many threads.
fn threads_reason(args: &Doctor, facts: &Facts) -> &'static str {
    let Cores { allowed, physical, .. } = facts.cores;
    match physical {
        _ if args.compute.threads.is_some() => "as asked for",
        _ if facts.cores.performance.is_some() => "one for each fast core: a slow one would hold it up",
        Some(physical) if physical > allowed => {
            "as many as may run at the same time, fewer than there are cores"
        }
        Some(_) => "one for each core, whose second thread would add nothing",
        None => "as many as may run at the same time",
    }
}

fn json(facts: &Facts, rates: &Rates, expectations: &[Expectation], advice: &[String]) -> Value {
    let isas = facts.isas.iter().zip(&rates.peaks).map(|(isa, [integers, tiles, pairs, floats])| {
        json!({
            "name": isa.name,
            "summary": isa.summary,
            "available": isa.is_available(),
            "missing": missing(isa),
            "chosen": isa.name == facts.isa,
            "preferred": isa.preferred,
            "integer_peak": integers,
            "tile_peak": tiles,
            "bf16_peak": pairs,
            "float_peak": floats,
        })
    });
    json!({
        "cpu": facts.cpu,
        "architecture": ARCH,
        "system": OS,
        "processors": facts.cores.processors,
        "physical_cores": facts.cores.physical,
        "performance_cores": facts.cores.performance,
        "on_battery": facts.on_battery,
        "usable": facts.cores.allowed,
        "threads": facts.threads,
        "default_threads": facts.default_threads,
        "measured_threads": facts.measured,
        "last_level_cache": facts.cache,
        "memory_total": facts.memory.map(|memory| memory.total),
        "memory_available": facts.memory.map(|memory| memory.available),
        "huge_pages": facts.huge_pages,
        "cgroup_cpus": facts.limits.cpus,
        "cgroup_memory": facts.limits.memory,
        "isas": isas.collect::<Vec<_>>(),
        "bandwidth": rates.memory,
        "bandwidth_of_one_thread": rates.memory_of_one,
        "clock": rates.clock,
        "clock_spread": rates.clock_spread,
        "models": expectations.iter().map(Expectation::json).collect::<Vec<_>>(),
        "advice": advice,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let mut facts = Facts::gather(2, "scalar");
        facts.cores.performance = None;
        (facts.cores.allowed, facts.cores.processors, facts.cores.physical) = (4, Some(4), Some(2));
        (facts.threads, facts.default_threads, facts.on_battery) = (2, 2, false);
        facts.isa = facts.isas.iter().find(|isa| isa.preferred).unwrap().name;
        (facts.huge_pages, facts.limits) = (Some("madvise".into()), Limits::default());
        facts.memory = Some(Memory { total: 32 << 30, available: 16 << 30 });
        facts
    }

    const QUIET: Rates =
        Rates { memory: 1e10, memory_of_one: 1e10, peaks: Vec::new(), clock: 3e9, clock_spread: 0.01 };

    /// What is said beyond what every machine without vectors, and every debug build, is told.
    fn said(facts: &Facts, rates: &Rates) -> Vec<String> {
        let expectations = expect::all(rates.memory, [None; 2], facts.free());
        let mut said = advice(facts, rates, &expectations);
        said.retain(|line| !line.contains("debug build") && !line.contains("plain Rust"));
        said
    }

    #[test]
    fn a_machine_that_is_set_up_well_needs_no_advice() {
        assert_eq!(said(&facts(), &QUIET), [""; 0]);
    }

    #[test]
    fn each_fault_has_its_advice() {
        let one = |change: fn(&mut Facts), expected: &str| {
            let mut facts = facts();
            change(&mut facts);
            let said = said(&facts, &QUIET);
            assert!(said.len() == 1 && said[0].contains(expected), "{expected}: {said:?}");
        };
        one(|facts| facts.threads = 5, "5 threads on 4 processors");
        one(|facts| facts.threads = 1, "1 of 2 cores");
        one(|facts| facts.limits.cpus = Some(1.5), "1.5 CPUs' time on 4 processors");
        one(|facts| facts.on_battery = true, "on battery");
        one(|facts| facts.huge_pages = Some("never".into()), "huge pages are off");
        one(|facts| facts.memory = Some(Memory { total: 1 << 30, available: 1 << 30 }), "no Llama 2 fits");
        one(
            |facts| (facts.limits.memory, facts.limits.used) = (Some(4 << 30), Some(3 << 30)),
            "no Llama 2 fits",
        );
        let busy = Rates { clock_spread: 0.3, ..QUIET };
        assert!(said(&facts(), &busy)[0].contains("changed by 30 %"));
    }

    #[test]
    fn a_cpu_without_vectors_is_told_what_it_lacks() {
        let mut facts = facts();
        facts.isas.iter_mut().enumerate().for_each(|(i, isa)| {
            isa.preferred = i == 0;
            isa.needs.iter_mut().for_each(|need| need.found = false);
        });
        facts.isa = facts.isas[0].name;
        let said = advice(&facts, &QUIET, &[]);
        let first = facts.isas[1].needs[0].name;
        assert!(said.iter().any(|line| line.contains("plain Rust") && line.contains(first)), "{said:?}");
    }
}
