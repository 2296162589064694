"""A wrong ``validation.best`` is a mistake of the config, not of a run after hours of it."""

from __future__ import annotations

import pytest

from projects.common.engine.check import check_config
from projects.common.registry import ConfigError
from projects.llava_sam2.evaluation.boxes import BoxBenchmark
from projects.llava_sam2.evaluation.concept import ConceptVosBenchmark
from projects.llava_sam2.evaluation.refer_image import (
    GeneralizedReferBenchmark,
    ReferImageBenchmark,
)
from projects.llava_sam2.evaluation.refer_video import ReferVideoBenchmark
from projects.llava_sam2.evaluation.submission import SubmissionBenchmark
from projects.llava_sam2.evaluation.temporal import TemporalBenchmark


def mistakes(benchmark: type, metric: str) -> str:
    tree = {
        "benchmarks": {"val": {"type": benchmark}},
        "validation": {"interval": 10, "best": f"val/{metric}"},
    }
    with pytest.raises(ConfigError) as raised:  # the rest of the config is missing
        check_config(tree)
    return str(raised.value)


@pytest.mark.parametrize(
    ("benchmark", "right", "wrong"),
    [
        (ReferImageBenchmark, ["cIoU", "gIoU[needs shape]"], "N-acc"),
        (GeneralizedReferBenchmark, ["gIoU", "N-acc"], "J&F"),
        (ReferVideoBenchmark, ["J&F", "R[reasoning]"], "JF"),
        (TemporalBenchmark, ["R1@0.5", "mIoU_annotators"], "R@1"),
        (BoxBenchmark, ["Acc@0.5"], "acc"),
        (SubmissionBenchmark, ["answered"], "J&F"),
        (ConceptVosBenchmark, ["J&F"], "cIoU"),
    ],
)
def test_a_best_score_that_no_benchmark_gives_is_a_mistake(benchmark, right, wrong):
    for metric in right:
        assert "validation.best" not in mistakes(benchmark, metric)
    said = mistakes(benchmark, wrong)
    assert f"validation.best: 'val/{wrong}' is no score of this benchmark, which gives val/" in said
