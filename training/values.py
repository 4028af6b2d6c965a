"""Made-up names, codes, dates and amounts."""

import random

ONSETS = "b br c ch cl d dr f fl g gr h j k kl l m n p pr qu r s sh st t th tr v w y z".split()
VOWELS = "a e i o u ai ea ee ie oa ou y".split()
CODAS = ["", "", "", "l", "n", "r", "s", "t", "m", "nd", "rt", "ck", "x", "th", "lm"]
MONTHS = (
    "January February March April May June July August September October November December"
).split()
COMPANY_ENDINGS = ["Ltd", "GmbH", "Labs", "Foods", "Systems", "Partners", "Works", "Group", "Inc"]
CITY_ENDINGS = ["ford", "ville", "burg", "ton", "dale", "port", "stad", "mouth", "field"]
STREETS = ["Street", "Road", "Lane", "Avenue", "Square", "Way"]
THINGS = (
    "lamp desk chair printer cable router camera kettle bicycle tent battery monitor keyboard "
    "heater blanket notebook backpack speaker drill ladder mirror pump toaster scanner clock"
).split()
LOOKS = "red blue black small large oak steel spare folding portable electric wooden new".split()


def word(rng: random.Random, low: int = 1, high: int = 3) -> str:
    """A pronounceable lower-case word of low..high syllables."""
    syllables = rng.randint(low, high)
    return "".join(
        rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables)
    )


def name(rng: random.Random) -> str:
    """One capitalised name."""
    return word(rng, 1, 2 if rng.random() < 0.8 else 3).capitalize()


def person(rng: random.Random) -> str:
    """First and last name."""
    return f"{name(rng)} {name(rng)}"


def company(rng: random.Random) -> str:
    """A firm's name."""
    return f"{name(rng)} {rng.choice(COMPANY_ENDINGS)}"


def city(rng: random.Random) -> str:
    """A town's name."""
    return word(rng, 1, 1).capitalize() + rng.choice(CITY_ENDINGS)


def code(rng: random.Random) -> str:
    """An order or ticket number."""
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
    return f"{letters}{rng.choice(['-', '', '/'])}{rng.randint(10, 99999)}"


def date(rng: random.Random) -> str:
    """A date in one of four spellings."""
    year, month, day = rng.randint(2019, 2031), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice(
        [
            f"{year}-{month:02}-{day:02}",
            f"{day} {MONTHS[month - 1]} {year}",
            f"{MONTHS[month - 1]} {day}",
            f"{day} {MONTHS[month - 1]}",
        ]
    )


def time(rng: random.Random) -> str:
    """A time of day."""
    return f"{rng.randint(7, 20)}:{rng.randint(0, 59):02}"


def amount(rng: random.Random) -> str:
    """A sum of money."""
    number = rng.choice(
        [f"{rng.randint(2, 999)}", f"{rng.randint(2, 4999)}.{rng.randint(0, 99):02}"]
    )
    return rng.choice([f"${number}", f"{number} EUR", f"{number} CHF", f"£{number}"])


def product(rng: random.Random) -> str:
    """A thing with a model name, so that it can be new."""
    return f"{rng.choice(LOOKS)} {rng.choice(THINGS)} {name(rng)}"


def email(rng: random.Random) -> str:
    """An address."""
    return f"{word(rng, 1, 2)}@{word(rng, 1, 2)}.{rng.choice(['com', 'org', 'net', 'io'])}"


def address(rng: random.Random) -> str:
    """A street and number."""
    return f"{rng.randint(1, 250)} {name(rng)} {rng.choice(STREETS)}"


def room(rng: random.Random) -> str:
    """A room's label."""
    return f"{rng.choice(['room', 'hall', 'office'])} {rng.choice('ABCDEF')}{rng.randint(1, 60)}"
