"""llmc chat: what a user types, and what is shown of the answers."""
from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from llmc import cli
from llmc.chat import Call, Chat, Manner, manner_of
from llmc.chat_session import Answer, Conversation, Document, Reply
from llmc.checkpoint import Checkpoint, open_checkpoint
from llmc.request import Request
from llmc.terminal import on_ctrl_c, printable

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

TYPED, SOFT = "bold cyan", "dim"
FOLDED = 50                     # characters of a call
LEFT_OUT = {Conversation: "the conversation no longer fits the context; the model does not see its "
                          "oldest turns",
            Document: "the document no longer fits the context; the model does not see its "
                      "beginning"}


def start(config: Chat) -> None:
    """Answer what stands in the arguments or standard input, or talk in the terminal."""
    typing = not config.prompt and sys.stdin.isatty()
    if typing and not sys.stdout.isatty():
        raise ValueError("standard output is no terminal; give a --prompt, or pipe a message in")
    asked = config.prompt or ("" if typing else _piped())
    talk = opened(config)
    if typing:
        Terminal(talk, Path(config.model).name).run()
    else:
        once(talk, asked)


def opened(config: Chat) -> Conversation | Document:
    """The checkpoint, ready to be talked to."""
    if config.base and (config.system is not None or config.template != "auto"):
        name = "system" if config.system is not None else "template"
        raise ValueError(f"--base goes on with a document, which has no turns; leave --{name} out")
    checkpoint = open_checkpoint(config.model, config.device, config.threads, config.dtype)
    request = Request([0], config.max_tokens, config.temperature, config.top_k, config.top_p,
                      config.min_p, seed=config.seed)
    if config.base:
        return Document(checkpoint, request, config.context)
    return Conversation(checkpoint, _manner(config, checkpoint), request, config.context)


def _manner(config: Chat, checkpoint: Checkpoint) -> Manner:
    """As the checkpoint says, and then as the arguments do."""
    manner = manner_of(checkpoint.path, checkpoint.tokenizer)
    if config.template != "auto":
        manner = manner._replace(template=config.template) if manner else Manner(config.template)
    if manner is None:
        raise ValueError(f"{checkpoint.path} is a base model, which knows no conversations; --base "
                         "lets it go on with what you type, llmc sft makes an assistant of it")
    return manner if config.system is None else manner._replace(system=config.system)


def _piped() -> str:
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig").removesuffix("\n")
    except UnicodeDecodeError:
        raise ValueError("standard input is not UTF-8; wanted a text") from None
    if not text.strip():
        raise ValueError("standard input holds no message; type one, or give a --prompt")
    return text


def once(talk: Conversation | Document, text: str) -> None:
    """The answer and nothing else; what there is to say about it goes to standard error."""
    shown = printable if sys.stdout.isatty() else str
    reply = talk.ask(text)
    for news in reply:
        sys.stdout.write(shown(news.text))
        sys.stdout.flush()
    print(flush=True)
    for note in [*[LEFT_OUT[type(talk)]] * reply.left_out, *notes(reply)]:
        print(f"llmc: {printable(note)}", file=sys.stderr)


def notes(reply: Reply, unfolded: bool = False) -> list[str]:
    """What is to be known about how an answer ended; unfolded: with the whole of a call."""
    found = []
    if isinstance(reply, Answer):
        message, empty = reply.message, not reply.message.text.strip()
        if message.call and not reply.cut:
            found.append(called(message.call, unfolded))
        elif empty and not reply.cut:
            found.append("an empty answer")
    elif reply.ended:
        found.append("the document ends here; what comes next is another's beginning")
    if reply.cut == "stopped":
        found.append("stopped")
    elif reply.cut == "length":
        found.append(f"cut after {reply.tokens:,} tokens (--max_tokens)")
    elif reply.cut:
        found.append(f"cut after {reply.tokens:,} tokens: the context is full")
    return found


