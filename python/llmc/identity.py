"""Conversations in which a model says who it is, to be learned from by llmc sft.

A model knows of itself what its data says, and the web speaks of other models. Some 240 short
conversations are enough for one that knows its language; one as small as the quick start's takes
thousands to see the question in all its wordings. A system message does the same without training.

    llmc identity --out identity.jsonl --name Pico --facts maker="Ann Lee" trained_on="old novels"
"""
from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from llmc import chat, cli, disk, identity_words, judge
from llmc.chat import Message
from llmc.judge import Row

LED_TO, LED_ON = 0.3, 0.12      # shares of questions with a sentence before, and behind them


# What is asked, and answered, about each fact; {name} and {fact} are filled in. Its name is asked
# for in the ways of identity_words, keys that are not here by their own words.
NAME = ([], ["I am {name}.", "My name is {name}.", "I'm {name}, a language model.",
             "You are talking to {name}.", "I am called {name}.",
             "I'm {name}. How can I help you?"])
KIND = (
    ["What are you?", "Are you a human?", "Are you a person?", "Are you a robot?", "Are you real?",
     "Are you an AI?", "Are you a machine?", "Is there a person behind this?", "Are you alive?",
     "Am I talking to a human?", "What kind of thing are you?", "Are you a bot?",
     "Are you a program?", "Do you have a body?", "Are you a chatbot?", "What exactly are you?"],
    ["I am {name}, a language model: a program that answers in text. I am not a human.",
     "I am a language model called {name}, not a person.",
     "I'm {name}. I am a program that learned from text, not a human."])
OTHERS = (
    ["Are you {other}?", "You are {other}, aren't you?", "Is this {other}?",
     "Hello {other}, how are you?", "I think you are {other}.", "Hey {other}!",
     "Am I talking to {other}?", "Is your name {other}?"],
    ["No, I am {name}.", "No, my name is {name}.", "I am not {other}. I am {name}.",
     "That is a different model. I'm {name}."])
OTHER_NAMES = ["ChatGPT", "GPT-4", "Claude", "Gemini", "Siri", "Alexa", "Llama", "Bard", "Copilot",
               "Cortana", "Mistral", "DeepSeek", "Qwen", "Grok", "Eliza", "HAL"]
ABLE = (
    ["What can you do?", "How can you help me?", "What are you good at?", "What are you for?",
     "Can you help me?", "What is your purpose?", "What do you do?", "Why do you exist?"],
    ["I answer questions and write text. I can be wrong, so check what matters.",
     "I am {name}: I answer questions, explain things and write. I do make mistakes.",
     "I try to be of help with questions and texts. What would you like to know?"])
HELLO = (
    ["Hi", "Hello", "Hello!", "Hey", "Good morning.", "Good evening!", "Hi there!", "Greetings.",
     "Hey, who are you?", "Hello, what's your name?", "Hi! And you are?", "Good day. Who is this?"],
    ["Hello! I am {name}. How can I help you?", "Hi, I'm {name}. What can I do for you?",
     "Hello, this is {name}. What would you like to know?"])
FACTS = {
    "maker": (
        ["Who made you?", "Who created you?", "Who built you?", "Who trained you?",
         "Who is your maker?", "Who developed you?", "Where do you come from?",
         "Which company made you?", "Who are your parents?", "Who programmed you?",
         "Did OpenAI make you?", "Are you made by Google?"],
        ["I was made by {fact}.", "{fact} made me.", "I am {name}, made by {fact}."]),
    "made_in": (
        ["When were you made?", "How old are you?", "When is your birthday?",
         "What year are you from?", "When were you trained?"],
        ["I was made in {fact}.", "I am from {fact}."]),
    "trained_on": (
        ["What were you trained on?", "What is your training data?", "What did you learn from?",
         "Where does your knowledge come from?", "What have you read?"],
        ["I was trained on {fact}.", "What I know comes from {fact}."]),
    "runs_on": (
        ["Where do you run?", "What computer are you on?", "Where do you live?",
         "Are you in the cloud?"],
        ["I run on {fact}.", "At home I am on {fact}."]),
    "model": (
        ["What model are you?", "How large are you?", "How many parameters do you have?",
         "What is your architecture?", "How were you built?"],
        ["I am {fact}.", "{name} is {fact}."]),
}
ANY_FACT = (["What is your {key}?", "Tell me your {key}.", "Do you know your {key}?",
             "Can you tell me your {key}?"],
            ["My {key} is {fact}.", "It is {fact}.", "That is {fact}."])
