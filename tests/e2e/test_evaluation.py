"""eval by both protocols as a user runs it: figures of a second implementation, any number of ranks, evaluation during
training, and what may be wrong with sets, lists and labels.

The network is an untrained one of fp32: what is tested is the way from images to figures.
"""
import json
import math
import re
import shutil
import subprocess

import h5py
import numpy
import pytest
from program import PROGRAM, SHARED, environment, run, tiny_faces, write_config

REFERENCE = SHARED / "data/lfw-reference-embeddings"


def blend(faces):
    """Makes the later images hard: more and more of the next person is in them."""
    people = sorted(faces.iterdir())
    images = {(k, n): file.read_bytes() for k, person in enumerate(people) for n, file in enumerate(sorted(person.iterdir()))}
    for (k, n), data in images.items():
        own, other = (numpy.frombuffer(d[13:], numpy.uint8).astype(float) for d in (data, images[(k + 1) % len(people), n]))
        share = (0, 0, 0.3, 0.45, 0.5, 0.55)[n]
        mixed = ((1 - share) * own + share * other).round().astype(numpy.uint8)
        (people[k] / f"{n:03d}.ppm").write_bytes(data[:13] + mixed.tobytes())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """9 people with 6 images each in two folders (3 people are in one of them only), a pair list, a run, embeddings."""
    folder = tmp_path_factory.mktemp("evaluation")
    tiny_faces(folder / "faces", identities=9, images=6)
    blend(folder / "faces")
    config = write_config(folder, folder / "faces")
    run(["train", config, "trainer.steps=0", "trainer.precision=fp32"])
    for person in sorted((folder / "faces").iterdir()):
        for number, image in enumerate(sorted(person.iterdir())):
            gallery = number < 2 and person.name < "id_006"
            where = folder / ("gallery" if gallery else "probe") / person.name
            where.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, where / image.name)
    rng = numpy.random.default_rng(5)
    lines = ["fold,i,j,same"]
    for fold in range(4):
        for _ in range(12):
            person, other = rng.choice(9, 2, replace=False)
            i, j = rng.choice(6, 2, replace=False)
            lines += [f"{fold},{6 * person + i},{6 * person + j},1", f"{fold},{6 * person + i},{6 * other + j},0"]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    run(["embed", folder / "run", folder / "faces", "-o", folder / "e.h5"])
    return folder


