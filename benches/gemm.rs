//! 512 tokens through a 4096 x 4096 matrix: the work of a prompt.

use llama_benches::{Figure, PROBE, check, cpus, criterion, label, measure, product, repeat, weights};
use llama_kernels::limits::{fixed_peak, float_peak, integer_peak, pair_peak, tile_peak};
use llama_kernels::{Format, Matrix, default_threads};
use llama_tests::close::Activations;
use llama_tests::shapes::Data;
use std::cell::LazyCell;

const ROWS: usize = 4096;
const COLS: usize = 4096;

fn main() {
    let mut c = criterion();
    for &format in Format::ALL {
        let bytes = LazyCell::new(|| weights(format, ROWS, COLS));
        for cpu in cpus().filter(|cpu| cpu.threads() == default_threads()) {
            let cpu = &cpu;
            // The scalar backend needs seconds for 512.
            let tokens = if cpu.isa() == "scalar" { 32 } else { 512 };
            measure(&mut c, format!("gemm/{format}/{}", label(cpu)), || {
                let w = Matrix::new(format, ROWS, COLS, &bytes).expect("whole rows");
                let x = Data::new(2).values(tokens * COLS);
                let mut y = vec![0.0; tokens * ROWS];
                cpu.region(false, |ops| ops.matmul(&mut y, &[w], &x));
                check(|rows| product(cpu.isa(), w, rows, &x), &y, ROWS);

                let (isa, threads) = (cpu.isa(), cpu.threads());
                let (peak, limit) = match Activations::on(isa, format, tokens, false) {
                    Activations::Float => (float_peak(isa, threads, PROBE), "the ISA's multiply-adds"),
                    Activations::Fixed | Activations::Shorts => {
                        (fixed_peak(isa, threads, PROBE), "the ISA's engine in fixed point")
                    }
                    Activations::Int8 | Activations::Bf16 => match tile_peak(isa, threads, PROBE) {
                        Some(peak) => (Some(peak), "the ISA's matrix tiles"),
                        None if format.is_integer() => {
                            (integer_peak(isa, threads, PROBE), "the ISA's integer dot products")
                        }
                        None => (pair_peak(isa, threads, PROBE), "the ISA's dot products of bfloat16"),
                    },
                };
                let figure = Figure::compute(2.0 * (tokens * ROWS * COLS) as f64, peak, limit);
                (figure, move |n| repeat(cpu, n, |ops| ops.matmul(&mut y, &[w], &x)))
            });
        }
    }
    c.final_summary();
}
