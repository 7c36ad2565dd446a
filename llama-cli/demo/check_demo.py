"""How much of what the demo writes is copied: samples that contain twenty words in a row of its training text.

    python3 check_demo.py LLAMA TINYSTORIES.txt SAMPLED.txt [SAMPLES [FLAG...]]

LLAMA is the built command. Words are compared without case and punctuation. Sampling is the command's own (temperature
0.8) with the seeds 1, 2, ..., and the flags that are given; the samples are printed, then the count.
"""

import subprocess
import sys

from corpus import SEPARATOR, split
from filter_samples import LENGTH, runs, words


def main(llama, stories, sampled, samples=20, *flags):
    real, made = set(), set()
    for story in split(stories)[0]:
        real |= runs(words(story))
    for story in open(sampled, encoding="utf-8").read().split(SEPARATOR):
        made |= runs(words(story))
    copied = {"the real stories": 0, "the sampled stories": 0, "either": 0}
    for seed in range(1, int(samples) + 1):
        command = [llama, "run", "-p", "Once upon a time", "--echo", "--temp", "0.8", "-s", str(seed), *flags]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        of_real, of_made = runs(words(text)) & real, runs(words(text)) & made
        copied["the real stories"] += bool(of_real)
        copied["the sampled stories"] += bool(of_made)
        copied["either"] += bool(of_real or of_made)
        print(f"--- seed {seed}, {len(words(text))} words, copied runs: {len(of_real)} real, {len(of_made)} sampled")
        print(text.strip())
    print("---")
    for source, count in copied.items():
        print(f"{count} of {samples} samples contain {LENGTH} words in a row of {source}")


main(*sys.argv[1:])
