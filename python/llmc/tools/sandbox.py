"""Python that a model wrote, run where it can do no harm: a program in, what it printed out.

A held program is alone in namespaces of its own (user, mount, PID, network, IPC, UTS, cgroup):
- files: it sees Python's standard library, to be read, /dev/null, and an empty /tmp that holds
  MOST_FILES bytes; nothing of the user's, no /proc, no /etc, no installed packages;
- no network and no sockets, no other process to see or to signal, no new process or program;
  threads it may start, 32 in all;
- no rights (a user without any, no capability, no_new_privs), and of the kernel's calls those in
  syscalls.py alone;
- memory: the address space (RLIMIT_AS), and what lies in /tmp besides; wall time of each call,
  which this process keeps; processor time of all calls together (RLIMIT_CPU); between calls it
  stands still (SIGSTOP); output is read to its end but kept only in part;
- it ends with `close`, with the time, and with llmc, however that ends.

What is not held: faults of the kernel or the processor that its allowed calls reach; how busy it
keeps its processors within the time; what can be told from timing; the kernel's version and the
size of the machine, which it can ask for.
"""
from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

from llmc.tools import syscalls

JAIL = Path(__file__).with_name("jail.py")
MEMORY = 256 << 20              # bytes of address space
MOST_FILES = 16 << 20           # bytes in its /tmp
CPU_CALLS = 20                  # processor time of a conversation, in calls that use all of theirs
STARTING = 30.0                 # seconds; it takes about 0.1
JUNK = 4096                     # bytes a program may write where only the end of a call is told
UNSAFE = "give --unsafe_tools to run Python without holding it, if you trust what the model writes"


class Sandbox:
    """Python for one conversation: names and files stay from call to call, until `close`.

    The process starts with the first call. A ValueError says why Python cannot be held here."""
    held = True

    def __init__(self, seconds: float = 5.0, memory: int = MEMORY, characters: int = 2000) -> None:
        if self.held and (why := unavailable()):
            raise ValueError(f"{why}; {UNSAFE}")
        self.seconds, self.memory, self.characters = seconds, memory, characters
        self._process: subprocess.Popen[bytes] | None = None
        self._request = self._done = -1

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, code: str) -> str:
        """What a program printed, then the value of its last expression or its error in short; and
        if it had to be stopped, a sentence that says so."""
        text = Output(self.characters)
        try:
            if self._process is None:
                self._start()
            ended = self._exchange(code.encode(errors="replace"), text)
        except ValueError as error:
            return str(error)
        except BaseException:
            self.close()
            raise
        if ended:
            text.add(f"{ended}; variables and files are gone\n".encode(), always=True)
        return text.read()

    def close(self) -> None:
        """End the process and all it started; the next call would start another."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin and process.stdout
        process.stdin.close()               # the watcher's order to end
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()                  # its interpreter gets a signal for that
            process.wait()
        process.stdout.close()
        os.close(self._request)
        os.close(self._done)

    def _start(self) -> None:
        """Start the process and wait until it is held."""
        request, self._request = os.pipe()
        self._done, done = os.pipe()
        machine = syscalls.machine()
        config = {
            "held": self.held, "parent": os.getpid(), "request": request, "done": done,
            "memory": self.memory, "files": MOST_FILES, "cpu": int(CPU_CALLS * self.seconds) + 1,
            "filter": syscalls.build(machine).hex() if self.held else ""}
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(JAIL), json.dumps(config)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
                pass_fds=(request, done), env=kept, cwd="/", start_new_session=True)
        except OSError as error:
            os.close(self._request)
            os.close(self._done)
            raise ValueError(f"Python cannot be started: {error}") from None
        finally:
            os.close(request)
            os.close(done)
        os.set_blocking(self._request, False)
        said = b""
        if select.select([self._done], [], [], STARTING)[0]:
            said = os.read(self._done, JUNK)
        if said != b"ready":
            self.close()
            raise ValueError(f"Python cannot be started: {said.decode(errors='replace') or '?'}")

    def _exchange(self, code: bytes, text: Output) -> str:
        """Send a program and read what comes; empty if it came to its end, else why not."""
        process = self._process
        assert process and process.stdin and process.stdout
        until = time.monotonic() + self.seconds
        call = os.urandom(16)
        left, answer, output = call + len(code).to_bytes(4, "little") + code, b"", process.stdout
        try:
            process.stdin.write(b"c")
            while not answer.endswith(call):
                wait = until - time.monotonic()
                readable, writable, _ = select.select(
                    [self._done, output], [self._request] if left else [], [], max(0, wait))
                if wait <= 0:
                    self.close()
                    return f"stopped after {self.seconds:g} seconds"
                if writable:
                    left = left[os.write(self._request, left[:1 << 16]):]
                if output in readable and not text.take(output.fileno()):
                    return self._ended()
                if self._done in readable:
                    more = os.read(self._done, JUNK)
                    answer = (answer + more)[-2 * JUNK:]
                    if not more or len(answer) > JUNK:
                        return self._ended()
            process.stdin.write(b"s")
        except BrokenPipeError:
            return self._ended()
        while select.select([output], [], [], 0)[0] and text.take(output.fileno()):
            pass                            # what was printed before its end
        return ""

    def _ended(self) -> str:
        """Why it is not there any more, or cannot be spoken to."""
        process = self._process
        assert process
        try:
            code = process.wait(1)
        except subprocess.TimeoutExpired:
            code = None                     # it lives, and has closed or filled what it is heard by
        self.close()
        if code is None:
            return "stopped, for it cannot be heard any more"
        if code == 128 + signal.SIGKILL:
            return "killed, for it took too much memory or processor time"
        if code > 128 and code - 128 in set(signal.Signals):
            return f"the program crashed ({signal.Signals(code - 128).name})"
        return f"the program ended Python (status {code})"


class Unsafe(Sandbox):
    """The same without holding: limits on time and memory alone, in a process of the user's."""
    held = False