def fails(words, *wanted, ranks=1, code=1):
    done = run(words, ranks, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == code, f"exit code {done.returncode}, wanted {code}\n{said}"
    for word in wanted:
        assert word in said, f"'{word}' is not in:\n{said}"
    assert "Traceback" not in said and "terminate called" not in said
    messages = [line for line in done.stderr.splitlines() if re.match(r"(\[rank \d\]|facetrain:) ", line) and "warning" not in line]
    assert code == 2 or len(messages) == 1, said
    return said


def printed(words, ranks=1):
    """What eval prints, without the log's line that names the network or says that there is none."""
    lines = run(words, ranks).stdout.splitlines(keepends=True)
    assert not str(words[1]).endswith((".npy", ".h5")) or lines[0] == "(embeddings as they are: no mirrored image added)\n"
    return "".join(line for line in lines if not line.startswith(("run ", "(embeddings as they are")))


def embeddings(file):
    with h5py.File(file) as opened:
        rows = opened["embeddings"][:].astype(numpy.float64)
        return rows / numpy.linalg.norm(rows, axis=1, keepdims=True), [name.decode() for name in opened["names"][:]]


def pairs_of(file):
    fold, i, j, same = numpy.array([list(map(int, line.split(","))) for line in file.read_text().splitlines()[1:]]).T
    return fold, i, j, same.astype(bool)


def val_at_far(distance, same, fold, target=1e-3):
    """VAL of facenet and arcface_torch, by numpy's interpolation."""
    thresholds = numpy.arange(4000) * 0.001
    vals, fars = [], []
    for tested in dict.fromkeys(fold):
        train = fold != tested
        far = numpy.array([(distance[train & ~same] < t).mean() for t in thresholds])
        threshold = numpy.interp(target, far, thresholds) if far.max() >= target else 0.0
        vals.append((distance[~train & same] < threshold).mean())
        fars.append((distance[~train & ~same] < threshold).mean())
    return numpy.mean(vals), numpy.std(vals), numpy.mean(fars)


def test_the_published_reference_to_the_last_digit(tmp_path):
    if not REFERENCE.exists():
        pytest.skip(f"no {REFERENCE}")
    words = ["eval", REFERENCE / "embeddings.npy", "--protocol", "pairs", "--pairs", REFERENCE / "pairs.csv"]
    said = printed([*words, "--json", tmp_path / "r.json"])
    for line in (REFERENCE / "expected.txt").read_text().splitlines():
        assert line in said.splitlines(), line
    rows = numpy.load(REFERENCE / "embeddings.npy").astype(numpy.float64)
    unit = rows / numpy.linalg.norm(rows, axis=1, keepdims=True)
    fold, i, j, same = pairs_of(REFERENCE / "pairs.csv")
    val, deviation, far = val_at_far(((unit[i] - unit[j]) ** 2).sum(1), same, fold)
    assert f"val {val:.6f} std {deviation:.6f} far {far:.6f} at FAR=0.001" in said
    assert f"norm {numpy.linalg.norm(rows[numpy.unique([i, j])], axis=1).mean():.6f}" in said
    result = json.loads((tmp_path / "r.json").read_text())
    assert 100 < len(result["roc"]["far"]) <= 500 and result["roc"]["cosine"][0] is None
    assert sum(result["histogram"]["same"]) == sum(result["histogram"]["different"]) == 600
    cosine = (unit[i] * unit[j]).sum(1)
    assert result["hardest"]["same"][0]["cosine"] == pytest.approx(cosine[same].min(), abs=1e-12)
    assert result["hardest"]["different"][0]["cosine"] == pytest.approx(cosine[~same].max(), abs=1e-12)
    worst = numpy.flatnonzero(same)[cosine[same].argmin()]
    assert result["hardest"]["same"][0]["rows"] == [i[worst], j[worst]]
    assert result["figures"]["accuracy"] == result["accuracy"] and result["text"] == said
    assert printed(words, 3) == said, "printed once, the same"


def test_pairs_agree_with_a_second_implementation(base, tmp_path):
    unit, _ = embeddings(base / "e.h5")
    fold, i, j, same = pairs_of(base / "pairs.csv")
    distance = ((unit[i] - unit[j]) ** 2).sum(1)
    words = ["eval", base / "run", "--no-flip", "--images", base / "faces", "--pairs", base / "pairs.csv", "--json", tmp_path / "r.json"]
    said = printed(words)
    val, deviation, far = val_at_far(distance, same, fold)
    assert f"val {val:.6f} std {deviation:.6f} far {far:.6f}" in said
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["flip"] is False and result["images"] == str(base / "faces") and "run" in result["model"]
    assert result["hardest"]["same"][0]["names"][0].startswith("id_00")
    assert printed(["eval", base / "e.h5", "--pairs", base / "pairs.csv"]) == said
    assert printed([word for word in words if word != "--no-flip"]) != said, "flip is the default"


def identification(gallery, probes, ranks, fpirs):
    """The measures once more: lists of (unit vector, identity)."""
    people = list(dict.fromkeys(name for _, name in gallery))
    found, own_scores, unknown = [], [], []
    for row, name in probes:
        best = {person: max(row @ entry for entry, who in gallery if who == person) for person in people}
        others = [score for person, score in best.items() if person != name]
        if name in best:
            found.append(1 + sum(score >= best[name] for score in others))
            own_scores.append(best[name])
        else:
            unknown.append(max(others))
    found, own_scores = numpy.array(found), numpy.array(own_scores)
    figures = {f"rank{k}": (found <= k).mean() for k in ranks}
    unknown = sorted(unknown, reverse=True)
    for fpir in fpirs:
        threshold = unknown[int(fpir * len(unknown) + 1e-9)]
        figures[f"tpir@fpir={fpir:g}"] = ((found == 1) & (own_scores > threshold)).mean()
    figures["#known"] = len(found)
    return figures


def test_identification_agrees_with_a_second_implementation(base, tmp_path):
    unit, names = embeddings(base / "e.h5")
    rows = {name: (row, name.split("/")[0]) for name, row in zip(names, unit)}
    sets = {side: [rows[str(p.relative_to(base / side))] for p in sorted((base / side).rglob("*.ppm"))] for side in ("gallery", "probe")}
    assert len(sets["gallery"]) == 12 and len(sets["probe"]) == 42
    wanted = identification(sets["gallery"], sets["probe"], (1, 2, 4), (0.05, 0.3))
    assert 0 < wanted["rank1"] < 1, "neither trivial nor hopeless"
    words = ["eval", base / "run", "--protocol", "identification", "--no-flip", "--gallery", base / "gallery", "--probe", base / "probe",
             "--ranks", "1,2,4", "--fpir", "0.05,0.3", "--json", tmp_path / "r.json"]
    said = printed(words)
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["figures"] == pytest.approx(wanted, abs=1e-12)
    assert result["probes"] == {"all": 42, "known": 24, "unknown": 18} and not result["mates_removed"]
    assert result["probe"] == str(base / "probe") and result["images"] == str(base / "gallery")
    assert f"rank-1 {wanted['rank1']:.6f}\n" in said and f"FNIR {1 - wanted['tpir@fpir=0.3']:.6f}" in said
    # The same from embeddings, with labels from their names.
    for side in ("gallery", "probe"):
        run(["embed", base / "run", base / side, "-o", tmp_path / f"{side}.h5"])
    files = ["eval", tmp_path / "gallery.h5", "--protocol", "identification", "--probe", tmp_path / "probe.h5", "--ranks", "1,2,4", "--fpir",
             "0.05,0.3"]
    assert printed(files) == said
    # Templates.
    means = {}
    for row, who in sets["gallery"]:
        means[who] = means.get(who, 0) + row
    wanted = identification([(row / numpy.linalg.norm(row), who) for who, row in means.items()], sets["probe"], (1, 2, 4), (0.05, 0.3))
    run([*files, "--gallery-template", "mean", "--json", tmp_path / "m.json"])
    assert json.loads((tmp_path / "m.json").read_text())["figures"] == pytest.approx(wanted, abs=1e-12)


def test_identification_of_one_set_and_of_shards(base, tmp_path):
    said = printed(["eval", base / "run", "--protocol", "identification", "--images", base / "faces"])
    assert "gallery 9 identities 9 images 9" in said and "probes 45 known 45 unknown 0" in said
    assert "45 unknown searches: known probes, own identity out of the gallery" in said
    run(["shards", "pack", "--out", tmp_path / "set", base / "faces"])
    assert printed(["eval", base / "run", "--protocol", "identification", "--images", tmp_path / "set"]) == said
    run(["embed", base / "run", tmp_path / "set", "-o", tmp_path / "set.h5"])
    with h5py.File(tmp_path / "set.h5") as file:
        assert [who.decode() for who in file["identities"][:]] == [f"id_{k // 6:03d}" for k in range(54)]
    rows = printed(["eval", tmp_path / "set.h5", "--protocol", "identification"])
    numpy.save(tmp_path / "set.npy", h5py.File(tmp_path / "set.h5")["embeddings"][:])
    (tmp_path / "labels.txt").write_text("".join(f"person {k // 6}\n" for k in range(54)))
    assert printed(["eval", tmp_path / "set.npy", "--protocol", "identification", "--labels", tmp_path / "labels.txt"]) == rows


def test_pairs_by_name_in_a_folder_in_shards_and_in_embeddings(base, tmp_path):
    for person in sorted((base / "faces").iterdir())[:3]:
        (tmp_path / "faces" / person.name).mkdir(parents=True)
        for number, image in enumerate(sorted(person.iterdir()), 1):
            shutil.copy(image, tmp_path / "faces" / person.name / f"{person.name}_{number:04d}.ppm")
    (tmp_path / "pairs.txt").write_text("2\t2\nid_000\t1\t4\nid_001\t2\t6\nid_000\t1\tid_001\t5\nid_000\t3\tid_002\t1\n"
                                        "id_002\t1\t6\nid_001\t4\t5\nid_002\t2\tid_001\t6\nid_002\t5\tid_000\t6\n")
    run(["shards", "pack", "--out", tmp_path / "set", tmp_path / "faces"])
    run(["embed", base / "run", tmp_path / "set", "-o", tmp_path / "e.h5"])
    words = ["--pairs", tmp_path / "pairs.txt"]
    said = printed(["eval", base / "run", "--no-flip", "--images", tmp_path / "faces", *words])
    assert "pairs 8 folds 2" in said
    assert printed(["eval", base / "run", "--no-flip", "--images", tmp_path / "set", *words]) == said
    assert printed(["eval", tmp_path / "e.h5", *words]) == said


def test_knn_agrees_with_a_second_implementation(base, tmp_path):
    sets = {}
    for name in ("gallery", "probe"):
        run(["embed", base / "run", base / name, "-o", tmp_path / f"{name}.h5"])
        rows, names = embeddings(tmp_path / f"{name}.h5")
        sets[name] = rows, [n.split("/")[0] for n in names]
    words = ["eval", base / "run", "--protocol", "knn", "--no-flip", "--train", base / "gallery", "--images", base / "probe", "--neighbours", "1,3,50"]
    said = printed([*words, "--json", tmp_path / "r.json"])
    (train, own), (test, truth) = sets["gallery"], sets["probe"]
    for k in (1, 3, 50):
        right = 0
        for row, who in zip(test, truth):
            cosines, votes = train @ row, {}
            for j in numpy.argsort(-cosines, kind="stable")[:k]:
                votes[own[j]] = votes.get(own[j], 0) + math.exp(cosines[j] / 0.07)
            right += max(votes, key=votes.get) == who
        assert f"knn{k} {right / len(truth):.6f}" in said
        assert json.loads((tmp_path / "r.json").read_text())["figures"][f"knn{k}"] == pytest.approx(right / len(truth), abs=1e-12)
    for ranks in (2, 3):
        assert printed(words, ranks) == said
    fails([*words[:-2], "--column", "expression"], "no column 'expression'")
    fails(["eval", base / "run", "--protocol", "knn", "--images", base / "probe"], "train")


@pytest.fixture(scope="module")
def synthetic(base):
    """10 rendered people with 5 images each, a pair list, their embeddings in rows of the set, and their label columns."""
    run(["shards", "synth", "--out", base / "synth", "--identities", 10, "--images", 5, "--seed", 3, "--test-identities", 2])
    rng, lines = numpy.random.default_rng(9), ["fold,i,j,same"]
    for fold in range(3):
        for i, j in rng.integers(0, 50, (60, 2)):
            if i != j:
                lines.append(f"{fold},{i},{j},{int(i // 5 == j // 5)}")
        lines += [f"{fold},{5 * k + fold},{5 * k + 4},1" for k in range(10)]
    (base / "synth.csv").write_text("\n".join(lines) + "\n")
    run(["embed", base / "run", base / "synth", "data.fit=resize", "-o", base / "synth.npy"])
    columns = {}
    for shard in sorted((base / "synth").glob("*.h5")):
        with h5py.File(shard) as opened:
            for name in ("age_group", "attributes"):
                group = opened["labels"] if "labels" in opened else opened
                columns.setdefault(name, []).append((group[name][:], dict(group[name].attrs)))
    return {name: (numpy.concatenate([v for v, _ in parts]), parts[0][1]) for name, parts in columns.items()}


def grouped(base, result, label):
    """Accuracy, false match and false non-match of each group at the folds' thresholds that `result` has."""
    rows = numpy.load(base / "synth.npy").astype(numpy.float64)
    unit = rows / numpy.linalg.norm(rows, axis=1, keepdims=True)
    fold, i, j, same = pairs_of(base / "synth.csv")
    threshold = {part["fold"]: part["threshold"] for part in result["folds"]}
    accepted = ((unit[i] - unit[j]) ** 2).sum(1) < numpy.array([threshold[f] for f in fold])
    found = {}
    for value in numpy.unique(label):
        of = (label[i] == value) & (label[j] == value)
        if of.any():
            d, s = of & ~same, of & same
            found[value] = (of.sum(), (accepted == same)[of].mean(), accepted[d].mean() if d.any() else None, (~accepted)[s].mean() if s.any() else None)
    return found


@pytest.mark.parametrize("column", ["age_group", "attributes"])
def test_groups_agree_with_a_second_implementation(base, synthetic, tmp_path, column):
    label, attrs = synthetic[column]
    classes = attrs["classes"].decode().split("\n")
    names, word = {k: name for k, name in enumerate(classes)}, column
    if column == "attributes":
        entry = int(numpy.argmin(abs(label.mean(0) - 0.5)))  # the attribute that divides the set most evenly
        label, word = label[:, entry], f"attributes.{classes[entry]}"
        names = {0: "not " + classes[entry], 1: classes[entry]}
    words = ["eval", base / "run", "data.fit=resize", "--no-flip", "--images", base / "synth", "--pairs", base / "synth.csv"]
    said = printed([*words, "--group-by", word, "--json", tmp_path / "r.json"])
    assert said.startswith(printed(words)), "groups change nothing else"
    assert printed([*words, "--group-by", word], ranks=2) == said
    result = json.loads((tmp_path / "r.json").read_text())
    wanted = grouped(base, result, label)
    assert len(wanted) >= 2 and [g["group"] for g in result["groups"]] == sorted(names[v] for v in wanted)
    for value, (pairs, accuracy, false_match, false_non_match) in wanted.items():
        group = next(g for g in result["groups"] if g["group"] == names[value])
        assert group["pairs"] == pairs and group["accuracy"] == pytest.approx(accuracy, abs=1e-12)
        assert group["false_match"] == (None if false_match is None else pytest.approx(false_match, abs=1e-12))
        assert group["false_non_match"] == (None if false_non_match is None else pytest.approx(false_non_match, abs=1e-12))
        assert result["figures"][f"accuracy@{names[value]}"] == group["accuracy"]
        assert f"group '{names[value]}': pairs {pairs} " in said


def test_groups_and_known_probes_come_into_the_card(base, synthetic, tmp_path):
    sets = (f"eval.sets=[{{name: synth, path: '{base}/synth', pairs: '{base}/synth.csv', group_by: age_group}}, "
            f"{{name: people, protocol: identification, path: '{base}/synth', ranks: [1]}}]")
    run(["train", base / "config.yaml", f"run={tmp_path}/run", f"data.train={base}/synth", "data.fit=resize", "trainer.steps=1", "eval.every=1", sets])
    figures = [json.loads(line)["eval"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines() if '"eval"' in line][-1]
    assert figures["people.#known"] == 40
    groups = {name.split("@")[1]: value for name, value in figures.items() if name.startswith("synth.accuracy@")}
    assert len(groups) >= 2 and all(figures[f"synth.#pairs@{g}"] >= 1 for g in groups)
    run(["export", tmp_path / "run", "--to", "safetensors", "-o", tmp_path / "n.safetensors", "--card", tmp_path / "card.md"])
    card = (tmp_path / "card.md").read_text()
    for group, value in groups.items():
        assert re.search(rf"^\| synth \| {re.escape(group)} \| accuracy \| {value:.4f} \| [\d.]+ … [\d.]+ \| {figures[f'synth.#pairs@{group}']:.0f} pairs \|$",
                         card, re.MULTILINE), (group, card)
    assert re.search(rf"^\| people \| rank1 \| {figures['people.rank1']:.4f} \| [\d.]+ … [\d.]+ \| 40 known probes \|$", card, re.MULTILINE)
    assert "#" not in card.split("## Figures")[1].split("##")[0], "counts are no figures"
    fails(["train", base / "config.yaml", f"run={tmp_path}/no", sets.replace("name: synth", "name: 'a@b'")], "a@b", "another `name`")


def test_groups_that_a_set_does_not_have(base, synthetic):
    words = ["--pairs", base / "synth.csv", "--group-by"]
    fails(["eval", base / "run", "data.fit=resize", "--images", base / "synth", *words, "age"], "no column 'age'", "age_group", "attributes.")
    fails(["eval", base / "run", "--images", base / "faces", "--pairs", base / "pairs.csv", "--group-by", "age_group"], "no column 'age_group'")
    fails(["eval", base / "synth.npy", *words, "age_group"], "file of embeddings")


@pytest.mark.parametrize("protocol", ["pairs", "identification"])
def test_equal_at_any_number_of_ranks(base, tmp_path, protocol):
    words = ["eval", base / "run", "--protocol", protocol, "--images", base / "faces", "--batch", 7, "--json", tmp_path / "r.json"]
    words += ["--pairs", base / "pairs.csv"] if protocol == "pairs" else []
    said, figures = {}, {}
    for ranks in (1, 2, 3, 4):
        said[ranks] = printed(words, ranks)
        figures[ranks] = json.loads((tmp_path / "r.json").read_text())["figures"]
        (tmp_path / "r.json").unlink()
    assert said[1].count("\n") > 5
    for ranks in (2, 3, 4):
        assert said[ranks] == said[1], f"{ranks} ranks print something else, or more than once"
        assert figures[ranks] == figures[1]


def test_named_sets_during_training(base, tmp_path):
    run(["embed", base / "run", base / "faces", "-o", tmp_path / "e.h5"])
    sets = (f"eval.sets=[{{name: lfw, path: '{base}/faces', pairs: '{base}/pairs.csv'}}, "
            f"{{name: people, protocol: identification, path: '{base}/faces', ranks: [1, 3]}}, "
            f"{{name: strangers, protocol: identification, gallery: '{base}/gallery', probe: '{base}/probe', flip: false}}]")
    words = ["train", base / "config.yaml", f"run={tmp_path}/run", "trainer.steps=4", "eval.every=2", sets,
             "checkpoint.keep_best=people.rank1"]
    run(words, 2)
    evaluations = [json.loads(line)["eval"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines() if '"eval"' in line]
    assert len(evaluations) == 2
    assert {"lfw.accuracy", "lfw.auc", "lfw.eer", "lfw.val", "lfw.tar@far=0.001", "people.rank1", "people.rank3", "people.tpir@fpir=0.1",
            "strangers.rank10", "strangers.tpir@fpir=0.01"} <= set(evaluations[-1])
    # What eval says of the last checkpoint.
    said = printed(["eval", tmp_path / "run", "--protocol", "identification", "--gallery", base / "gallery", "--probe", base / "probe", "--no-flip"])
    assert f"rank-1 {evaluations[-1]['strangers.rank1']:.6f}\n" in said
    fails(["train", base / "config.yaml", f"run={tmp_path}/no", "eval.sets=[{path: a, protocol: identifcation}]"],
          "eval.sets[0]", "unknown protocol 'identifcation'", "did you mean 'identification'")
    fails(["train", base / "config.yaml", f"run={tmp_path}/no", f"eval.sets=[{{path: '{base}/faces'}}]"], "eval.sets[0]", "wanted a list of pairs")
    assert not (tmp_path / "no").exists()


def test_degenerate_sets(base, tmp_path):
    one_kind = tmp_path / "same.csv"
    for same, kind in ((1, "2 of 2"), (0, "0 of 2")):
        one_kind.write_text(f"fold,i,j,same\n0,0,1,{same}\n1,2,3,{same}\n")
        said = printed(["eval", base / "e.h5", "--pairs", one_kind, "--json", tmp_path / "r.json"])
        assert f"AUC, EER, TAR@FAR, val undefined: {kind} pairs are 'same'" in said and "kfold accuracy" in said
        result = json.loads((tmp_path / "r.json").read_text())
        assert result["auc"] is None and result["roc"] is None and result["val"] is None and result["tar_at_far"] == []
    numpy.save(tmp_path / "ties.npy", numpy.ones((8, 4), numpy.float32))
    (tmp_path / "ties.csv").write_text("fold,i,j,same\n" + "".join(f"{k % 2},{k},{k + 1},{k // 2 % 2}\n" for k in range(7)))
    assert "AUC 0.500000" in printed(["eval", tmp_path / "ties.npy", "--pairs", tmp_path / "ties.csv"])
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n" * 2)
    said = printed(["eval", tmp_path / "ties.npy", "--protocol", "identification", "--labels", tmp_path / "four.txt", "--ranks", "1,3,4"])
    assert "rank-1 0.000000\nrank-3 0.000000\nrank-4 1.000000\n" in said, "ties count against us"


def test_bad_sets_are_named_and_nothing_is_left(base, tmp_path):
    out = tmp_path / "r.json"
    rows = numpy.random.default_rng(1).normal(size=(6, 4)).astype(numpy.float32)
    rows[4, 2] = numpy.nan
    numpy.save(tmp_path / "nan.npy", rows)
    (tmp_path / "p.csv").write_text("fold,i,j,same\n0,0,1,1\n1,3,4,0\n")
    (tmp_path / "labels.txt").write_text("a\nb\nc\na\nb\nc\n")
    nan, identify = tmp_path / "nan.npy", ["--protocol", "identification", "--json", out]
    fails(["eval", nan, "--pairs", tmp_path / "p.csv", "--json", out], "row 4 holds NaN")
    fails(["eval", nan, *identify, "--labels", tmp_path / "labels.txt"], "row 4 holds NaN")
    fails(["eval", nan, *identify, "--labels", tmp_path / "labels.txt"], "row 4 holds NaN", ranks=2)
    fails(["eval", nan, *identify], "nan.npy", "have no labels", "labels: FILE")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    fails(["eval", nan, *identify, "--labels", tmp_path / "labels.txt"], "labels.txt: 3 lines for 6 embeddings")
    (tmp_path / "p.csv").write_text("fold,i,j,same\n0,0,1,1\n1,3,6,0\n")
    fails(["eval", nan, "--pairs", tmp_path / "p.csv", "--json", out], "p.csv:3: row 6 is not there: the embeddings have rows 0 to 5")
    (tmp_path / "p.txt").write_text("1\t1\nid_000\t1\t2\nid_000\t1\tid_001\t1\n")
    fails(["eval", base / "run", "--images", base / "faces", "--pairs", tmp_path / "p.txt", "--json", out], "p.txt:2: wanted the image",
          "id_000/id_000_0001", "id_000/000.ppm")
    fails(["eval", base / "run", "--images", tmp_path / "nothing", "--pairs", base / "pairs.csv", "--json", out], "nothing")
    fails(["eval", base / "run", "--images", base / "faces/id_000", *identify], "id_000: its images have no labels", "a folder an identity")
    fails(["eval", base / "run", "--gallery", base / "gallery", *identify], "wanted `probe` beside `gallery`")
    (tmp_path / "empty").mkdir()
    fails(["eval", base / "run", "--gallery", tmp_path / "empty", "--probe", base / "probe", *identify], "empty", "has no image")
    shutil.copytree(base / "probe/id_008", tmp_path / "strangers/id_008")
    fails(["eval", base / "run", "--gallery", base / "gallery", "--probe", tmp_path / "strangers", *identify],
          "no probe's identity is in the gallery", "'id_008'", "'id_000'")
    shutil.copytree(base / "faces", tmp_path / "faces")
    damaged = tmp_path / "faces/id_001/002.ppm"
    damaged.write_bytes(damaged.read_bytes()[:200])
    for ranks in (1, 2):
        fails(["eval", base / "run", "--images", tmp_path / "faces", *identify], "id_001/002.ppm", ranks=ranks)
    shutil.copytree(base / "run", tmp_path / "run")
    shutil.rmtree(next((tmp_path / "run").glob("step_*")))
    fails(["eval", tmp_path / "run", "--images", base / "faces", *identify], "no checkpoint")
    fails(["eval", base / "run", "--images", base / "faces", "--protocol", "identification", "--json", tmp_path / "no/r.json"], "there is no folder")
    assert not out.exists() and not list(tmp_path.glob("*.tmp"))


def test_a_json_that_cannot_be_finished_leaves_nothing(base, tmp_path):
    script = f"ulimit -f 1; exec {PROGRAM} eval {base}/e.h5 --pairs {base}/pairs.csv --json {tmp_path}/r.json"
    done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "r.json" in done.stderr and done.stdout == "", done
    assert not list(tmp_path.iterdir())


def test_options_of_another_protocol(base):
    words = ["eval", base / "run", "--images", base / "faces"]
    fails([*words, "--pairs", base / "pairs.csv", "--ranks", "1"], "'pairs' has no --ranks", code=2)
    fails([*words, "--protocol", "identification", "--pairs", base / "pairs.csv"], "'identification' has no --pairs", code=2)
    fails([*words, "--protocol", "identification", "--ranks", "1,x"], "ranks", "'x'")
    fails([*words, "--protocol", "identification", "--fpir", "1.5"], "wanted fpir from 0")
    fails([*words, "--protocol", "identification", "--gallery-template", "median"], "median", "none, mean")
    fails(["eval", base / "e.h5", "--protocol", "identification", "--gallery", base / "e.h5"], "takes no --gallery", code=2)
    text = run(["list", "protocols"]).stdout
    assert re.search(r"^  identification .*\n(      .*\n)*      ranks +\[1, 5, 10\]", text, re.M), text
