//! What it costs to hand work to the threads: per operation (a split) and per forward (a region).

use llama_benches::{Figure, criterion, measure, repeat};
use llama_kernels::limits::round_trips;
use llama_kernels::{Cpu, CpuOptions};

fn main() {
    let mut c = criterion();
    let cpu = &Cpu::new(&CpuOptions::default()).expect("the default threads and ISA");
    let figure = || {
        let ceiling = round_trips(cpu.threads()).map(|rate| rate / 1e3);
        Figure { amount: 1e-3, unit: "thousand/s", ceiling, limit: "round trips of a cache line" }
    };

    measure(&mut c, format!("split x {}", cpu.threads()), || {
        // The smallest operation that every thread has a share of: the softmax of single values.
        let mut x = vec![0.5; cpu.threads()];
        repeat(cpu, 1, |ops| ops.softmax(&mut x, 1));
        assert!(x.iter().all(|&x| x == 1.0), "{x:?}");

        (figure(), move |n| repeat(cpu, n, |ops| ops.softmax(&mut x, 1)))
    });

    measure(&mut c, format!("region x {}", cpu.threads()), || {
        assert_eq!(cpu.region(false, |ops| ops.threads()), cpu.threads());

        let work = move |n| {
            for _ in 0..n {
                cpu.region(false, |_| ());
            }
        };
        (figure(), work)
    });
    c.final_summary();
}
