#!/usr/bin/env python3
"""Speed beside llama.cpp's and ik_llama.cpp's: their llama-bench and ours take turns on the same files and threads.

    cargo build --release
    python3 benches/peers/compare.py --peer native=PATH/llama-bench -p 512 -n 64 model.gguf...

A round runs every program once on every file, one after the other; what is printed is the median of the
rounds with the range, and the median of the rounds' ratios: a shared machine changes its speed from minute to
minute, so figures of different rounds are not compared. `--peer` may be given several times; flash attention
(`-fa`) is tried both ways and the better one counts, round by round. `--isa` of ours goes with it: `--ours avx2`.
How to build llama-bench is said in README.md beside this file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", default=os.path.join(ROOT, "target/release/llama"), help="our command")
    parser.add_argument("--ours", action="append", metavar="ISA", help="instruction sets of ours [default: the best]")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="a llama-bench")
    parser.add_argument("-p", default="512", metavar="N,N", help="prompts; empty for none [default: 512]")
    parser.add_argument("-n", default="64", metavar="N,N", help="generations; empty for none [default: 64]")
    parser.add_argument("-d", type=int, default=0, metavar="N", help="tokens in the cache before")
    parser.add_argument("-t", type=int, default=2, metavar="N", help="threads [default: 2]")
    parser.add_argument("-r", type=int, default=3, metavar="N", help="rounds [default: 3]")
    parser.add_argument("models", nargs="+")
    return parser.parse_args()


def run(command):
    """The tests' speeds by name, tokens per second."""
    try:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {result.returncode}: {result.stderr.strip()[-500:]}")
    speeds = {}
    text = result.stdout
    rows = json.loads(text) if text.startswith("[") else [json.loads(row) for row in text.splitlines()]
    for row in rows:
        test = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        speeds[test] = row["avg_ts"]
    return speeds


def flags(options):
    tests = ["-p", options.p or "0", "-n", options.n or "0", "-t", str(options.t), "-r", "1"]
    return tests + (["-d", str(options.d)] if options.d else [])


def ours(options, isa, model):
    return run([options.llama, "bench", "-m", model, *flags(options), "-o", "jsonl", *(["--isa", isa] if isa else [])])


def theirs(options, path, model):
    runs = [run([path, "-m", model, *flags(options), "-o", "json", "-fa", fa]) for fa in ["0", "1"]]
    return {test: max(speeds[test] for speeds in runs) for test in runs[0]}


def main():
    options = arguments()
    peers = dict(peer.split("=", 1) for peer in options.peer)
    isas = options.ours or [""]
    header = ["model", "test", *[f"ours {isa}".strip() for isa in isas]]
    for peer in peers:
        header += [peer] + [f"{isa or 'ours'} / {peer}" for isa in isas]
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for model in options.models:
        rounds = []
        for _ in range(options.r):
            rounds.append((
                {isa: ours(options, isa, model) for isa in isas},
                {peer: theirs(options, path, model) for peer, path in peers.items()},
            ))
        for test in rounds[0][0][isas[0]]:
            def cell(values):
                return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            name = os.path.basename(model).removesuffix(".gguf")
            row = [name, test + (f" @ {options.d}" if options.d else "")]
            row += [cell([o[isa][test] for o, _ in rounds]) for isa in isas]
            for peer in peers:
                row.append(cell([p[peer][test] for _, p in rounds]))
                row += [f"{statistics.median(o[isa][test] / p[peer][test] for o, p in rounds):.2f}" for isa in isas]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
