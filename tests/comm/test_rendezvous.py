"""csrc/rendezvous.c, csrc/comm_tcp.c: how ranks meet over TCP, who is not let in, and how a group ends as one."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import group
import pytest
import tcp_ranks
from tcp_ranks import Ended, ended, free_port, start, start_one

SENTENCE = "llmc: this is the sentence"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="connections are found in /proc")


def meet(folder, ranks: int, **environment: object) -> list[str]:
    """What ranks that have met and left again print."""
    return together(start(ranks, *group.program("tcp"), "collect", folder, "auto", **environment)).out


def together(processes: list[subprocess.Popen]) -> Ended:
    done = tcp_ranks.together(ended(processes))
    assert (done.status, done.err) == (0, [])
    return done


def ranks_of(count: int) -> list[str]:
    return [f"tcp: rank {rank} of {count}" for rank in range(count)]


def refusals(processes: list[subprocess.Popen]) -> list[str]:
    """The one sentence of each."""
    parts = ended(processes)
    for part in parts:
        assert (part.status, part.out, len(part.err)) == (1, [], 1), part
        assert part.err[0].startswith("llmc: ")
    return [part.err[0].removeprefix("llmc: ") for part in parts]


def refusal(**environment: object) -> str:
    """With which a process alone refuses to meet others."""
    [sentence] = refusals([start_one([*group.program("tcp"), "work", 9], **environment)])
    return sentence


# ---- where, and who: the flag and the launchers' variables ---------------------------------------


def knows(host: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as here:
            here.bind((socket.getaddrinfo(host, None, here.family)[0][4][0], 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", socket.gethostname()])
def test_ranks_meet_at_an_address_of_any_kind(tmp_path, host):
    if host not in ("127.0.0.1", "localhost") and not knows(host):
        pytest.skip(f"skipped: this machine has no address {host}")
    place = f"[{host}]" if ":" in host else host
    assert meet(tmp_path, 3, RENDEZVOUS=f"{place}:{free_port()}", MASTER_ADDR="") == ranks_of(3)
    assert meet(tmp_path, 2, MASTER_ADDR=host) == ranks_of(2)


def test_the_flag_wins_over_the_environment(tmp_path):
    at = f"127.0.0.1:{free_port()}"
    assert meet(tmp_path, 2, RENDEZVOUS=at, MASTER_ADDR="nobody.invalid", MASTER_PORT="x") == ranks_of(2)


def test_ranks_of_srun_meet(tmp_path):
    command = [*group.program("tcp"), "collect", tmp_path, "auto"]
    job = {"SLURM_NTASKS": 2, "SLURM_LOCALID": 0}
    at = f"127.0.0.1:{free_port()}"
    started = [start_one(command, SLURM_PROCID=rank, RENDEZVOUS=at, **job) for rank in range(2)]
    assert together(started).out == ranks_of(2)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    job = {"SLURM_NTASKS": 7, "SLURM_STEP_NUM_TASKS": 2}       # a step of a larger job
    started = [start_one(command, SLURM_PROCID=rank, **job, **place) for rank in range(2)]
    assert together(started).out == ranks_of(2)


def test_torchrun_s_names_win_over_those_of_srun(tmp_path):
    """As where srun starts one torchrun on each machine."""
    assert meet(tmp_path, 2, SLURM_PROCID=0, SLURM_NTASKS=1, SLURM_STEP_NUM_TASKS=1) == ranks_of(2)


def test_ranks_that_torchrun_starts_meet(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", free_port()]
    started = start_one([*torchrun, "--no_python", "--", *group.program("tcp"), "collect", tmp_path, "auto"])
    [done] = ended([started], timeout=120)
    assert done.status == 0, done.err
    assert sorted(done.out) == ranks_of(2)


def test_one_rank_needs_no_others(tmp_path):
    assert meet(tmp_path, 1, MASTER_ADDR="nobody.invalid") == ["single: rank 0 of 1"]


@pytest.mark.parametrize("rendezvous", ["node1", "node1:", ":29500", "node1:0", "node1:65536", "node1:2x", "::1:29500",
                                        "[::1]29500", "[::1:29500", "", "[]:1"])
def test_what_is_no_place_is_refused(rendezvous):
    assert refusal(RENDEZVOUS=rendezvous, RANK=0, WORLD_SIZE=2) == (
        f"--rendezvous is '{rendezvous}'; wanted host:port of rank 0, for example node1:29500 or [fd00::1]:29500")


@pytest.mark.parametrize("rank, ranks", [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "two"), ("0", "0"), ("", "2"),
                                         ("1", ""), ("0", "99999999999999999999")])
def test_a_rank_that_cannot_be_is_refused(rank, ranks):
    said = refusal(RENDEZVOUS="127.0.0.1:1", RANK=rank, WORLD_SIZE=ranks)
    assert f"RANK is {rank or 'not set'} and WORLD_SIZE {ranks or 'not set'}, wanted 0 to" in said
    assert "SLURM_PROCID" in said


@pytest.mark.parametrize("port", ["x", "0", "70000"])
def test_a_master_port_that_is_none_is_refused(port):
    said = refusal(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=0, WORLD_SIZE=2)
    assert said == f"MASTER_PORT is '{port}'; wanted a port, 1 to 65535"


def test_a_host_that_nobody_knows_is_named():
    said = refusals(start(2, *group.program("tcp"), "work", 9, MASTER_ADDR="nobody.invalid"))
    for sentence in said:
        assert sentence.startswith("the host 'nobody.invalid' cannot be found (")


# ---- who is not let in ---------------------------------------------------------------------------


def serve(answer: bytes) -> socket.socket:
    """A program that is none of ours: it answers everyone and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        try:
            while True:
                caller, _ = listener.accept()
                caller.sendall(answer)
                caller.close()
        except OSError:     # closed: the test is over
            return

    threading.Thread(target=run, daemon=True).start()
    return listener


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-server of another kind, which talks first\r\n"])
def test_a_port_of_another_program_is_named(answer):
    with serve(answer) as other:
        port = other.getsockname()[1]
        first, second = refusals(start(2, *group.program("tcp"), "work", 9, MASTER_PORT=port))
        other.shutdown(socket.SHUT_RDWR)
    assert first == (f"rank 0 cannot listen at 127.0.0.1:{port}, where another program does; end that one, or take "
                     "another port")
    assert second.startswith(f"rank 1 of 2 was not received at 127.0.0.1:{port}; another program listens there")


