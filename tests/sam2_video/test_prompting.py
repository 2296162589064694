"""Simulated prompts lie where a user's would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from projects.sam2_video.points import (
    RowRandom,
    interior_point,
    join_points,
    sample_boxes,
    sample_clicks,
)
from projects.sam2_video.prompting import PromptSimulator, SecSimulator


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def one_video(rows, seed=0):
    return RowRandom.of_clips([seed], [rows])


def random_masks(seed, rows=6, height=12, width=17):
    return torch.rand(rows, height, width, generator=generator(seed)) > 0.6


def test_clicks_lie_in_the_error_region_with_the_true_label():
    for seed in range(20):
        masks, predicted = random_masks(seed), random_masks(seed + 100)
        points, labels = sample_clicks(masks, predicted, random=one_video(6, seed))
        for row, ((x, y),) in enumerate(points.long().tolist()):
            assert masks[row, y, x] != predicted[row, y, x]
            assert labels[row, 0] == int(masks[row, y, x])


def test_first_clicks_lie_on_the_object():
    masks = torch.zeros(3, 8, 9, dtype=torch.bool)
    masks[0, 7, 8] = masks[1, 0, 3] = masks[2, 4, 0] = True
    points, labels = sample_clicks(masks, None, random=one_video(3))
    assert points[:, 0].tolist() == [[8, 7], [3, 0], [0, 4]]
    assert labels.flatten().tolist() == [1, 1, 1]


def test_clicks_are_uniform_over_the_region():
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    mask[0, 0, :] = mask[0, 1, 2] = True
    points, _ = sample_clicks(mask.expand(8000, 2, 3), None, random=one_video(8000))
    index = (points[:, 0, 1] * 3 + points[:, 0, 0]).long()
    share = torch.bincount(index, minlength=6) / 8000
    assert share[[3, 4]].tolist() == [0, 0]
    assert share[[0, 1, 2, 5]].tolist() == pytest.approx([0.25] * 4, abs=0.02)


def test_a_perfect_prediction_gets_a_background_click():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0] = True
    masks[0, 1, 2] = False
    masks[1] = True  # no background at all: a positive click then
    points, labels = sample_clicks(masks, masks, random=one_video(2))
    assert points[0, 0].tolist() == [2, 1]
    assert labels.flatten().tolist() == [0, 1]


def test_boxes_without_noise_are_the_corner_pixels():
    masks = torch.zeros(2, 10, 12, dtype=torch.bool)
    masks[0, 3:7, 2:9] = True
    masks[1, 9, 11] = True
    points, labels = sample_boxes(masks, noise=0.0, max_noise=20, random=one_video(2))
    assert points.tolist() == [[[2, 3], [8, 6]], [[11, 9], [11, 9]]]
    assert labels.tolist() == [[2, 3], [2, 3]]


def test_box_noise_is_bounded_by_share_and_pixels_and_image():
    masks = torch.zeros(1, 400, 600, dtype=torch.bool)
    masks[0, 100:141, 200:501] = True  # 300 wide: 20 px at most; 40 high: 4 px
    points, _ = sample_boxes(
        masks.expand(500, -1, -1), noise=0.1, max_noise=20, random=one_video(500)
    )
    offset = points.flatten(1) - torch.tensor([200, 100, 500, 140])
    reach = offset.abs().amax(0)
    assert (reach <= torch.tensor([20, 4, 20, 4])).all()
    assert (reach > torch.tensor([18, 3.6, 18, 3.6])).all()
    full = torch.ones(50, 30, 40, dtype=torch.bool)
    points, _ = sample_boxes(full, noise=0.1, max_noise=20, random=one_video(50))
    assert points.min() >= 0 and (points.amax((0, 1)) <= torch.tensor([39, 29])).all()


def test_an_empty_mask_has_no_box():
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[1, 2, 2] = True
    with pytest.raises(ValueError, match=r"rows \[0, 2\]"):
        sample_boxes(masks, noise=0.1, max_noise=20, random=one_video(3))


def test_a_row_draws_the_same_whatever_lies_beside_it():
    together = RowRandom.of_clips([7, 8, 9], [2, 1, 3])
    apart = [RowRandom.of_clips([7, 8], [2, 1]), RowRandom.of_clips([9], [3])]
    for _ in range(3):
        assert torch.equal(together.uniform(4), torch.cat([part.uniform(4) for part in apart]))
    chunk = RowRandom.of_clips([7, 8, 9], [2, 1, 3]).rows([1, 4])
    whole = RowRandom.of_clips([7, 8, 9], [2, 1, 3]).uniform(4)
    assert torch.equal(chunk.uniform(4), whole[[1, 4]])
    assert len({tuple(row) for row in whole.tolist()}) == 6


def test_a_clip_given_as_masks_leaves_a_frame_to_predict():
    drawn = plans(PromptSimulator(point_prob=0.0, max_conditioning_frames=4), [True, True], 50)
    assert all(plan.mask_prompts and plan.conditioning == (0,) for plan in drawn)


def plans(simulator, promptable, count=400):
    """Plans for one object that is visible on some frames."""
    rng = np.random.default_rng(0)
    visible = np.array(promptable)[:, None]
    drawn = [simulator.plan(visible, rng) for _ in range(count)]
    assert all([plan.rows for plan in each] == [(0,)] for each in drawn)
    return [plan for (plan,) in drawn]


def test_an_image_always_uses_points_and_one_frame():
    for plan in plans(PromptSimulator(point_prob=0.0), [True], 50):
        assert plan.conditioning == (0,) and not plan.mask_prompts
        assert plan.correction == {0}


def test_only_frames_that_show_the_object_are_conditioned():
    promptable = [True, False, True, False, True]
    drawn = plans(PromptSimulator(max_conditioning_frames=3), promptable)
    assert all(plan.conditioning[0] == 0 for plan in drawn)
    assert {frame for plan in drawn for frame in plan.conditioning} == {0, 2, 4}
    assert {len(plan.conditioning) for plan in drawn} == {1, 2, 3}
    assert all(plan.box_frames <= set(plan.conditioning) for plan in drawn)
    alone = plans(PromptSimulator(), [True, False, False], 50)
    assert all(plan.conditioning == (0,) for plan in alone)
    with pytest.raises(ValueError, match="object 0 of the batch is visible on no frame"):
        PromptSimulator().plan(np.zeros((2, 1), bool), np.random.default_rng(0))


def test_each_object_starts_on_its_first_visible_frame():
    visible = np.ones((6, 4), bool)
    visible[:2, 1] = False  # comes later
    visible[3:, 2] = False  # leaves
    rng = np.random.default_rng(0)
    simulator = PromptSimulator(point_prob=1.0, max_conditioning_frames=3)
    for _ in range(100):
        by_row = {row: plan for plan in simulator.plan(visible, rng) for row in plan.rows}
        assert sorted(by_row) == [0, 1, 2, 3]
        assert by_row[0] is by_row[3]  # visible alike, prompted alike
        assert [min(by_row[row].conditioning) for row in range(4)] == [0, 2, 0, 0]
        assert all(visible[list(by_row[row].conditioning), row].all() for row in range(4))
        assert by_row[1].order(6)[0] == 2 and set(by_row[1].order(6)) == {2, 3, 4, 5}


def test_sec_tracks_a_few_frames_and_is_given_the_others():
    seen = set()
    for plan in plans(SecSimulator(tracked_frames=3), [True] * 10, 60):
        assert plan.mask_prompts and plan.conditioning == (0,) and not plan.correction
        tracked = set(range(1, 10)) - plan.given
        assert len(tracked) == 3
        assert plan.order(10)[-1] in tracked  # memories that nobody would read are not made
        seen |= tracked
    assert seen == set(range(1, 10))
    image = plans(SecSimulator(), [True], 1)[0]
    assert not image.mask_prompts and not image.given


def test_correction_frames_follow_the_recipe():
    simulator = PromptSimulator(max_conditioning_frames=2, max_correction_frames=2)
    drawn = plans(simulator, [True] * 8)
    for plan in drawn:
        if plan.mask_prompts:
            assert not plan.correction and not plan.box_frames
        else:
            assert set(plan.conditioning) <= plan.correction
            assert len(plan.correction) <= 2
    corrected = {len(p.correction) for p in drawn if not p.mask_prompts}
    assert corrected == {1, 2}
    # one conditioning frame and two corrected: the second one is any other frame
    second = {max(p.correction) for p in drawn if len(p.correction) == 2}
    assert second == set(range(1, 8))


def test_probabilities_are_met():
    drawn = plans(PromptSimulator(point_prob=0.3, box_prob=0.8), [True] * 4, 2000)
    points = [plan for plan in drawn if not plan.mask_prompts]
    assert len(points) / 2000 == pytest.approx(0.3, abs=0.04)
    boxes = sum(0 in plan.box_frames for plan in points) / len(points)
    assert boxes == pytest.approx(0.8, abs=0.05)
    with pytest.raises(ValueError, match="box_prob"):
        PromptSimulator(box_prob=1.5)


def test_rows_can_draw_boxes_for_themselves():
    masks = torch.zeros(600, 8, 8, dtype=torch.bool)
    masks[:, 2:5, 3:7] = True
    simulator = PromptSimulator(box_prob=0.25, mix_rows=True, box_noise=0.0)
    points, labels = simulator.first_points(masks, box=True, random=one_video(600))
    boxed = labels[:, 0] == 2
    assert boxed.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert (points[boxed] == torch.tensor([[3, 2], [6, 4]])).all()
    assert (labels[~boxed] == torch.tensor([1, -1])).all()
    x, y = points[~boxed, 0].long().unbind(1)
    assert masks[0, y, x].all()
    alone = PromptSimulator(box_prob=0.0, mix_rows=True)
    assert alone.first_points(masks, box=True, random=one_video(600))[1].shape == (600, 1)


def test_mixed_rows_draw_the_same_whatever_lies_beside_them():
    """Also where all rows of one process happen to start with the same kind."""
    masks = torch.zeros(1, 32, 32, dtype=torch.bool)
    masks[:, 4:25, 3:27] = True
    simulator = PromptSimulator(box_prob=0.5, mix_rows=True)
    kinds = set()
    for seed in range(0, 40, 2):
        pair = [seed, seed + 1]
        points, labels = simulator.first_points(
            masks.expand(2, -1, -1), box=False, random=RowRandom.of_clips(pair, [1, 1])
        )
        for row, alone_seed in enumerate(pair):
            alone, label = simulator.first_points(
                masks, box=False, random=RowRandom.of_clips([alone_seed], [1])
            )
            real = labels[row] >= 0
            assert torch.equal(points[row, real], alone[0, label[0] >= 0])
        kinds.add(tuple(labels[:, 0].tolist()))
    assert kinds == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_joined_points_keep_padding_last():
    first = (torch.tensor([[[1.0, 1], [2, 2]], [[3, 3], [0, 0]]]), torch.tensor([[2, 3], [1, -1]]))
    second = (torch.tensor([[[4.0, 4]], [[5, 5]]]), torch.tensor([[0], [1]]))
    points, labels = join_points(first, second)
    assert labels.tolist() == [[2, 3, 0], [1, 1, -1]]
    assert points[:, :, 0].tolist() == [[1, 2, 4], [3, 5, 0]]


def test_correction_clicks_come_from_the_truth_where_the_plan_says_so():
    masks = torch.zeros(1, 6, 6, dtype=torch.bool)
    masks[0, :3] = True
    predicted = masks.clone()
    predicted[0, 5, 5] = True  # the only error
    for share in (0.0, 1.0, 0.25):
        simulator = PromptSimulator(point_prob=1.0, gt_click_prob=share, num_correction_clicks=5)
        drawn = plans(simulator, [True] * 3, 400)
        clicks = [(f, k) in plan.true_clicks for plan in drawn for f in plan.correction
                  for k in range(5)]  # fmt: skip
        assert np.mean(clicks) == pytest.approx(share, abs=0.03)
    for from_truth in (True, False):
        _, label = simulator.correction_click(
            masks, predicted, from_truth=from_truth, random=one_video(1)
        )
        assert label.item() == int(from_truth)


def test_the_interior_point_is_the_middle_of_the_widest_part():
    mask = np.zeros((40, 50), bool)
    mask[10:31, 5:26] = True  # a square of 21 pixels
    mask[20, 26:50] = True  # and a thin tail
    assert interior_point(mask) == (15, 20)
    edge = np.zeros((5, 5), bool)
    edge[:, :3] = True  # the image's border is a border
    assert interior_point(edge) == (1, 2) or interior_point(edge)[0] == 1
    with pytest.raises(ValueError, match="empty"):
        interior_point(np.zeros((3, 3), bool))