def called(call: Call, unfolded: bool) -> str:
    """What a model asks of a tool; folded into one line, or whole."""
    text = " ".join(call.text.split())
    if unfolded and text != call.text:
        text = f"\n{call.text}\n"
    elif not unfolded and len(text) > FOLDED:
        text = f"{text[:FOLDED]}…"
    return f"calls {call.tool or 'a tool'}: {text}; no tool is run here"


# ---- what is shown -------------------------------------------------------------------------------


class Page:
    """Text that is written as it comes, broken between words: a word is shown when it is whole."""

    def __init__(self, console: Console):
        self.console, self.column = console, 0
        self._word, self._style = "", ""

    def write(self, text: str, style: str = "") -> None:
        if style != self._style:
            self.flush()
        self._style = style
        *whole, self._word = re.split(r"(\s+)", self._word + printable(text).expandtabs(4))
        for part in whole:
            self._put(part)
        if cell_len(self._word) >= 24:      # a long one, or a script that has no spaces
            self.flush()

    def flush(self) -> None:
        """What was held back."""
        word, self._word = self._word, ""
        self._put(word)

    def end(self) -> None:
        """Whatever follows begins a line."""
        self.flush()
        if self.column:
            self._put("\n")

    def _put(self, part: str) -> None:
        width = cell_len(part)
        if part.isspace():
            if "\n" in part:
                self.column, width = 0, cell_len(part[part.rindex("\n") + 1:])
            elif self.column + width >= self.console.width:
                part, self.column, width = "\n", 0, 0
        elif self.column and self.column + width > self.console.width:
            part, self.column = "\n" + part, 0
        if part:
            self.console.print(Text(part, self._style), end="", soft_wrap=True)
        self.column += width


class Shown:
    """An answer in the terminal, as it grows: until there is a text, that it thinks, and how much;
    or what it thinks, where that is unfolded."""

    def __init__(self, page: Page, unfolded: bool, waits: bool):
        self.page, self.unfolded, self.told = page, unfolded, False
        self.status = page.console.status(Text("reading", SOFT)) if waits else None
        self.thinks = False             # what was written last

    def __enter__(self) -> Shown:
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop_waiting()
        self.page.end()

    def draw(self, reply: Reply, thinking: str, text: str) -> None:
        """What came since the last."""
        if thinking and self.unfolded:
            self._stop_waiting()
            self.page.write(thinking, SOFT)
            self.thinks = True
        elif thinking and self.status:
            self.status.update(Text(f"thinking: {reply.thought} tokens", SOFT))
        elif reply.tokens and self.status and not text:
            self.status.update(Text("writing", SOFT))
        if text:
            self._stop_waiting()
            self.fold(reply)
            self.page.write(text)

    def fold(self, reply: Reply) -> None:
        """Say once how much was thought."""
        if self.thinks:
            self.page.end()
            self.thinks = False
        elif not self.unfolded and isinstance(reply, Answer) and reply.thought and not self.told:
            self._stop_waiting()
            self.page.end()
            self.page.write(f"thought for {reply.thought} tokens\n", SOFT)
        self.told = True

    def _stop_waiting(self) -> None:
        if self.status:
            self.status.stop()
            self.status = None


# ---- what is typed -------------------------------------------------------------------------------


class Command(NamedTuple):
    """What stands behind the name, and what it does; turns: only a conversation has it."""
    argument: str
    help: str
    turns: bool = False


COMMANDS = {
    "system": Command("TEXT", "set the system's message, - for none, and begin anew", True),
    "temp": Command("X", "the temperature; 0: the likeliest answer, higher: more varied"),
    "retry": Command("", "another answer to the last question"),
    "undo": Command("", "take the last question and its answer back"),
    "think": Command("", "show what the model thinks, or fold it again", True),
    "new": Command("", "begin anew"),
    "save": Command("FILE", "write what was said to a file"),
    "load": Command("FILE", "go on with what was saved"),
    "help": Command("", "this list"),
    "quit": Command("", "leave, as Ctrl-D does")}
