"""llmc chat: what a user types, and what is shown of the answers."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from llmc import chat_tools, cli
from llmc.chat import Call, Chat, Manner, manner_of
from llmc.chat_session import Answer, Conversation, Document, Reply
from llmc.chat_shown import SOFT, Page, Shown, called, notes
from llmc.checkpoint import Checkpoint, open_checkpoint
from llmc.request import Request
from llmc.terminal import on_ctrl_c, printable

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

TYPED = "bold cyan"
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
    talk, told = opened(config)
    try:
        if typing:
            Terminal(talk, Path(config.model).name, told).run()
        else:
            once(talk, asked, told)
    finally:
        if isinstance(talk, Conversation):
            talk.toolbox.close()


def opened(config: Chat) -> tuple[Conversation | Document, list[str]]:
    """The checkpoint, ready to be talked to, and what is to be known about it."""
    unset = {"system": None, "template": "auto", "tools": None, "search": None, "tools_file": None,
             "unsafe_tools": False}
    for name, value in unset.items():
        if config.base and getattr(config, name) != value:
            raise ValueError("--base goes on with a document, which has no turns; leave "
                             f"--{name} out")
    checkpoint = open_checkpoint(config.model, config.device, config.threads, config.dtype)
    request = Request([0], config.max_tokens, config.temperature, config.top_k, config.top_p,
                      config.min_p, seed=config.seed)
    if config.base:
        return Document(checkpoint, request, config.context), []
    manner = _manner(config, checkpoint)
    context = config.context or checkpoint.config.max_seq_len
    hands = chat_tools.hands(replace(config, context=context), manner)
    return Conversation(checkpoint, manner, request, config.context, hands.toolbox,
                        hands.described), hands.notes


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


def once(talk: Conversation | Document, text: str, told: list[str]) -> None:
    """The answer and nothing else; what there is to say about it goes to standard error."""
    shown = printable if sys.stdout.isatty() else str
    reply, said, calls = talk.ask(text), "", [*told]
    for news in reply:
        calls += [called(*each, unfolded=False) for each in news.calls]
        if news.calls and said and not said.endswith("\n"):
            print()
        said = news.text or said
        sys.stdout.write(shown(news.text))
        sys.stdout.flush()
    print(flush=True)
    for note in [*calls, *[LEFT_OUT[type(talk)]] * reply.left_out, *notes(reply)]:
        print(f"llmc: {printable(note)}", file=sys.stderr)


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
    "tools": Command("", "show calls of tools whole, or fold them again", True),
    "new": Command("", "begin anew"),
    "save": Command("FILE", "write what was said to a file"),
    "load": Command("FILE", "go on with what was saved"),
    "help": Command("", "this list"),
    "quit": Command("", "leave, as Ctrl-D does")}
TYPING = ("Alt-Enter, or \\ at a line's end, begins a line; // at the beginning is a text with one "
          "/; Ctrl-C stops an answer")


class Terminal:
    """A talk in the terminal."""

    def __init__(self, talk: Conversation | Document, name: str, told: list[str]):
        self.talk, self.name, self.notes = talk, name, told
        self.console = Console(highlight=False)
        self.page = Page(self.console)
        self.unfolded = self.whole = False      # thinking; calls
        self.told = False                       # that the beginning is left out
        self.thinking = ""                      # of the last answer, as are its calls
        self.calls: list[tuple[Call, str]] = []
        self.files: set[Path] = set()           # that may be written again
        self.turns = isinstance(talk, Conversation)

    def run(self) -> None:
        """Until the user leaves."""
        self.note(f"{self.name} · {self.talk.context:,} tokens of context"
                  + (f" of {most:,}" if (most := self.talk.checkpoint.config.max_seq_len)
                     > self.talk.context else "") + " · /help lists the commands, Ctrl-D leaves")
        if self.turns and self.talk.toolbox.tools:
            self.note(f"it may call {', '.join(self.talk.toolbox.tools)}")
        for note in self.notes:
            self.note(note)
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
        shown = Shown(self.page, self.unfolded, self.whole, self.turns)
        with _silent(), on_ctrl_c(reply.stop), shown:
            for news in reply:
                shown.draw(reply, news)
            if self.turns:
                shown.fold(reply)
        if isinstance(reply, Answer):
            self.thinking, self.calls = reply.message.thinking, reply.turn.answered
        for note in notes(reply):
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

    def do_tools(self, _: str) -> None:
        self.whole = not self.whole
        self.note(f"calls of tools are {'shown' if self.whole else 'folded'}")
        for call, output in self.calls * self.whole:
            self.note(called(call, output, True))

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
        self.thinking, self.calls, self.told = "", [], False
        self._tail(f"loaded {path}")

    def _anew(self, note: str) -> None:
        self.thinking, self.calls, self.told = "", [], False
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
