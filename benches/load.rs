//! From a path to a model: the header is read and checked, the weights stay on disk.

use llama_benches::{Figure, criterion, measure};
use llama_core::Model;
use llama_core::synth::{Shape, Spec, Synth};
use llama_kernels::Format;
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut c = criterion();
    // The number of tensors and pieces of a 7B model; the size of the tensors does not matter.
    let shape = Shape { layers: 32, ..Shape::from_name("tiny").expect("a shape of the list") };
    let synth = Synth::new(&Spec { shape, format: Format::Q4_0, seed: 1 })?;
    let directory = tempfile::tempdir()?;
    let path = &directory.path().join("model.gguf");
    synth.write(File::create(path)?, |_| ())?;
    // SAFETY: nobody else knows the temporary file.
    let map = || unsafe { Model::map(path) }.expect("a model that was just written");

    measure(&mut c, "load".into(), || {
        let model = map();
        assert_eq!((model.config().n_layers, model.config().vocab), (shape.layers, shape.vocab));
        let tensors: usize = synth.tensors().iter().map(|t| t.dims.iter().product::<usize>()).sum();
        assert_eq!(model.weights().parameters(), tensors as u64);
        let text = "From a path to a model.";
        let tokenizer = model.tokenizer();
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text.into())), text);

        let header = model.gguf().tensors().iter().map(|t| t.offset()).min().unwrap_or_default();
        let ceiling = Some(1.0 / seconds_to_read(path, header));
        let figure = Figure { amount: 1.0, unit: "/s", ceiling, limit: "reading the header's bytes" };
        let work = |n| {
            for _ in 0..n {
                map();
            }
        };
        (figure, work)
    });
    c.final_summary();
    Ok(())
}

/// The fastest of three.
fn seconds_to_read(path: &std::path::Path, bytes: usize) -> f64 {
    let read = |_| {
        let clock = Instant::now();
        let mut header = vec![0; bytes];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
        read.expect("a file that was just written");
        std::hint::black_box(header);
        clock.elapsed().as_secs_f64()
    };
    (0..3).map(read).fold(f64::INFINITY, f64::min)
}
