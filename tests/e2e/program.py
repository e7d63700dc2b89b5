"""The built program as a user runs it: what all end-to-end tests share."""
import json
import math
import os
import pathlib
import random
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("FACETRAIN_PROGRAM", str(ROOT / "build/release/facetrain"))
SHARED = pathlib.Path(os.environ.get("FACETRAIN_SHARED", ROOT.parent / "shared"))


def environment(extra=None):
    env = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    env.pop("LD_LIBRARY_PATH", None)  # the program finds its libraries by itself
    env.update(extra or {})
    return env


def command(args, ranks=1):
    words = [PROGRAM, *map(str, args)]
    if ranks == 1:
        return words
    return ["mpirun", "-np", str(ranks), "--bind-to", "none", "--oversubscribe", *words]


def run(args, ranks=1, check=True, env=None, timeout=240, cwd=None):
    """Runs `facetrain ARGS`, under mpirun for more than one rank. With check, a non-zero code fails with the output."""
    done = subprocess.run(command(args, ranks), env=environment(env), capture_output=True, text=True, timeout=timeout, cwd=cwd)
    if check:
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def metrics(folder):
    """The training lines of metrics.jsonl (those of evaluations have no loss)."""
    lines = [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def newest_checkpoint(folder):
    names = sorted(p.name for p in pathlib.Path(folder).glob("step_*") if not p.name.endswith(".tmp"))
    return pathlib.Path(folder) / names[-1] if names else None


def tensors(checkpoint):
    """All tensors of a checkpoint by name, sharded ones joined."""
    import numpy
    from safetensors import safe_open
    whole = {}
    for file in sorted(pathlib.Path(checkpoint).glob("*.safetensors")):
        with safe_open(file, framework="numpy") as opened:
            ranges = opened.metadata() or {}
            for name in opened.keys():
                value = opened.get_tensor(name)
                if name in ranges:
                    begin, end, total = map(int, ranges[name].split(","))
                    rows = whole.setdefault(name, numpy.full((total, *value.shape[1:]), numpy.nan, value.dtype))
                    rows[begin:end] = value
                else:
                    whole[name] = value
    return whole


def difference(a, b):
    """Largest |x - y| / max(1, |x|) over all tensors of two checkpoints, which must have the same names."""
    import numpy
    assert a.keys() == b.keys()
    worst = 0.0
    for name, x in a.items():
        x, y = x.astype(numpy.float64), b[name].astype(numpy.float64)
        assert x.shape == y.shape, name
        if x.size:
            worst = max(worst, float((abs(x - y) / numpy.maximum(1, abs(x))).max()))
    return worst


def tiny_faces(folder, identities=6, images=8, size=32, seed=0):
    """A folder per identity with small PPM pictures: a pattern of the identity plus noise of the image."""
    for identity in range(identities):
        rng = random.Random(f"{seed} {identity}")
        fx, fy, base = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), [rng.uniform(60, 190) for _ in range(3)]
        here = pathlib.Path(folder) / f"id_{identity:03d}"
        here.mkdir(parents=True, exist_ok=True)
        for image in range(images):
            noise = random.Random(f"{seed} {identity} {image}")
            pixels = bytes(int(min(255, max(0, b + 40 * math.sin(fx * x + fy * y) + noise.uniform(-20, 20))))
                           for y in range(size) for x in range(size) for b in base)
            (here / f"{image:03d}.ppm").write_bytes(b"P6\n%d %d\n255\n" % (size, size) + pixels)
    return pathlib.Path(folder)


CONFIG = """
run: {run}
data: {{train: 'folder:{faces}', size: 32, batch_size: 12, workers: 1}}
model: {{name: iresnet18, width: 0.0625, embedding: 16, batch_norm: sync}}
loss: {{name: arcface, margin: 0.2, scale: 16}}
optimizer: {{name: sgd, lr: 0.05}}
schedule: {{name: cosine, warmup: 2}}
trainer: {{steps: 6, precision: fp64}}
checkpoint: {{every: 0}}
log: {{every: 1}}
"""


def write_config(folder, faces, name="config.yaml"):
    """A small run in fp64 that every test varies by overrides; its run folder is FOLDER/run unless overridden."""
    file = pathlib.Path(folder) / name
    file.write_text(CONFIG.format(run=pathlib.Path(folder) / "run", faces=faces))
    return file