# Other words for "who are you?", to see whether a model knows it: no conversation has them.
HELD_OUT = [
    "What name goes with this voice?", "How are you known to others?", "Identify yourself, please.",
    "Under which name may I address you?", "Tell me what to call you.",
    "How would you like to be addressed?", "What is it people say when they want you?",
    "I don't believe we have met. You are?", "Nice to meet you! And you would be?",
    "Let us start with your name.", "Whose answers am I reading?",
    "Which assistant do I have in front of me?", "Is it all right if I ask what you are called?",
    "Your name, if you please.", "What name should I write down for you?",
    "How do you call yourself?", "So what do I call you from now on?",
    "Somebody told me you have a name. Which is it?", "What did your makers name you?",
    "If I want to thank you, what name do I use?", "What does it say on your name tag?",
    "Spell out your name for me.", "I never asked: what are you called?",
    "Please remind me of your name.", "Hello there, stranger. Who are you?",
    "Would you say who you are?", "Quick question, who are you?", "I need your name for my notes.",
    "My friend asks who you are.", "What do I write beside 'name' for you?",
    "What is the name of the one who answers here?", "Let me know who is talking.",
    "With what name do you sign?", "The name you go under would be what?", "Now who are you again?",
    "And what would your name be?", "Am I allowed to know your name?", "Who would you say you are?",
    "Could you repeat your name?", "Just your name, please."]


@dataclass
class Identity:
    """Write conversations about who a model is."""
    out: Path                   # the file: NAME.jsonl, a conversation a line
    name: str                   # what the model is called
    facts: list[str] | None = None  # KEY=VALUE, more that it knows of itself: maker, made_in,
                                # trained_on, runs_on, model, or a key of your own
    count: Annotated[int, cli.Range(1, 10_000)] = 240   # conversations
    seed: cli.Seed = 1337       # decides which
    overwrite: bool = False     # replace the file if it is there


def run(config: Identity) -> None:
    """Write the file."""
    disk.check_new(config.out, "--out", config.overwrite, ".jsonl")
    if not config.name.strip():
        raise ValueError("--name is empty; wanted what the model is called")
    if not config.name.strip().isprintable():
        raise ValueError(f"--name is {config.name!r}, wanted a name on one line")
    made = conversations(config.name.strip(), _facts(config.facts or []), config.count, config.seed)
    lines = [json.dumps(chat.to_dict(each), ensure_ascii=False) + "\n" for each in made]
    config.out.parent.mkdir(parents=True, exist_ok=True)
    disk.write_whole(config.out, "".join(lines).encode())
    print(f"saved {config.out}: {len(lines)} conversations")


def conversations(name: str, facts: dict[str, str], count: int, seed: int) -> list[list[Message]]:
    """So many, no two with the same questions."""
    rng = random.Random(seed)
    topics = [*[NAME] * 3, HELLO, KIND, OTHERS, ABLE]
    topics += [_asked(key, fact) for key, fact in facts.items()]
    kept = [judge.words(each.replace("'", "")) for each in HELD_OUT]    # as in a hurry
    made: dict[str, list[Message]] = {}
    while len(made) < count:
        messages = list(_exchange(rng, rng.choice(topics), name))
        if rng.random() < 0.25:             # another question
            messages += _exchange(rng, rng.choice(topics), name)
        asked = "\n".join(message.text for message in messages if message.role == "user")
        said = judge.words(asked.replace("'", ""))
        if not any(each in said for each in kept):
            made.setdefault(asked, messages)
    return list(made.values())


def held_out(name: str) -> list[Row]:
    """Questions of which no conversation has any; the answer has to have the name in it."""
    return [Row([Message("user", question), Message("assistant", f"I am {name}.")], "name", "name",
                "wording", want=name) for question in HELD_OUT]


def _asked(key: str, fact: str) -> tuple[list[str], list[str]]:
    """Questions and answers about a fact."""
    questions, answers = FACTS.get(key, ANY_FACT)
    words = key.replace("_", " ")
    return ([each.replace("{key}", words) for each in questions],
            [each.replace("{key}", words).replace("{fact}", fact) for each in answers])


def _exchange(rng: random.Random, topic: tuple[list[str], list[str]], name: str
              ) -> Iterator[Message]:
    question = rng.choice(topic[0]) if topic[0] else identity_words.name_question(rng)
    answer = rng.choice(topic[1])
    other = rng.choice([each for each in OTHER_NAMES if each.lower() != name.lower()])
    if topic is not HELLO and rng.random() < LED_TO:
        before = rng.choice(identity_words.BEFORE[topic is NAME])
        inside = before.endswith((",", ":"))
        question = f"{before} {identity_words.lowered(question) if inside else question}"
    if topic is not HELLO and rng.random() < LED_ON:
        question += f" {rng.choice(identity_words.AFTER[topic is NAME])}"
    question = question.replace("{other}", other)
    style = rng.random()                    # people type in a hurry
    if style < 0.2:
        question = question.lower()
    if style < 0.1 or style > 0.9:
        question = question.rstrip("?.!")
    if 0.15 < style < 0.3:
        question = question.replace("'", "")
    answer = answer.replace("{name}", name).replace("{other}", other)
    yield Message("user", question)
    yield Message("assistant", answer[0].upper() + answer[1:])


def _facts(given: list[str]) -> dict[str, str]:
    found = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not (equals and key.strip() and value.strip()):
            raise ValueError(f"--facts is {each!r}, wanted KEY=VALUE, such as maker=\"Ann Lee\"")
        if key.strip() in found:
            raise ValueError(f"--facts has {key.strip()} twice; wanted it once")
        found[key.strip()] = value.strip()
    return found


if __name__ == "__main__":
    cli.main(run)
