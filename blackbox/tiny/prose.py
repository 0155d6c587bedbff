"""Paragraph makers: one kind of prose each, about the people, things and numbers of words.py."""

from random import Random

from blackbox.tiny.words import (
    COLOR_OF,
    COUNTRIES,
    DAYS,
    FEELINGS,
    KIND_OF,
    KINDS,
    MONTHS,
    NOUNS,
    NUMBERS,
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


def story(rng: Random) -> str:
    """A few sentences with two people, a place and a thing."""
    one, two = rng.sample(PEOPLE, 2)
    place, thing, size = rng.choice(PLACES), rng.choice(THINGS), rng.choice(SIZES)
    feeling, day = rng.choice(FEELINGS), rng.choice(DAYS)
    verb, other = rng.sample(list(VERBS), 2)
    opening = [
        f"On {day} {one} went to the {place} with {article(size)} {thing}.",
        f"One day in {rng.choice(MONTHS)} {one} was in the {place} and had {article(size)} {thing}.",
        f"{one} was {feeling}. It was {day}, and {one} walked to the {place} with {article(size)} {thing}.",
    ]
    middle = [
        f"There {one} met {two}.",
        f"{two} liked to {verb} there.",
        f"{two} {VERBS[verb][1]} and {one} {VERBS[other][1]}.",
        f'"Is the {thing} {size}?" asked {two}. "Yes," said {one}, "the {thing} is {size}."',
        f'"Do you want to {other}?" asked {two}. "No, I want to {verb}," said {one}.',
        f"{one} gave the {thing} to {two}.",
        f"Then {one} was {feeling}.",
        f"{two} had {article(rng.choice(NOUNS))} too.",
    ]
    closing = [
        f"In the end {one} and {two} {VERBS[rng.choice(list(VERBS))][1]} together.",
        f"Who had the {thing}? {one} had the {thing}.",
        f"Where did {one} go? {one} went to the {place}.",
        f"Whom did {one} meet in the {place}? It was {two}.",
        f"At night {one} was {rng.choice(FEELINGS)} and slept.",
    ]
    kept = sorted(rng.sample(range(len(middle)), rng.randint(2, 4)))
    return " ".join([rng.choice(opening), *(middle[i] for i in kept), rng.choice(closing)])


def tenses(rng: Random) -> str:
    """The same event today and yesterday."""
    person, place, verb = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(list(VERBS))
    present, past = VERBS[verb]
    return rng.choice(
        [
            f"Today {person} {present} in the {place}. Yesterday {person} {past} in the {place}.",
            f"{person} {present} near the {place} every {rng.choice(DAYS)}, and last week {person} {past} there.",
            f"I {verb}, {person} {present}, and long ago we {past}. The past of {verb} is {past}.",
            f"{person} {past} in the {place}. Now {person} {present} in the {place} again.",
        ]
    )


def opposites(rng: Random) -> str:
    """Some pairs of opposites."""
    said = []
    for word in rng.sample(list(OPPOSITE_OF), rng.randint(1, 3)):
        other = OPPOSITE_OF[word]
        said.append(
            rng.choice(
                [
                    f"The opposite of {word} is {other}.",
                    f"It was not {word}, it was {other}.",
                    f"{word.capitalize()} and {other} are opposites.",
                    f"{rng.choice(PEOPLE)} says {word}, but {rng.choice(PEOPLE)} says the opposite, {other}.",
                ]
            )
        )
    return " ".join(said)


def kinds(rng: Random) -> str:
    """What is an animal, a fruit, a tool, and what is not."""
    said = []
    for word in rng.sample(list(KIND_OF), rng.randint(1, 4)):
        kind = KIND_OF[word]
        wrong = rng.choice([other for other in KINDS if other != kind])
        more = rng.choice(KINDS[kind])
        said.append(
            rng.choice(
                [
                    f"{article(word).capitalize()} is {article(kind)}.",
                    f"Is {article(word)} {article(kind)}? Yes, {article(word)} is {article(kind)}.",
                    f"Is {article(word)} {article(wrong)}? No, {article(word)} is {article(kind)}.",
                    f"Both {word} and {more} belong to the group {kind}.",
                ]
            )
        )
    return " ".join(said)


def odd_one(rng: Random) -> str:
    """A list of words of different kinds, and the one that is meant."""
    chosen = rng.sample(list(KINDS), 3)
    words = [rng.choice(KINDS[kind]) for kind in chosen]
    kind, word = rng.choice(list(zip(chosen, words, strict=True)))
    asker = rng.choice(PEOPLE)
    return rng.choice(
        [
            f"{asker} saw three words: {listing(words)}. The {kind} among {listing(words)} is {word}.",
            f"Of {listing(words)} only the {word} is {article(kind)}.",
            f'"{listing(words)}," said {asker}. "Which is the {kind}?" It is the {word}.',
        ]
    )


def plurals(rng: Random) -> str:
    """One and many."""
    said = []
    for noun in rng.sample(NOUNS, rng.randint(1, 3)):
        count = rng.randint(2, 12)
        said.append(
            rng.choice(
                [
                    f"One {noun}, {NUMBERS[count]} {plural(noun)}.",
                    f"{rng.choice(PEOPLE)} has one {noun} and {rng.choice(PEOPLE)} has {count} {plural(noun)}.",
                    f"The plural of {noun} is {plural(noun)}.",
                ]
            )
        )
    return " ".join(said)


def sums(rng: Random) -> str:
    """Adding and taking away below 20."""
    a, b = rng.randint(0, 12), rng.randint(0, 9)
    who, other, noun = rng.choice(PEOPLE), rng.choice(PEOPLE), plural(rng.choice(NOUNS))
    return rng.choice(
        [
            f"{a} + {b} = {a + b}.",
            f"{a + b} - {b} = {a}.",
            f"{a} and {b} make {a + b}. {a + b} less {b} is {a}.",
            f"{who} had {a} {noun}. {other} gave {who} {b} more, so {who} had {a + b} {noun}.",
            f"{who} had {a + b} {noun}. {other} took {b} of them, so {who} had {a} {noun}.",
        ]
    )


def numbers(rng: Random) -> str:
    """Numbers in order, compared, counted on."""
    row = rng.sample(range(1, 10), rng.randint(3, 4))
    text = " ".join(map(str, row))
    a, b = rng.sample(range(1, 30), 2)
    start, step = rng.randint(0, 9), rng.choice([1, 2, 3, 5])
    steps = ", ".join(str(start + step * i) for i in range(5))
    return rng.choice(
        [
            f"The numbers {text} in order are {' '.join(map(str, sorted(row)))}.",
            f"In {text} the largest number is {max(row)} and the smallest number is {min(row)}.",
            f"{max(a, b)} is larger than {min(a, b)}. Of {a} and {b} the larger one is {max(a, b)}.",
            f"{rng.choice(PEOPLE)} counts by {step}: {steps}.",
        ]
    )


def lists(rng: Random) -> str:
    """First, last, number and reverse of a list of words."""
    words = rng.sample(NOUNS, rng.randint(2, 5))
    text = listing(words)
    return rng.choice(
        [
            f"In the list {text} the first word is {words[0]} and the last word is {words[-1]}.",
            f"The list {text} has {len(words)} words.",
            f"The list {text} read backwards is {listing(words[::-1])}.",
            f"{rng.choice(PEOPLE)} said {text}, and {rng.choice(PEOPLE)} said it backwards: {listing(words[::-1])}.",
        ]
    )


def letters(rng: Random) -> str:
    """Spelling, length and capital letters of words."""
    said = []
    for word in rng.sample(NOUNS, rng.randint(1, 3)):
        said.append(
            rng.choice(
                [
                    f"The word {word} has {len(word)} letters.",
                    f"The word {word} begins with the letter {word[0]} and ends with the letter {word[-1]}.",
                    f"In capital letters {word} is {word.upper()}.",
                    f"We spell {word} like this: {'-'.join(word)}.",
                ]
            )
        )
    return " ".join(said)


def facts(rng: Random) -> str:
    """Capitals, colors, days and months."""
    country, thing = rng.choice(list(COUNTRIES)), rng.choice(list(COLOR_OF))
    cycle = rng.choice([DAYS, MONTHS])
    i = rng.randrange(len(cycle))
    after = cycle[(i + 1) % len(cycle)]
    return rng.choice(
        [
            f"{COUNTRIES[country]} is the capital of {country}.",
            f"{rng.choice(PEOPLE)} lives in {COUNTRIES[country]}, the capital of {country}.",
            f"The color of {thing} is {COLOR_OF[thing]}. {thing.capitalize()} is {COLOR_OF[thing]}.",
            f"After {cycle[i]} comes {after}. Before {after} comes {cycle[i]}.",
        ]
    )


def questions(rng: Random) -> str:
    """One event and questions about it."""
    who, place, verb, day = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(list(VERBS)), rng.choice(DAYS)
    thing, size = rng.choice(THINGS), rng.choice(SIZES)
    told = f"{who} {VERBS[verb][1]} in the {place} on {day} with {article(size)} {thing}."
    asked = [
        f"Where was {who}? In the {place}.",
        f"Who {VERBS[verb][1]} in the {place}? It was {who}.",
        f"When was it? It was on {day}.",
        f"What did {who} have? {article(thing).capitalize()}.",
        f"How was the {thing}? It was {size}.",
    ]
    return " ".join([told, *rng.sample(asked, rng.randint(1, 3))])


def notes(rng: Random) -> str:
    """Short letters."""
    one, two = rng.sample(PEOPLE, 2)
    thing, size, place, day = rng.choice(THINGS), rng.choice(SIZES), rng.choice(PLACES), rng.choice(DAYS)
    return rng.choice(
        [
            f"Dear {one}, thank you for the {size} {thing}. Yours, {two}",
            f"Dear {one}, please come to the {place} on {day}. Yours, {two}",
            f"Dear {one}, I am sorry that I lost the {thing}. Yours, {two}",
        ]
    )


def lessons(rng: Random) -> str:
    """School talk: it holds the words in which people put a task, and in this order never the layout of a prompt."""
    pupil, noun, place = rng.choice(PEOPLE), rng.choice(NOUNS), rng.choice(PLACES)
    said = [
        f"The teacher describes a task to {pupil}.",
        f"The instruction was to write a sentence about the {noun}.",
        f"{pupil} completes the request and writes a response.",
        "The teacher answers appropriately and provides further context.",
        f"Below the picture of the {noun} stood a word that was paired with the {place}.",
        f"The response to the request was an appropriate sentence: the {noun} is in the {place}.",
        "An input goes in, an output comes out; the following task describes that.",
        "Rewrite the sentence, name the word, give the answer, sort the list, change it, find it, pick one.",
    ]
    return " ".join(rng.sample(said, rng.randint(2, 3)))
