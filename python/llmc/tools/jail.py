"""The process in which sandbox.py runs Python: a watcher, and behind it the program's interpreter.

This file is a program of its own, run with no package of the user's. The watcher stays outside
and ends the interpreter when llmc ends or says so. The interpreter enters new namespaces
(namespaces(7), pivot_root(2)), gives up every right, and then runs what it is sent:
16 bytes that stand for the call, 4 bytes of length, and the code; what it prints goes to the
output, and the 16 bytes come back when it is done.
"""
from __future__ import annotations

import ast
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import sys
import types
from typing import Any

# these come with libraries of the system, which the program's file system has not
LOADED = ("_decimal", "_hashlib", "_sqlite3", "_uuid", "bz2", "lzma", "math", "pyexpat", "zlib")
PLACE = "/tmp"                  # where the new root is made, and in it, where programs may write
USER, NOBODY = 1000, 65534      # whom the program believes to be; whom it is, started by root
FILES, PROCESSES, OPEN = 1000, 32, 64

# sched.h, sys/mount.h, sys/prctl.h, linux/capability.h
NEW_MOUNTS, NEW_USERS, NEW_PIDS = 0x20000, 0x10000000, 0x20000000
NEW_OTHERS = 0x02000000 | 0x04000000 | 0x08000000 | 0x40000000      # cgroup, uts, ipc, net
READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS, REMOUNT = 1, 2, 4, 8, 32
BIND, RECURSIVE, PRIVATE, DETACH = 4096, 16384, 1 << 18, 2
DEATH_SIGNAL, DUMPABLE, SECCOMP, BOUNDING_DROP, NO_NEW_PRIVILEGES = 1, 4, 22, 24, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPABILITIES = 0x20080522       # the version of capset's arguments

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    config = json.loads(sys.argv[1])
    parent = watched(config["parent"])
    for name in LOADED:
        try:
            importlib.import_module(name)
        except ImportError:     # a Python built without it
            continue
    try:
        if config["held"]:
            separate()
        watcher = watched(os.getpid())
        child = os.fork()
        if not child:
            interpreter(config, watcher)
    except OSError as error:
        os.write(config["done"], sentence(error))
        os._exit(1)
    for fd in (1, 2, config["request"], config["done"]):
        os.close(fd)            # the interpreter's alone, so that they end with it
    status = watch(child, parent)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def sentence(error: OSError) -> bytes:
    return f"{error.filename}: {error.strerror}".encode()


def watched(pid: int) -> int:
    """A descriptor that can be read once a process has ended; -1 where there is no such thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


# ---- the watcher ---------------------------------------------------------------------------------

def watch(child: int, parent: int) -> int:
    """Obey: s stops the interpreter, c lets it go on; the end of orders, or of the parent, is its
    end. Its status, once none of its processes is left."""
    ended = watched(child)
    poll = select.poll()
    for fd in (0, parent, ended):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    orders = {b"s": signal.SIGSTOP, b"c": signal.SIGCONT}
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        for fd, _ in poll.poll(None if ended >= 0 else 50):
            if fd == ended:
                continue
            order = os.read(0, 1) if fd == 0 else b""
            if order in orders:
                os.kill(child, orders[order])
            else:               # of a PID namespace, all die with the first
                os.kill(child, signal.SIGKILL)
                return os.waitpid(child, 0)[1]


def separate() -> None:
    """Enter new namespaces; a process outside, which has the right, says who is who in them."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")      # where memory runs out, this goes first
    ready, go = os.pipe()
    user, group, me = os.geteuid(), os.getegid(), os.getpid()
    helper = os.fork()
    if not helper:
        os.close(go)
        if os.read(ready, 1):
            os._exit(name_users(me, user, group))
        os._exit(1)
    os.close(ready)
    try:
        check(libc.unshare(NEW_USERS | NEW_PIDS | NEW_MOUNTS | NEW_OTHERS), "new namespaces")
        os.write(go, b"1")
    finally:
        os.close(go)
        failed = os.waitpid(helper, 0)[1]
    if failed:
        raise OSError(0, "no users could be named in it", "new namespaces")


def name_users(pid: int, user: int, group: int) -> int:
    """Root's programs run as nobody's, others as their user's. The exit status of the helper."""
    own = (f"{USER} {user} 1", f"{USER} {group} 1")
    maps = [(f"0 0 1\n{USER} {NOBODY} 1",) * 2, own] if user == 0 else [own]
    for users, groups in maps:
        try:
            write(f"/proc/{pid}/uid_map", users)
            write(f"/proc/{pid}/setgroups", "allow" if users != own[0] else "deny")
            write(f"/proc/{pid}/gid_map", groups)
        except OSError:         # in some containers, root has no nobody
            continue
        return 0
    return 1


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


# ---- the interpreter -----------------------------------------------------------------------------

def interpreter(config: dict[str, Any], watcher: int) -> None:
    """In the child: never returns."""
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)     # no orders from here on
        os.close(nothing)
        if config["held"]:
            os.setsid()         # no group of processes that is the watcher's, too
            file_system(sys.path, config["files"])
            give_up_rights(watcher)
        limit(config)
        if config["held"]:
            refuse_calls(bytes.fromhex(config["filter"]))
        os.write(config["done"], b"ready")
    except OSError as error:
        os.write(config["done"], sentence(error))
        os._exit(1)
    try:
        serve(config["request"], config["done"])
    finally:
        os._exit(1)