TYPING = ("Alt-Enter, or \\ at a line's end, begins a line; // at the beginning is a text with one "
          "/; Ctrl-C stops an answer")


class Terminal:
    """A talk in the terminal."""

    def __init__(self, talk: Conversation | Document, name: str):
        self.talk, self.name = talk, name
        self.console = Console(highlight=False)
        self.page = Page(self.console)
        self.unfolded = self.told = False       # thinking; that the beginning is left out
        self.thinking = ""                      # of the last answer
        self.files: set[Path] = set()           # that may be written again
        self.turns = isinstance(talk, Conversation)

    def run(self) -> None:
        """Until the user leaves."""
        self.note(f"{self.name} · {self.talk.context:,} tokens of context"
                  + (f" of {most:,}" if (most := self.talk.checkpoint.config.max_seq_len)
                     > self.talk.context else "") + " · /help lists the commands, Ctrl-D leaves")
        if not self.turns:
            self.note("a document grows here: what you type, and what the model goes on with; "
                      "Enter alone lets it go on, Ctrl-C stops it")
        line = typing(self.commands(), erased=not self.turns)
        while True:
            try:
                text = line.prompt()
            except EOFError:
                return
            except KeyboardInterrupt:
                if not line.default_buffer.text:
                    self.note("Ctrl-D or /quit leaves")
                continue
            if text.strip() == "/quit":
                return
            try:
                with on_ctrl_c(lambda: None):       # while nothing is being answered
                    self.take(text)
            except Exception as error:
                if not cli.is_users(error):
                    raise
                self.note(cli.sentence(error))

    def take(self, text: str) -> None:
        """A command, or something to say."""
        if text.startswith("/") and not text.startswith("//"):
            name, _, argument = text[1:].partition(" ")
            self.command(name.strip(), argument.strip())
            return
        text = text.removeprefix("/") if text.startswith("//") else text
        if self.turns and not text.strip():
            return
        reply = self.talk.ask(text)
        if not self.turns:
            self.page.write(text, TYPED)
            self.page.flush()
        self.show(reply)

    def command(self, name: str, argument: str) -> None:
        """Do it; a ValueError says why not."""
        known = self.commands()
        if name in COMMANDS and f"/{name}" not in known:
            raise ValueError(f"a document has no turns, so /{name} means nothing here")
        if name not in COMMANDS:
            raise ValueError(f"there is no command /{name}{cli.nearest('/' + name, known)} (/help "
                             "lists them; a text that begins with / is sent with // instead)")
        if argument and not COMMANDS[name].argument:
            raise ValueError(f"/{name} takes nothing behind it, and found {argument[:40]!r}")
        if name in ("save", "load") and not argument:
            raise ValueError(f"/{name} wants a file: /{name} FILE")
        getattr(self, f"do_{name}")(argument)

    def commands(self) -> list[str]:
        """Those that this talk has."""
        return [f"/{name}" for name, command in COMMANDS.items() if self.turns or not command.turns]

    def note(self, text: str) -> None:
        """A sentence about the talk."""
        self.page.end()
        self.page.write(f"{text}\n", SOFT)

    def show(self, reply: Reply) -> None:
        """An answer, while it is written."""
        if reply.left_out and not self.told:
            self.note(LEFT_OUT[type(self.talk)])
            self.told = True
        shown = Shown(self.page, self.unfolded, self.turns)
        with _silent(), on_ctrl_c(reply.stop), shown:
            for thinking, text in reply:
                shown.draw(reply, thinking, text)
            if self.turns:
                shown.fold(reply)
        if isinstance(reply, Answer):
            self.thinking = reply.message.thinking
        for note in notes(reply, self.unfolded):
            self.note(note)
        self.page.write("\n")

    # ---- commands ----

    def do_help(self, _: str) -> None:
        for name, (argument, text, turns) in COMMANDS.items():
            if self.turns or not turns:
                self.note(f"  {f'/{name} {argument}':<14} {text}")
        self.note(f"  {TYPING}")

    def do_system(self, text: str) -> None:
        if not text:
            said = self.talk.system
            self.note(f"the system's message: {said}" if said else "there is no system's message")
            return
        self.talk.restart("" if text == "-" else text)
        self._anew("the conversation begins anew")

    def do_new(self, _: str) -> None:
        self.talk.restart(self.talk.system) if self.turns else self.talk.restart()
        self._anew("this is the beginning")

    def do_temp(self, text: str) -> None:
        if text:
            try:
                temperature = float(text)
            except ValueError:
                raise ValueError(f"/temp wants a number, such as 0.7, and found {text!r}") from None
            self.talk.set(temperature=temperature)
        self.note(f"the temperature is {self.talk.request.temperature:g}")

    def do_retry(self, _: str) -> None:
        self.show(self.talk.retry())

    def do_undo(self, _: str) -> None:
        self.talk.undo()
        self._tail("taken back")

    def do_think(self, _: str) -> None:
        self.unfolded = not self.unfolded
        self.note(f"what the model thinks is {'shown' if self.unfolded else 'folded'}")
        if self.unfolded and self.thinking:
            self.page.write(self.thinking.strip(), SOFT)
            self.page.end()

    def do_save(self, text: str) -> None:
        path = Path(text).expanduser()
        if path.exists() and path.resolve() not in self.files:
            raise ValueError(f"{path} is there already; give another name")
        self.talk.save(path)
        self.files.add(path.resolve())
        self.note(f"saved {path}")

    def do_load(self, text: str) -> None:
        path = Path(text).expanduser()
        self.talk.load(path)
        self.files.add(path.resolve())
        self.thinking, self.told = "", False
        self._tail(f"loaded {path}")

    def _anew(self, note: str) -> None:
        self.thinking, self.told = "", False
        self.note(note)

    def _tail(self, note: str) -> None:
        """What was done, and what was said last, or the document's last lines."""
        if isinstance(self.talk, Document):
            end = self.talk.text().splitlines()[-4:]
            said = [("", line) for line in end]
        else:
            said = [("> " * (message.role == "user"), message.text.strip())
                    for message in self.talk.messages[-2:] if message.role in ("user", "assistant")]
        self.note(f"{note}; the end is now:" if said else f"{note}; nothing is said yet")
        for mark, text in said:
            self.page.write(mark, TYPED)
            self.page.write(f"{text}\n")
        self.page.end()


