"""One recognition training run in plain PyTorch: the second opinion on what `facetrain train` computes.

Written from the papers and from docs/formats.md's names, without a look at losses/ or trainer/: IResNet as
iresnet_witness.py has it, a full softmax over all classes, torch.optim, and the rules of configuration keys as
`facetrain list` states them. The configuration is the same dictionary that the program is given; every key that matters
here must be in it, so that no default of the program is repeated.
"""
import contextlib
import math
import pathlib

import numpy
import torch
from iresnet_witness import IRESNETS, IResNet
from PIL import Image
from torch import nn


class Network(IResNet):
    def forward(self, x):  # the base class computes the last layer in fp32; here everything is in the type of x
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(torch.flatten(self.bn2(x), 1)))


def load_images(folder):
    """All images below a folder of identities in the order of names: pixels [N, 3, H, W] uint8, labels [N]."""
    people = sorted(p for p in pathlib.Path(folder).iterdir() if p.is_dir())
    files = [(file, label) for label, person in enumerate(people) for file in sorted(person.iterdir())]
    pixels = numpy.stack([numpy.asarray(Image.open(file).convert("RGB")) for file, _ in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor([label for _, label in files])


def arcface(cosine, margin, fallback, gradient):
    """cos(theta + m), Deng 2019 eq. 3; hard: cos(theta) - m sin(m) once theta + m > pi."""
    sine = (1 - cosine.square()).sqrt()
    phi = cosine * math.cos(margin) - sine * math.sin(margin)
    if fallback == "hard":
        phi = torch.where(cosine > math.cos(math.pi - margin), phi, cosine - margin * math.sin(math.pi - margin))
    elif fallback == "easy":
        phi = torch.where(cosine > 0, phi, cosine)
    return phi if gradient == "exact" else cosine + (phi - cosine).detach()


def logits(loss, embeddings, rows, bias, labels):
    if loss["name"] == "softmax":
        return embeddings @ rows.T + bias
    cosines = nn.functional.normalize(embeddings) @ nn.functional.normalize(rows).T
    target = cosines.gather(1, labels[:, None])
    if loss["name"] == "arcface":
        phi = arcface(target, loss["margin"], loss["fallback"], loss["gradient"])
    else:
        phi = target - loss["margin"]  # CosFace, Wang 2018 eq. 4
    return loss["scale"] * cosines.scatter(1, labels[:, None], phi)


def factor(schedule, step, total):
    """Of the base learning rate at a step counted from 0: linear warm-up to 1, then the shape over what is left."""
    warmup = schedule.get("warmup", 0)
    if step < warmup:
        return (step + 1) / warmup
    part = (step - warmup) / (total - warmup)
    final = schedule.get("final", 0)
    if schedule["name"] == "poly":
        return final + (1 - final) * (1 - part) ** schedule["power"]
    if schedule["name"] == "cosine":
        return final + (1 - final) * (1 + math.cos(math.pi * part)) / 2
    if schedule["name"] == "step":
        return schedule["gamma"] ** sum(step >= milestone for milestone in schedule["milestones"])
    assert schedule["name"] == "constant"
    return 1


class Witness:
    def __init__(self, config, start, folder):
        """`start`: the tensors of an initial checkpoint by name."""
        self.config = config
        self.dtype = {"fp64": torch.float64, "fp32": torch.float32}[config["trainer"]["precision"]]
        self.pixels, self.labels = load_images(folder)
        start = {name: torch.from_numpy(value.copy()) for name, value in start.items()}
        model, size = config["model"], config["data"]["size"]
        self.network = Network(IRESNETS[model["name"]], model["width"], model["embedding"], size).to(self.dtype)
        of_network = {name[len("backbone."):]: value for name, value in start.items()
                      if name.startswith("backbone.") and name[len("backbone."):] in self.network.state_dict()}
        self.network.load_state_dict(of_network, strict=True)
        self.network.features.weight.requires_grad_(False)
        self.classifier = nn.ParameterDict({"weight": nn.Parameter(start["classifier.weight"].clone())})
        if config["loss"]["name"] == "softmax":
            self.classifier["bias"] = nn.Parameter(start["classifier.bias"].clone())
        if config["trainer"].get("freeze") == "batch_norm":
            for module in self.norms():
                module.requires_grad_(False)
        self.trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        self.replicated = {name: p for name, p in self.trained.items() if name.startswith("backbone.")}
        self.averages = {name: p.detach().clone() for name, p in self.replicated.items()}
        self.optimizer = self.make_optimizer(config["optimizer"])
        self.lines, self.fell_back, self.rows_seen = [], 0, 0

    def norms(self):
        return [m for m in self.network.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]

    def named_parameters(self):
        yield from ((f"backbone.{name}", p) for name, p in self.network.named_parameters())
        yield from ((f"classifier.{name}", p) for name, p in self.classifier.items())

    def make_optimizer(self, options):
        exempt = options.get("no_decay", [])
        assert exempt in ([], ["rank<2"]), "the only rule that this witness knows"
        flat = [p for p in self.trained.values() if exempt and p.dim() < 2]
        rest = [p for p in self.trained.values() if not (exempt and p.dim() < 2)]
        groups = [{"params": rest, "weight_decay": options["weight_decay"]}]
        if flat:
            groups.append({"params": flat, "weight_decay": 0.0})
        if options["name"] == "sgd":
            return torch.optim.SGD(groups, lr=1.0, momentum=options["momentum"], nesterov=options.get("nesterov", False))
        return torch.optim.AdamW(groups, lr=1.0, betas=(options["beta1"], options["beta2"]), eps=options["eps"])

    def batch(self, step):
        """Rows of a step of the stream: the data in order, again and again."""
        size = self.config["data"]["batch_size"]
        index = torch.arange(step * size, (step + 1) * size) % len(self.labels)
        images = (self.pixels[index].to(self.dtype) - 127.5) / 127.5
        return images, self.labels[index]

    def parts(self, ranks):
        """Rows of each rank, and of each of its micro-batches: lists of (begin, end)."""
        size, micro = self.config["data"]["batch_size"], self.config["trainer"].get("accumulate", 1)
        shares = [[] for _ in range(ranks)]
        for i in range(micro):
            begin, end = size * i // micro, size * (i + 1) // micro
            for rank in range(ranks):
                shares[rank].append((begin + (end - begin) * rank // ranks, begin + (end - begin) * (rank + 1) // ranks))
        return shares

    def objective(self, images, labels, seen):
        loss = self.config["loss"]
        embeddings = self.network(images)
        values = logits(loss, embeddings, self.classifier["weight"], self.classifier["bias"] if "bias" in self.classifier else None, labels)
        if loss["name"] == "arcface":
            cosines = (nn.functional.normalize(embeddings) * nn.functional.normalize(self.classifier["weight"][labels])).sum(1)
            self.fell_back += int((cosines <= math.cos(math.pi - loss["margin"])).sum())
            self.rows_seen += len(labels)
        absent = torch.ones(values.shape[1], dtype=torch.bool)
        absent[seen] = False
        return nn.functional.cross_entropy(values.masked_fill(absent, -torch.inf), labels, reduction="sum")

    def backward(self, images, labels, seen, ranks):
        """Gradients of the mean loss over the batch. Batch statistics are those of each rank's rows of each micro-batch;
        running ones are the average over ranks of what PyTorch would keep."""
        frozen = self.config["trainer"].get("freeze") == "batch_norm"
        self.network.train()
        for norm in self.norms():
            norm.train(not frozen)
        before = [buffer.clone() for buffer in self.network.buffers()]
        sums, loss = [torch.zeros_like(b) for b in before], 0.0
        for share in self.parts(ranks):
            for buffer, value in zip(self.network.buffers(), before):
                buffer.copy_(value)
            for begin, end in share:
                part = self.objective(images[begin:end], labels[begin:end], seen) / len(labels)
                part.backward()
                loss += part.item()
            for total, buffer in zip(sums, self.network.buffers()):
                total += buffer
        for total, buffer in zip(sums, self.network.buffers()):
            buffer.copy_(total / ranks if total.is_floating_point() else total // ranks)
        return loss

    def clip(self):
        options = self.config["trainer"]
        whole = options.get("clip_scope", "all") == "all"
        clipped = [p for name, p in self.trained.items() if whole or name in self.replicated]
        norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in clipped))
        if options.get("clip", 0) > 0 and norm > options["clip"]:
            for p in clipped:
                p.grad.mul_(options["clip"] / norm)
        return norm

    @contextlib.contextmanager
    def only_rows(self, seen):
        """rows: sparse: what an update did to the rows of other classes, and to their state, is undone."""
        classifier = self.config["classifier"]
        if classifier.get("sample_rate", 1) == 1 or classifier["rows"] == "dense":
            yield
            return
        weight = self.classifier["weight"]
        others = torch.tensor([j for j in range(len(weight)) if j not in set(seen.tolist())], dtype=torch.long)
        keep = weight.detach()[others].clone()
        states = {k: v[others].clone() for k, v in self.optimizer.state[weight].items() if torch.is_tensor(v) and v.dim() == 2}
        yield
        with torch.no_grad():
            weight[others] = keep
            for k, v in self.optimizer.state[weight].items():
                if torch.is_tensor(v) and v.dim() == 2:
                    v[others] = states[k] if k in states else torch.zeros_like(keep)

    def step(self, step, total, ranks):
        images, labels = self.batch(step)
        rate = self.config["classifier"].get("sample_rate", 1)
        assert rate in (0, 1), "in between, the program's own draw decides"
        seen = labels.unique() if rate == 0 else torch.arange(len(self.classifier["weight"]))
        self.optimizer.zero_grad()
        loss = self.backward(images, labels, seen, ranks)
        norm = self.clip()
        lr = self.config["optimizer"]["lr"] * factor(self.config["schedule"], step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.only_rows(seen):
            self.optimizer.step()
        decay = min(self.config["trainer"].get("ema", 0), (1 + step + 1) / (10 + step + 1))
        for name, p in self.replicated.items():
            self.averages[name] = decay * self.averages[name] + (1 - decay) * p.detach()
        self.lines.append({"step": step + 1, "loss": loss, "lr": lr, "gradient_norm": norm})

    def train(self, steps, ranks=1):
        """`ranks`: of a run with batch norm over each rank's rows; 1 for batch_norm: sync, where their number is no matter."""
        for step in range(steps):
            self.step(step, self.config["trainer"]["steps"], ranks)
        return self

    def tensors(self):
        """What a checkpoint is to hold, by its names."""
        kinds = {"momentum_buffer": "momentum", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
        whole = {f"backbone.{name}": value for name, value in self.network.state_dict().items()}
        whole |= {f"classifier.{name}": value for name, value in self.classifier.items()}
        for name, p in self.trained.items():
            for kind, value in self.optimizer.state[p].items():
                if kind in kinds:
                    whole[f"{name}.{kinds[kind]}"] = value
        if self.config["trainer"].get("ema", 0) > 0:
            whole |= {f"ema.{name}": value for name, value in self.averages.items()}
        return {name: value.detach().numpy() for name, value in whole.items()}
