"""The report: what it reads, what it refuses, what it says, and that it stands alone."""

from __future__ import annotations

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.common.masks import encode_rle
from projects.common.report import (
    build_tables,
    charts,
    examples,
    find_limits,
    limits_sentence,
    read_results,
    write_overview,
    write_report,
    write_scores,
)
from projects.common.report.scores import MODEL, NO_VISUAL, split_key
from projects.common.visualise import PREDICTION, TRUTH

SIDE = 40
NASTY = 'the <b>red</b> & "largest" circle'


def disc(x: int, y: int, radius: int = 8) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def write_image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE, 3), value, np.uint8)).save(path)


def image_records(folder: Path, count: int) -> list[dict]:
    """Predictions that drift away from the truth, the worst one last."""
    records = []
    for index in range(count):
        path = folder / f"{index}.png"
        write_image(path, 80 + index)
        truth, predicted = disc(15, 20), disc(15 + index, 20)
        records.append(
            {
                "image": str(path),
                "expression": NASTY if index == 0 else f"circle {index}",
                "uses": ["colour", "shape"] if index % 2 else ["shape"],
                "iou": iou(predicted, truth),
                "pred": encode_rle(predicted),
                "gt": encode_rle(truth),
            }
        )
    return records


def video_record(folder: Path, frames: int) -> dict:
    names = [f"{index:05d}.png" for index in range(frames)]
    for index, name in enumerate(names):
        write_image(folder / name, 60 + index)
    return {
        "video": str(folder),
        "frames": names,
        "expression": "the circle moving right",
        "uses": ["motion"],
        "J": 0.5,
        "F": 0.7,
        "pred": [encode_rle(disc(10 + index, 20)) for index in range(frames)],
        "gt": [None] + [encode_rle(disc(11 + index, 20)) for index in range(1, frames)],
    }


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    write_json(
        folder / "stage1" / "scores.json", {"davis_val/J&F": 0.8, "click_val/click_iou": 0.9}
    )
    write_json(
        folder / "stage2" / "scores.json",
        {
            "refcoco_val/cIoU": 0.7,
            "refcoco_val/gIoU": 0.72,
            "refcoco_val/cIoU[shape]": 0.4,
            "refcoco_val_baseline_everything/cIoU": 0.3,
            "mevis_valid_u/J&F": 0.6,
        },
    )
    steps = [
        {"step": 10 * i, "task": "track", "lr": 1e-3, "loss_mask": 1.0 / i, "time": 0.5}
        for i in range(1, 31)
    ]
    write_lines(folder / "stage1" / "metrics.jsonl", steps)
    write_lines(folder / "stage2" / "metrics.jsonl", steps[:3])
    (folder / "stage2" / "toy.py").write_text("seed = 0  # <of stage 2>\n")
    records = image_records(tmp_path / "images", 12)
    write_lines(folder / "stage2" / "predictions" / "refcoco_val.jsonl", records)
    write_lines(
        folder / "stage2" / "predictions" / "refcoco_val_baseline_everything.jsonl", records
    )
    video = video_record(tmp_path / "video", 9)
    write_lines(folder / "stage2" / "predictions" / "mevis_valid_u.jsonl", [video])
    write_lines(folder / "stage2" / "predictions" / "refcoco_testA.jsonl", records[:3])
    return folder


