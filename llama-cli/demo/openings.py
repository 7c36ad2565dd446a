"""Beginnings of stories, one to a line, for stories260K to go on from.

    python3 openings.py TINYSTORIES.txt COUNT SEED > LINES

Four of ten are the first one to six words of a real story of the training part. The others are made here, of words
that the real stories use: without them, most of what the teacher tells is of a little girl named Lily in the park.
"""

import random
import sys

from corpus import split

NAMES = """Lily Timmy Tim Lucy Tom Jack Sarah Jane Max Sue Daisy Amy Bob John Spot Joe Ben Sally Molly Mary Mia Anna Benny
Billy Andy Sam Grace Emma Emily Lisa Kitty Fluffy Lola Alice Sophie Bella Jake Alex Ella Chloe Jimmy Pete Joey Ann
Polly Rosie Bobby Mark Charlie Cindy Annie Bill Rachel Jill Susie Frank Danny James Kate Claire Ruby George Fred Luna
Sandy Henry Oliver Nora Thomas Peter Winnie Leo Lila Josh Snowy Mimi Teddy Judy Buzzy Beth Hannah Jenny Jamie Sara Roxy
Rex Mike Nina Zoe Ellie Clara Oscar Pip Finn Hugo Olive Penny Poppy Tara Toby Freddy Jerry Buddy Coco""".split()
PEOPLE = """little girl|little boy|girl|boy|old man|old woman|farmer|baker|princess|prince|king|queen|fisherman|sailor|doctor|
teacher|pirate|gardener|young man|young lady|clown|knight|painter|fireman|captain""".replace("\n", "").split("|")
ANIMALS = """dog cat bird bunny rabbit mouse bear fox frog duck fish turtle squirrel lion elephant monkey owl pig horse cow
sheep goat hen bee butterfly snail puppy kitten deer wolf tiger giraffe penguin dragon dinosaur hedgehog ant spider crab
whale dolphin parrot lamb pony hippo zebra""".split()
TRAITS = """happy sad kind brave shy clever lazy funny friendly small big tiny young old grumpy curious wise lonely proud quiet
silly careful playful gentle strong hungry busy jolly naughty polite tired""".split()
LOOKS = """red blue green yellow shiny old new big small soft round pretty heavy broken pink orange purple tiny long wooden golden
colorful dirty smooth fast""".split()
THINGS = """ball car boat kite hat box book cake flower tree bike doll truck train drum cup key ring coat apple pumpkin
carrot basket blanket balloon bucket stick stone shell leaf feather mirror lamp clock map spoon bell rope swing ladder
umbrella scarf toy puzzle letter button jar nest mushroom crayon pot chair tent wagon rocket bag hammer camera robot
sandwich cookie lemon pear melon candle sock shoe""".split()
PLACES = """forest|garden|park|farm|village|town|house by the sea|castle|cave|field|river|pond|jungle|zoo|school|store|kitchen|
big city|small house|tall tree|mountain|beach|island|yard|barn|meadow|library|market""".replace("\n", "").split("|")
DOINGS = """play|run|jump|sing|dance|draw|read|cook|swim|climb trees|help others|paint|build things|explore|sleep|eat fruit|
dig holes|ride a bike|tell jokes|look at the stars|collect rocks|make new friends|play games|fly high|bake cakes|
plant seeds|go on walks|chase birds|play with mud|count things|listen to music""".replace("\n", "").split("|")
FEELINGS = """very happy|very sad|scared|excited|bored|hungry|tired|angry|worried|surprised|lost|sick|cold|thirsty|alone|proud|
curious""".replace("\n", "").split("|")
WHENS = """One day|One morning|One night|One sunny day|One rainy day|One cold day|One hot day|One afternoon|One evening|
In the winter|In the summer|After lunch|Today|Last week|On a windy day|Early one morning""".replace("\n", "").split("|")


def a(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


def opening(pick):
    """One to three sentences, or parts of one."""
    name, other, trait, place = pick(NAMES), pick(NAMES), pick(TRAITS), pick(PLACES)
    who = pick(PEOPLE + ANIMALS + ANIMALS[:20])
    thing = f"{pick(LOOKS)} {pick(THINGS)}"
    called = pick([f"named {name}", f"called {name}", f"who lived in the {place}", f"named {name} who lived near the {place}"])
    hero = a(pick([who, f"{trait} {who}", f"{trait} {who}", f"{trait} and {pick(TRAITS)} {who}"]))
    first = pick([
        f"Once upon a time, there was {hero} {called}.", f"Once upon a time there was {hero} {called}.",
        f"Once upon a time, in {a(place)}, there lived {hero}.", f"Once upon a time, {hero} lived in the {place}.",
        f"Once upon a time, there lived {hero} {called}.", f"Once there was {hero} {called}.",
        f"Once upon a time, there was {a(thing)} in the {place}.", f"Once upon a time, {name} and {other} went to the {place}.",
        f"{name} was {a(trait + ' ' + who)}.", f"{name} and {other} were in the {place}.",
        f"{pick(WHENS)}, {hero} went to the {place}.", f"{pick(WHENS)}, {name} found {a(thing)}.",
        f"{name} had {a(thing)}.", f"{name} liked to {pick(DOINGS)}.", f"{pick(WHENS)}, {name} was {pick(FEELINGS)}.",
        f"There once was {hero} {called}.", f"Once upon a time, there were two friends, {name} and {other}.",
        f"In the {place} there lived {hero}.", f"Once, {a(trait + ' ' + who)} had {a(thing)}.",
    ])  # fmt: skip
    they = name if name in first else f"The {who}" if who in first else "Everyone"
    second = pick([
        "", f" {they} liked to {pick(DOINGS)}.", f" {they} had {a(thing)}.", f" {pick(WHENS)}, {they.replace('The', 'the')} saw",
        f" {they} was {pick(FEELINGS)}", f" {they} wanted to {pick(DOINGS)}", f" {pick(WHENS)}, {they.replace('The', 'the')} went to the {place}",
        f" {pick(WHENS)}, {they.replace('The', 'the')} found {a(thing)}", f" {they} wanted {a(thing)}", f" {they} could not",
        f" {pick(WHENS)},", f" {they} had a friend named {other}.", f" {they} loved", f" {they} did not like to {pick(DOINGS)}.",
    ])  # fmt: skip
    return first + second


def main(stories, count, seed):
    train, _ = split(stories)
    rng = random.Random(int(seed))
    for _ in range(int(count)):
        if rng.random() < 0.4:
            words = rng.choice(train).split("\n")[0].split(" ")
            print(" ".join(words[: rng.randint(1, 6)]))
        else:
            print(opening(rng.choice))


if __name__ == "__main__":
    main(*sys.argv[1:])
