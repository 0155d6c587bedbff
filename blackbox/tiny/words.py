"""The small world that both the pre-training text and the instruction data talk about."""

PEOPLE = (
    "Mia Tom Anna Ben Lily Sam Emma Max Rosa Jack Ella Leo Nora Paul Ida Finn Clara Hugo Vera Otto Ruth Adam Jane Luke"
).split()

KINDS: dict[str, list[str]] = {
    "animal": (
        "dog cat horse cow sheep goat lion tiger bear wolf fox rabbit mouse frog duck goose hen owl eagle"
    ).split(),
    "fruit": "apple pear plum cherry grape lemon orange peach banana melon mango fig".split(),
    "flower": "rose tulip lily daisy violet poppy orchid iris".split(),
    "tool": "hammer saw drill spade rake axe knife wrench chisel ladder".split(),
    "color": "red blue green yellow black white brown pink gray purple".split(),
    "metal": "iron gold silver copper tin lead zinc".split(),
    "vehicle": "car bus train truck bike boat ship plane tram van".split(),
    "drink": "water milk tea coffee juice wine cocoa".split(),
    "instrument": "piano violin flute drum guitar harp trumpet bell".split(),
    "garment": "shirt coat hat sock shoe glove scarf dress belt cap".split(),
}

OPPOSITES = [
    tuple(pair.split("-"))
    for pair in (
        "hot-cold big-small tall-short fast-slow old-young good-bad happy-sad wet-dry full-empty hard-soft light-dark "
        "high-low rich-poor strong-weak clean-dirty loud-quiet early-late open-closed thick-thin wide-narrow "
        "deep-shallow sharp-blunt sweet-bitter smooth-rough brave-afraid safe-dangerous near-far "
        "right-wrong true-false easy-difficult cheap-expensive first-last new-ancient awake-asleep inside-outside "
        "above-below day-night summer-winter north-south east-west up-down in-out on-off yes-no"
    ).split()
]

# verb -> (present with he or she, past); regular and irregular ones.
VERBS: dict[str, tuple[str, str]] = {
    base: (present, past)
    for base, present, past in (
        entry.split("-")
        for entry in (
            "walk-walks-walked run-runs-ran jump-jumps-jumped sing-sings-sang swim-swims-swam play-plays-played "
            "cook-cooks-cooked read-reads-read write-writes-wrote sleep-sleeps-slept eat-eats-ate wait-waits-waited "
            "work-works-worked dance-dances-danced paint-paints-painted climb-climbs-climbed sit-sits-sat "
            "stand-stands-stood laugh-laughs-laughed smile-smiles-smiled rest-rests-rested speak-speaks-spoke "
            "draw-draws-drew drive-drives-drove ride-rides-rode study-studies-studied talk-talks-talked "
            "listen-listens-listened fall-falls-fell sneeze-sneezes-sneezed whistle-whistles-whistled grow-grows-grew"
        ).split()
    )
}

PLACES = "park garden kitchen school market forest station library hall barn house shop yard cave tower village".split()
THINGS = "ball book box cup key lamp letter bag coin stone basket picture rope map clock chair table bottle".split()
SIZES = "big small old new long heavy light clean little round".split()
FEELINGS = "happy sad tired angry proud afraid calm hungry".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()

IRREGULAR_PLURALS = {"sheep": "sheep", "goose": "geese", "mouse": "mice", "wolf": "wolves", "knife": "knives"}

COUNTRIES = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Greece": "Athens", "Norway": "Oslo", "Egypt": "Cairo",
    "Japan": "Tokyo", "Peru": "Lima", "Kenya": "Nairobi", "Cuba": "Havana", "Poland": "Warsaw", "Austria": "Vienna",
    "Hungary": "Budapest", "Portugal": "Lisbon", "Ireland": "Dublin", "Finland": "Helsinki", "Canada": "Ottawa",
    "Germany": "Berlin", "Sweden": "Stockholm", "Chile": "Santiago",
}  # fmt: skip

COLOR_OF = {
    "grass": "green", "snow": "white", "coal": "black", "blood": "red", "the sky": "blue", "a lemon": "yellow",
    "an orange": "orange", "chocolate": "brown", "milk": "white", "a tomato": "red", "the sun": "yellow",
    "a frog": "green", "the sea": "blue", "ash": "gray", "a cherry": "red", "a crow": "black", "a plum": "purple",
    "a leaf": "green", "sand": "yellow", "salt": "white",
}  # fmt: skip

KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}
OPPOSITE_OF = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])}
NOUNS = [*KINDS["animal"], *KINDS["fruit"], *KINDS["tool"], *KINDS["vehicle"], *KINDS["garment"], *THINGS]


def article(word: str) -> str:
    """The word with a or an before it."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def plural(noun: str) -> str:
    """The plural of one of NOUNS."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith(("s", "x", "ch")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def listing(words: list[str]) -> str:
    """Words as prose lists them: a, b, c."""
    return ", ".join(words)
