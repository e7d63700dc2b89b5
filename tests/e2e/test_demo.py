"""README's first command, whole: the rendered faces are hard for raw pixels and colours, and the network learns them."""
import os
import re
import subprocess

from program import ROOT, environment


def test_the_demo_trains_stops_resumes_and_beats_its_baselines(tmp_path):
    env = environment({"PATH": os.environ["PATH"]})
    done = subprocess.run([ROOT / "launch/demo.sh", tmp_path / "demo"], env=env, capture_output=True, text=True, timeout=880)
    print(done.stdout[-4000:])  # shown by pytest when something fails
    assert done.returncode == 0, done.stderr[-3000:]
    accuracy = {name: float(value) for name, value in
                re.findall(r"(raw pixels|colour histogram|trained network) +([0-9.]+) \+-", done.stdout)}
    assert accuracy["raw pixels"] <= 0.65 and accuracy["colour histogram"] <= 0.65, accuracy
    assert accuracy["trained network"] >= 0.88, accuracy
    said = done.stdout + done.stderr
    assert "checkpointed (exit code 85)" in said and "resumed from" in said
    for name in ("model.safetensors", "model.onnx", "model.md", "run/metrics.jsonl", "sets/synth-test/pairs.csv", "report.html"):
        assert (tmp_path / "demo" / name).exists(), name
