"""Writes reference.txt: what llama.cpp makes of synthetic models.

    python3 reference.py LLAMA LLAMA_PERPLEXITY > reference.txt

LLAMA is this project's command, which writes the models, and LLAMA_PERPLEXITY llama.cpp's program. That
saves, for each position, the logarithms of all probabilities in 16 bits. A line for each case: its name, the
architecture, the tokens, and the eight likeliest tokens after the last of them with these logarithms.
"""

import struct
import subprocess
import sys
import tempfile
from pathlib import Path

CONTEXT = 16
TEXT = "Once upon a time there was a model that had read nothing, and it said so to all who asked. " * 3
CASES = {
    "llama": ("llama", []),
    "qwen2": ("qwen2", []),
    "qwen3": ("qwen3", []),
    "mixtral": ("mixtral", []),
    "linear": ("llama", ["--rope-scaling", "linear", "--rope-scale", "4"]),
    "yarn": ("llama", ["--rope-scaling", "yarn", "--rope-scale", "4", "--yarn-orig-ctx", "512"]),
    "yarn of halves": ("qwen3", ["--rope-scaling", "yarn", "--rope-scale", "4", "--yarn-orig-ctx", "512"]),
    "base": ("llama", ["--rope-freq-base", "500"]),
}


def logits(perplexity, model, flags, directory):
    text, saved = directory / "text.txt", directory / "logits.bin"
    text.write_text(TEXT)
    command = [perplexity, "-m", model, "-f", text, "-c", str(CONTEXT), "-b", str(CONTEXT), "--chunks", "1"]
    command += ["--kl-divergence-base", saved, "-ctk", "f32", "-ctv", "f32", "-fa", "off", *flags]
    subprocess.run(command, check=True, capture_output=True)
    return saved.read_bytes()


def last(saved):
    """The tokens up to the last position that was saved, and the likeliest after them."""
    assert saved[:8] == b"_logits_"
    context, vocab, chunks = struct.unpack_from("<3i", saved, 8)
    tokens = list(struct.unpack_from(f"<{context * chunks}i", saved, 20))
    row = 2 * (2 * ((vocab + 1) // 2) + 4)
    row = saved[-row:]
    scale, least = struct.unpack_from("<2f", row)
    values = struct.unpack_from(f"<{vocab}H", row, 8)
    order = sorted(range(vocab), key=lambda i: -values[i])[:8]
    tokens[0] = 1  # it begins each chunk anew
    return tokens[: context - 1], [(i, scale * values[i] + least) for i in order]


def main():
    llama, perplexity = sys.argv[1:]
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        for name, (architecture, flags) in CASES.items():
            model = directory / f"{architecture}.gguf"
            if not model.exists():
                synth = ["synth", "--shape", "tiny", "--layers", "2", "--type", "F32", "--seed", "5"]
                subprocess.run([llama, *synth, "--arch", architecture, "-o", model], check=True)
            tokens, likeliest = last(logits(perplexity, model, flags, directory))
            likeliest = " ".join(f"{token}:{value:.5f}" for token, value in likeliest)
            print(f"{name}; {architecture}; {' '.join(map(str, tokens))}; {likeliest}")


main()
