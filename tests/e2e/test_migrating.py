"""docs/migrating.md's two programs, as they stand on the page, on files made here by the formats' descriptions."""
import io
import pickle
import re
import struct
import subprocess
import sys

import numpy
import pytest
from PIL import Image
from program import ROOT, run

MAGIC = struct.pack("<I", 0xCED7230A)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    page = (ROOT / "docs/migrating.md").read_text()
    blocks = re.findall(r"^<!-- (\w+\.py) -->\n```python\n(.*?)^```$", page, re.M | re.S)
    assert [name for name, _ in blocks] == ["rec_to_folders.py", "bin_to_pairs.py"]
    for name, text in blocks:
        (folder / name).write_text(text)
    return folder


def picture(seed, form="JPEG", size=16):
    pixels = numpy.random.default_rng(seed).integers(0, 255, (size, size, 3)).astype("uint8")
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def record(payload):
    """dmlc's framing: at each aligned place of the magic number the payload is cut, and the number left out."""
    cuts = [at for at in range(0, len(payload) - 3, 4) if payload[at:at + 4] == MAGIC]
    parts = [payload[a:b] for a, b in zip([0, *(at + 4 for at in cuts)], [*cuts, len(payload)])]
    flags = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4) for flag, part in zip(flags, parts))


def payload(image, labels, number=0):
    scalar = labels[0] if len(labels) == 1 else -1.0
    count = 0 if len(labels) == 1 else len(labels)
    return struct.pack("<IfQQ", count, scalar, number, 0) + struct.pack(f"<{count}f", *labels[:count]) + image


def test_a_record_file_becomes_a_folder_an_identity(programs, tmp_path):
    plain = picture(3)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 2 + 12) + b"xx" + MAGIC + b"yyyy" + MAGIC  # a JPEG may say anything there
    awkward = plain[:2] + comment + plain[2:]
    images = [(picture(1), [7.0]), (picture(2, "PNG"), [7.0, 0.0]), (awkward, [12.0]), (picture(4), [12.0, 3.0])]
    data = b"".join(record(payload(image, labels, n)) for n, (image, labels) in enumerate(images))
    assert data.count(MAGIC) == 6, "one record in three parts"
    data += record(payload(b"", [1.0, 3.0])) + record(payload(b"", [3.0, 5.0])) + record(payload(b"", [5.0, 7.0]))  # people, and the header
    (tmp_path / "train.rec").write_bytes(data)
    subprocess.run([sys.executable, programs / "rec_to_folders.py", tmp_path / "train.rec", tmp_path / "faces"], check=True)
    written = {str(file.relative_to(tmp_path / "faces")): file.read_bytes() for file in (tmp_path / "faces").rglob("*.*")}
    assert written == {"00000007/00000000.jpg": images[0][0], "00000007/00000001.png": images[1][0],
                       "00000012/00000002.jpg": awkward, "00000012/00000003.jpg": images[3][0]}
    said = run(["shards", "pack", "--out", tmp_path / "set", tmp_path / "faces"]).stdout
    assert "4 images" in said and "identities: 2" in said
    (tmp_path / "cut.rec").write_bytes(data[:-2])
    cut = subprocess.run([sys.executable, programs / "rec_to_folders.py", tmp_path / "cut.rec", tmp_path / "x"], capture_output=True, text=True)
    assert cut.returncode != 0 and "ends within a record" in cut.stderr


@pytest.mark.parametrize("kind", ["bytes", "arrays"])
def test_a_verification_file_becomes_images_and_pairs(programs, tmp_path, kind):
    same = [k % 3 != 0 for k in range(20)]
    images = []
    for k, is_same in enumerate(same):
        images += [picture(k), picture(k if is_same else 1000 + k)]
    stored = [numpy.frombuffer(image, "uint8") for image in images] if kind == "arrays" else images
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((stored, same), protocol=2))
    subprocess.run([sys.executable, programs / "bin_to_pairs.py", tmp_path / "lfw.bin", tmp_path / "lfw"], check=True)
    written = sorted((tmp_path / "lfw/images").iterdir())
    assert [file.read_bytes() for file in written] == images
    said = run(["eval", "baseline:pixels", "--images", tmp_path / "lfw/images", "--pairs", tmp_path / "lfw/pairs.csv"]).stdout
    assert "pairs 20 folds 10 " in said and "kfold accuracy 1.000000" in said, said