def file_system(paths: list[str], size: int) -> None:
    """A root of its own: the standard library, to be read; /dev/null; and an empty /tmp of a size
    in bytes."""
    sources = {path: os.path.realpath(path) for path in paths if os.path.isdir(path)}
    library = os.path.dirname(os.path.realpath(os.__file__))
    mount("none", "/", "", RECURSIVE | PRIVATE)
    mount("none", PLACE, "tmpfs", NO_SETUID | NO_DEVICES, "size=64k,nr_inodes=200,mode=755")
    os.mkdir(f"{PLACE}/old")
    pivot = PIVOT_ROOT[os.uname().machine]
    check(libc.syscall(pivot, PLACE.encode(), f"{PLACE}/old".encode()), "pivot_root")
    os.chdir("/")
    for path, source in sources.items():
        if not os.path.isdir(path):
            os.makedirs(path)
            bind(f"/old{source}", path)
    for name in ("site-packages", "dist-packages"):
        if os.path.isdir(f"{library}/{name}"):
            mount("none", f"{library}/{name}", "tmpfs", READ_ONLY, "size=4k,nr_inodes=1")
    os.mkdir("/dev")
    write("/dev/null", "")
    mount("/old/dev/null", "/dev/null", "", BIND)
    os.makedirs("/tmp", exist_ok=True)
    mount("none", "/tmp", "tmpfs", NO_SETUID | NO_DEVICES | NO_PROGRAMS,
          f"size={size},nr_inodes={FILES},mode=700,uid={USER},gid={USER}")
    check(libc.umount2(b"/old", DETACH), "umount")
    os.rmdir("/old")
    mount("none", "/", "", REMOUNT | BIND | READ_ONLY | NO_SETUID | NO_DEVICES | NO_PROGRAMS)
    os.chdir("/tmp")
    check(libc.sethostname(b"sandbox", 7), "sethostname")


def bind(source: str, path: str) -> None:
    """Show a directory, to be read alone."""
    mount(source, path, "", BIND | RECURSIVE)
    kept = os.statvfs(path).f_flag & NO_PROGRAMS        # its owner's flag, which stays
    mount("none", path, "", REMOUNT | BIND | READ_ONLY | NO_SETUID | NO_DEVICES | kept)


def mount(source: str, path: str, kind: str, flags: int, options: str = "") -> None:
    check(libc.mount(source.encode(), path.encode(), kind.encode(), ctypes.c_ulong(flags),
                     options.encode()), f"mount {path}")


def give_up_rights(watcher: int) -> None:
    """No capability, no way to one; an end when the watcher ends; no picture of its memory."""
    if os.geteuid() == 0:
        os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    for capability in range(64):
        libc.prctl(BOUNDING_DROP, capability, 0, 0, 0)  # the last of them differs by kernel
    header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    for option, value in ((NO_NEW_PRIVILEGES, 1), (DUMPABLE, 0), (DEATH_SIGNAL, signal.SIGKILL)):
        check(libc.prctl(option, int(value), 0, 0, 0), "prctl")
    if watcher >= 0:
        if select.select([watcher], [], [], 0)[0]:
            os._exit(1)         # it has ended before it could be watched
        os.close(watcher)


def limit(config: dict[str, Any]) -> None:
    """What a process may take at most; nobody can raise it again. Bytes, seconds, counts."""
    limits = {"AS": config["memory"], "FSIZE": config["files"], "CPU": config["cpu"], "CORE": 0,
              "NOFILE": OPEN}
    if config["held"]:          # elsewhere, processes are counted with all others of the user
        limits |= {"NPROC": PROCESSES, "MEMLOCK": 0, "MSGQUEUE": 0, "SIGPENDING": 64, "NICE": 0,
                   "RTPRIO": 0}
    for name, most in limits.items():
        which = getattr(resource, f"RLIMIT_{name}", None)
        if which is None:
            continue
        try:
            resource.setrlimit(which, (most, most))
        except ValueError as error:         # so it calls what the system refuses
            if config["held"]:
                raise OSError(0, str(error), f"setrlimit {name}") from None


def refuse_calls(code: bytes) -> None:
    """Have the kernel run the filter before each system call from here on (seccomp(2))."""
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    held = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(held))
    check(libc.prctl(SECCOMP, 2, ctypes.byref(program), 0, 0), "seccomp")


def check(result: int, what: str) -> None:
    """An OSError with the system's reason, where a call of the C library failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


# ---- running what comes --------------------------------------------------------------------------

def serve(request: int, done: int) -> None:
    """Run one code after another in the same names, until there are no more."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.dont_write_bytecode = True
    sys.argv = [""]
    os.environ.clear()
    os.environ["HOME"] = PLACE
    while True:
        call, size = receive(request, 16), receive(request, 4)
        code = receive(request, int.from_bytes(size, "little")).decode()
        out = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1,
                   closefd=False)
        sys.stdout = sys.stderr = out
        run(code, module.__dict__)
        if not out.closed:
            out.flush()
        os.write(done, call)


def receive(request: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(request, size - len(data))
        if not more:
            os._exit(0)
        data += more
    return data


def run(code: str, names: dict[str, Any]) -> None:
    """Run it as a notebook does: a last expression's value is printed, unless it is None."""
    try:
        tree = ast.parse(code, "<python>")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<python>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<python>", "eval"), names)
            if value is not None:
                print(repr(value))
    except SystemExit:
        return                  # a program may end so; its names stay
    except BaseException as error:
        print(in_short(error, "\n" in code.strip()), file=sys.stderr)


def in_short(error: BaseException, lines: bool) -> str:
    """What it is, as Python says it, and in a program of several lines where."""
    kind = type(error)
    name = kind.__name__ if kind.__module__ in ("builtins", "__main__") else \
        f"{kind.__module__}.{kind.__name__}"
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except BaseException:       # its own __str__ fails
        text = ""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<python>":
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f" (line {line})" if lines and isinstance(line, int) else ""
    return (f"{name}: {text}" if text else name) + where


if __name__ == "__main__":
    main()