def test_ranks_of_groups_of_different_sizes_do_not_meet():
    port = free_port()
    command = [*group.program("tcp"), "work", 9]
    started = [start_one(command, RANK=rank, WORLD_SIZE=size, MASTER_ADDR="localhost", MASTER_PORT=port)
               for rank, size in ((0, 3), (1, 2))]
    for sentence in refusals(started):
        assert "was started as one of 2 ranks, and rank 0 as one of 3" in sentence
        assert sentence.startswith("rank 1, at ") and "WORLD_SIZE" in sentence


@on_linux
@pytest.mark.parametrize("numbers", [(0, 1, 1), (0, 0), (0, 1, 0)])
def test_two_processes_of_one_rank_do_not_meet(numbers):
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [*group.program("tcp"), "work", 9]
    *numbers, twice = numbers
    started = [start_one(command, RANK=rank, WORLD_SIZE=3, **place) for rank in numbers]
    for process in started[1:]:
        wait_for_connection(process)
    started.append(start_one(command, RANK=twice, WORLD_SIZE=3, **place))
    for sentence in refusals(started):
        assert sentence.startswith(f"two processes say they are rank {twice} of 3, one at 127.0.0.1 and one at ")


def test_strangers_are_turned_away_and_the_ranks_meet(tmp_path):
    port = free_port()
    command = [*group.program("tcp"), "collect", tmp_path, "auto"]
    job = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    first = start_one(command, RANK=0, **job)
    loud, quiet, gone = (call(port) for _ in range(3))
    loud.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    gone.close()
    assert hung_up(loud)
    second = start_one(command, RANK=1, **job)
    parts = ended([first, second])
    quiet.close()
    assert [part.status for part in parts] == [0, 0]
    assert [part.out for part in parts] == [[line] for line in ranks_of(2)]
    assert parts[0].err == ["llmc: somebody at 127.0.0.1 has called rank 0 and is no rank of this group; turned away, "
                            "as others like it will be"] and parts[1].err == []


def hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def call(port: int) -> socket.socket:
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


# ---- who does not come ---------------------------------------------------------------------------


