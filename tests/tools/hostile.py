"""Programs that try to do harm, and what is to be seen of each: a pattern in its output.

{victim} is a process, {folder} a folder with a file `secret`, {port} a port on this machine where
somebody listens. None would do lasting harm if nothing held it: each takes a little of what a
worse one would take without end.
"""

STOPPED = r"stopped after 1 seconds; variables and files are gone"
REFUSED = r"(PermissionError|Operation not permitted)"
NOT_THERE = r"FileNotFoundError"
FULL = r"No space left on device"

HOSTILE: dict[str, tuple[str, str]] = {
    # ---- processes ----
    "fork bomb": ("""
import os, time
for _ in range(200):
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)""", REFUSED),
    "child that survives": ("""
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(5)""", REFUSED),
    "processes of multiprocessing": ("""
import multiprocessing
multiprocessing.Process(target=print).start()""", REFUSED),
    "threads without end": ("""
import threading, time
for _ in range(200):
    threading.Thread(target=time.sleep, args=(3,), daemon=True).start()""", r"can't start new thread"),
    "exec": ("import os; os.execv('/bin/sh', ['sh'])", REFUSED),
    "exec of a file in memory": ("import os; os.memfd_create('program')", REFUSED),
    "exec of a file it wrote": ("""
import os
with open('/tmp/program', 'w') as f: f.write('#!/bin/sh')
os.chmod('/tmp/program', 0o755)
os.execv('/tmp/program', ['program'])""", REFUSED),
    "shell": ("import os; print(os.system('touch {folder}/written'))", r"^(?!0$)"),
    "subprocess": ("import subprocess; subprocess.run(['/bin/ls'])", rf"{REFUSED}|{NOT_THERE}"),
    "spawn": ("import os; os.posix_spawn('/bin/ls', ['ls'], {{}})", rf"{REFUSED}|{NOT_THERE}"),
    "library it wrote": ("""
import glob, shutil, sys
found = [f for path in sys.path for f in glob.glob(path + '/_bisect*.so') + glob.glob(path + '/_*.so')]
sys.path.insert(0, '/tmp')
name = found[0].split('/')[-1].split('.')[0]
shutil.copy(found[0], '/tmp/' + found[0].split('/')[-1])
sys.modules.pop(name, None)
__import__(name)
""", r"ImportError: .*failed to map|IndexError"),

    # ---- signals ----
    "signal to another process": ("import os; os.kill({victim}, 9)", r"ProcessLookupError"),
    "signal to the parent": ("import os; os.kill(os.getppid(), 9); print('here')", r"here"),
    "signal to its group": ("import os; os.killpg(0, 9); print('here')", r"here"),
    "signal to all": ("import os; os.kill(-1, 9)", r"ProcessLookupError|^$"),
    "signals ignored": ("""
import signal
for each in range(1, 65):
    try: signal.signal(each, signal.SIG_IGN)
    except (OSError, ValueError): continue
while True: pass""", STOPPED),
    "stopping itself": ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP); print('here')",
                        r"here|stopped"),
    "ptrace by a library": ("import ctypes; print(ctypes.CDLL(None).ptrace(16, {victim}, 0, 0))",
                            r"ImportError|-1"),

    # ---- time ----
    "endless loop": ("while True: pass", STOPPED),
    "endless loop that catches all": ("""
while True:
    try:
        while True: pass
    except BaseException:
        continue""", STOPPED),
    "endless sleep": ("import time; time.sleep(10**6)", STOPPED),
    "endless pattern": ("import re; re.match('(a+)+$', 'a' * 60 + 'b')", STOPPED),
    "endless number": ("x = 9 ** 9 ** 9", rf"{STOPPED}|MemoryError"),
    "endless thread": ("""
import threading
def turn():
    while True: pass
for _ in range(4): threading.Thread(target=turn, daemon=True).start()
while True: pass""", STOPPED),
    "endless exit": ("""
import atexit
def wait():
    while True: pass
atexit.register(wait)
raise SystemExit""", r"^$"),
    "endless end of an object": ("""
class Waits:
    def __del__(self):
        while True: pass
Waits()
1""", STOPPED),
    "endless text of an error": ("""
class Waits(Exception):
    def __str__(self):
        while True: pass
raise Waits""", STOPPED),

    # ---- memory ----
    "memory bomb": ("""
kept = []
for _ in range(64): kept.append(bytearray(32 << 20))""", rf"MemoryError|{STOPPED}"),
    "memory bomb of maps": ("""
import mmap
kept = [mmap.mmap(-1, 64 << 20) for _ in range(32)]""", r"Cannot allocate memory"),
    "memory bomb of small things": ("""
kept = []
while len(kept) < 10**8: kept.append([])""", rf"MemoryError|killed|ended Python|{STOPPED}"),
    "memory of pipes": ("""
import os
for _ in range(500): os.write(os.pipe()[1], bytes(60000))""", r"Too many open files"),
    "stack": ("""
import sys
sys.setrecursionlimit(10**9)
def deep(): deep()
deep()""", r"crashed|RecursionError|MemoryError|killed|stopped"),
    "nested source": ("eval('(' * 10**5)", r"Error"),
    "crash": ("""
def f(): return 1
f.__code__ = f.__code__.replace(co_code=bytes([100, 255] * 4), co_consts=())
f()""", r"crashed|ended Python|Error"),
    "limits raised": ("""
import resource
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))""", r"ValueError"),

    # ---- output ----
    "endless output": ("while True: print('x' * 1000)", rf"characters cut\](?s:.*){STOPPED}"),
    "one endless line": ("""
import os
while True: os.write(1, b'x' * 100000)""", rf"characters cut\](?s:.*){STOPPED}"),
    "bytes that are no text": ("import os; os.write(1, bytes(range(256))); None", "\ufffd"),
    "output closed": ("import sys; sys.stdout.close(); sys.stderr.close()", r"^$"),
    "every file closed": ("import os; os.closerange(0, 64)", r"stopped|ended Python"),
    "every file written to": ("""
import os
for fd in range(3, 64):
    try: os.write(fd, b'x' * 10**5)
    except OSError: continue""", r"stopped|^$|ended Python|^x*$"),
    "end of the call forged": ("""
import os, sys
frame = sys._getframe()
while frame and 'call' not in frame.f_locals: frame = frame.f_back
os.write(frame.f_locals['done'], frame.f_locals['call'])
while True: pass""", rf"^$|{STOPPED}"),
    "end of Python": ("import os; os._exit(0)", r"ended Python \(status 0\)"),
    "builtins broken": ("import builtins; builtins.exec = builtins.eval = builtins.print = None",
                        r"^$|ended Python"),
    "modules broken": ("import sys; sys.modules.clear()", r"^$|ended Python"),

    # ---- files ----
    "reading outside": ("print(open('/etc/passwd').read())", NOT_THERE),
    "reading the user's": ("print(open('{folder}/secret').read())", NOT_THERE),
    "reading upwards": ("print(open('../' * 20 + '{folder}/secret').read())", NOT_THERE),
    "writing outside": ("open('{folder}/written', 'w')", NOT_THERE),
    "writing to the root": ("open('/written', 'w')", r"Read-only file system"),
    "writing to the library": ("import os; open(os.__file__, 'a')",
                               r"Read-only file system|PermissionError"),
    "symbolic link": ("""
import os
os.symlink('{folder}/secret', '/tmp/link')
print(open('/tmp/link').read())""", NOT_THERE),
    "hard link": ("import os; os.link(os.__file__, '/tmp/link')", r"cross-device|PermissionError"),
    "descriptors of others": ("""
import os
for fd in range(3, 64):
    try:
        for up in ('', '../../../../..'):
            print(os.open(up + '{folder}/secret', os.O_RDONLY, dir_fd=fd), 'found')
    except OSError: continue
print('none')""", r"^none$"),
    "database elsewhere": ("import sqlite3; sqlite3.connect('{folder}/written').execute('create table t(x)')",
                           r"unable to open|Error"),
    "disk filled": ("""
with open('/tmp/much', 'wb') as f:
    for _ in range(64): f.write(bytes(1 << 20))""", rf"{FULL}|File too large"),
    "disk filled by many files": ("""
for i in range(64):
    with open(f'/tmp/much{{i}}', 'wb') as f: f.write(bytes(1 << 20))""", FULL),
    "names filled": ("for i in range(5000): open(f'/tmp/{{i}}', 'w').close()", FULL),
    "file with a hole": ("open('/tmp/hole', 'wb').truncate(1 << 40)", r"File too large|OverflowError"),
    "files kept open": ("kept = [open('/dev/null') for _ in range(500)]", r"Too many open files"),
    "devices": ("import os; os.mknod('/tmp/disk', 0o60666, os.makedev(8, 0))", REFUSED),
    "terminal": ("open('/dev/tty', 'w')", rf"{NOT_THERE}|Read-only file system"),
    "memory by /proc": ("open('/proc/self/mem', 'r+b')", NOT_THERE),
    "names by /proc": ("print(open('/proc/1/environ').read())", NOT_THERE),
    "others by /proc": ("import os; print(os.listdir('/proc'))", NOT_THERE),
    "switches by /proc": ("open('/proc/sys/kernel/core_pattern', 'w')", NOT_THERE),
    "a new root": ("import os; os.chroot('/tmp')", REFUSED),

    # ---- who it is ----
    "rights": ("import os; os.setuid(0)", REFUSED),
    "environment": ("import os; print(dict(os.environ))", r"^\{'HOME': '/tmp'\}$"),
    "name of the machine": ("import os; print(os.uname().nodename)", r"^sandbox$"),
    "namespaces": ("import os; os.unshare(os.CLONE_NEWUSER)", rf"{REFUSED}|AttributeError"),
    "installed packages": ("import numpy", r"ModuleNotFoundError"),

    # ---- network ----
    "network": ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}')",
                r"Operation not permitted|Permission"),
    "sockets of every kind": ("""
import socket
for kind in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET):
    for way in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        try: socket.socket(kind, way)
        except PermissionError: continue
        print('open')
print('none')""", r"^none$"),
    "sockets of a pair": ("""
import socket
one, other = socket.socketpair()
one.connect(('127.0.0.1', {port}))""", r"PermissionError|Error"),
    "names of the network": ("import socket; print(socket.gethostbyname('example.com'))", r"gaierror|Error"),
}
