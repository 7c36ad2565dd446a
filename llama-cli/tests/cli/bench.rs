//! `llama bench`: its rows, not its speed.

use crate::fixture::{Fixture, assert_refused, output, stderr, stdout};
use serde_json::Value;
use std::fs;

/// Quick, and the same wherever it runs.
fn args<'a>(fixture: &'a Fixture, more: &[&'a str]) -> Vec<&'a str> {
    let base = ["bench", "-m", &fixture.model, "-t", "1", "-r", "2", "--isa", "scalar"];
    [&base[..], more].concat()
}

fn rows(fixture: &Fixture, more: &[&str]) -> Vec<Value> {
    let text = stdout(&args(fixture, &[more, &["-o", "json"]].concat()));
    serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().clone()
}

fn labels(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["test"].as_str().unwrap()).collect()
}

/// The names of a Markdown table's columns.
fn columns(table: &str) -> Vec<&str> {
    let header = table.lines().next().unwrap();
    header.trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn the_table_is_that_of_llama_bench() {
    let fixture = Fixture::new();
    let table = stdout(&args(&fixture, &["-p", "24", "-n", "3", "-pg", "8,2"]));
    assert_eq!(columns(&table), ["model", "size", "params", "backend", "threads", "test", "t/s"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 5, "{table}");
    assert!(lines.iter().all(|line| line.matches('|').count() == 8), "{table}");
    for (line, test) in lines[2..].iter().zip([" pp24 ", " tg3 ", " pp8+tg2 "]) {
        assert!(line.contains(test) && line.contains(" ± ") && line.contains(" scalar "), "{line}");
    }
}

#[test]
fn columns_appear_when_something_varies_or_is_asked_for() {
    let fixture = Fixture::new();
    let of = |more: &[&str]| {
        let table = stdout(&args(&fixture, &[&["-p", "4", "-n", "0"], more].concat()));
        columns(&table).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let has = |more: &[&str], expected: &[&str]| {
        let columns = of(more);
        assert!(expected.iter().all(|name| columns.iter().any(|column| column == name)), "{columns:?}");
    };
    has(&["-b", "2,4"], &["n_batch"]);
    has(&["-ub", "2"], &["n_ubatch"]);
    has(&["-ctk", "f16,f16"], &["type_k"]);
    has(&["--stats"], &["min", "median", "p95", "first ms", "p95 ms", "load ms", "peak RSS"]);
    has(&["--roofline"], &["MBU", "MFU"]);
}

/// Whether the products of a row with a roofline were ever made by this kind of kernel.
fn kernel(row: &Value, kind: &str) -> bool {
    row["roofline"]["operations"].as_array().unwrap().iter().any(|o| {
        o["operation"].as_str().unwrap().starts_with("swiglu")
            && o["operation"].as_str().unwrap().ends_with(kind)
    })
}

#[test]
fn the_rotation_is_what_the_flags_say() {
    let fixture = Fixture::new();
    let of =
        |rope: &[&str]| rows(&fixture, &[&["-p", "12", "-n", "0", "--roofline"], rope].concat()).remove(0);
    // A base that changes with every token lets no two of a prompt go through the model at once.
    let stepwise = of(&["--rope-scaling", "dynamic", "--yarn-orig-ctx", "1"]);
    assert!(kernel(&stepwise, "gemv") && !kernel(&stepwise, "gemm"));
    let yarn = of(&["--rope-scaling", "yarn", "--rope-freq-scale", "0.25", "--yarn-orig-ctx", "16"]);
    assert!(kernel(&yarn, "gemm") && !kernel(&yarn, "gemv"));
    assert_eq!(output(&args(&fixture, &["--rope-scaling", "longrope"])).status.code(), Some(2));
}

#[test]
fn lists_and_repeated_flags_are_all_combinations() {
    let fixture = Fixture::new();
    let rows = rows(&fixture, &["-p", "2-8*2", "-n", "1", "-n", "2", "-d", "0,16", "-ub", "4,8"]);
    let once =
        ["pp2", "pp4", "pp8", "tg1", "tg2", "pp2 @ d16", "pp4 @ d16", "pp8 @ d16", "tg1 @ d16", "tg2 @ d16"];
    assert_eq!(labels(&rows), [once, once].concat());
    assert_eq!((&rows[0]["n_ubatch"], &rows[10]["n_ubatch"]), (&Value::from(4), &Value::from(8)));
    assert!(rows.iter().all(|row| row["n_batch"] == 2048 && row["type_k"] == "f16"));
}

#[test]
fn several_models_threads_and_instruction_sets() {
    let fixture = Fixture::new();
    let text = stdout(&[
        "bench",
        "-m",
        &fixture.model,
        "-m",
        &fixture.model,
        "-t",
        "1,2",
        "--isa",
        "all",
        "-p",
        "0",
        "-n",
        "1",
        "-r",
        "1",
        "-o",
        "json",
    ]);
    let rows: Value = serde_json::from_str(&text).unwrap();
    let rows = rows.as_array().unwrap();
    let isas = llama_kernels::available();
    assert_eq!(rows.len(), 2 * 2 * isas.len());
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row["n_threads"], 1 + i % 2);
        assert_eq!(row["backends"], isas[i / 2 % isas.len()]);
    }
}

/// `Cpus_allowed_list` and the nice value of each thread of a process that computes.
#[cfg(target_os = "linux")]
fn workers(process: u32) -> Vec<(String, String)> {
    let read = |task: &std::path::Path, name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten().map(|task| task.path());
    let workers = tasks.filter(|task| read(task, "comm").starts_with("llama-"));
    let placed = workers.filter_map(|task| {
        let (status, stat) = (read(&task, "status"), read(&task, "stat"));
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        // The nineteenth field, counted from behind the name in parentheses, which is the second.
        let nice = stat.rsplit_once(')')?.1.split_whitespace().nth(16)?;
        Some((list.trim().to_owned(), nice.to_owned()))
    });
    placed.collect()
}

#[test]
#[cfg(target_os = "linux")]
fn threads_run_where_the_flags_say_also_if_they_are_more_than_the_processors() {
    let fixture = Fixture::new();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let last: u32 = allowed.trim().rsplit([',', '-']).next().unwrap().parse().unwrap();
    let (mask, range) = (format!("{:x}", 1u128 << last), format!("{last}-{last}"));
    for (threads, flags) in [("1", ["-C", &mask, "--prio", "low"]), ("3", ["-Cr", &range, "--prio", "-1"])] {
        // It waits before the first test, with its threads in place.
        let more = ["bench", "-m", &fixture.model, "-t", threads, "--delay", "600"];
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("llama"));
        let mut bench = command.args(more).args(flags).stdout(std::process::Stdio::null()).spawn().unwrap();
        let expected = vec![(last.to_string(), "10".to_owned()); threads.parse().unwrap()];
        let clock = std::time::Instant::now();
        let mut found = workers(bench.id());
        while found != expected && clock.elapsed().as_secs() < 60 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            found = workers(bench.id());
        }
        bench.kill().unwrap();
        bench.wait().unwrap();
        assert_eq!(found, expected);
    }
}

