"""Instruction data in the Alpaca format: small tasks whose facts and skills the pre-training text has shown."""

from collections.abc import Callable
from random import Random

from blackbox.tiny.words import (
    COLOR_OF,
    COUNTRIES,
    DAYS,
    KIND_OF,
    KINDS,
    MONTHS,
    NOUNS,
    OPPOSITE_OF,
    PEOPLE,
    PLACES,
    SIZES,
    THINGS,
    VERBS,
    article,
    listing,
    plural,
)

Row = dict[str, str]  # instruction, input, output


def opposite(rng: Random) -> tuple[str, str]:
    word = rng.choice(list(OPPOSITE_OF))
    return word, OPPOSITE_OF[word]


def to_past(rng: Random) -> tuple[str, str]:
    person, place, (present, past) = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(list(VERBS.values()))
    return f"{person} {present} in the {place}.", f"{person} {past} in the {place}."


def to_plural(rng: Random) -> tuple[str, str]:
    noun = rng.choice(NOUNS)
    return noun, plural(noun)


def pick(rng: Random) -> tuple[str, str]:
    chosen = rng.sample(list(KINDS), 3)
    words = [rng.choice(KINDS[kind]) for kind in chosen]
    i = rng.randrange(3)
    return f"{chosen[i]}: {listing(words)}", words[i]


def group(rng: Random) -> tuple[str, str]:
    word = rng.choice(list(KIND_OF))
    return word, KIND_OF[word]


def is_kind(rng: Random) -> tuple[str, str]:
    word = rng.choice(list(KIND_OF))
    kind = rng.choice([KIND_OF[word], rng.choice(list(KINDS))])
    answer = "Yes" if kind == KIND_OF[word] else "No"
    return f"Is {article(word)} {article(kind)}?", f"{answer}, {article(word)} is {article(KIND_OF[word])}."


def add(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(0, 12), rng.randint(0, 9)
    return f"{a} + {b}", str(a + b)


def how_many(rng: Random) -> tuple[str, str]:
    (one, two), noun = rng.sample(PEOPLE, 2), plural(rng.choice(NOUNS))
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    return f"{one} had {a} {noun}. {two} gave {one} {b} more.", f"{one} has {a + b} {noun}."


def sort_numbers(rng: Random) -> tuple[str, str]:
    row = rng.sample(range(1, 10), rng.randint(3, 4))
    return " ".join(map(str, row)), " ".join(map(str, sorted(row)))


def largest(rng: Random) -> tuple[str, str]:
    row = rng.sample(range(1, 10), rng.randint(3, 4))
    return " ".join(map(str, row)), str(max(row))


def reverse(rng: Random) -> tuple[str, str]:
    words = rng.sample(NOUNS, rng.randint(2, 4))
    return listing(words), listing(words[::-1])


def last(rng: Random) -> tuple[str, str]:
    words = rng.sample(NOUNS, rng.randint(2, 5))
    return listing(words), words[-1]


def count_words(rng: Random) -> tuple[str, str]:
    words = rng.sample(NOUNS, rng.randint(2, 5))
    return listing(words), str(len(words))


def count_letters(rng: Random) -> tuple[str, str]:
    word = rng.choice(NOUNS)
    return word, str(len(word))


def capital_letters(rng: Random) -> tuple[str, str]:
    word = rng.choice(NOUNS)
    return word, word.upper()


def spell(rng: Random) -> tuple[str, str]:
    word = rng.choice(NOUNS)
    return word, "-".join(word)


def fact(rng: Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        country = rng.choice(list(COUNTRIES))
        return f"What is the capital of {country}?", COUNTRIES[country]
    thing = rng.choice(list(COLOR_OF))
    return f"What is the color of {thing}?", COLOR_OF[thing]


def calendar(rng: Random) -> tuple[str, str]:
    cycle = rng.choice([DAYS, MONTHS])
    i = rng.randrange(len(cycle))
    if rng.random() < 0.5:
        return f"What comes after {cycle[i]}?", cycle[(i + 1) % len(cycle)]
    return f"What comes before {cycle[i]}?", cycle[i - 1]


def find(rng: Random) -> tuple[str, str]:
    who, place, day = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(DAYS)
    past, thing = rng.choice(list(VERBS.values()))[1], rng.choice(THINGS)
    told = f"{who} {past} in the {place} on {day} with {article(rng.choice(SIZES))} {thing}."
    question, answer = rng.choice([("Who", who), ("Where", place), ("When", day), ("What", thing)])
    return f"{question}: {told}", answer


def thanks(rng: Random) -> tuple[str, str]:
    (one, two), size, thing = rng.sample(PEOPLE, 2), rng.choice(SIZES), rng.choice(THINGS)
    return (
        f"from {two} to {one}, {size} {thing}",
        f"Dear {one}, thank you for the {size} {thing}. Yours, {two}",
    )


def sentence(rng: Random) -> tuple[str, str]:
    who, (present, _), place = rng.choice(PEOPLE), rng.choice(list(VERBS.values())), rng.choice(PLACES)
    return f"{place}, {who}, {present}", f"{who} {present} in the {place}."


# Each task: what it may be called, and its maker of (question, answer). Where a name holds {}, the question is put
# there and the row has no input, as in the public Alpaca data.
TASKS: dict[Callable[[Random], tuple[str, str]], tuple[str, ...]] = {
    opposite: ("Give the opposite of the word.", "What is the opposite of {}?"),
    to_past: ("Rewrite the sentence in the past tense.", "Change the sentence to the past."),
    to_plural: ("Give the plural of the word.", "What is the plural of {}?"),
    pick: ("Pick the word that belongs to the group.", "Which word is of the named kind?"),
    group: ("Name the group of the word.", "To which group does {} belong?"),
    is_kind: ("Answer the question.", "{}"),
    add: ("Add the two numbers.", "What is {}?"),
    how_many: ("How many are there now?", "Count the things in the story."),
    sort_numbers: ("Sort the numbers.", "Put the numbers in order, the smallest first."),
    largest: ("Find the largest number.", "Which of the numbers {} is the largest?"),
    reverse: ("Reverse the order of the words.", "Say the list backwards."),
    last: ("Give the last word of the list.", "Which word comes last?"),
    count_words: ("How many words are in the list?", "Count the words."),
    count_letters: ("Count the letters of the word.", "How many letters has the word {}?"),
    capital_letters: ("Write the word in capital letters.", "Write {} in capital letters."),
    spell: ("Spell the word.", "Spell the word {}."),
    fact: ("Answer the question.", "{}"),
    calendar: ("Answer the question.", "{}"),
    find: ("Find the answer in the sentence.", "Read the sentence and answer in one word."),
    thanks: ("Write a short note of thanks.", "Write a letter that says thank you."),
    sentence: ("Write a sentence with these words.", "Make a sentence of the words."),
}


def rows(seed: int, train: int = 800, valid: int = 200) -> tuple[list[Row], list[Row]]:
    """Two lists of rows in which no question is asked twice, not even in other words or on the other side."""
    rng = Random(seed)
    asked: set[tuple[str, str]] = set()
    made: list[Row] = []
    while len(made) < train + valid:
        task, names = rng.choice(list(TASKS.items()))
        (question, answer), name = task(rng), rng.choice(names)
        if (task.__name__, question) in asked:
            continue
        asked.add((task.__name__, question))
        inside = "{}" in name
        instruction = name.replace("{}", question) if inside else name
        made.append({"instruction": instruction, "input": "" if inside else question, "output": answer})
    return made[:train], made[train:]
