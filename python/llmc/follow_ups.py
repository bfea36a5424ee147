"""Conversations whose last question needs the turn before: what the user said of himself, what was
asked first, the opposite, the smaller of two, the same again, the same shorter.

The right answer follows from what was said, so it can be checked: the words it has to have, those
it must not, and how many there may be. What begins with * is kept for the held-out questions.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product
from zlib import crc32

from llmc.chat import Message
from llmc.judge import Row

HELD_OUT_PART = 8               # of so many combinations one is kept for the held-out questions


NAMES = ("Ann|Tom|Peter|Mary|John|Lucy|Paul|Emma|Jack|Rose|Henry|Alice|Mark|Jane|Robert|Kate|"
         "George|Helen|Martin|Julia|Richard|Clara|Edward|Nora|Oliver|Ruth|Simon|Laura|Philip|Eva|"
         "Hugo|Maria|David|Sarah|Arthur|Diana|Francis|Olivia|Thomas|Viola|*William|*Susan|*Daniel|"
         "*Grace|*Leo|*Margaret")
COLORS = ("red|blue|green|yellow|black|white|brown|gray|pink|orange|gold|silver|scarlet|azure|"
          "cream|*purple|*violet")
CITIES = ("London|Paris|Rome|Venice|Athens|Berlin|Madrid|Vienna|Dublin|Oslo|Cairo|Tokyo|Boston|"
          "Chicago|York|Milan|Verona|Padua|Prague|Lisbon|*Florence|*Dover|*Seoul|*Naples")
FOODS = ("bread|soup|cheese|rice|fish|cake|apples|beans|eggs|honey|pasta|potatoes|cherries|salad|"
         "pudding|nuts|corn|carrots|grapes|noodles|butter|*pears|*pancakes|*plums")
PETS = "dog|cat|horse|bird|rabbit|pig|mouse|*goat|*parrot"
PET_NAMES = "Rex|Bella|Max|Luna|Spot|Daisy|Duke|Misty|Prince|Coco|Bruno|Ruby|*Pip|*Ginger|*Bandit"
COUNTS = "two|three|four|five|six|seven|eight|nine|ten"
THINGS = "apples|books|horses|coins|chairs|rings|letters|hats|cups|keys|*swords|*candles"
OPPOSITES = ("hot cold fire|cold hot ice|big small an elephant|small big a mouse|"
             "dark bright the night|bright dark the sun|sweet bitter honey|sour sweet a lemon|"
             "hard soft stone|soft hard wool|heavy light lead|light heavy a feather|"
             "fast slow a hare|slow fast a snail|wet dry rain|dry wet the desert|"
             "sharp blunt a razor|high low a mountain|deep shallow the ocean|loud quiet thunder|"
             "quiet loud a library|young old a baby|rich poor a king|strong weak a bear|"
             "long short a snake|black white coal|white black snow|smooth rough glass|"
             "tall short a tower|wide narrow the sea|*rough smooth sandpaper|*warm cool wool cloth|"
             "*thin thick paper")
SIZES = "ant|*wasp|mouse|rat|cat|*fox|sheep|pig|*lion|horse|elephant|whale"   # the larger later
TOPICS = {
    "cats": ("Cats are small animals that live with people.", "They like to sleep and catch mice."),
    "dogs": ("Dogs are loyal animals that live with people.", "They like to run and to bark."),
    "bees": ("Bees are insects that make honey.", "They live in a hive with one queen."),
    "the sun": ("The sun is a star.", "It gives us light and warmth, and plants need it to grow."),
    "the moon": ("The moon goes around the earth.", "It shines because the sun shines on it."),
    "rain": ("Rain is water that falls from clouds.", "It fills the rivers and feeds the fields."),
    "snow": ("Snow is frozen water that falls in flakes.", "Children like to play in it."),
    "bread": ("Bread is baked from flour and water.", "People have eaten it for many ages."),
    "milk": ("Milk comes from cows, goats and sheep.", "Butter and cheese are made of it."),
    "gold": ("Gold is a yellow metal that does not rust.", "Rings and coins are made of it."),
    "iron": ("Iron is a strong metal.", "Tools, ships and bridges are made of it."),
    "trees": ("Trees are tall plants with a trunk of wood.", "Birds build their nests in them."),
    "roses": ("Roses are flowers with thorns.", "They smell sweet, and people give them in love."),
    "horses": ("Horses are strong animals that people ride.", "They eat grass and hay."),
    "birds": ("Birds have wings and feathers.", "Most of them can fly, and many of them sing."),
    "fish": ("Fish live in water.", "They have fins to swim and gills to breathe."),
    "ships": ("Ships carry people and goods over the sea.", "Some have sails, others engines."),
    "books": ("Books hold stories and knowledge.", "They are printed on paper and read by many."),
    "clocks": ("Clocks show the time.", "The short hand is for the hours."),
    "kings": ("Kings were the rulers of old.", "They wore a crown and lived in a castle."),
    "*wolves": ("Wolves are wild animals like dogs.", "They live and hunt in packs."),
    "*salt": ("Salt comes from the sea and from mines.", "It makes food taste better."),
    "*wind": ("Wind is air that moves.", "It drives ships and turns mills."),
}


# Of what the user says of himself: the values, how he says it, what is answered, how he asks for it
# later, the answer, and what it must have in it; {0} and {1} are the parts of a value.
RECALL = {
    "name": (
        NAMES.split("|"),
        "My name is {0}.|I am {0}.|I am called {0}.|Hello, I am {0}.|People call me {0}.|"
        "*You may call me {0}.",
        "Nice to meet you, {0}.",
        "What is my name?|Who am I?|Do you remember my name?|What am I called?|Tell me my name.|"
        "*Can you say my name?|*Do you still know what I am called?",
        "Your name is {0}.", "{0}"),
    "color": (
        COLORS.split("|"),
        "My favorite color is {0}.|I like {0} best of all colors.|The color I love is {0}.|"
        "Of all colors I choose {0}.|I like the color {0}.|*No color is as dear to me as {0}.",
        "Ah, {0} is a fine color.",
        "What is my favorite color?|Which color do I like best?|What color do I like?|"
        "Do you remember my color?|Tell me my favorite color.|So which color do I love?|"
        "*Can you name the color I like?",
        "Your favorite color is {0}.", "{0}"),
    "number": (
        ["*" * (number % 9 == 4) + str(number) for number in range(2, 100)],
        "My lucky number is {0}.|My number is {0}.|I chose the number {0}.|*I picked {0}.",
        "Good, I will keep {0} in mind.",
        "What is my number?|Which number is mine?|What number did I say?|Tell me my number.|"
        "*Do you remember my number?",
        "Your number is {0}.", "{0}"),
    "city": (
        CITIES.split("|"),
        "I live in {0}.|I come from {0}.|My home is in {0}.|I have a house in {0}, my home.|"
        "*My house is in {0}.",
        "I have heard much of {0}.",
        "Where do I live?|Where is my home?|Which city is mine?|In which city do I live?|"
        "Where am I from?|Tell me where I live.|*Do you know where I live?",
        "You live in {0}.", "{0}"),
    "food": (
        FOODS.split("|"),
        "My favorite food is {0}.|I like to eat {0}.|I eat {0} every day.|I love to eat {0}.|"
        "*Nothing tastes as good as {0}.",
        "Good! I hope you have some {0} today.",
        "What do I like to eat?|What is my favorite food?|Which food do I like?|What do I eat?|"
        "Tell me what I like to eat.|*Do you remember my favorite food?",
        "You like to eat {0}.", "{0}"),
    "pet": (
        list(product(PETS.split("|"), PET_NAMES.split("|"))),
        "I have a {0} called {1}.|My {0} is called {1}.|I own a {0}, and its name is {1}.|"
        "*This is my {0}, {1}.",
        "What a good name for a {0}.",
        "What is my {0} called?|What is the name of my {0}?|Tell me the name of my {0}.|"
        "*Do you remember my {0}'s name?",
        "Your {0} is called {1}.", "{1}"),
}
BOUGHT = ("I have {} and {}.|I bought {} and {}.|On the table are {} and {}.|"
          "*My friend gave me {} and {}.")
HOW_MANY = "How many {}?|How many {} did I say?|How many {} are there?|*And what about the {}?"
TELL = ["Tell me about {}.", "What do you know about {}?", "What can you tell me about {}?",
        "Please say something about {}.", "I would like to hear about {}."]
SHORTER = ("Make it shorter.|Please make that shorter.|Can you say it in fewer words?|"
           "Shorter, please.|That is too long. Make it short.|In one sentence, please.|"
           "*Can you shorten it?|*Give me the short form.")
AGAIN = ("Say it again.|Please repeat that.|Can you say that again?|Once more, please.|"
         "I did not hear you. What did you say?|Repeat your answer.|*Could you repeat it?|"
         "*Tell me that once more.")
FIRST = ("What did I ask about first?|What was my first question about?|"
         "What was it that I asked about first?|*What did I want to hear about first?")
LIKE = ("What is {} like?|Tell me what {} is like.|Describe {} in short.|"
        "How would you describe {}?|Say something about {}.|*What would you say {} is like?")
OPPOSITE = ("And the opposite?|What is the opposite of that?|Now the opposite, please.|"
            "Give me the opposite.|What would be the opposite?|*And the reverse of that?")
LARGER = ("Which is bigger, {} or {}?|Is {} or {} bigger?|What is larger, {} or {}?|"
          "*Tell me which is bigger: {} or {}?")
SMALLER = ("And which is smaller?|Which one is smaller, then?|And the smaller one?|"
           "So which of them is smaller?|*Which is not as big?")


def families() -> dict[str, list[Row]]:
    """All there are, for training and held out."""
    made = {name: _recalled(*rest) for name, rest in RECALL.items()}
    made |= {"how_many": _how_many(), "opposite": _opposites(), "smaller": _smaller(),
             "shorter": _later(SHORTER), "again": _later(AGAIN), "first": _first()}
    return {name: [replace(row, family=name) for row in rows] for name, rows in made.items()}


def _follow_up(said: list[str], want: str, avoid: str = "", at_most: int = 0,
               words: Sequence[str] = (), wordings: Sequence[str] = ()) -> Iterator[Row]:
    """What user and assistant say in turn. The words and wordings that it is made from say whether
    it is held out; not at all if both are new."""
    new_word, new_wording = (any(each.startswith("*") for each in given)
                             for given in (words, wordings))
    if new_word and new_wording:
        return
    texts = [text.replace("*", "") for text in said]
    unseen = "word" if new_word else "wording" if new_wording else held_back("\n".join(texts))
    messages = [Message("assistant" if number % 2 else "user", text[0].upper() + text[1:])
                for number, text in enumerate(texts)]
    want, avoid = want.replace("*", ""), avoid.replace("*", "")
    yield Row(messages, "follow_up", "", unseen, want, avoid, at_most)


def held_back(text: str) -> str:
    """"combination" for one text of HELD_OUT_PART, whatever the seed; else ""."""
    return "combination" if crc32(text.encode()) % HELD_OUT_PART == 0 else ""


def _recalled(values: list, said: str, reply: str, asked: str, answer: str, want: str
              ) -> Iterator[Row]:
    for value, tell, ask in product(values, said.split("|"), asked.split("|")):
        parts = [value] if isinstance(value, str) else value
        yield from _follow_up([each.format(*parts) for each in (tell, reply, ask, answer)],
                              want.format(*parts), words=parts, wordings=[tell, ask])


def _how_many() -> Iterator[Row]:
    counts = COUNTS.split("|")
    wordings = product(BOUGHT.split("|"), HOW_MANY.split("|"))
    cases = product(permutations(THINGS.split("|"), 2), wordings, (0, 1))
    for number, (things, (tell, ask), which) in enumerate(cases):
        one = number % len(counts)                  # any two counts, never the same
        two = (one + 1 + number // 7 % (len(counts) - 1)) % len(counts)
        there = [f"{counts[one]} {things[0]}", f"{counts[two]} {things[1]}"]
        wanted, other = counts[(one, two)[which]], counts[(two, one)[which]]
        yield from _follow_up(
            [tell.format(*there), f"I see, {things[0]} and {things[1]}.", ask.format(things[which]),
             f"{wanted} {things[which]}."], wanted, other, words=things, wordings=[tell, ask])


def _opposites() -> Iterator[Row]:
    for row, ask, then in product(OPPOSITES.split("|"), LIKE.split("|"), OPPOSITE.split("|")):
        word, opposite, thing = row.split(" ", 2)
        yield from _follow_up(
            [ask.format(thing), f"{thing} is {word}.", then,
             f"The opposite of {word} is {opposite}."], opposite, words=[row], wordings=[ask, then])


def _smaller() -> Iterator[Row]:
    names = SIZES.split("|")
    for pair, ask, then in product(permutations(names, 2), LARGER.split("|"), SMALLER.split("|")):
        small, large = sorted(pair, key=names.index)
        yield from _follow_up(
            [ask.format(*(_with_article(name) for name in pair)), f"The {large} is bigger.", then,
             f"The {small} is smaller."], small, large, words=pair, wordings=[ask, then])


def _with_article(name: str) -> str:
    plain = name.replace("*", "")
    return f"an {plain}" if plain[0] in "aeiou" else f"a {plain}"


def _later(asked: str) -> Iterator[Row]:
    """The same again, or the first sentence of it."""
    for (topic, (first, second)), tell, ask in product(TOPICS.items(), TELL, asked.split("|")):
        whole = f"{first} {second}"
        shorter = asked is SHORTER
        yield from _follow_up(
            [tell.format(topic), whole, ask, first if shorter else whole],
            topic.removeprefix("the ") if shorter else whole,
            at_most=len(whole.split()) - 1 if shorter else 0, words=[topic], wordings=[ask])


def _first() -> Iterator[Row]:
    asked = FIRST.split("|")
    for (one, two), number, ask in product(permutations(TOPICS, 2), range(len(TELL)), asked):
        yield from _follow_up(
            [TELL[number].format(one), " ".join(TOPICS[one]), TELL[number - 1].format(two),
             " ".join(TOPICS[two]), ask, f"You first asked about {one}."],
            one.removeprefix("the "), two.removeprefix("the "), words=[one, two], wordings=[ask])