#[test]
fn rows_tell_where_threads_ran_and_a_mask_bounds_their_default() {
    let fixture = Fixture::new();
    let of = |more: &[&str]| {
        let base = ["bench", "-m", &fixture.model, "-p", "0", "-n", "2", "-r", "1", "-o", "json"];
        let rows: Value = serde_json::from_str(&stdout(&[&base[..], more].concat())).unwrap();
        rows.as_array().unwrap().clone()
    };
    let rows = of(&["-Cr", "0-0", "--cpu-strict", "1", "-t", "1,3"]);
    assert_eq!(rows.len(), 2);
    for (row, threads) in rows.iter().zip([1, 3]) {
        assert_eq!((&row["n_threads"], &row["cpu_mask"]), (&threads.into(), &"0x1".into()));
        assert_eq!((&row["cpu_strict"], &row["prio"]), (&1.into(), &0.into()));
        assert!(row["bandwidth"].as_f64().unwrap() > 0.0 && row["avg_ts"].as_f64().unwrap() > 0.0);
    }
    let row = of(&["-C", "1", "--prio", "low"]).remove(0);
    assert_eq!((&row["n_threads"], &row["prio"]), (&1.into(), &(-1).into()));
    assert_eq!(of(&["-t", "1"])[0]["cpu_mask"], "0x0");
}

