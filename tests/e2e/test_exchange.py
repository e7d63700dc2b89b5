"""Files and networks against independent implementations: the public safetensors package and plain PyTorch."""
import os
import pathlib
import subprocess
import sys

import program

HERE = pathlib.Path(__file__).resolve().parent
TESTS = pathlib.Path(program.PROGRAM).parent / "tests"


def test_safetensors_both_ways():
    subprocess.run([sys.executable, HERE / "safetensors_witness.py", TESTS / "core_test"], check=True, timeout=200)


def test_networks_equal_plain_pytorch(tmp_path):
    subprocess.run([TESTS / "models_test", "--gtest_filter=Backbones.DumpForTheWitness"], check=True, timeout=200,
                   stdout=subprocess.DEVNULL, env=dict(os.environ, FACETRAIN_DUMP=str(tmp_path), OMP_NUM_THREADS="1"))
    assert len(list(tmp_path.glob("*.probe.safetensors"))) == 9
    subprocess.run([sys.executable, HERE / "iresnet_witness.py", tmp_path], check=True, timeout=200)