def test_a_rank_that_never_comes_is_named():
    command = [*group.program("tcp"), "work", 9]
    job = {"WORLD_SIZE": 4, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "PATIENCE": 3}
    said = refusals([start_one(command, RANK=rank, **job) for rank in (0, 2)])
    for sentence in said:
        assert sentence.startswith(f"ranks 1, 3 of 4 did not come to 127.0.0.1:{job['MASTER_PORT']} within 3 seconds;")
        assert "--rendezvous_timeout" in sentence


def test_a_rank_0_that_never_comes_is_told_of():
    port = free_port()
    said = refusal(RANK=1, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, PATIENCE=1)
    assert said.startswith(f"rank 1 of 2 found nobody at 127.0.0.1:{port} within 1 seconds (Connection refused);")


def test_a_long_wait_is_explained():
    command = [*group.program("tcp"), "work", 9]
    port = free_port()
    job = {"WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PATIENCE": 30}
    first = start_one(command, RANK=0, **job)
    assert first.stderr.readline() == (
        f"llmc: rank 0 of 3 waits for ranks 1, 2 at 127.0.0.1:{port}, for up to 30 seconds\n")
    first.kill()
    first.communicate()


@on_linux
def test_a_rank_that_ends_while_others_are_waited_for_ends_the_meeting():
    command = [*group.program("tcp"), "work", 9]
    job = {"WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    first, second = (start_one(command, RANK=rank, **job) for rank in (0, 1))
    wait_for_connection(second)
    time.sleep(0.3)                     # and rank 0 has heard who it is
    second.kill()
    assert refusals([first]) == ["rank 1, at 127.0.0.1, has ended before all 3 ranks had met"]
    second.communicate()


def wait_for_connection(process: subprocess.Popen) -> None:
    """Until the process has a connection, not only a socket that listens."""
    deadline = time.monotonic() + 20
    while True:
        rows = [row.split() for row in Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]]
        held = open_files(process)
        if any(row[3] == "01" and f"socket:[{row[9]}]" in held for row in rows):
            return
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)


def open_files(process: subprocess.Popen) -> set[str]:
    found = set()
    for file in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            found.add(os.readlink(file))
        except OSError:     # closed since
            continue
    return found


# ---- ending as one -------------------------------------------------------------------------------


@pytest.mark.parametrize("doing", ["work", "stop"])
@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_killed_rank_ends_the_others(who, doing):
    """Whether they are at work, or wait for it in a collective."""
    started = start(3, *group.program("tcp"), doing, 9)
    assert started[0].stdout.readline() == "ready\n"
    begin = time.monotonic()
    started[who].kill()
    parts = ended(started)
    assert time.monotonic() - begin < 20
    assert parts[who].status == -signal.SIGKILL
    for part in parts[:who] + parts[who + 1:]:
        assert (part.status, part.out) == (1, [])
        assert part.err == [f"llmc: rank {who}, at 127.0.0.1, has ended without a word: it was killed, or its machine "
                            "or the network to it is gone"]


@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_failing_rank_ends_those_at_work_with_one_sentence(who):
    started = start(3, *group.program("tcp"), "work", who)
    parts = ended(started)
    assert [part.status for part in parts] == [1, 1, 1]
    assert [part.err for part in parts] == [[SENTENCE] if rank == who else [] for rank in range(3)]


def test_ranks_that_fail_at_once_have_one_sentence():
    done = tcp_ranks.together(ended(start(4, *group.program("tcp"), "work", -1)))
    assert (done.status, done.err) == (1, [SENTENCE])


def test_a_failure_of_all_before_they_met_is_one_sentence_of_each():
    assert refusals(start(3, *group.program("tcp"), "fail", "early", -1)) == ["this is the sentence"] * 3


@pytest.mark.parametrize("who", [0, 2])
def test_a_wish_to_stop_at_one_rank_reaches_all(who):
    started = start(3, *group.program("tcp"), "stop")
    assert started[0].stdout.readline() == "ready\n"
    started[who].send_signal(signal.SIGTERM)
    assert together(started).out == [f"rank {rank} stopped" for rank in range(3)]


def test_who_comes_too_late_is_not_waited_for():
    started = start(2, *group.program("tcp"), "stop", MASTER_PORT=(port := free_port()))
    assert started[0].stdout.readline() == "ready\n"
    said = refusal(RANK=1, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, PATIENCE=1)
    assert said.startswith(f"rank 1 of 2 found nobody at 127.0.0.1:{port}")
    started[1].send_signal(signal.SIGTERM)
    assert together(started).out == ["rank 0 stopped", "rank 1 stopped"]
