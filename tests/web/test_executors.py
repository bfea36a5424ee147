"""Where tasks run, how many at a time, and how often they were killed: the shards are the same bytes."""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llmc import cli
from llmc.prepare_fineweb import PrepareFineWeb, run

FILES, DOCUMENTS = 4, 40
RECIPE = "steps: [{extract: {precision: false}}, {gopher_quality: {min_stop_words: null, min_doc_words: 20}}, exact, minhash, personal]\n"
# Slurm as far as the executor asks for it: sbatch starts an array job's tasks, srun one of them, squeue lists
# a job while it lasts.
SLURM = r'''#!{python}
import os, re, subprocess, sys
from pathlib import Path
here, (program, *args) = Path(__file__).resolve().parent, sys.argv
if program.endswith("sbatch"):
    job = str(len(list(here.glob("*.job"))) + 1)
    script = here / (job + ".job")
    script.write_text(Path(args[-1]).read_text())
    last = int(re.search(r"--array=0-(\d+)", script.read_text())[1])
    tasks = "\n".join(f"SLURM_ARRAY_TASK_ID={{i}} SLURM_NODELIST=here bash {{script}} &" for i in range(last + 1))
    subprocess.Popen(["bash", "-c", f"cd {{here}}\n{{tasks}}\nwait\ntouch {{job}}.ended"], start_new_session=True,
                     stdin=subprocess.DEVNULL, stdout=open(here / (job + ".out"), "w"), stderr=subprocess.STDOUT)
    print("Submitted batch job", job)
elif program.endswith("squeue"):
    if not (here / (args[-1] + ".ended")).exists():
        print(args[-1], "RUNNING")
elif program.endswith("srun"):
    sys.exit(subprocess.run(args[args.index("-n") + 2:]).returncode)
elif program.endswith("scontrol"):
    print("here")
'''


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """Files of documents, some of which occurred before, exactly or nearly."""
    folder, rng = tmp_path_factory.mktemp("pages"), np.random.default_rng(7)
    words = ["".join(rng.choice(list("abcdefgh"), int(rng.integers(3, 8)))) for _ in range(300)]
    texts = [" ".join(rng.choice(words, int(rng.integers(15, 80)))) + "." for _ in range(FILES * DOCUMENTS)]
    texts[50], texts[99], texts[120] = texts[3], texts[4] + " and", texts[5]
    for file in range(FILES):
        rows = [json.dumps({"text": text}) + "\n" for text in texts[file * DOCUMENTS:(file + 1) * DOCUMENTS]]
        (folder / f"{file}.jsonl").write_text("".join(rows))
    for number in range(6):             # pages, whose text another process finds
        page = f"<html><body><article><h1>{number}</h1><p>{' '.join(rng.choice(words, 60))}.</p></article></body></html>"
        (folder / f"{number}.html").write_text(page)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "quick.yaml").write_text("steps: [{extract: {by: resiliparse}}, exact]\n")
    return folder


def arguments(pages: Path, out: Path, *more: object, recipe: str = "recipe.yaml") -> list[str]:
    return ["--source", str(pages), "--out", str(out), "--name", "x", "--recipe", str(pages / recipe),
            "--val_fraction", "0.1", *map(str, more)]