#[test]
fn json_holds_every_figure() {
    let fixture = Fixture::new();
    let rows = rows(&fixture, &["-p", "24", "-n", "3", "-pg", "8,2", "-d", "5", "--roofline"]);
    assert_eq!(labels(&rows), ["pp24 @ d5", "tg3 @ d5", "pp8+tg2 @ d5"]);
    for row in &rows {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row:#}"));
        assert_eq!((row["samples_ns"].as_array().unwrap().len(), row["n_threads"].as_u64()), (2, Some(1)));
        assert!(0.0 < number("min_ts") && number("min_ts") <= number("median_ts"));
        assert!(number("median_ts") <= number("p95_ts") && number("p95_ts") <= number("max_ts"));
        let tokens = number("n_prompt") + number("n_gen");
        // The mean of the speeds, not the speed of the mean: on a busy machine these are far apart.
        let samples = row["samples_ns"].as_array().unwrap().iter().map(|ns| ns.as_f64().unwrap());
        let mean = samples.map(|ns| tokens * 1e9 / ns).sum::<f64>() / 2.0;
        assert!((number("avg_ts") / mean - 1.0).abs() < 1e-3, "{row:#}");
        assert!(0.0 < number("ttft_ns") && number("ttft_ns") <= 2.0 * number("avg_ns"));
        assert!(number("load_ns") > 0.0 && number("bandwidth") > 0.0 && number("mbu") > 0.0);
        assert!(number("mfu") > 0.0 && number("integer_peak") > 0.0 && number("float_peak") > 0.0);
        assert_eq!(row["token_p95_ns"].is_null(), row["n_gen"] == 0);
        if cfg!(target_os = "linux") {
            assert!(number("peak_rss") > 1e6);
        }
        let operations = row["roofline"]["operations"].as_array().unwrap();
        let has = |name: &str| operations.iter().any(|o| o["operation"].as_str().unwrap().starts_with(name));
        for name in [
            "embedding",
            "rmsnorm",
            "quantize",
            "matmul Q8_0",
            "swiglu Q8_0",
            "rope",
            "kv write",
            "attention",
        ] {
            assert!(has(name), "{name}: {operations:#?}");
        }
        let time = |value: &Value, key: &str| value[key].as_u64().unwrap();
        let sum: u64 = operations.iter().map(|operation| time(operation, "time_ns")).sum();
        assert!(sum <= time(&row["roofline"], "time_ns") + 1000, "operations are parts of the whole");
        assert!(operations.iter().all(|o| time(o, "wait_ns") <= time(o, "time_ns")));
    }
    // Of a prompt, all tokens; of a generation, one at a time.
    assert!(kernel(&rows[0], "gemm") && !kernel(&rows[0], "gemv"));
    assert!(kernel(&rows[1], "gemv") && !kernel(&rows[1], "gemm"));
}

#[test]
fn the_roofline_follows_the_table() {
    let fixture = Fixture::new();
    let text = stdout(&args(&fixture, &["-p", "16", "-n", "2", "--roofline"]));
    let sections: Vec<&str> = text.split("\n\n").collect();
    // The rows, and for each test a title and a table.
    assert_eq!(sections.len(), 5, "{text}");
    assert!(sections[1].starts_with("pp16 of ") && sections[3].starts_with("tg2 of "), "{text}");
    assert!(sections[1].contains(" GB/s, integers ") && sections[1].contains("floats "), "{text}");
    for table in [sections[2], sections[4]] {
        let operations = ["embedding", "rmsnorm", "attention", "between the operations", "all"];
        assert!(operations.iter().all(|name| table.contains(&format!("| {name} "))), "{table}");
    }
}

