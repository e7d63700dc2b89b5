"""Shards packed by the program, opened by h5py without our code: every column, every checksum (shard_h5py.py)."""
import pathlib
import subprocess
import sys

from program import PROGRAM, environment


def test_every_column_reads_in_h5py():
    script = pathlib.Path(__file__).with_name("shard_h5py.py")
    done = subprocess.run([sys.executable, str(script), PROGRAM], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