def made(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(pages, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    run(cli.parse(PrepareFineWeb, arguments(pages, out, "--workers", 1)))
    files = made(out)
    assert {"prepared.json", "tokenizer.json", "x_train_000001.bin", "x_val_000001.bin"} <= set(files)
    funnel = {row["step"]: row for row in json.loads(files["prepared.json"])["funnel"]}
    assert funnel["exact"]["documents"] - funnel["exact"]["kept"] == 2
    assert funnel["gopher_quality"]["reasons"]["gopher_short_doc"] > 5
    return files


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_number_of_workers_changes_no_byte(pages, undisturbed, tmp_path, workers):
    run(cli.parse(PrepareFineWeb, arguments(pages, tmp_path / "out", "--workers", workers)))
    assert made(tmp_path / "out") == undisturbed


def program(pages: Path, out: Path, *more: object, recipe: str = "recipe.yaml", env: dict | None = None
            ) -> subprocess.Popen:
    command = [sys.executable, "-m", "llmc", "prepare_fineweb", *arguments(pages, out, *more, recipe=recipe)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bytes(pages, undisturbed, tmp_path):
    moments = random.Random(1)
    began = time.monotonic()
    run_once = program(pages, tmp_path / "first", "--workers", 2)
    run_once.communicate()
    whole = time.monotonic() - began
    assert made(tmp_path / "first") == undisturbed
    ended_early = 0
    for number in range(10):
        if number % 2 == 0:             # from the beginning again
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
        running = program(pages, tmp_path / "out", "--workers", 2)
        time.sleep(moments.uniform(0.05, 0.7) * whole)
        # its tasks, and theirs, are other processes, which it cannot end then
        running.send_signal(signal.SIGTERM if number % 4 == 1 else signal.SIGKILL)
        running.communicate()
        ended_early += not (tmp_path / "out" / "prepared.json").exists()
    last = program(pages, tmp_path / "out", "--workers", 2)
    said, _ = last.communicate()
    assert last.returncode == 0, said
    assert ended_early and made(tmp_path / "out") == undisturbed


def test_a_process_that_is_killed_ends_the_run_and_nothing_is_lost(pages, undisturbed, tmp_path):
    running = program(pages, tmp_path / "out", "--workers", 2)
    while len(workers := children(running.pid)) < 2 and running.poll() is None:
        time.sleep(0.05)
    os.kill(workers[0], signal.SIGKILL)                     # as a system short of memory does
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 1 and "was killed" in said and "Traceback" not in said, said
    run(cli.parse(PrepareFineWeb, arguments(pages, tmp_path / "out", "--workers", 2)))
    assert made(tmp_path / "out") == undisturbed


def test_no_process_outlives_a_killed_program(tmp_path):
    """Each is in the middle of a task that would take much longer."""
    (tmp_path / "in").mkdir()
    for number in range(2):
        (tmp_path / "in" / f"{number}.jsonl").write_text('{"text": "Some words, and some more."}\n' * 100_000)
    (tmp_path / "in" / "slow.yaml").write_text("steps: [gopher_quality]\n")
    running = program(tmp_path / "in", tmp_path / "out", "--workers", 2, recipe="slow.yaml")
    while len(workers := children(running.pid)) < 2 or not list((tmp_path / "out").rglob("so_far/*.json")):
        assert running.poll() is None
        time.sleep(0.05)
    running.kill()
    ends = time.monotonic() + 30
    while any(Path(f"/proc/{worker}/cmdline").exists() and Path(f"/proc/{worker}/cmdline").read_bytes()
              for worker in workers):
        assert time.monotonic() < ends
        time.sleep(0.05)
    running.communicate()
    assert not list((tmp_path / "out").rglob("completions/*"))


def children(program: int) -> list[int]:
    """The processes that its server has forked."""
    found = Path(f"/proc/{program}/task/{program}/children")
    try:
        return [int(each) for child in found.read_text().split()
                for each in Path(f"/proc/{child}/task/{child}/children").read_text().split()]
    except FileNotFoundError:           # it has just ended
        return []


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """An environment with Slurm's commands."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "slurm").write_text(SLURM.format(python=sys.executable))
    (folder / "slurm").chmod(0o755)
    for name in ("sbatch", "squeue", "srun", "scontrol"):
        (folder / name).symlink_to("slurm")
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_a_slurm_cluster_writes_the_same_bytes(pages, tmp_path, slurm):
    run(cli.parse(PrepareFineWeb, arguments(pages, tmp_path / "here", "--workers", 1, recipe="quick.yaml")))
    options = ("--executor", "slurm", "--slurm", "partition=cpu", "time=1:00:00", "mem=3G")
    running = program(pages, tmp_path / "out", *options, recipe="quick.yaml", env=slurm)
    jobs = tmp_path / "slurm"
    while not list((tmp_path / "out").rglob("slurm_job")) and running.poll() is None:
        time.sleep(0.1)
    running.kill()                      # the job goes on, and is waited for
    running.communicate()
    again = program(pages, tmp_path / "out", *options, recipe="quick.yaml", env=slurm)
    said, _ = again.communicate()
    assert again.returncode == 0, said + (jobs / "1.out").read_text()
    assert made(tmp_path / "out") == made(tmp_path / "here")
    script = (jobs / "1.job").read_text()
    assert "#SBATCH --partition=cpu\n" in script and "#SBATCH --mem=3G\n" in script
    names = [path.read_text().partition("--job-name=")[2].split()[0] for path in sorted(jobs.glob("*.job"))]
    assert names[0] == "llmc_1_read" and len(names) == len(set(names)) == 6, "each phase once"


@pytest.mark.slow
def test_a_task_that_fails_on_a_cluster_ends_the_run(pages, tmp_path, slurm):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text("import os, sys\nif 'SLURM_ARRAY_TASK_ID' in os.environ:\n"
                                                          "    sys.modules['xxhash'] = None\n")
    running = program(pages, tmp_path / "out", "--executor", "slurm", "--slurm", "partition=cpu", "time=1:00:00",
                      recipe="quick.yaml", env=slurm | {"PYTHONPATH": str(tmp_path / "broken")})
    said, _ = running.communicate()
    assert running.returncode == 1 and "tasks failed, the first of them number 0" in said, said
    assert not list((tmp_path / "out").glob("*.bin"))


@pytest.mark.slow
def test_a_ray_cluster_of_two_workers_writes_the_same_bytes(pages, undisturbed, tmp_path):
    running = program(pages, tmp_path / "out", "--executor", "ray", "--workers", 2)
    said, _ = running.communicate()
    assert running.returncode == 0, said
    assert made(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("args, sentence", [
    (["--executor", "slurm"], "--executor slurm wants a partition and a time, as in --slurm partition=cpu"),
    (["--executor", "slurm", "--slurm", "partition"], "--slurm is 'partition', wanted OPTION=VALUE"),
    (["--slurm", "time=1:00"], "--slurm is for --executor slurm, and this is local"),
    (["--executor", "moon"], "choose from 'local', 'slurm', 'ray'"),
])
def test_what_cannot_be_done_is_one_sentence(pages, tmp_path, capsys, args, sentence):
    assert cli.guarded(lambda: run(cli.parse(PrepareFineWeb, arguments(pages, tmp_path / "out", *args)))) != 0
    error = capsys.readouterr().err
    assert sentence in error and not (tmp_path / "out").exists()
