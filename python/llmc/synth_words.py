"""Words and numbers that questions are about: for training, or held out whatever the seed.

A word is a common one or is made of syllables, so that there are as many as are wanted. One in
HELD_OUT_PART is held out, by its hash; so are numbers of three digits and more. Of smaller ones,
which are few, the questions that have no others are: 7 + 5 may be, with 7 and 5 in other questions.
"""
from __future__ import annotations

import random
from zlib import crc32

HELD_OUT_PART = 8
LETTERS = "abdefghiklmnoprstu"  # those that are counted: common enough to be in a word four times
VOWELS = "aeiou"
ONSETS = [*"bcdfghjklmnprstvwz"] * 3 + ["br", "ch", "cl", "dr", "fl", "gr", "pl", "sh", "st", "tr"]
CODAS = [""] * 12 + [*"nrlstmkdpg"]
SMALL = 100                     # from here on a number is held out by itself
WORDS = (
    "able about above acorn across action actor address advice afternoon again agree album alarm "
    "almond alone already amber anchor angle animal answer apple apricot april arrow artist autumn "
    "bakery balance balloon bamboo banana barrel basket battery beacon beaver bedroom belief "
    "berry better beyond bicycle biscuit blanket blossom blue board bonus book bottle bottom bowl "
    "branch bread breakfast breeze bridge bright brother bubble bucket butter butterfly button "
    "cabbage cabin cactus calendar camera candle canyon captain carpet carrot castle cathedral "
    "cellar center cereal chamber chapter cheese cherry chicken chimney chocolate circle city "
    "climate clock cloud clover coconut coffee collar color comet common compass concert copper "
    "corner cotton courage cousin cradle crayon cricket crystal cucumber curtain cushion daffodil "
    "daisy dancer daughter decade december degree delight desert dessert diamond dinner distance "
    "doctor dolphin domino donkey dragon drawer dream driver eagle early earth echo editor effort "
    "elephant eleven emerald engine evening example fabric factory falcon family farmer feather "
    "february fellow fiddle finger firefly flame flavor flower flute forest fossil fountain fridge "
    "friend frost fruit galaxy garden garlic ginger giraffe glacier glove golden goose gravel "
    "green grocery guitar hammer hammock harbor harvest hazel heather hedgehog helmet hello hero "
    "holiday honey horizon hospital house hundred iceberg idea insect island ivory jacket january "
    "jelly jewel jigsaw journey juggle jungle kettle kingdom kitchen kitten koala ladder lantern "
    "laundry lavender leather lemon lesson letter level library light lilac little lizard lobster "
    "lunch machine magnet mango maple marble market meadow medal melody memory mineral mirror "
    "mississippi mitten monkey morning mosaic mountain muffin museum music mustard napkin needle "
    "nettle nickel night noodle north november number nutmeg ocean october office olive onion "
    "opera orange orchard otter oyster paddle palace pancake paper parade parrot pattern peanut "
    "pebble pencil people pepper perfume piano picnic picture pigeon pillow pilot pineapple planet "
    "pocket poem potato present prince problem pumpkin puppet puzzle pyramid quarter queen quick "
    "quiet rabbit radish railway rainbow raisin ranger raspberry reason recipe ribbon river robin "
    "rocket rubber saddle saffron salad sandwich satellite saturday scarlet school science season "
    "secret september shadow shelter shoulder signal silver simple singer sister sketch slipper "
    "snowflake soldier spider spinach spring squirrel station stocking story strawberry street "
    "student sugar summer sunset swallow sweater table tailor teacher temple tennis thunder ticket "
    "tiger timber toffee tomato tomorrow torch tower traffic tree trumpet tunnel turtle twelve "
    "umbrella uncle under valley vanilla velvet village vinegar violet violin visitor volcano "
    "waffle wagon walnut water weather wednesday whisper whistle willow window winter wonder "
    "wooden yellow yesterday yogurt zebra zigzag").split()


def held(text: str) -> bool:
    """Whether a word, or what else stands for a question, is held out."""
    return crc32(f"held out: {text}".encode()) % HELD_OUT_PART == 0


def held_numbers(*numbers: int) -> bool | None:
    """Whether a question with these is held out; None: it is neither asked nor taught, as some of
    its larger numbers are held out and others are not."""
    large = {held(str(number)) for number in numbers if number >= SMALL}
    if not large:
        return held(" ".join(map(str, sorted(numbers))))
    return large.pop() if len(large) == 1 else None


def number(rng: random.Random, digits: int) -> int:
    """One of so many digits; of one digit 1 or more."""
    return rng.randint(10 ** (digits - 1), 10 ** digits - 1)


def numbers(rng: random.Random, out: bool, count: int, most_digits: int = 4) -> list[int]:
    """So many, each with 1 to most_digits digits, of questions held out or not."""
    while True:
        drawn = [number(rng, rng.randint(1, most_digits)) for _ in range(count)]
        if held_numbers(*drawn) is out:
            return drawn


def word(rng: random.Random, out: bool) -> str:
    """A common one, one time in four, or one of two to four syllables."""
    while True:
        drawn = rng.choice(WORDS) if rng.random() < 0.25 else made(rng, rng.randint(2, 4))
        if held(drawn) is out:
            return drawn


def word_with(rng: random.Random, out: bool, letter: str, count: int) -> str:
    """One that has this letter so often, at most 4 times."""
    while True:
        if rng.random() < 0.25:
            drawn = rng.choice(WORDS)
        else:
            drawn = made(rng, 4 if count == 4 else rng.randint(max(2, count), 4), letter, count)
        if drawn.count(letter) == count and held(drawn) is out:
            return drawn


def made(rng: random.Random, syllables: int, letter: str = "", count: int = 0) -> str:
    """A word that can be pronounced and means nothing; `count` of its syllables have the letter,
    the others do not."""
    having = set(rng.sample(range(syllables), count))
    return "".join(syllable(rng, letter, place in having) for place in range(syllables))


def syllable(rng: random.Random, letter: str, has: bool) -> str:
    """With this letter once, or without it."""
    onset, vowel, coda = (rng.choice([part for part in parts if not letter or letter not in part])
                          for parts in (ONSETS, VOWELS, CODAS))
    if not has:
        return onset + vowel + coda
    if letter in VOWELS:
        return onset + letter + coda
    return letter + vowel + coda if rng.random() < 0.75 else onset + vowel + letter
