//! 512 tokens through a 4096 x 4096 matrix: the work of a prompt.

use llama_benches::{
    Figure, check, cpus, criterion, float_peak, integer_peak, label, measure, product, repeat,
};
use llama_kernels::Format;
use llama_tests::shapes::Data;
use std::cell::LazyCell;

const ROWS: usize = 4096;
const COLS: usize = 4096;

fn main() {
    let mut c = criterion();
    for &format in Format::ALL {
        let weights = LazyCell::new(|| Data::new(1).weights(format, ROWS, COLS));
        for cpu in cpus() {
            let cpu = &cpu;
            // The scalar backend needs seconds for 512.
            let tokens = if cpu.isa() == "scalar" { 32 } else { 512 };
            measure(&mut c, format!("gemm/{format}/{}", label(cpu)), || {
                let w = weights.matrix();
                let x = Data::new(2).values(tokens * COLS);
                let mut y = vec![0.0; tokens * ROWS];
                cpu.region(false, |ops| ops.matmul(&mut y, &[w], &x));
                check(|rows| product(w, rows, &x), &y, ROWS);

                let operations = 2.0 * (tokens * ROWS * COLS) as f64;
                let figure = if format.is_integer() {
                    let peak = integer_peak(cpu.isa(), cpu.threads());
                    Figure::compute(operations, peak, "the ISA's integer dot products")
                } else {
                    let peak = float_peak(cpu.isa(), cpu.threads());
                    Figure::compute(operations, peak, "the ISA's multiply-adds")
                };
                (figure, move |n| repeat(cpu, n, |ops| ops.matmul(&mut y, &[w], &x)))
            });
        }
    }
    c.final_summary();
}
