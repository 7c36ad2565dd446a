use super::*;
use clap::CommandFactory;
use llama_core::RopeOptions;

fn run(args: &[&str]) -> Result<Run, clap::Error> {
    let args = ["llama", "run", "-m", "x"].iter().chain(args).map(OsString::from);
    match Cli::try_parse_from(spelled_out(args))?.command.unwrap() {
        Command::Run(run) => Ok(run),
        _ => unreachable!("the arguments start with `run`"),
    }
}

fn bench(args: &[&str]) -> Result<Bench, clap::Error> {
    let args = ["llama", "bench"].iter().chain(args).map(OsString::from);
    match Cli::try_parse_from(spelled_out(args))?.command.unwrap() {
        Command::Bench(bench) => Ok(bench),
        _ => unreachable!("the arguments start with `bench`"),
    }
}

#[test]
fn defaults_of_bench_are_those_of_llama_bench() {
    let bench = bench(&[]).unwrap();
    let flat = |lists: &[List]| List::flat(lists);
    assert_eq!((flat(&bench.n_prompt), flat(&bench.n_gen)), (vec![512], vec![128]));
    assert_eq!((flat(&bench.n_depth), flat(&bench.batch_size)), (vec![0], vec![2048]));
    assert_eq!((flat(&bench.ubatch_size), bench.repetitions, bench.delay), (vec![512], 5, 0));
    assert_eq!((&bench.cache_type_k[..], &bench.cache_type_v[..]), (&[KvType::F16][..], &[KvType::F16][..]));
    assert!(bench.pg.is_empty() && bench.isa.is_empty() && bench.threads.is_empty());
    assert_eq!((bench.output, bench.output_err), (Table::Md, None));
}

#[test]
fn lists_and_ranges_add_up_and_replace_the_default() {
    let args = ["-p", "0,64", "-p", "128", "-t", "1-4", "-ub=8-64*2", "-pg", "16,4", "-pg", "32,8", "-d"];
    let bench =
        bench(&[&args[..], &["0,512", "-oe", "jsonl", "--isa", "avx2,scalar", "-ctk", "f16,F16"]].concat());
    let bench = bench.unwrap();
    assert_eq!(List::flat(&bench.n_prompt), [0, 64, 128]);
    assert_eq!(List::flat(&bench.threads), [1, 2, 3, 4]);
    assert_eq!(List::flat(&bench.ubatch_size), [8, 16, 32, 64]);
    assert_eq!((&bench.pg[..], List::flat(&bench.n_depth)), (&[(16, 4), (32, 8)][..], vec![0, 512]));
    assert_eq!((bench.output_err, bench.isa.len(), bench.cache_type_k.len()), (Some(Table::Jsonl), 2, 2));
}

#[test]
fn what_llama_bench_has_for_other_machines_is_refused() {
    for bad in [
        &["-ngl", "99"][..],
        &["--numa", "distribute"],
        &["-p", "8-1"],
        &["-p", "1048577"],
        &["-t", "0"],
        &["-t", "0-4"],
        &["-b", "0"],
        &["-ub", "a"],
        &["-pg", "16"],
        &["-ctk", "q9"],
        &["-o", "xml"],
        &["--delay", "-1"],
        &["-C", "0"],
        &["-C", "xyz"],
        &["-Cr", "3-1"],
        &["-C", "1", "-Cr", "0-1"],
        &["--cpu-strict", "2"],
        &["--prio", "best"],
    ] {
        assert!(bench(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn threads_are_placed_by_the_same_flags_everywhere() {
    let args = ["-C", "0x15", "--cpu-strict", "1", "--prio", "2"];
    let (run, bench) = (run(&args).unwrap().generation.compute.placement, bench(&args).unwrap().placement);
    assert_eq!(bench.processors().unwrap().numbers(), [0, 2, 4]);
    assert_eq!(run, bench);
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_those_of_llama_cpp() {
    let run = run(&[]).unwrap().generation;
    assert_eq!((run.predict, run.ctx_size, run.batch_size, run.ubatch_size), (-1, 0, 2048, 512));
    assert_eq!((run.cache.cache_type_k, run.cache.cache_type_v), (KvType::F16, KvType::F16));
    let s = run.sampling;
    assert_eq!((s.temp, s.top_k, s.top_p, s.min_p), (0.8, 40, 0.95, 0.05));
    assert_eq!((s.repeat_penalty, s.repeat_last_n, s.seed), (1.0, 64, Seed::Random));
}

#[test]
fn rotation_and_shift_are_the_models_own_by_default() {
    let plain = run(&[]).unwrap();
    assert_eq!(
        (plain.generation.rope.options(), plain.context_shift, plain.keep),
        (RopeOptions::default(), false, 0)
    );
    let args = ["--rope-scaling", "yarn", "--rope-freq-scale", "0.25", "--yarn-orig-ctx", "4096"];
    let rope = run(&args).unwrap().generation.rope.options();
    assert_eq!((rope.scaling, rope.factor), (Some(Scaling::Yarn), Some(4.0)));
    assert_eq!((rope.original_context, rope.freq_base), (Some(4096), None));
    assert_eq!(run(&["--context-shift", "--keep", "-1"]).unwrap().keep, -1);
    for bad in [
        &["--rope-scaling", "longrope"][..],
        &["--rope-scale", "0"],
        &["--rope-scale", "2", "--rope-freq-scale", "2"],
        &["--yarn-ext-factor", "2"],
        &["--keep", "3"],
        &["--context-shift", "--keep", "-2"],
    ] {
        assert!(run(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn negative_numbers_and_short_names_are_read() {
    let run = run(&["-n", "-1", "-s", "-1", "-ub", "8", "--repeat-last-n", "-1", "-p", "- item"]).unwrap();
    let of = &run.generation;
    assert_eq!((of.predict, of.ubatch_size, of.sampling.repeat_last_n), (-1, 8, -1));
    assert_eq!(run.text.prompt.as_deref(), Some("- item"));
}

#[test]
fn long_short_names_are_rewritten_only_where_they_are_flags() {
    assert_eq!(run(&["-ub=8"]).unwrap().generation.ubatch_size, 8);
    assert_eq!(run(&["-p", "-ub"]).unwrap().text.prompt.as_deref(), Some("-ub"));
    assert_eq!(run(&["-pg"]).unwrap().text.prompt.as_deref(), Some("g"));
    let cache = run(&["-ctk", "q8_0", "-ctv=Q4_0"]).unwrap().generation.cache;
    assert_eq!((cache.cache_type_k, cache.cache_type_v), (KvType::Q8_0, KvType::Q4_0));
    assert_eq!(run(&["-p", "-ctk"]).unwrap().text.prompt.as_deref(), Some("-ctk"));
}

#[test]
fn numbers_out_of_range_are_usage_errors() {
    for bad in [
        ["-t", "0"],
        ["-t", "1000000"],
        ["-n", "-2"],
        ["-b", "0"],
        ["-ub", "0"],
        ["--temp", "-1"],
        ["--temp", "nan"],
        ["--top-p", "1.5"],
        ["--min-p", "-0.1"],
        ["--top-k", "-1"],
        ["--repeat-penalty", "0"],
        ["--seed", "-2"],
        ["-c", "-1"],
        ["-ctk", "q5_0"],
        ["-ctv", ""],
    ] {
        assert!(run(&bad).is_err(), "{bad:?}");
    }
    assert!(run(&["-p", "a", "-f", "b"]).is_err());
}
