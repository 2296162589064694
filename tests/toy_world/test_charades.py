"""The written events, read back with plain tools, are where the features show them."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter

import numpy as np
import pytest
import torch

from projects.toy_world.events import EVENTS, directions
from projects.toy_world.generate import generate
from projects.toy_world.world import World

DIGITS = dict(
    zip("ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split(), "0123456789", strict=True)
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "toy"
    generate(World(seed=5, sizes={"charades_train": 60, "charades_test": 8}), out)
    return out


def lines(root, split):
    text = (root / "video_datas/charades" / f"charades_sta_{split}.txt").read_text()
    return [re.fullmatch(r"(\w{5}) ([\d.]+) ([\d.]+)##(.+\.)", line) for line in text.splitlines()]


def lengths(root, split):
    with (root / "video_datas/charades" / f"Charades_v1_{split}.csv").open() as table:
        return {row["id"]: float(row["length"]) for row in csv.DictReader(table)}


def test_one_or_two_queries_a_video_within_its_length(root) -> None:
    for split, videos in (("train", 60), ("test", 8)):
        known = lengths(root, split)
        queries = Counter(line[1] for line in lines(root, split))
        assert len(known) == videos and queries.keys() == known.keys()
        assert set(queries.values()) == {1, 2}
        for line in lines(root, split):
            assert 0 <= float(line[2]) < float(line[3]) <= known[line[1]]
            assert 10 <= known[line[1]] <= 30
    assert not lengths(root, "train").keys() & lengths(root, "test").keys()


def test_features_show_the_event_when_the_line_says(root) -> None:
    shows = directions(5)
    meaning = {sentence: name for name, pair in EVENTS.items() for sentence in pair}
    for line in lines(root, "train"):
        path = root / "clip_features/charades" / f"{line[1]}.pt"
        features = torch.load(path, weights_only=True).float().numpy()
        assert len(features) == round(lengths(root, "train")[line[1]] * 10)
        assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=2e-3)
        # each direction's share of a frame, the others taken out
        shares = features @ np.linalg.pinv(np.stack(list(shows.values())))
        share = shares[:, list(shows).index(meaning[line[4]])]
        first, last = round(float(line[2]) * 10), round(float(line[3]) * 10)
        inside = np.zeros(len(features), dtype=bool)
        inside[first : last + 1] = True
        assert share[inside].mean() > share[~inside].mean() + 0.4, line[0]


def test_time_tokens_say_the_same(root) -> None:
    records = json.loads((root / "special_jsons/temporal/Charades/time_token.json").read_text())
    said = []
    for record in records:
        video = re.fullmatch(r"Charades/videos/(\w{5})\.mp4", record["video"])[1]
        for pair in record["QA"]:
            tokens = re.findall(r"<TIME_(\w+)>", pair["a"])
            assert len(tokens) == 12 and tokens[4] == tokens[10] == "DOT"
            text = "".join(DIGITS.get(token, ".") for token in tokens)
            said.append((video, float(text[:6]), float(text[6:]), pair["q"].split("'")[1]))
    assert said == [(m[1], float(m[2]), float(m[3]), m[4]) for m in lines(root, "train")]


def test_labels_say_which_queries_depend_on_the_words(root) -> None:
    labels = json.loads((root / "toy_world.json").read_text())["labels"]["charades"]
    queries = Counter(line[1] for split in ("train", "test") for line in lines(root, split))
    assert {video: len(entry) for video, entry in labels.items()} == queries
    for video, entry in labels.items():
        needs = ["event"] if queries[video] == 2 else []
        assert all(label == {"uses": [], "needs": needs} for label in entry.values())


def test_the_same_seed_gives_the_same_bytes(root, tmp_path) -> None:
    sizes = {"charades_train": 5}
    for name, workers in (("one", 1), ("two", 2)):
        generate(World(seed=5, sizes=sizes), tmp_path / name, workers=workers)
    for path in sorted((tmp_path / "one/clip_features/charades").iterdir()):
        again = tmp_path / "two/clip_features/charades" / path.name
        whole = root / "clip_features/charades" / path.name
        assert path.read_bytes() == again.read_bytes() == whole.read_bytes()