#[test]
fn csv_and_sql_have_the_same_fields() {
    let fixture = Fixture::new();
    let small = ["-p", "4", "-n", "1"];
    let of = |form| stdout(&args(&fixture, &[&small[..], &["-o", form]].concat()));
    let csv = of("csv");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 3, "{csv}");
    let names: Vec<&str> = lines[0].split(',').collect();
    for (line, test) in lines[1..].iter().zip(["\"pp4\"", "\"tg1\""]) {
        // No value of these holds a comma or a quote, but a CPU's name might.
        let mut quoted = false;
        let commas = line.chars().filter(|&c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        assert_eq!((commas.count() + 1, line.contains(test)), (names.len(), true), "{line}");
    }

    let sql = of("sql");
    let (create, inserts) = sql.split_once(");\n\n").unwrap();
    let fields = create.strip_prefix("CREATE TABLE IF NOT EXISTS llama_bench (\n").unwrap();
    let fields: Vec<&str> = fields.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(fields, names);
    assert_eq!(inserts.lines().count(), 2, "{sql}");
    for line in inserts.lines() {
        let insert = format!("INSERT INTO llama_bench ({}) VALUES ('", names.join(","));
        assert!(line.starts_with(&insert) && line.ends_with(");"), "{line}");
    }
}

#[test]
fn lines_of_json_and_a_second_form_on_standard_error() {
    let fixture = Fixture::new();
    let output = output(&args(&fixture, &["-p", "4", "-n", "1", "-o", "jsonl", "-oe", "md"]));
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(labels(&rows), ["pp4", "tg1"]);
    let message = stderr(&output);
    assert!(message.starts_with("| model ") && message.contains(" pp4 | "), "{message}");
}

#[test]
fn a_test_of_no_tokens_is_skipped() {
    let fixture = Fixture::new();
    let table = stdout(&args(&fixture, &["-p", "0", "-n", "0,2"]));
    assert!(!table.contains("pp0") && !table.contains("tg0") && table.contains("tg2"), "{table}");
    assert_eq!(table.lines().count(), 3);
    assert!(rows(&fixture, &["-p", "0", "-n", "0"]).is_empty());
}

#[test]
fn warm_up_can_be_left_out_and_progress_shown() {
    let fixture = Fixture::new();
    let output =
        output(&args(&fixture, &["-p", "4", "-n", "1", "--no-warmup", "--progress", "--delay", "1"]));
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    for expected in ["1/2 pp4: starting", "2/2 tg1: repetition 2/2"] {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_earlier_run_is_compared_with() {
    let fixture = Fixture::new();
    let small = ["-p", "4", "-n", "1"];
    let mut earlier = rows(&fixture, &small);
    earlier[0]["avg_ts"] = 1e-3.into();
    earlier.remove(1);
    let file = fixture.file("earlier.json", Value::from(earlier).to_string().as_bytes());
    let compare = [&small[..], &["--compare", &file]].concat();
    let now = rows(&fixture, &compare);
    let expected = now[0]["avg_ts"].as_f64().unwrap() / 1e-3;
    assert!((now[0]["ratio"].as_f64().unwrap() / expected - 1.0).abs() < 1e-9);
    assert!(now[1]["ratio"].is_null());
    let table = stdout(&args(&fixture, &compare));
    assert!(columns(&table).contains(&"ratio"), "{table}");
    assert!(table.lines().last().unwrap().trim_end().ends_with(" - |"), "{table}");
}

#[test]
fn what_is_no_earlier_run_is_refused() {
    let fixture = Fixture::new();
    let with = |file: &str| output(&args(&fixture, &["-p", "4", "-n", "0", "--compare", file]));
    assert_refused(&with("no/such/file.json"), "no/such/file.json");
    assert_refused(
        &with(&fixture.file("text.json", b"fast\n")),
        "text.json: expected the JSON of an earlier run",
    );
    assert_refused(
        &with(&fixture.file("other.json", b"[{\"speed\": 3}]")),
        "found another value as number 1",
    );
    assert_refused(&with(&fixture.file("binary.json", b"\xff\xfe")), "binary.json");
}

#[test]
fn an_error_in_the_middle_leaves_valid_json() {
    let fixture = Fixture::new();
    let models =
        ["bench", "-m", &fixture.model, "-m", "no/such.gguf", "-p", "2", "-n", "0", "-r", "1", "-o", "json"];
    let output = output(&models);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no/such.gguf"));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert!(fs::metadata(&fixture.model).is_ok());
}
