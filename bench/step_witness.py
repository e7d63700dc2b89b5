"""Images per second of the same training step in eager PyTorch, and the ratio of bench_step to it.

  step_witness.py --model iresnet50 --batch 32 --precision bf16 --threads 2
  step_witness.py ... --against build/release/bench/bench_step --pairs 5
The second form runs both programs in turn and prints the median of the pairs' ratios (ours / eager PyTorch).
"""

import argparse
import pathlib
import re
import statistics
import subprocess
import sys
import time

PASSED_ON = ("model", "width", "size", "batch", "classes", "precision", "threads", "steps", "warm_up")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="iresnet18")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--against", help="the bench_step program")
    parser.add_argument("--pairs", type=int, default=5)
    return parser.parse_args()


def eager(flags):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "e2e"))
    import torch
    from iresnet_witness import build

    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    network = build(flags.model, flags.width, 512, flags.size).to(memory_format=torch.channels_last)
    if hasattr(network, "fc"):
        network.features.weight.requires_grad_(False)
    rows = torch.nn.Parameter(0.01 * torch.randn(flags.classes, 512))
    optimizer = torch.optim.SGD([*(p for p in network.parameters() if p.requires_grad), rows],
                                lr=0.01, momentum=0.9, weight_decay=5e-4)
    pixels = torch.randint(256, (flags.batch, flags.size, flags.size, 3), dtype=torch.uint8)
    label = torch.randint(flags.classes, (flags.batch,))
    network.train()
    forward, backward, update = [], [], []
    for step in range(flags.warm_up + flags.steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=flags.precision == "bf16"):
            images = pixels.permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
            embedding = torch.nn.functional.normalize(network(images))
            cosine = torch.nn.functional.linear(embedding, torch.nn.functional.normalize(rows)).float()
            # cosface: 0.4 off the target's cosine, scale 64
            margin = torch.zeros_like(cosine).scatter_(1, label[:, None], 0.4)
            loss = torch.nn.functional.cross_entropy(64 * (cosine - margin), label)
        middle = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        end = time.perf_counter()
        optimizer.step()
        done = time.perf_counter()
        if step >= flags.warm_up:
            forward.append(middle - start)
            backward.append(end - middle)
            update.append(done - end)
    whole = [sum(parts) for parts in zip(forward, backward, update)]
    for name, seconds in (("forward", forward), ("backward", backward), ("update", update), ("step", whole)):
        median = statistics.median(seconds)
        print(f"{name:<10} {median * 1e3:9.1f} ms {flags.batch / median:10.1f} img/s")


def step_rate(command):
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(re.search(r"^step .* ([0-9.]+) img/s", output, re.M).group(1))


def compare(flags):
    passed = [word for key in PASSED_ON for word in ("--" + key.replace("_", "-"), str(getattr(flags, key)))]
    ours, theirs = [], []
    for _ in range(flags.pairs):
        ours.append(step_rate([flags.against, *passed]))
        theirs.append(step_rate([sys.executable, __file__, *passed]))
    ratios = [a / b for a, b in zip(ours, theirs)]
    print(f"{flags.model} width {flags.width:g}, {flags.size} px, batch {flags.batch}, {flags.precision}, "
          f"{flags.classes} classes, {flags.threads} threads: ours {statistics.median(ours):.1f}, eager PyTorch {statistics.median(theirs):.1f} "
          f"img/s, ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} ... {max(ratios):.2f})")


if __name__ == "__main__":
    arguments = parse()
    compare(arguments) if arguments.against else eager(arguments)