class Page(HTMLParser):
    """Collects what a test asks about; counts tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name in ("src", "href"):
            if values.get(name):
                (self.images if tag == "img" else self.links).append(values[name])
        if values.get("id"):
            self.ids.append(values["id"])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def report_of(work_dir: Path, **environment: str) -> Page:
    return Page(write_report(read_results(work_dir), environment).read_text(encoding="utf-8"))


# Reading a work directory


def test_scores_of_all_stages_are_merged_flat_and_sorted(work_dir: Path) -> None:
    path = write_scores(read_results(work_dir))
    merged = json.loads(path.read_text())
    assert path == work_dir / "scores.json"
    assert list(merged) == sorted(merged) and len(merged) == 7
    assert merged["davis_val/J&F"] == 0.8 and merged["refcoco_val/cIoU[shape]"] == 0.4
    assert not list(work_dir.glob(".*")), "no temporary file stays behind"


def test_a_later_stage_wins_over_an_earlier_one_and_over_an_old_merged_file(work_dir: Path) -> None:
    write_scores(read_results(work_dir))
    write_json(work_dir / "stage2" / "scores.json", {"click_val/click_iou": 0.5})
    results = read_results(work_dir)
    assert results.scores["click_val/click_iou"] == 0.5
    assert any("0.900 after stage1 and 0.500 after stage2" in note for note in results.notes)


def test_stages_come_in_the_order_of_their_numbers(work_dir: Path) -> None:
    write_lines(work_dir / "stage10" / "metrics.jsonl", [{"step": 1, "loss": 1.0}])
    assert [stage.name for stage in read_results(work_dir).stages] == [
        "stage1",
        "stage2",
        "stage10",
    ]


def test_time_of_a_stage_is_the_sum_over_its_steps(work_dir: Path) -> None:
    rows = [{"step": 10, "time": 0.5}, {"step": 15, "time": 2.0}, {"step": 20}]
    write_lines(work_dir / "stage1" / "metrics.jsonl", rows)
    assert read_results(work_dir).stages[0].seconds() == 10 * 0.5 + 5 * 2.0
    assert "15s" in report_of(work_dir).text


def test_losses_and_rates_are_drawn_and_bookkeeping_is_not(work_dir: Path) -> None:
    row = {"epoch": 1, "samples_per_second": 8.0, "lr": 1e-3, "lrs": {"a": 1e-3}, "loss_x": 1.0}
    rows = [{"step": step, **row} for step in (10, 20)]
    write_lines(work_dir / "stage2" / "metrics.jsonl", rows)
    text = report_of(work_dir).text
    assert "loss_x" in text
    assert "samples_per_second" not in text and "lrs" not in text


def test_missing_scores_are_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such work directory"):
        read_results(tmp_path / "absent")
    write_lines(tmp_path / "stage1" / "metrics.jsonl", [{"step": 1, "loss": 1.0}])
    with pytest.raises(FileNotFoundError, match="run the evaluation first"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a/b": 0.5', "not JSON"),
        ("[0.5]", "flat object"),
        ('{"a/b": {"c": 1}}', "'a/b' is {'c': 1}, not a number"),
        ('{"a/b": true}', "not a number"),
        ('{"a/b": NaN}', "'a/b' is nan"),
    ],
)
def test_a_broken_scores_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "stage1" / "scores.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_results(tmp_path)
    assert str(path) in str(error.value)


def test_a_torn_log_line_is_left_out_and_named(work_dir: Path) -> None:
    with (work_dir / "stage1" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 310, "lo')
    results = read_results(work_dir)
    assert len(results.stages[0].steps) == 30
    assert any("stage1/metrics.jsonl, line 31" in note for note in results.notes)


def test_scores_alone_give_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    write_json(tmp_path / "scores.json", {"refcoco_val/cIoU": 0.7})
    page = report_of(tmp_path)
    assert "0.700" in page.text
    assert "no loss curves" in page.text and "no pictures" in page.text
    assert page.images == [] and "svg" not in page.tags


# Score keys, tables, limits


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("refcoco_val/cIoU", ("refcoco_val", "cIoU", None, MODEL)),
        (
            "mevis_valid_u/J&F[only motion+shape]",
            ("mevis_valid_u", "J&F", "only motion+shape", MODEL),
        ),
        ("refcoco_val_no_visual/gIoU[colour]", ("refcoco_val", "gIoU", "colour", NO_VISUAL)),
        ("mevis_valid_u_baseline_largest/J", ("mevis_valid_u", "J", None, "largest")),
        ("charades/R1@0.5", ("charades", "R1@0.5", None, MODEL)),
    ],
)
def test_split_key(key: str, parts: tuple) -> None:
    assert split_key(key) == parts


def test_a_key_without_a_benchmark_is_refused() -> None:
    with pytest.raises(ValueError, match="'cIoU'"):
        split_key("cIoU")


SCORES = {
    "mevis_valid_u/J&F": 0.65,
    "refcoco_val/gIoU": 0.66,
    "refcoco_val/cIoU": 0.70,
    "refcoco_val/cIoU[only shape]": 0.33,
    "refcoco_val/cIoU[shape]": 0.62,
    "refcoco_val/cIoU[colour]": 0.80,
    "refcoco_val/cIoU[only colour+shape]": 0.10,
    "refcoco_val/cIoU[relation]": 0.45,
    "refcoco_val_baseline_everything/cIoU": 0.30,
    "refcoco_val_baseline_everything/cIoU[only shape]": 0.32,
    "refcoco_val_baseline_random/cIoU[only shape]": 0.35,
    "refcoco_val_baseline_random/cIoU[relation]": 0.20,
    "refcoco_val_no_visual/cIoU[colour]": 0.79,
    "refcoco_val_no_visual/cIoU[relation]": 0.15,
    "refcoco_val_no_visual/cIoU": 0.60,
    "other_baseline_random/cIoU": 0.1,
}


def test_tables_gather_a_benchmark_with_its_baselines() -> None:
    images, videos = build_tables(SCORES)
    assert (images.benchmark, videos.benchmark) == ("refcoco_val", "mevis_valid_u")
    assert images.metric == images.headline == "cIoU" and videos.headline == "J&F"
    assert images.overall == {"gIoU": 0.66, "cIoU": 0.70}
    assert images.variants == [MODEL, NO_VISUAL, "everything", "random"]
    assert images.plain_families == ["colour", "shape", "only shape", "relation"]
    assert images.combined_families == ["only colour+shape"]
    assert images.cells["relation", NO_VISUAL] == 0.15
    assert images.best_baseline("only shape") == ("random", 0.35)
    assert images.best_baseline("colour") == ("everything", 0.30), "the overall one stands in"


def test_limits_name_the_weak_families_with_their_numbers() -> None:
    (limits,) = find_limits(build_tables(SCORES), {})
    assert limits.weak == {
        "shape alone": "cIoU 0.330, worse than selecting a random object (0.350)",
        "relation": "cIoU 0.450, below 0.50",
    }
    assert limits.unmoved == {"colour": (0.80, 0.79)}
    sentence = limits_sentence([limits])
    assert "Referring images (refcoco_val): shape alone, relation." in sentence
    assert "does not look at the picture for Referring images (refcoco_val): colour." in sentence


def test_where_a_use_decides_it_is_judged_there() -> None:
    scores = SCORES | {"refcoco_val/cIoU[needs shape]": 0.70, "refcoco_val/cIoU[needs colour]": 0.2}
    table, _ = build_tables(scores)
    assert table.plain_families == [
        "colour",
        "needs colour",
        "shape",
        "needs shape",
        "only shape",
        "relation",
    ]
    assert table.telling_families({}) == ["needs colour", "needs shape", "relation"]
    assert "shape" in table.telling_families({"needs shape": 3}), "too few to judge by"
    (limits,) = find_limits([table], {})
    assert list(limits.weak) == ["colour where it decides", "relation"]


def test_families_are_counted_as_the_evaluation_parts_them(work_dir: Path) -> None:
    results = read_results(work_dir)
    records = [{"uses": ["shape", "colour"], "needs": ["shape"]}, {"uses": ["shape"]}, {}]
    results.records["refcoco_val"] = records
    assert results.family_counts()["refcoco_val"] == {
        None: 3,
        "colour": 1,
        "shape": 2,
        "needs shape": 1,
        "only colour+shape": 1,
        "only shape": 1,
    }


def test_limits_pass_over_families_of_a_few_expressions() -> None:
    counts = {"refcoco_val": {"only shape": 9, "relation": 10, "colour": 500}}
    (limits,) = find_limits(build_tables(SCORES), counts)
    assert limits.weak == {"relation": "cIoU 0.450, below 0.50; 10 expressions"}


def test_a_good_model_has_no_limits_to_name() -> None:
    scores = {"davis_val/J&F": 0.8, "davis_val_baseline_everything/J&F": 0.2}
    assert find_limits(build_tables(scores), {}) == []
    assert "No family" in limits_sentence([])


# Charts


def test_smoothing_is_a_mean_over_neighbours() -> None:
    values = np.random.default_rng(0).normal(size=50)
    expected = [values[max(0, i - 3) : i + 4].mean() for i in range(50)]
    assert np.allclose(charts.smooth(values.tolist(), 7), expected)


@pytest.mark.parametrize(("low", "high"), [(0, 1.234), (-3, 8), (0, 2e-5), (10, 60000), (0.4, 0.4)])
def test_ticks_are_round_and_cover_the_values(low: float, high: float) -> None:
    ticks = charts.nice_ticks(low, high)
    steps = np.diff(ticks)
    assert 2 <= len(ticks) <= 8 and np.allclose(steps, steps[0])
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12
    leading = steps[0] / 10 ** np.floor(np.log10(steps[0]))
    assert any(np.isclose(leading, f) for f in (1, 2, 2.5, 5, 10))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (1500, "1500"), (2e-5, "2e-5"), (1.5e-3, "1.5e-3"), (2e6, "2e6")],
)
def test_tick_labels(value: float, text: str) -> None:
    assert charts.tick_label(value) == text


def test_a_line_lies_where_its_values_are() -> None:
    svg = charts.line_chart(
        [charts.Series("loss", [0, 50, 100], [2.0, 1.0, 0.0])], title="loss & co"
    )
    root = ElementTree.fromstring(svg)
    points = [
        tuple(map(float, pair.split(",")))
        for pair in next(root.iter("polyline")).attrib["points"].split()
    ]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and x0 < x1
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2) and y0 < y1, "down the page is less"
    labels = {t.text: float(t.attrib["y"]) for t in root.iter("text") if t.text in ("0", "2")}
    assert labels["2"] < labels["0"]
    titles = [title.text for title in root.iter("title")]
    assert titles == ["loss, 0: 2", "loss, 50: 1", "loss, 100: 0"]


def test_an_outlier_of_a_faint_line_does_not_flatten_the_chart() -> None:
    raw = charts.Series("logged", [1, 2, 3], [1.0, 900.0, 1.0], faint=True)
    smoothed = charts.Series("smoothed", [1, 2, 3], [1.0, 1.2, 1.0])
    root = ElementTree.fromstring(charts.line_chart([raw, smoothed], title="t"))
    labels = [t.text for t in root.iter("text")]
    assert "1.5" in labels and "900" not in labels and "logged" in labels
    for line in root.iter("polyline"):
        heights = [float(pair.split(",")[1]) for pair in line.attrib["points"].split()]
        assert all(0 <= y <= charts.HEIGHT for y in heights)


def test_series_that_do_not_line_up_are_refused() -> None:
    with pytest.raises(ValueError, match="3 x but 2 y"):
        charts.Series("loss", [1, 2, 3], [1.0, 2.0])
    with pytest.raises(ValueError, match="nothing to show"):
        charts.line_chart([charts.Series("loss", [], [])], title="t")


# Examples


def test_examples_follow_the_ranking(tmp_path: Path) -> None:
    records = image_records(tmp_path, 12)
    chosen = examples.select(records[::-1], 2)
    scores = {name: [record["iou"] for record in rows] for name, rows in chosen.items()}
    ranked = sorted(record["iou"] for record in records)
    assert scores["worst"] == ranked[:2]
    assert set(scores["good"]) == {ranked[10], ranked[9]}
    assert set(scores["median"]) == {ranked[5], ranked[6]}


def test_examples_are_from_different_images_while_there_are_enough(tmp_path: Path) -> None:
    records = image_records(tmp_path, 6)
    twice = [record | {"key": str(copy)} for record in records for copy in range(2)]
    chosen = examples.select(twice, 2)
    shown = [record["image"] for rows in chosen.values() for record in rows]
    assert len(shown) == 6 and len(set(shown)) == 6
    few = examples.select(twice[:4], 2)
    keys = [(r["image"], r["key"]) for rows in few.values() for r in rows]
    assert len(keys) == len(set(keys)) == 4, "no record is shown twice"


def test_an_image_is_drawn_with_prediction_left_and_truth_right(tmp_path: Path) -> None:
    record = image_records(tmp_path, 6)[5]
    drawn = examples.load(record, "refcoco_val").draw()
    middle = drawn.shape[1] // 2
    columns_predicted = np.nonzero((drawn == PREDICTION).all(-1).any(0))[0]
    columns_true = np.nonzero((drawn == TRUTH).all(-1).any(0))[0]
    assert columns_predicted.max() < middle < columns_true.min()
    scale = (middle - 3) / SIDE
    assert columns_predicted.min() / scale == pytest.approx(20 - 8, abs=1.2)
    assert (columns_true.min() - middle - 3) / scale == pytest.approx(15 - 8, abs=1.2)


def test_a_click_is_shown_on_the_prediction(tmp_path: Path) -> None:
    record = image_records(tmp_path, 1)[0]
    plain = examples.load(record, "x").draw()
    clicked = examples.load(record | {"click": [30, 5]}, "x").draw()
    changed = np.argwhere((plain != clicked).any(-1))
    scale = (plain.shape[1] - 6) / 2 / SIDE
    assert changed.mean(0) / scale == pytest.approx([5.5, 30.5], abs=0.5)


def test_a_video_shows_both_ends_and_a_null_mask_is_empty(tmp_path: Path) -> None:
    record = video_record(tmp_path, 9)
    picture = examples.load(record, "mevis")
    assert len(picture.frames) == examples.FRAMES_SHOWN
    assert picture.frames[0][0, 0, 0] == 60 and picture.frames[-1][0, 0, 0] == 68
    assert not picture.truth[0].any()
    assert (picture.truth[-1] == disc(19, 20)).all()
    assert picture.metric == "J&F" and picture.score == pytest.approx(0.6)


def test_masks_that_do_not_belong_to_their_frames_are_refused(tmp_path: Path) -> None:
    record = video_record(tmp_path / "v", 4)
    with pytest.raises(ValueError, match="mevis: 4 frames but 3 masks in 'pred'"):
        examples.load(record | {"pred": record["pred"][:3]}, "mevis")
    image = image_records(tmp_path / "i", 1)[0]
    wrong = encode_rle(np.zeros((SIDE, SIDE + 1), bool))
    with pytest.raises(ValueError, match="refcoco"):
        examples.load(image | {"gt": wrong}, "refcoco")


# The page


def test_the_page_needs_no_other_file_and_no_script(work_dir: Path) -> None:
    page = report_of(work_dir)
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(image.startswith("data:image/jpeg;base64,") for image in page.images)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    text = (work_dir / "report.html").read_text()
    assert "http" not in text and "url(" not in text and "@import" not in text


def test_the_page_shows_scores_curves_pictures_times_and_machine(work_dir: Path) -> None:
    page = report_of(work_dir, Python="3.11.7", CPU="2 cores <8 GB>")
    assert len(page.images) == 3 * 3 + 1, "refcoco_val, one video; no testA, no baseline"
    first = Image.open(io.BytesIO(base64.b64decode(page.images[0].partition(",")[2])))
    assert first.width > 2 * 256
    assert page.tags.count("svg") == 2 + 2
    for words in ("0.700", "0.720", "Referring images", "shape", "everything", "2m 30s", "3.11.7"):
        assert words in page.text
    assert "seed = 0  # <of stage 2>" in page.text and "2 cores <8 GB>" in page.text
    assert "the circle moving right" in page.text


def test_only_a_toy_is_called_one(work_dir: Path, tmp_path: Path) -> None:
    page = report_of(work_dir)
    assert "What this toy model cannot do" in page.text and "photographs" in page.text
    write_json(tmp_path / "real" / "scores.json", {"refcoco_val/cIoU": 0.4})
    page = report_of(tmp_path / "real")
    assert "What this model cannot do" in page.text and "photographs" not in page.text
    assert "cIoU 0.400, below 0.50" in page.text


def test_text_from_records_is_escaped(work_dir: Path) -> None:
    text = write_report(read_results(work_dir), {}).read_text()
    assert NASTY not in text
    assert "the &lt;b&gt;red&lt;/b&gt; &amp; &quot;largest&quot; circle" in text


def test_a_lost_image_is_named_and_the_rest_is_shown(work_dir: Path, tmp_path: Path) -> None:
    for file in (tmp_path / "video").iterdir():
        file.unlink()
    page = report_of(work_dir)
    assert len(page.images) == 9
    assert "A picture is missing" in page.text and str(tmp_path / "video") in page.text


def test_a_failed_report_leaves_the_old_one(work_dir: Path, monkeypatch) -> None:
    (work_dir / "report.html").write_text("old")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(read_results(work_dir), {})
    assert (work_dir / "report.html").read_text() == "old"


# One picture


def test_the_overview_shows_good_answers_in_their_places(work_dir: Path, tmp_path: Path) -> None:
    path = write_overview(read_results(work_dir), tmp_path / "docs" / "overview.png")
    picture = np.asarray(Image.open(path))
    assert picture.shape[1] == 1200
    marked = (np.abs(picture.astype(int) - PREDICTION).sum(-1) < 30).any(0)
    quarters = [part.any() for part in np.array_split(marked, 4)]
    assert quarters == [True] * 4


def test_an_overview_without_expressions_is_refused(work_dir: Path, tmp_path: Path) -> None:
    for file in (work_dir / "stage2" / "predictions").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="no records with expressions"):
        write_overview(read_results(work_dir), tmp_path / "overview.png")
    assert not (tmp_path / "overview.png").exists()