class Output:
    """The first and the last of what a program prints, so many characters together."""

    def __init__(self, characters: int) -> None:
        self.characters = characters
        self.head, self.tail, self.count = b"", b"", 0
        self.room = 4 * characters          # bytes that so many characters take at most

    def take(self, fd: int) -> int:
        """Read what is there; how many bytes, 0 at the end."""
        data = os.read(fd, 1 << 16)
        self.add(data)
        return len(data)

    def add(self, data: bytes, always: bool = False) -> None:
        """Keep what has room."""
        if always and self.read() and not (self.tail or self.head).endswith(b"\n"):
            data = b"\n" + data
        self.count += len(data.translate(None, CONTINUED))
        free = self.room - len(self.head)
        self.head += data[:free]
        self.tail = (self.tail + data[free:])[-self.room:]

    def read(self) -> str:
        """The text, with a line in place of what is left out."""
        text = (self.head + self.tail).decode(errors="replace")
        if self.count > self.characters:
            last = min(self.characters // 4, 500)
            first = self.characters - last
            cut = self.count - self.characters
            text = f"{text[:first]}\n[{cut:,} characters cut]\n{text[len(text) - last:]}"
        return text.rstrip("\n")


CONTINUED = bytes(range(0x80, 0xC0))        # in UTF-8, none of them begins a character


@lru_cache(1)
def unavailable() -> str:
    """Why Python cannot be held here, in a sentence; empty where it can. It is tried, once."""
    if not sys.platform.startswith("linux"):
        return f"Python is held by namespaces of Linux, and this is {sys.platform}"
    if not syscalls.machine():
        return f"no filter of system calls is known for this processor ({os.uname().machine})"
    trial = object.__new__(Sandbox)
    trial.seconds, trial.memory, trial.characters, trial._process = STARTING, MEMORY, 1000, None
    with trial:
        said = trial.run("1+1")
    return "" if said == "2" else f"{said} ({cause()})"


def cause() -> str:
    """What most often refuses namespaces, by what the system says of itself."""
    for name, bad in (("kernel/unprivileged_userns_clone", "0"), ("user/max_user_namespaces", "0"),
                      ("kernel/apparmor_restrict_unprivileged_userns", "1")):
        path = Path("/proc/sys", name)
        if path.is_file() and path.read_text().strip() == bad:
            return f"user namespaces are switched off here: {name.replace('/', '.')} = {bad}"
    return "user namespaces are refused here, as in most containers"
