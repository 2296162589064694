from __future__ import annotations

import pytest
import torch

from projects.llava_sam2.models.seg_tokens import check_counts, gather_seg


def test_gathers_in_reading_order_with_counts():
    ids = torch.tensor([[5, 9, 9, 0], [9, 1, 2, 3], [1, 1, 1, 1]])
    hidden = torch.arange(12.0).view(3, 4, 1)
    found, counts = gather_seg(hidden, ids, 9)
    assert found.flatten().tolist() == [1, 2, 4] and counts == [2, 1, 0]


def test_counts_that_differ_name_every_sample_with_both_counts():
    masks = [torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 4, 4), None, torch.zeros(3, 1, 4, 4)]
    check_counts([2, 1, 7, 3], masks, list("abcd"))  # without masks nothing is compared
    with pytest.raises(ValueError, match=r"b: 2 \[SEG\] tokens but 1 .*; d: 0 \[SEG\] .* but 3"):
        check_counts([2, 2, 0, 0], masks, list("abcd"))
