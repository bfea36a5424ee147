"""The system calls a held program may make, as a filter that the kernel runs (seccomp, in BPF:
Documentation/userspace-api/seccomp_filter.rst of the kernel).

What is not in the tables is refused with EPERM: sockets, new processes and programs, mounts,
namespaces, keys, tracing, loading of code into the kernel. Threads may be started; clone3 hides
its flags from a filter, so it answers ENOSYS, and the C library takes clone instead. A call of
another architecture (32-bit and x32 on x86_64) ends the process.
"""
from __future__ import annotations

import errno
import platform
import struct
import sys
from collections.abc import Iterator

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}       # linux/audit.h
X32 = 0x40000000                # this bit marks x32's calls, which have x86_64's architecture

# name: number on x86_64, on aarch64; checked by tests/tools/test_syscalls.py
BOTH = """
read 0 63, write 1 64, close 3 57, fstat 5 80, lseek 8 62, mmap 9 222, mprotect 10 226,
munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139,
pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, sched_yield 24 124, mremap 25 216,
msync 26 227, madvise 28 233, dup 32 23, nanosleep 35 101, getitimer 36 102, setitimer 38 103,
getpid 39 172, sendfile 40 71, sendto 44 206, recvfrom 45 207, shutdown 48 210,
getsockname 51 204, getsockopt 55 209, exit 60 93, wait4 61 260, kill 62 129, uname 63 160,
fcntl 72 25, flock 73 32, fsync 74 82, fdatasync 75 83, truncate 76 45, ftruncate 77 46,
getcwd 79 17, chdir 80 49, fchdir 81 50, fchmod 91 52, umask 95 166, gettimeofday 96 169,
getrlimit 97 163, getrusage 98 165, times 100 153, getuid 102 174, getgid 104 176,
geteuid 107 175, getegid 108 177, getppid 110 173, getgroups 115 158, getresuid 118 148,
getresgid 120 150, getpgid 121 155, getsid 124 156, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, statfs 137 43,
fstatfs 138 44, getpriority 140 141, setrlimit 160 164, gettid 186 178, futex 202 98,
sched_getaffinity 204 123, getdents64 217 61, set_tid_address 218 96, restart_syscall 219 128,
fadvise64 221 223, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115,
exit_group 231 94, epoll_ctl 233 21, tgkill 234 131, waitid 247 95, openat 257 56,
mkdirat 258 34, newfstatat 262 79, unlinkat 263 35, renameat 264 38, linkat 265 37,
symlinkat 266 36, readlinkat 267 78, fchmodat 268 53, faccessat 269 48, pselect6 270 72,
ppoll 271 73, set_robust_list 273 99, utimensat 280 88, epoll_pwait 281 22, fallocate 285 47,
eventfd2 290 19, epoll_create1 291 20, dup3 292 24, pipe2 293 59, preadv 295 69, pwritev 296 70,
prlimit64 302 261, getcpu 309 168, renameat2 316 276, getrandom 318 278, copy_file_range 326 285,
preadv2 327 286, pwritev2 328 287, statx 332 291, rseq 334 293, close_range 436 436,
faccessat2 439 439, fchmodat2 452 452
"""
# those that aarch64 has only in newer forms
X86_64 = """
open 2, stat 4, lstat 6, poll 7, access 21, pipe 22, select 23, dup2 33, pause 34, alarm 37,
rename 82, mkdir 83, rmdir 84, creat 85, link 86, unlink 87, symlink 88, readlink 89, chmod 90,
getpgrp 111, utime 132, time 201, epoll_create 213, epoll_wait 232, utimes 235
"""
CLONE, CLONE3 = {"x86_64": 56, "aarch64": 220}, 435
# those that may be called with these first or second arguments alone
PRCTL, SOCKETPAIR = {"x86_64": 157, "aarch64": 167}, {"x86_64": 53, "aarch64": 199}
IOCTL = {"x86_64": 16, "aarch64": 29}
NAMES = (15, 16)                # prctl: PR_SET_NAME, PR_GET_NAME
PAIRS = (1,)                    # socketpair: AF_UNIX, which asyncio wakes itself with
REQUESTS = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)     # TCGETS, FIONREAD, FIO(NBIO, NCLEX, CLEX)
# of clone's flags: what every thread has, and what nothing may have (new namespaces, tracing)
THREAD = 0x00010000 | 0x00000100 | 0x00000800           # CLONE_THREAD, _VM, _SIGHAND
NEVER = 0x7E020000 | 0x00002000                         # CLONE_NEW*, _PTRACE

LOAD, AND, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06   # linux/bpf_common.h
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000             # linux/seccomp.h
NUMBER, ARCHITECTURE, ARGUMENT = 0, 4, 16               # offsets in struct seccomp_data

Instruction = tuple[int, int, int, int]                 # code, jump if true, if false, value


def machine() -> str:
    """This processor, if filters are known for it and for this Python; else empty."""
    name = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    wide = sys.maxsize > 2**32 and sys.byteorder == "little"
    return name if name in ARCHITECTURES and wide else ""


def allowed(machine: str) -> dict[str, int]:
    """The numbers of the calls that are allowed whatever their arguments."""
    rows = [row.split() for row in BOTH.split(",")]
    numbers = {name: int(x86 if machine == "x86_64" else arm) for name, x86, arm in rows}
    if machine == "x86_64":
        numbers |= {name: int(number) for name, number in map(str.split, X86_64.split(","))}
    return numbers


def build(machine: str) -> bytes:
    """The filter: struct sock_filter[] as the kernel wants it."""
    return b"".join(struct.pack("<HBBI", *each) for each in instructions(machine))


def instructions(machine: str) -> Iterator[Instruction]:
    yield LOAD, 0, 0, ARCHITECTURE
    yield EQUAL, 1, 0, ARCHITECTURES[machine]
    yield RETURN, 0, 0, KILL
    yield LOAD, 0, 0, NUMBER
    if machine == "x86_64":
        yield AT_LEAST, 0, 1, X32
        yield RETURN, 0, 0, KILL
    for number in sorted(allowed(machine).values()):
        yield EQUAL, 0, 1, number
        yield RETURN, 0, 0, ALLOW
    yield EQUAL, 0, 1, CLONE3
    yield RETURN, 0, 0, ERRNO | errno.ENOSYS
    yield from one_of(PRCTL[machine], 0, NAMES)
    yield from one_of(SOCKETPAIR[machine], 0, PAIRS)
    yield from one_of(IOCTL[machine], 1, REQUESTS)
    yield EQUAL, 0, 4, CLONE[machine]
    yield LOAD, 0, 0, ARGUMENT              # the kernel reads the lower half of its flags alone
    yield AND, 0, 0, THREAD | NEVER
    yield EQUAL, 0, 1, THREAD
    yield RETURN, 0, 0, ALLOW
    yield RETURN, 0, 0, ERRNO | errno.EPERM


def one_of(number: int, argument: int, values: tuple[int, ...]) -> Iterator[Instruction]:
    """A call that is allowed if an argument, of 32 bits, has one of these values."""
    yield EQUAL, 0, 2 * len(values) + 2, number
    yield LOAD, 0, 0, ARGUMENT + 8 * argument
    for value in values:
        yield EQUAL, 0, 1, value
        yield RETURN, 0, 0, ALLOW
    yield RETURN, 0, 0, ERRNO | errno.EPERM
