"""The numbers of system calls against the C library's headers, and the filter's program."""
import os
import subprocess

import pytest

from llmc.tools import syscalls

# what asm/unistd.h asks the generic table for on aarch64
WANTED = "RENAMEAT NEW_STAT SET_GET_RLIMIT TIME32_SYSCALLS SYS_CLONE3 MEMFD_SECRET".split()


def header(machine: str) -> dict[str, int]:
    """The numbers by the kernel's headers, where they are installed."""
    source = "#include <asm/unistd.h>\n" if machine == syscalls.machine() else \
        "".join(f"#define __ARCH_WANT_{name}\n" for name in WANTED) + \
        "#define __BITS_PER_LONG 64\n#include <asm-generic/unistd.h>\n"
    if machine == "x86_64" != syscalls.machine():
        pytest.skip("no headers of x86_64 here")
    done = subprocess.run([os.environ.get("CC", "cc"), "-E", "-dM", "-x", "c", "-"], input=source,
                          capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no headers of the kernel here")
    words = dict(line.split()[1:] for line in done.stdout.splitlines()
                 if line.startswith("#define __NR") and len(line.split()) == 3)
    return {name[5:]: int(words.get(number, number)) for name, number in words.items()
            if name.startswith("__NR_") and words.get(number, number).isdigit()}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_number_is_the_headers(machine):
    known = header(machine)
    ours = syscalls.allowed(machine) | {
        "clone": syscalls.CLONE[machine], "clone3": syscalls.CLONE3, "prctl": syscalls.PRCTL[machine],
        "socketpair": syscalls.SOCKETPAIR[machine], "ioctl": syscalls.IOCTL[machine]}
    new = {"fchmodat2"}                 # not in headers before Linux 6.6
    assert {name: known.get(name) for name in ours if name in known or name not in new} == \
        {name: number for name, number in ours.items() if name in known or name not in new}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_decides_as_the_tables_say(machine):
    program = [*syscalls.instructions(machine)]
    assert len(program) < 4096          # BPF_MAXINSNS

    def decide(number: int, *arguments: int, architecture: int = syscalls.ARCHITECTURES[machine]) -> int:
        """What the kernel would: Documentation/networking/filter.rst."""
        data = {syscalls.NUMBER: number, syscalls.ARCHITECTURE: architecture}
        data |= {syscalls.ARGUMENT + 8 * i: value & 0xFFFFFFFF for i, value in enumerate(arguments)}
        at = value = 0
        while True:
            code, yes, no, k = program[at]
            at += 1
            if code == syscalls.LOAD:
                value = data.get(k, 0)
            elif code == syscalls.AND:
                value &= k
            elif code == syscalls.RETURN:
                return k
            else:
                assert code in (syscalls.EQUAL, syscalls.AT_LEAST)
                at += yes if (value == k if code == syscalls.EQUAL else value >= k) else no

    refused, allowed = syscalls.ERRNO | 1, set(syscalls.allowed(machine).values())
    special = {syscalls.CLONE[machine], syscalls.CLONE3, syscalls.PRCTL[machine],
               syscalls.SOCKETPAIR[machine], syscalls.IOCTL[machine]}
    assert not allowed & special
    for number in range(600):
        if number not in special:
            assert decide(number) == (syscalls.ALLOW if number in allowed else refused), number
    other = next(value for name, value in syscalls.ARCHITECTURES.items() if name != machine)
    assert decide(0, architecture=other) == syscalls.KILL
    assert decide(63, architecture=0x40000003) == syscalls.KILL         # i386
    if machine == "x86_64":
        assert decide(syscalls.X32 | 39) == syscalls.KILL
    clone = syscalls.CLONE[machine]
    assert decide(syscalls.CLONE3) == syscalls.ERRNO | 38
    assert decide(clone, syscalls.THREAD | 0x3D0F00) == syscalls.ALLOW  # what glibc's threads have
    assert decide(clone, 17) == decide(clone, 0x4111) == refused        # fork, vfork
    for bit in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(clone, syscalls.THREAD | bit) == refused
    assert decide(syscalls.PRCTL[machine], 15) == syscalls.ALLOW
    assert decide(syscalls.PRCTL[machine], 4) == decide(syscalls.PRCTL[machine], 22) == refused
    assert decide(syscalls.SOCKETPAIR[machine], 1) == syscalls.ALLOW
    assert decide(syscalls.SOCKETPAIR[machine], 2) == refused
    assert decide(syscalls.IOCTL[machine], 0, 0x5401) == syscalls.ALLOW
    assert decide(syscalls.IOCTL[machine], 0, 0x5412) == refused        # TIOCSTI
