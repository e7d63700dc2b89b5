"""Whole runs of the real program under mpirun: the same answer everywhere, and an end that loses nothing."""
import json
import os
import random
import signal
import subprocess
import time

import pytest
from program import (command, difference, environment, metrics, newest_checkpoint, run, tensors, tiny_faces,
                     write_config)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return tiny_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def config(tmp_path, faces):
    return write_config(tmp_path, faces)


def losses(folder):
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def test_the_same_at_1_2_and_4_ranks_and_after_a_resume_at_3(tmp_path, config):
    for ranks in (1, 2, 4):
        run(["train", config, f"run={tmp_path}/r{ranks}", "classifier.sample_rate=0.5"], ranks)
    # Half-way at 4 ranks, then on at 3.
    run(["train", config, f"run={tmp_path}/r3", "classifier.sample_rate=0.5", "checkpoint.every=3"], 4)
    for folder in (tmp_path / "r3").glob("step_000000006"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    run(["train", "--resume", tmp_path / "r3"], 3)
    reference = tensors(newest_checkpoint(tmp_path / "r1"))
    for name in ("r2", "r4", "r3"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "r1"), abs=1e-8), name
        assert difference(reference, tensors(newest_checkpoint(tmp_path / name))) < 1e-6, name


def start(args, ranks, log, env=None):
    return subprocess.Popen(command(args, ranks), env=environment(env), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def wait_for_step(folder, step, process, deadline=60, after=0.0):
    """Until a line of `step` or later stands in metrics.jsonl, written `after` that time: a killed run leaves lines that the
    next one drops when it starts."""
    until = time.monotonic() + deadline
    while time.monotonic() < until and process.poll() is None:
        file = folder / "metrics.jsonl"
        if file.exists() and file.stat().st_mtime > after:
            complete = [line for line in file.read_text().split("\n")[:-1] if line]
            if complete and json.loads(complete[-1])["step"] >= step:
                return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} within {deadline} s")


def test_sigusr1_checkpoints_and_the_resume_is_bit_for_bit(tmp_path, config):
    overrides = ["trainer.precision=fp32", "trainer.steps=400", "trainer.ema=0.9", "classifier.sample_rate=0.5", "log.every=1",
                 "checkpoint.every=100"]
    run(["train", config, f"run={tmp_path}/whole", *overrides], 2)
    with open(tmp_path / "log", "w") as log:
        process = start(["train", config, f"run={tmp_path}/cut", *overrides], 2, log)
        wait_for_step(tmp_path / "cut", 30, process)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 85, (tmp_path / "log").read_text()
    stopped = newest_checkpoint(tmp_path / "cut")
    assert stopped.name != "step_000000400" and int(stopped.name[5:]) % 100 != 0, "the signal was to stop it in between"
    run(["train", "--resume", tmp_path / "cut"], 2)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert difference(tensors(newest_checkpoint(tmp_path / "whole")), tensors(newest_checkpoint(tmp_path / "cut"))) == 0


def test_a_signal_during_the_start_waits_for_the_first_step(tmp_path, config):
    with open(tmp_path / "log", "w") as log:
        process = start(["train", config, f"run={tmp_path}/early", "trainer.steps=100000"], 2, log)
        until = time.monotonic() + 30
        ranks = []
        while len(ranks) < 2 and time.monotonic() < until:  # as soon as both have loaded the program
            pids = subprocess.run(["pgrep", "-f", f"^[^ ]*facetrain train .*{tmp_path}/early"], capture_output=True, text=True)
            ranks = [pid for pid in pids.stdout.split() if handles_usr1(pid)]
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 85, (tmp_path / "log").read_text()
    assert newest_checkpoint(tmp_path / "early") is not None


