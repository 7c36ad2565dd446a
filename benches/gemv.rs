//! One token through a 4096 x 11008 matrix that comes from memory: the work of generation.

use llama_benches::{Cold, Figure, check, cpus, criterion, label, measure, product, repeat};
use llama_kernels::Format;
use llama_tests::shapes::Data;
use std::cell::LazyCell;

const ROWS: usize = 4096;
const COLS: usize = 11008;

fn main() {
    let mut c = criterion();
    let x = &Data::new(2).values(COLS);
    for &format in Format::ALL {
        let weights = LazyCell::new(|| Cold::new(format, ROWS, COLS));
        for cpu in cpus() {
            let cpu = &cpu;
            measure(&mut c, format!("gemv/{format}/{}", label(cpu)), || {
                let weights: &Cold = &weights;
                let w = weights.matrix(0);
                let mut y = vec![0.0; ROWS];
                cpu.region(false, |ops| ops.matmul(&mut y, &[w], x));
                check(|rows| product(cpu.isa(), w, rows, x), &y, ROWS);

                let figure = Figure::read(w.bytes().len(), weights.bytes(), cpu.threads());
                let mut turns = 0..;
                let work = move |n| {
                    repeat(cpu, n, |ops| {
                        let turn = turns.next().unwrap_or_default();
                        ops.matmul(&mut y, &[weights.matrix(turn)], x);
                    });
                };
                (figure, work)
            });
        }
    }
    c.final_summary();
}
