"""Real faces over several seeds, and the same recipe in plain PyTorch beside it.

  FACETRAIN_PYTHON bench/real_faces.py FOLDER [--seeds 3] [--epochs 12] [--precision bf16]

Both train on LFW's fold 1 and ORL (../shared/data, or FACETRAIN_SHARED) and are judged on the 600 official pairs of fold 2: other
people. PyTorch's embeddings are written to a file and judged by the same `facetrain eval`. A table of accuracy, AUC and images per
second; two cores each: two ranks here, two threads there.
"""
import argparse
import csv
import json
import pathlib
import statistics
import sys
import time

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "e2e"))
import test_real_faces as faces  # noqa: E402
from program import metrics, run  # noqa: E402


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def judge(folder, what, name, images=None):
    out = folder / f"{name}.json"
    place = ["--images", faces.LFW / "images"] if images else []
    run(["eval", what, "--protocol", "pairs", *place, "--pairs", folder / "pairs.txt", "--json", out], timeout=1200)
    return json.loads(out.read_text())


def ours(folder, flags, seed):
    config = faces.configuration(folder, flags.size, flags.epochs)
    config["trainer"]["precision"] = flags.precision
    config["run"], config["seed"], config["checkpoint"] = str(folder / f"run-{seed}"), seed, {"every": 0}
    file = folder / f"ours-{seed}.yaml"
    file.write_text(json.dumps(config))
    start = time.time()
    run(["train", file], flags.threads, timeout=7200)
    seconds = time.time() - start
    rate = statistics.median(line["samples_per_second"] for line in metrics(config["run"]))
    return judge(folder, config["run"], f"ours-{seed}", images=True), rate, seconds


def load(folder, size):
    """The training images in the order of the two sets, and their labels: LFW's people first, then ORL's."""
    import torch
    from PIL import Image
    rows = [line.split("\t") for line in (folder / "lfw-fold1.tsv").read_text().splitlines()]
    files, labels = [pathlib.Path(path) for path, _ in rows], [int(label) for _, label in rows]
    first = max(labels) + 1
    for i, person in enumerate(sorted(p for p in faces.ORL.iterdir() if p.is_dir())):
        for file in sorted(person.iterdir()):
            files.append(file)
            labels.append(first + i)
    pixels = numpy.stack([numpy.asarray(Image.open(f).convert("RGB").resize((size, size), Image.BILINEAR)) for f in files])
    return torch.from_numpy(pixels), torch.tensor(labels)


def plain_pytorch(folder, flags, seed):
    """The recipe of faces.configuration as anybody would write it."""
    import torch
    from iresnet_witness import build
    from torch import nn
    torch.manual_seed(seed)
    torch.set_num_threads(flags.threads)
    config = faces.configuration(folder, flags.size, flags.epochs)
    model, loss, options = config["model"], config["loss"], config["optimizer"]
    pixels, labels = load(folder, flags.size)
    network = build(model["name"], model["width"], model["embedding"], flags.size).to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, 0.1)
    network.features.weight.requires_grad_(False)
    rows = nn.Parameter(0.01 * torch.randn(int(labels.max()) + 1, model["embedding"]))
    trained = [*(p for p in network.parameters() if p.requires_grad), rows]
    optimizer = torch.optim.SGD(trained, lr=options["lr"], momentum=options["momentum"], weight_decay=options["weight_decay"])
    batch = config["data"]["batch_size"]
    steps = round(len(labels) * flags.epochs / batch)
    order = torch.cat([torch.randperm(len(labels)) for _ in range(flags.epochs + 1)])
    normal = lambda images: images.permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
    network.train()
    start = time.time()
    for step in range(steps):
        index = order[step * batch:(step + 1) * batch]
        images = normal(pixels[index])
        mirrored = torch.rand(batch) < 0.5
        images[mirrored] = images[mirrored].flip(3)
        for group in optimizer.param_groups:
            group["lr"] = options["lr"] * (1 - step / steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=flags.precision == "bf16"):
            unit = nn.functional.normalize(network(images))
            cosine = nn.functional.linear(unit, nn.functional.normalize(rows)).float()
        margin = torch.zeros_like(cosine).scatter_(1, labels[index][:, None], loss["margin"])
        value = nn.functional.cross_entropy(loss["scale"] * (cosine - margin), labels[index])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
    seconds = time.time() - start
    return embed(network, folder, flags, normal, seed), steps * batch / seconds, seconds


def embed(network, folder, flags, normal, seed):
    """Embeddings of all LFW images with names, judged by `facetrain eval`."""
    import h5py
    import torch
    from PIL import Image
    with open(faces.LFW / "lfw.csv", newline="") as table:
        names = [f"{row['identity']}/{row['image']}" for row in csv.DictReader(table)]
    found = []
    network.eval()
    with torch.no_grad():
        for begin in range(0, len(names), 64):
            part = [numpy.asarray(Image.open(faces.LFW / "images" / name).convert("RGB").resize(
                (flags.size, flags.size), Image.BILINEAR)) for name in names[begin:begin + 64]]
            images = normal(torch.from_numpy(numpy.stack(part)))
            found.append(network(images) + network(images.flip(3)))
    file = folder / f"pytorch-{seed}.h5"
    with h5py.File(file, "w") as out:
        out["embeddings"] = torch.cat(found).float().numpy()
        out.create_dataset("names", data=names, dtype=h5py.string_dtype())
    return judge(folder, file, f"pytorch-{seed}")


def main():
    flags = parse()
    flags.folder.mkdir(parents=True)
    images, people = faces.pack(flags.folder)
    print(f"{images} images of {people} people, {flags.epochs} epochs at {flags.size} px, {flags.precision}; pairs of other people")
    print(f"{'seed':<6}{'program':<10}{'accuracy':>10}{'AUC':>9}{'img/s':>9}{'seconds':>9}")
    table = {"facetrain": [], "PyTorch": []}
    for seed in range(1, flags.seeds + 1):
        for name, train in (("facetrain", ours), ("PyTorch", plain_pytorch)):
            result, rate, seconds = train(flags.folder, flags, seed)
            table[name].append(result)
            print(f"{seed:<6}{name:<10}{result['accuracy']:>10.4f}{result['auc']:>9.4f}{rate:>9.0f}{seconds:>9.0f}", flush=True)
    for name, results in table.items():
        mean = {key: statistics.mean(result[key] for result in results) for key in ("accuracy", "auc")}
        spread = statistics.stdev(result["accuracy"] for result in results) if len(results) > 1 else 0
        print(f"mean  {name:<10}{mean['accuracy']:>10.4f}{mean['auc']:>9.4f}   accuracy's standard deviation {spread:.4f}")


if __name__ == "__main__":
    main()
