"""The public `safetensors` package reads our files, and we read its.

Usage: safetensors_witness.py CORE_TEST, the built core_test program; it exchanges files with its test
Safetensors.ExchangeWithTheWitness in a temporary folder.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        values = torch.arange(-6, 6).view(3, 4)
        theirs = {"w": torch.linspace(-1, 1, 35).view(5, 7), "half": values.half(), "bf": values.bfloat16(),
                  "long": values, "flags": values > 0, "zero": torch.zeros(0, 3), "one": torch.tensor(1.5)}
        save_file(theirs, folder / "theirs.safetensors", metadata={"format": "pt", "who": "Zoë"})
        subprocess.run([sys.argv[1], "--gtest_filter=Safetensors.ExchangeWithTheWitness"], check=True,
                       stdout=subprocess.DEVNULL, env={**os.environ, "FACETRAIN_EXCHANGE": str(folder)})

        back = load_file(folder / "back.safetensors")
        assert back.keys() == theirs.keys(), back.keys()
        for name, tensor in theirs.items():
            assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name
        with safe_open(folder / "back.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt", "who": "Zoë"}, file.metadata()

        ours = load_file(folder / "ours.safetensors")
        expected = {"Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
                    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
                    "Char": torch.int8}
        for name, dtype in expected.items():
            assert ours[name].dtype == dtype and torch.equal(ours[name], values.to(dtype)), name
        assert torch.equal(ours["bytes"], (values + 6).to(torch.uint8))
        assert torch.equal(ours["flags"], values > 0)
        assert torch.equal(ours["u64"].to(torch.int64), values + 6)
        assert ours["scalar"].shape == () and ours["scalar"].item() == 2.5
        assert ours["empty"].shape == (0, 7)
        assert len(ours) == len(expected) + 5, ours.keys()
        print(f"{len(theirs)} of its tensors read by us, {len(ours)} of ours by it: equal")


if __name__ == "__main__":
    main()
