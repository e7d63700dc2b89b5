"""MAE against a vision transformer written here from the paper: three training steps with the same masks in float64, the
first in float32; and what cannot be trained on."""
import math

import numpy
import pytest
import torch
from program import metrics, newest_checkpoint, run, tensors, tiny_faces

WORD = (1 << 64) - 1
SIZE, PATCH, WIDTH, DEPTH, HEADS, RATIO, ROWS, SEED = 32, 8, 24, 2, 3, 0.75, 6, 7
DECODER = {"width": 16, "depth": 1, "heads": 2}


# ---- the program's counter-based numbers (core/random.h), in Python's integers

def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def key_of(first, *rest):
    key = mix(first)
    for word in rest:
        key = mix(key ^ mix((word + 0x632BE59BD9B4E019) & WORD))
    return key


def name_key(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & WORD
    return mix(value)


def uniforms(position, count, name):
    key = key_of(SEED, position, 0, name_key(name))
    return [(mix((key + 0x9E3779B97F4A7C15 * i) & WORD) >> 40) * 2.0 ** -24 for i in range(count)]


# ---- the network, from the paper's description; weights are the program's, by MAE's names

def block(x, w, name, heads):
    def norm(y, n):
        return torch.nn.functional.layer_norm(y, y.shape[-1:], w[n + ".weight"], w[n + ".bias"], 1e-6)

    def linear(y, n):
        return y @ w[n + ".weight"].T + w[n + ".bias"]

    b, n, d = x.shape
    q, k, v = linear(norm(x, name + ".norm1"), name + ".attn.qkv").reshape(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    attention = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(d // heads), -1)
    x = x + linear((attention @ v).transpose(1, 2).reshape(b, n, d), name + ".attn.proj")
    return x + linear(torch.nn.functional.gelu(linear(norm(x, name + ".norm2"), name + ".mlp.fc1")), name + ".mlp.fc2")


def patches(images):
    b, side = len(images), SIZE // PATCH
    return images.reshape(b, 3, side, PATCH, side, PATCH).permute(0, 2, 4, 3, 5, 1).reshape(b, side * side, -1)


def loss_of(w, images, positions):
    count = (SIZE // PATCH) ** 2
    keep = int(count * (1 - RATIO))
    noise = torch.tensor([uniforms(p, count, "mae.mask") for p in positions], dtype=torch.float64)
    shuffle = torch.argsort(noise, dim=1)
    restore, kept = torch.argsort(shuffle, dim=1), shuffle[:, :keep]
    weight = w["backbone.patch_embed.proj.weight"]
    x = torch.nn.functional.conv2d(images, weight, w["backbone.patch_embed.proj.bias"], stride=PATCH).flatten(2).transpose(1, 2)
    x = x + w["backbone.pos_embed"][:, 1:]
    x = torch.gather(x, 1, kept[..., None].expand(-1, -1, WIDTH))
    token = (w["backbone.cls_token"] + w["backbone.pos_embed"][:, :1]).expand(len(images), -1, -1)
    x = torch.cat([token, x], 1)
    for k in range(DEPTH):
        x = block(x, w, f"backbone.blocks.{k}", HEADS)
    x = torch.nn.functional.layer_norm(x, (WIDTH,), w["backbone.norm.weight"], w["backbone.norm.bias"], 1e-6)
    y = x @ w["decoder.decoder_embed.weight"].T + w["decoder.decoder_embed.bias"]
    hidden = w["decoder.mask_token"].expand(len(images), count - keep, -1)
    body = torch.cat([y[:, 1:], hidden], 1)
    body = torch.gather(body, 1, restore[..., None].expand(-1, -1, DECODER["width"]))
    y = torch.cat([y[:, :1], body], 1) + w["decoder.decoder_pos_embed"]
    for k in range(DECODER["depth"]):
        y = block(y, w, f"decoder.decoder_blocks.{k}", DECODER["heads"])
    y = torch.nn.functional.layer_norm(y, (DECODER["width"],), w["decoder.decoder_norm.weight"], w["decoder.decoder_norm.bias"], 1e-6)
    y = (y @ w["decoder.decoder_pred.weight"].T + w["decoder.decoder_pred.bias"])[:, 1:]
    target = patches(images)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    removed = (restore >= keep).to(y.dtype)
    return (((y - target) ** 2).mean(-1) * removed).sum() / removed.sum()


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mae")
    tiny_faces(folder / "faces", identities=6, images=3, size=SIZE)
    return folder / "faces"


def words(faces, run_folder, *more):
    decoder = ", ".join(f"{k}: {v}" for k, v in DECODER.items())
    return ["train",
            str(faces.parent / "mae.yaml"), f"run={run_folder}", f"data.train=folder:{faces}", f"seed={SEED}", f"data.batch_size={ROWS}",
        f"recipe.decoder={{{decoder}}}", *more]


@pytest.fixture(scope="module")
def config(faces):
    file = faces.parent / "mae.yaml"
    file.write_text(f"""
recipe: {{name: mae, mask_ratio: {RATIO}}}
data: {{size: {SIZE}, flip: false, sampler: {{name: sequential}}, normalize: imagenet}}
model: {{name: vit_tiny_patch16_224, patch: {PATCH}, width: {WIDTH / 192}, depth: {DEPTH}, heads: {HEADS}, position: sincos, init_scheme: mae}}
optimizer: {{name: adamw, lr: 0.003, beta1: 0.9, beta2: 0.95, weight_decay: 0.05, no_decay: ['rank<2']}}
schedule: {{name: constant}}
trainer: {{steps: 3, precision: fp64, threads: 1}}
log: {{every: 1}}
""")
    return file


def images(faces, dtype):
    files = sorted(faces.glob("*/*.ppm"))
    pixels = numpy.stack([numpy.frombuffer(f.read_bytes()[-SIZE * SIZE * 3:], numpy.uint8).reshape(SIZE, SIZE, 3) for f in files])
    mean, deviation = numpy.array([0.485, 0.456, 0.406]) * 255, numpy.array([0.229, 0.224, 0.225]) * 255
    return torch.tensor((pixels - mean) / deviation).permute(0, 3, 1, 2).to(dtype)


def start(tmp_path, faces, config, dtype, *more):
    run(words(faces, tmp_path / "start", "trainer.steps=0", *more))
    found = tensors(newest_checkpoint(tmp_path / "start"))
    fixed = {"backbone.pos_embed", "decoder.decoder_pos_embed"}
    return {name: torch.tensor(value).to(dtype).requires_grad_(name not in fixed)
            for name, value in found.items() if name.startswith(("backbone.", "decoder.")) and not name.endswith((".exp_avg", ".exp_avg_sq"))}


def test_three_steps_equal_a_network_written_from_the_paper(tmp_path, faces, config):
    w = start(tmp_path, faces, config, torch.float64)
    run(words(faces, tmp_path / "run"))
    pixels = images(faces, torch.float64)
    learned = {n: p for n, p in w.items() if p.requires_grad}
    optimizer = torch.optim.AdamW([{"params": [p for p in learned.values() if p.dim() > 1], "weight_decay": 0.05},
                                   {"params": [p for p in learned.values() if p.dim() <= 1], "weight_decay": 0}],
                                  lr=0.003, betas=(0.9, 0.95))
    found = [line["loss"] for line in metrics(tmp_path / "run")]
    for step in range(3):
        positions = range(step * ROWS, (step + 1) * ROWS)
        loss = loss_of(w, pixels[list(positions)], positions)
        assert abs(loss.item() - found[step]) < 1e-8, step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    end = tensors(newest_checkpoint(tmp_path / "run"))

    def compared(name, value):
        """A bias of all keys shifts each row of scores by one number: its gradient is rounding, which AdamW makes a step of."""
        third = len(value) // 3
        return torch.cat([value[:third], value[2 * third:]]) if name.endswith("qkv.bias") else value

    for name, p in w.items():
        assert float((compared(name, p.detach()) - compared(name, torch.tensor(end[name]))).abs().max()) < 1e-6, name
    assert max(float((p.detach() - torch.tensor(tensors(newest_checkpoint(tmp_path / "start"))[n])).abs().max()) for n, p in learned.items()) > 1e-3


def test_the_first_step_in_float32(tmp_path, faces, config):
    w = start(tmp_path, faces, config, torch.float32, "trainer.precision=fp32")
    run(words(faces, tmp_path / "run", "trainer.precision=fp32", "trainer.steps=1"))
    loss = loss_of(w, images(faces, torch.float32)[:ROWS], range(ROWS)).item()
    assert abs(loss - metrics(tmp_path / "run")[0]["loss"]) < 1e-5


def test_it_is_the_same_on_four_ranks_and_in_micro_batches(tmp_path, faces, config):
    run(words(faces, tmp_path / "one"))
    whole = tensors(newest_checkpoint(tmp_path / "one"))
    for name, ranks, more in (("four", 4, []), ("cut", 2, ["trainer.accumulate=3"])):
        run(words(faces, tmp_path / name, *more), ranks)
        other = tensors(newest_checkpoint(tmp_path / name))
        assert max(float(abs(whole[n] - other[n]).max()) for n in whole if whole[n].dtype.kind == "f") < 1e-9, name


def test_what_cannot_be_trained_on(tmp_path, faces, config):
    def fails(*more):
        done = run(words(faces, tmp_path / "bad", *more), check=False)
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) <= 3, done.stderr
        return done.stderr

    assert "recipe.mask_ratio" in fails("recipe.mask_ratio=1.5")
    assert "leaves 0 of 16 patches" in fails("recipe.mask_ratio=0.99")
    assert "mae wants a vision transformer" in fails("model.name=iresnet18")
    assert "patch" in fails("model.patch=7")
    assert "model.pool=token" in fails("model.pool=mean")
    assert "heads" in fails("recipe.decoder.heads=3")
