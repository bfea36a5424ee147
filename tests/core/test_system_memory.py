"""csrc/system_memory.c: what the kernel has, within the limits of control groups and of the process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MEMINFO = "MemTotal:       16000 kB\nMemFree:        1 kB\nMemAvailable:   12000 kB\nBuffers: 2 kB\n"
KB = 1 << 10


def machine(root: Path, groups: str, files: dict[str, str]) -> str:
    for name, text in {"proc/meminfo": MEMINFO, "proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


def group(version: int, at: str, limit: object, used: int, cached: int = 0) -> dict[str, str]:
    """A group's files; half of what is cached is active."""
    folder = "sys/fs/cgroup" + ("/memory" if version == 1 else "") + at
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    total = "total_" if version == 1 else ""
    stat = f"inactive_file 7\nactive_file 7\n" if version == 1 else ""      # of this group alone
    stat += f"{total}active_file {cached // 2}\n{total}inactive_file {cached // 2}\nanon 5\n"
    return {f"{folder}/{names[0]}": f"{limit}\n", f"{folder}/{names[1]}": f"{used}\n", f"{folder}/memory.stat": stat}


BOTH = "4:memory:/a/b\n3:cpuset,cpu:/x\n0::/a/b\n"


@pytest.mark.parametrize("groups, files, total, free", [
    ("", {}, 16000 * KB, 12000 * KB),
    ("0::/\n", {}, 16000 * KB, 12000 * KB),
    ("0::/a\n", group(2, "/a", "max", 10), 16000 * KB, 12000 * KB),
    ("0::/a/b\n", group(2, "/a/b", 9000, 3000, 400), 9000, 6400),
    ("0::/a/b\n", group(2, "/a", 9000, 3000) | group(2, "/a/b", 9500, 100), 9000, 6000),
    ("0::/a/b\n", group(2, "/a", 9000, 100) | group(2, "/a/b", 8000, 8500), 8000, 0),
    ("0::/outside\n", group(2, "", 9000, 3000), 9000, 6000),
    ("4:memory:/a/b\n", group(1, "/a/b", 9000, 3000, 600), 9000, 6600),
    ("4:memory:/a\n", group(1, "/a", 2**63 - 4096, 3000), 16000 * KB, 12000 * KB),
    ("5:cpuacct,memory:/docker/0\n", group(1, "", 9000, 3000), 9000, 6000),
    ("3:cpuset:/a\n", group(1, "/a", 9000, 3000), 16000 * KB, 12000 * KB),
    (BOTH, group(1, "/a", 9000, 1000) | group(2, "/a/b", 7000, 100), 7000, 6900),
])
def test_groups_limit_what_the_kernel_has(core, tmp_path, groups, files, total, free):
    assert core.system_memory(machine(tmp_path, groups, files)) == (total, free, free // 16)


def test_processes_of_one_launcher_share(core, tmp_path, monkeypatch):
    root = machine(tmp_path, "", {})
    for name in ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE"):
        with monkeypatch.context() as launched:
            launched.setenv(name, "3(x2)" if name.startswith("SLURM") else "3")
            assert core.system_memory(root)[:2] == (16000 * KB, 4000 * KB)


def test_here_it_is_what_the_machine_says(core):
    total, free, reserve = core.system_memory()
    assert 0 < reserve < free <= total <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_limit_of_the_process_counts_what_it_has_taken(core):
    look = (f"import sys; sys.path[0] = {str(Path(core.__file__).parent)!r}; import _core_tests as core, resource\n"
            "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
            "before = core.system_memory()[1]; held = bytearray(200 << 20); print(before, core.system_memory()[1])")
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 1 << 30 and 200 << 20 <= before - after < 220 << 20
