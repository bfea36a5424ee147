"""What a program can do in the sandbox, and what none can."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hostile import HOSTILE

import llmc
from llmc.tools import sandbox, syscalls
from llmc.tools.sandbox import Output, Sandbox, Unsafe, unavailable

WHY = unavailable()
held = pytest.mark.skipif(bool(WHY), reason=f"not run, nothing could hold it: {WHY}")


def jails(parent: int) -> list[int]:
    """Processes of the sandbox that were started by one."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            words = (each / "cmdline").read_bytes().split(b"\0")
            state = (each / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:         # it has ended meanwhile
            continue
        if any(word.endswith(b"jail.py") for word in words) and state != "Z" and \
                f'"parent": {parent},'.encode() in b"".join(words):
            found.append(int(each.name))
    return found


def until(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What a hostile program is after."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret").write_text("the secret")
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server, \
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as victim:
        def listen():
            while True:
                try:
                    heard.append(server.accept())
                except OSError:     # closed
                    return
        threading.Thread(target=listen, daemon=True).start()
        yield folder, heard, {"victim": victim.pid, "folder": folder,
                              "port": server.getsockname()[1]}, victim
        victim.kill()


@held
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_contained_and_the_chat_goes_on(world, name):
    folder, heard, names, victim = world
    code, wanted = HOSTILE[name]
    with Sandbox(seconds=1) as python:
        said = python.run(code.strip().format(**names))
        assert re.search(wanted, said), said
        assert "the secret" not in said
        after = [python.run("40 + 2"), python.run("40 + 2")]
        assert "42" in after, after
    assert sorted(each.name for each in folder.iterdir()) == ["secret"]
    assert victim.poll() is None and not heard
    assert until(lambda: not jails(os.getpid()))


# ---- the kernel's calls --------------------------------------------------------------------------

# by name, with arguments that would succeed, or fail for another reason than that they are refused
CALLS = {"socket": (2, 1, 0), "connect": (0, 0, 0), "bind": (0, 0, 0), "sendmsg": (1, 0, 0),
         "execve": (0, 0, 0), "execveat": (0, 0, 0, 0, 0), "fork": (), "vfork": (),
         "clone": (17, 0, 0, 0, 0), "ptrace": (0, 0, 0, 0), "process_vm_readv": (1, 0, 0, 0, 0, 0),
         "process_vm_writev": (1, 0, 0, 0, 0, 0), "mount": (0, 0, 0, 0, 0), "umount2": (0, 0),
         "unshare": (0x10000000,), "setns": (0, 0), "pivot_root": (0, 0), "chroot": (0,),
         "bpf": (0, 0, 0), "io_uring_setup": (8, 0), "perf_event_open": (0, 0, -1, -1, 0),
         "keyctl": (0, 0, 0, 0, 0), "add_key": (0, 0, 0, 0, 0), "userfaultfd": (0,),
         "memfd_create": (0, 0), "memfd_secret": (0,), "pidfd_open": (1, 0), "pidfd_getfd": (0, 0, 0),
         "open_by_handle_at": (0, 0, 0), "name_to_handle_at": (0, 0, 0, 0, 0), "fsopen": (0, 0),
         "open_tree": (0, 0, 0), "move_mount": (0, 0, 0, 0, 0), "init_module": (0, 0, 0),
         "finit_module": (0, 0, 0), "kexec_load": (0, 0, 0, 0), "reboot": (0, 0, 0, 0),
         "personality": (0,), "seccomp": (0, 0, 0), "setuid": (0,), "setgroups": (0, 0),
         "capset": (0, 0), "sethostname": (0, 0), "syslog": (3, 0, 0), "quotactl": (0, 0, 0, 0),
         "swapon": (0, 0), "shmget": (0, 4096, 0o1600), "msgget": (0, 0o1600),
         "semget": (0, 1, 0o1600), "mq_open": (0, 0, 0, 0), "inotify_init1": (0,),
         "fanotify_init": (0, 0), "mknodat": (0, 0, 0, 0), "chown": (0, 0, 0),
         "fchownat": (0, 0, 0, 0, 0), "setxattr": (0, 0, 0, 0, 0), "acct": (0,),
         "settimeofday": (0, 0), "clock_settime": (0, 0), "adjtimex": (0,), "vmsplice": (0, 0, 0, 0),
         "landlock_create_ruleset": (0, 0, 0), "process_madvise": (0, 0, 0, 0, 0),
         "sched_setscheduler": (0, 0, 0), "setsid": (), "setpgid": (0, 0), "ioperm": (0, 1, 1),
         "iopl": (3,), "modify_ldt": (0, 0, 0), "arch_prctl": (0x1001, 0), "prctl": (4, 1, 0, 0, 0),
         "ioctl": (0, 0x5412, 0)}


@pytest.fixture
def numbers():
    """Of this machine's system calls, by the kernel's headers."""
    done = subprocess.run([os.environ.get("CC", "cc"), "-E", "-dM", "-x", "c", "-"],
                          input="#include <asm/unistd.h>\n", capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("#define __NR_")]
    return {row[1][5:]: int(row[2]) for row in rows if len(row) == 3 and row[2].isdigit()}


@pytest.fixture
def with_ctypes(tmp_path, monkeypatch):
    """A sandbox whose programs may make every call of the C library's, as one that has broken its
    interpreter could."""
    copy = tmp_path / "jail.py"
    text = sandbox.JAIL.read_text()
    assert 'LOADED = (' in text
    copy.write_text(text.replace('LOADED = (', 'LOADED = ("_ctypes", '))
    monkeypatch.setattr(sandbox, "JAIL", copy)


@held
def test_the_kernel_refuses_every_call_that_is_not_in_the_tables(numbers, with_ctypes):
    calls = {name: (numbers[name], *arguments) for name, arguments in CALLS.items()
             if name in numbers}
    assert len(calls) > 50
    with Sandbox() as python:
        python.run("import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)")
        said = python.run("import json\n"
                          f"calls = json.loads({json.dumps(calls)!r})\n"
                          "for name, call in calls.items():\n"
                          "    ctypes.set_errno(0)\n"
                          "    result = libc.syscall(*map(ctypes.c_long, call))\n"
                          "    if (result, ctypes.get_errno()) != (-1, 1): print(name, result)\n")
        assert said == ""
        assert python.run(f"libc.syscall({numbers['clone3']}, 0, 0), ctypes.get_errno()") == "(-1, 38)"
        assert python.run(f"libc.syscall({numbers['getpid']})") == "1"
        # new namespaces by a thread's flags, and another architecture's calls
        flags = syscalls.THREAD | 0x10000000
        assert python.run(f"libc.syscall({numbers['clone']}, {flags}, 0, 0, 0, 0)") == "-1"
        if syscalls.machine() == "x86_64":
            assert "SIGSYS" in python.run(f"libc.syscall({syscalls.X32 | numbers['getpid']})")


@held
def test_a_program_with_the_c_library_has_no_rights_and_nobody_to_trace(world, with_ctypes):
    with Sandbox() as python:
        said = python.run("import ctypes, os\nlibc = ctypes.CDLL(None)\n"
                          f"print(libc.ptrace(16, {world[2]['victim']}, 0, 0), libc.unshare(1 << 28),\n"
                          "      libc.mount(b'none', b'/tmp', b'tmpfs', 0, b''), libc.chroot(b'/tmp'),\n"
                          "      libc.prctl(39, 0, 0, 0, 0), os.getresuid())")
    assert said == "-1 -1 -1 -1 -1 (1000, 1000, 1000)"


# ---- what a program may --------------------------------------------------------------------------

@held
def test_a_program_prints_computes_and_keeps_its_names():
    with Sandbox() as python:
        assert python.run("x = 41\nprint('one')\nx + 1") == "one\n42"
        assert python.run("def f(): return x\nf()") == "41"
        assert python.run("import json, math, random, datetime, re, decimal, fractions, statistics, "
                          "itertools, collections, sqlite3, zlib, asyncio\nmath.sqrt(16)") == "4.0"
        assert python.run("async def g(): return 7\nasyncio.run(g())") == "7"
        assert python.run("open('a', 'w').write('text'); open('a').read()") == "'text'"
        assert python.run("'strawberry'.count('r')") == "3"
        assert python.run("") == "" and python.run("None") == ""
        assert python.run("'é\\ud800'.encode('utf8', 'replace').decode()") == "'é?'"


@held
def test_an_error_is_told_in_short_with_its_line():
    with Sandbox() as python:
        assert python.run("1/0") == "ZeroDivisionError: division by zero"
        assert python.run("x = 1\n\ny = x / 0") == "ZeroDivisionError: division by zero (line 3)"
        assert python.run("a = 1\nb = (2").startswith("SyntaxError: '(' was never closed (line 2)")
        assert python.run("input()").startswith("EOFError")
        assert python.run("a\0b").startswith(("SyntaxError", "ValueError"))
        assert python.run("import sys\nsys.exit(3)") == ""


@held
def test_a_new_conversation_has_nothing_of_another():
    with Sandbox() as one, Sandbox() as other:
        assert one.run("x = 1\nopen('/tmp/a', 'w').write('a')") == "1"
        assert other.run("x") == "NameError: name 'x' is not defined"
        assert other.run("import os; os.listdir('/tmp')") == "[]"
        one.close()
        assert one.run("x").startswith("NameError") and one.run("import os; os.listdir()") == "[]"


@held
def test_it_stands_still_between_calls():
    with Sandbox() as python:
        python.run("import threading, time\nn = 0\n"
                   "def count():\n    global n\n    while True:\n        n += 1\n        time.sleep(0.001)\n"
                   "threading.Thread(target=count, daemon=True).start()")
        first = int(python.run("print(n)"))
        time.sleep(0.5)
        assert int(python.run("print(n)")) - first < 100
        assert int(python.run("time.sleep(0.3); print(n)")) - first > 100


@held
def test_it_lives_when_the_thread_that_began_it_has_ended():
    python, said = Sandbox(), []
    thread = threading.Thread(target=lambda: said.append(python.run("x = 1; x")))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert said == ["1"] and python.run("x + 1") == "2"
    python.close()


@held
def test_all_its_calls_together_have_a_time_of_the_processor(monkeypatch):
    monkeypatch.setattr(sandbox, "CPU_CALLS", 0.1)
    busy = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    with Sandbox(seconds=10) as python:
        said = [python.run(busy) for _ in range(6)]
    assert any("too much memory or processor time" in each for each in said)


@held
def test_one_that_runs_as_another_user_is_held_as_well():
    if os.geteuid():
        pytest.skip("only root may run as another user")
    nobody = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/", "capture_output": True,
              "env": {"PYTHONPATH": str(Path(llmc.__file__).parents[1])}}

    def reached(python: str) -> bool:
        try:
            return not subprocess.run([python, "-c", "import llmc.tools.sandbox"], **nobody).returncode
        except OSError:
            return False
    python = next(filter(reached, (sys.executable, "/usr/bin/python3")), None)
    if python is None:
        pytest.skip("another user cannot read these files")
    done = subprocess.run(
        [python, "-c", "from llmc.tools.sandbox import *\nprint(unavailable())\n"
         "with Sandbox(seconds=1) as p:\n"
         "    print(p.run('import os; os.getuid(), os.listdir(\"/\")'))\n"
         "    print(p.run('os.killpg(0, 9); print(1)'), p.run('40 + 2'))"], text=True, **nobody)
    lines = done.stdout.splitlines()
    assert lines[0] == "" and lines[1].startswith("(1000, [") and lines[2] == "1 42", done


