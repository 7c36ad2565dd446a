"""Chooses what the demo model learns from, of the texts that stories260K wrote.

    python3 filter_samples.py TINYSTORIES.txt RAW.txt... OUT.txt

A story is kept if it stays on its subject (who or what it begins with comes again, and no crowd of names with it), does
not go round in circles, and shares no twenty words in a row with any other text, sampled or real. Of such a passage not
even one copy stays: what the teacher tells over and over is what the student would recite.
"""

import collections
import random
import re
import sys

from corpus import SEPARATOR, split
from openings import ANIMALS, NAMES, PEOPLE, THINGS

LENGTH = 20
SUBJECTS = {*ANIMALS, *THINGS, *(who.split()[-1] for who in PEOPLE)}
PEOPLE_NAMED = {name.lower() for name in NAMES}


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def runs(found):
    """All runs of so many words, hashed."""
    return {hash(tuple(found[i : i + LENGTH])) for i in range(len(found) - LENGTH + 1)}


def on_subject(text):
    found = words(text)
    if not 50 <= len(found) <= 330 or text.rstrip()[-1] not in '.!?"':
        return False
    phrases = collections.Counter(tuple(found[i : i + 5]) for i in range(len(found) - 4))
    if max(phrases.values()) > 3:
        return False
    named = collections.Counter(w.removesuffix("'s") for w in found if w.removesuffix("'s") in PEOPLE_NAMED)
    subject = next((w for w in found[:25] if w in PEOPLE_NAMED or w in SUBJECTS), None)
    return subject is not None and len(named) <= 4 and found.count(subject) >= 2


def main(stories, *paths):
    *raw, out = paths
    texts = [text.strip() for path in raw for text in open(path, encoding="utf-8").read().split(SEPARATOR)]
    chosen = [text for text in texts if text and on_subject(text)]
    seen = collections.Counter()
    for text in chosen + split(stories)[0]:
        seen.update(runs(words(text)))
    alone = [text for text in chosen if all(seen[run] == 1 for run in runs(words(text)))]
    random.Random(1).shuffle(alone)
    with open(out, "w", encoding="utf-8") as file:
        for text in alone:
            file.write(f"{text}\n{SEPARATOR}\n")
    size = sum(len(text.encode()) for text in alone)
    print(f"{len(texts)} texts, {len(chosen)} on their subject, {len(alone)} alone with their words: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