def typing(commands: list[str], erased: bool) -> PromptSession[str]:
    """Where a text is typed; the tab key completes commands. erased: it is gone then, to be shown
    in another way."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.shortcuts import CompleteStyle
    from prompt_toolkit.styles import Style

    return PromptSession([("class:mark", "> ")], multiline=True, prompt_continuation="  ",
                         key_bindings=_keys(), erase_when_done=erased,
                         completer=WordCompleter(commands, sentence=True),
                         complete_while_typing=False, reserve_space_for_menu=0,
                         complete_style=CompleteStyle.READLINE_LIKE,
                         style=Style.from_dict({"mark": "bold ansicyan"}))


def _keys() -> KeyBindings:
    """Enter sends; behind a \\, or with Alt, it begins a line."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event) -> None:
        typed = event.current_buffer
        if typed.document.current_line_before_cursor.endswith("\\"):
            typed.delete_before_cursor()
            typed.insert_text("\n")
        else:
            typed.validate_and_handle()

    @keys.add("escape", "enter")
    def line(event) -> None:
        event.current_buffer.insert_text("\n")

    return keys


@contextmanager
def _silent() -> Iterator[None]:
    """What is typed meanwhile is not shown among the answer; it is there afterwards."""
    import termios

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    silent = termios.tcgetattr(handle)
    silent[3] = silent[3] & ~termios.ECHO | termios.NOFLSH      # Ctrl-C does not drop it
    termios.tcsetattr(handle, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