# ---- its end -------------------------------------------------------------------------------------

@held
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_llmc_ends_and_none_of_its_processes_is_left(sent):
    code = ("import sys; from llmc.tools.sandbox import Sandbox\n"
            "p = Sandbox(seconds=100); print(p.run('1'), flush=True)\n"
            "p.run('while True: pass')")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"1\n"
        assert len(jails(process.pid)) == 2         # the watcher, and who runs the program
        process.send_signal(sent)
        process.wait()
    assert until(lambda: not jails(process.pid))


@held
def test_a_killed_watcher_takes_the_program_with_it():
    with Sandbox() as python:
        assert python.run("1") == "1"
        os.kill(python._process.pid, signal.SIGKILL)
        assert until(lambda: not jails(os.getpid()))
        assert "variables and files are gone" in python.run("1")
        assert python.run("1") == "1"


@held
def test_many_at_once():
    said: list[str] = []

    def talk(i: int) -> None:
        with Sandbox() as python:
            python.run(f"x = {i}")
            said.append(python.run("x") + "." + python.run("print(x)"))
    threads = [threading.Thread(target=talk, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == sorted(f"{i}.{i}" for i in range(16))
    assert until(lambda: not jails(os.getpid()))


# ---- where nothing holds -------------------------------------------------------------------------

def test_where_it_cannot_be_held_it_is_refused_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr(sandbox, "unavailable", lambda: "user namespaces are refused here")
    with pytest.raises(ValueError, match="user namespaces are refused here; give --unsafe_tools"):
        Sandbox()


def test_a_trial_that_fails_tells_what_failed(monkeypatch, tmp_path):
    jail = tmp_path / "jail.py"
    jail.write_text(sandbox.JAIL.read_text().replace("NEW_USERS, NEW_PIDS = 0x20000, 0x10000000",
                                                     "NEW_USERS, NEW_PIDS = 0x20000, 0x10001"))
    monkeypatch.setattr(sandbox, "JAIL", jail)
    unavailable.cache_clear()
    try:
        said = unavailable()
    finally:
        unavailable.cache_clear()
    assert "new namespaces: " in said and "user namespaces" in said


def test_without_holding_it_runs_with_limits_alone():
    with Unsafe(seconds=1) as python:
        assert python.run("x = 41\nx + 1") == "42" and python.run("x") == "41"
        assert python.run("x = bytearray(10**9)").startswith("MemoryError")
        assert python.run("while True: pass").startswith("stopped after 1 seconds")
        assert python.run("x").startswith("NameError")
    assert until(lambda: not jails(os.getpid()))


@pytest.mark.parametrize("pieces", [[b"x" * 5000], [b"x"] * 5000, [b"ab\n" * 700, b"end" * 900],
                                    ["é".encode() * 4000], [b"\xff" * 5000]])
def test_output_keeps_the_first_and_the_last_and_says_what_is_cut(pieces):
    output = Output(1000)
    for piece in pieces:
        output.add(piece)
    text, whole = output.read(), b"".join(pieces).decode(errors="replace")
    cut, = re.findall(r"\n\[([\d,]+) characters cut\]\n", text)
    assert int(cut.replace(",", "")) == len(whole) - 1000
    assert text.startswith(whole[:750]) and text.endswith(whole[-250:].rstrip("\n"))
    assert len(output.head) + len(output.tail) <= 8 * 1000


@held
def test_endless_output_takes_no_memory_here():
    import resource
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Sandbox(seconds=2) as python:
        said = python.run("import os\nwhile True: os.write(1, b'x' * 60000)")
    assert len(said) < 2200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10      # KiB
