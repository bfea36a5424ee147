"""What an exported model says of conversations, so that other programs chat with it as llmc does:
its template in Jinja, the tokens that end a turn, and a README.md."""
from __future__ import annotations

import re
from dataclasses import replace
from textwrap import fill

from llmc import chat
from llmc.chat import Manner, Message
from llmc.chat_jinja import source
from llmc.chat_templates import TEMPLATES
from llmc.hugging_face import missing_texts
from llmc.hugging_face_config import architecture
from llmc.model_files import (GENERATION, TEMPLATE, TOKENIZER, TOKENIZER_CONFIG, ModelFiles,
                              as_json, chat_template, settings, token_ids)
from llmc.tokenizer import Tokenizer, from_json

README = "README.md"
MADE = "<!-- made by llmc convert -->"      # in each README.md that may be replaced
EXAMPLE = [Message("user", "Hi."), Message("assistant", "Hello!"), Message("user", "Who are you?")]
FAMILIES = {"gpt2": "GPT-2's", "llama": "Llama's", "qwen2": "Qwen 2's", "qwen3": "Qwen 3's"}
PAGE = """---
library_name: transformers
pipeline_tag: text-generation
---
{made}
# {name}

{about}

## Chat

In this folder, with transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
messages = [{{"role": "user", "content": "Who are you?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True,
                                       return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens={most})
print(tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```

`llmc convert` makes a checkpoint of llmc of it again.

## Prompt format

{fence}text
{shown}
{fence}

{roles}

`chat_template.jinja` gives the token ids of llmc's own rendering for texts without special strings
only. A text that holds {first} forges the end of a turn there, and llmc renders it as text; so take
the names of special tokens out of what others write, or have the tokenizer do it where transformers
knows `apply_chat_template(..., sanitize_control_tokens=True)`.
"""


def with_manner(model: ModelFiles) -> ModelFiles:
    """The model with these texts; as it is where it is a base model, and where it came with a
    template of its own and no chat.json says otherwise."""
    own = chat.SETTINGS in model.texts
    if TOKENIZER not in model.texts or chat_template(model.texts) and not own:
        return model
    where = f"{model.name}: {TOKENIZER}"
    tokenizer = from_json(model.texts[TOKENIZER], where, where)
    if not own:
        manner = chat.manner_by(tokenizer)
    else:
        manner = chat.parse_manner(model.texts[chat.SETTINGS], f"{model.name}: {chat.SETTINGS}")
    if manner is None:
        return model
    form = TEMPLATES[manner.template]
    if missing := form.marks - tokenizer.special.keys():
        raise ValueError(f"{where} has no special token {min(missing)}, which the template "
                         f"{manner.template} of its {chat.SETTINGS} writes; give the tokenizer "
                         f"that the model was trained with, or remove {chat.SETTINGS}")
    texts = missing_texts(model) | model.texts
    stops = [tokenizer.special[name] for name in form.stops if name in tokenizer.special]
    ends = dict.fromkeys([*stops, *token_ids(texts, "eos_token_id"), tokenizer.eot])
    about = settings(texts, TOKENIZER_CONFIG) | {"eos_token": form.stops[0]}
    about.pop("chat_template", None)            # the file takes its place
    if tokenizer.eot is not None:
        about.setdefault("pad_token", tokenizer.special_names[tokenizer.eot])
    return replace(model, texts=texts | {
        TEMPLATE: source(manner.template, manner.system).encode("utf-8", "replace"),
        GENERATION: as_json(settings(texts, GENERATION)
                            | {"eos_token_id": [id for id in ends if id is not None]}),
        TOKENIZER_CONFIG: as_json(about),
        README: readme(model, manner, tokenizer, own).encode("utf-8", "replace"),
    })


def readme(model: ModelFiles, manner: Manner, tokenizer: Tokenizer, taught: bool) -> str:
    """What a folder's README.md says. taught: a chat.json tells the manner, and not the tokenizer
    alone."""
    config, form = model.config, TEMPLATES[manner.template]
    family = FAMILIES[architecture(config.to_dict())]
    begin = [Message("system", manner.system)] * bool(manner.system.strip())
    shown = "".join(piece.text for piece in
                    [*form.pieces(begin + EXAMPLE), *form.answer(EXAMPLE[-1])])
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    system = ("Where a conversation has no system message, the template puts the one above."
              if begin else "A system message, where there is one, comes first in the same form.")
    about = (f"A language model of {config.param_count():,} parameters in {family} architecture, "
             f"with a context of {config.max_seq_len:,} tokens, exported by llmc. It is spoken to "
             f"in the format `{manner.template}`.")
    if not taught:
        about += (" Its tokenizer has the special tokens of this format; whether it was taught to "
                  "answer, nothing here says: it may be a base model.")
    first, *others = [f"`{name}`" for name in form.stops if name in tokenizer.special]
    thinks = any("think" in name for name in form.tokens)
    thinking = "What it thinks is given as `reasoning_content` or `thinking`, a" if thinks else "A"
    calls = f"; {', '.join(others)} where it waits for a tool's output" if others else ""
    roles = (f"{system} Roles are system, user, assistant and tool. The model ends its turn with "
             f"{first}{calls}: `eos_token_id` in `generation_config.json` lists these. {thinking} "
             "call of a tool stands in `tool_calls`, one a message.")
    return PAGE.format(made=MADE, name=model.name, about=fill(about, 100), fence=fence, shown=shown,
                       most=min(200, config.max_seq_len // 2), roles=fill(roles, 100), first=first)