def handles_usr1(pid):
    try:
        with open(f"/proc/{pid}/status") as status:
            caught = next(line for line in status if line.startswith("SigCgt"))
    except (OSError, StopIteration):
        return False
    return int(caught.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1 == 1


SLOW_FSYNC = """
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int fsync(int file) {  // from the fourth call on, rank 0's disk takes its time
  static int calls;
  const char* rank = getenv("OMPI_COMM_WORLD_RANK");
  if (rank && rank[0] == '0' && ++calls > 3) sleep(3);
  return syscall(SYS_fsync, file);
}
"""


def test_sigterm_to_the_ranks_waits_for_a_slow_writer(tmp_path, config):
    """SIGTERM shortens deadlines to 5 s, but not those of the checkpoint that it asks for."""
    (tmp_path / "slow.c").write_text(SLOW_FSYNC)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "slow.so", tmp_path / "slow.c"], check=True)
    with open(tmp_path / "log", "w") as log:
        process = start(["train", config, f"run={tmp_path}/slow", "trainer.steps=100000"], 2, log,
                        {"LD_PRELOAD": str(tmp_path / "slow.so")})
        wait_for_step(tmp_path / "slow", 3, process)
        pids = subprocess.run(["pgrep", "-f", f"^[^ ]*facetrain train .*{tmp_path}/slow"], capture_output=True, text=True)
        began = time.monotonic()
        for pid in pids.stdout.split():
            os.kill(int(pid), signal.SIGTERM)
        assert process.wait(90) == 85, (tmp_path / "log").read_text()
        assert time.monotonic() - began > 6, "the disk was to be slow"
    assert (newest_checkpoint(tmp_path / "slow") / "meta.yaml").exists()
    assert not list((tmp_path / "slow").glob("*.tmp"))


def test_sigkill_at_any_moment_leaves_a_loadable_checkpoint(tmp_path, config):
    """A checkpoint every step, so that most kills fall into a save; 20 kills of the whole job, then a clean end."""
    overrides = ["checkpoint.every=1", "checkpoint.keep=2", "trainer.steps=100000", "trainer.precision=fp32"]
    moments = random.Random(1)
    folder, last = tmp_path / "killed", -1
    with open(tmp_path / "log", "w") as log:
        for kill in range(20):
            args = ["train", config, f"run={folder}", *overrides] if kill == 0 else ["train", "--resume", folder]
            began = time.time()
            process = start(args, 2, log)
            wait_for_step(folder, max(last, 0) + 1, process, after=began)
            time.sleep(moments.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
            subprocess.run(["pkill", "-KILL", "-f", str(folder)], check=False)
            newest = newest_checkpoint(folder)
            if newest is not None:  # a kill before the first save leaves none, and that is complete too
                assert tensors(newest), newest
                assert (newest / "meta.yaml").exists()
                step = int(newest.name[5:])
                assert step >= last, "the newest checkpoint may not go back"
                last = max(last, step)
    assert last > 0
    run(["train", "--resume", folder, f"trainer.steps={last + 3}"], 3)
    assert newest_checkpoint(folder).name == f"step_{last + 3:09d}"
    assert losses(folder)[-1] is not None
    assert not list(folder.glob("*.tmp")), "what an interrupted run left is removed"


def test_a_dead_rank_ends_the_job(tmp_path, config):
    with open(tmp_path / "log", "w") as log:
        process = start(["train", config, f"run={tmp_path}/dead", "trainer.steps=100000"], 2, log)
        wait_for_step(tmp_path / "dead", 3, process)
        children = subprocess.run(["pgrep", "-f", f"facetrain train .*{tmp_path}/dead"], capture_output=True, text=True).stdout.split()
        ranks = [pid for pid in map(int, children) if pid != process.pid]
        os.kill(ranks[-1], signal.SIGKILL)
        began = time.monotonic()
        assert process.wait(60) != 0
        assert time.monotonic() - began < 25


def test_zero_steps_and_starting_without_a_checkpoint(tmp_path, config):
    run(["train", config, f"run={tmp_path}/initial", "trainer.steps=0"], 2)
    assert newest_checkpoint(tmp_path / "initial").name == "step_000000000"
    for folder in (tmp_path / "initial").glob("step_*"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    done = run(["train", "--resume", tmp_path / "initial", "trainer.steps=2"], 2)
    assert "starting at step 0" in done.stdout
    assert newest_checkpoint(tmp_path / "initial").name == "step_000000002"


def test_metrics_and_banner(tmp_path, config):
    done = run(["train", config, f"run={tmp_path}/m"], 2)
    for line in metrics(tmp_path / "m"):
        assert {"step", "loss", "lr", "samples_per_second"} <= line.keys()
    for word in ("2 ranks", "6 identities", "48 images", "iresnet18", "cpu", "12 images over all ranks"):
        assert word in done.stdout, word
