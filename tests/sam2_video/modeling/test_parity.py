"""Our verbs and tracker against the modules of PyPI's ``sam2``, same random weights, float32."""

from __future__ import annotations

import pytest
import torch

from projects.sam2_video.modeling import Prompt, Tracker, TrackingPolicy, build_sam2, sam2_config
from projects.sam2_video.modeling.meta_weights import from_meta_names, load_meta_state
from tests.sam2_video.meta_reference import MetaTrack, build_meta, encode_meta, randomise

SIZE = 128
CLIP, VIDEOS = 5, 2
ROWS = torch.tensor([0, 0, 1])  # two objects of one video, one of another
TOLERANCE = 1e-4  # largest difference of logits, whose magnitude is 50 to 100
FORWARD = TrackingPolicy(past_pointers_only=True)  # what Meta's eval mode does in SAM2Base


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_pair(num_maskmem: int = 7, version: str = "2.1", object_bias: float = 3.0, **switches):
    meta = build_meta(num_maskmem=num_maskmem, version=version, **switches)
    randomise(meta, object_bias=object_bias)
    config = sam2_config("tiny", image_size=SIZE, num_maskmem=num_maskmem, version=version)
    ours = build_sam2(config)
    report = load_meta_state(ours, meta.state_dict(), where="reference")
    assert not report.missing and not report.unexpected
    return meta.eval(), ours.eval()


@pytest.fixture(scope="module")
def pair():
    return make_pair()


@pytest.fixture(scope="module")
def frames():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(CLIP, VIDEOS, 3, 16, 16, generator=generator) * 255
    fine = torch.rand(CLIP, VIDEOS, 3, SIZE, SIZE, generator=generator) * 60 - 30
    clip = coarse.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4) + fine
    return clip.clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def encoded(pair, frames):
    """The clip as Meta encodes it and as we do; all variants have the same image encoder."""
    meta, ours = pair
    with torch.no_grad():
        return encode_meta(meta, frames), ours.encode_frames(frames.flatten(0, 1))


def close(ours, theirs, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def boxes_of_mask(rows: int = 3) -> torch.Tensor:
    masks = torch.zeros(rows, 1, SIZE, SIZE, dtype=torch.bool)
    for row in range(rows):
        masks[row, 0, 10 + 7 * row : 60, 20 : 90 + 5 * row] = True
    return masks


# ---- verbs ----------------------------------------------------------------------------------


@torch.no_grad()
def test_image_features(pair, encoded, frames):
    _, ours = pair
    theirs, features = encoded
    for frame in range(CLIP):
        mine = features.rows(torch.arange(VIDEOS) + VIDEOS * frame)
        for got, level in zip(
            (*mine.high_res, mine.embed), theirs[frame]["backbone_fpn"], strict=True
        ):
            close(got, level, 1e-4)
    single = ours.encode_frames(frames[0], split=1)
    close(single.embed, features.embed[:VIDEOS], 1e-5)


@torch.no_grad()
def test_position_tables(pair, encoded):
    meta, ours = pair
    _, positions, _ = MetaTrack(meta, encoded[0]).row_features(0, torch.tensor([0]))
    close(ours.frame_position, positions[-1], 1e-6)
    memory = meta.memory_encoder.position_encoding(torch.zeros(1, 64, 8, 8))
    close(ours.memory_position, memory.flatten(2).permute(2, 0, 1), 1e-6)
    close(ours._dense_position(), meta.sam_prompt_encoder.get_dense_pe(), 1e-6)


PROMPTS = {
    "click": ([[40.0, 50.0]], [1]),
    "clicks": ([[40.0, 50.0], [90.5, 12.25], [3.0, 127.0]], [1, 0, 1]),
    "box": ([[10.0, 20.0], [100.0, 90.0]], [2, 3]),
    "box and click": ([[10.0, 20.0], [100.0, 90.0], [50.0, 60.0]], [2, 3, 1]),
    "outside": ([[-40.0, 300.0]], [1]),
    "only negative": ([[40.0, 50.0]], [0]),
    "reversed box": ([[100.0, 90.0], [10.0, 20.0]], [2, 3]),
    "empty point": ([[0.0, 0.0]], [-1]),
}


def meta_decode(meta, track, rows, *, points=None, mask=None, multimask=False):
    """Meta's candidates on frame 0 without memory: masks, IoU, pointer, object logits."""
    features, _, sizes = track.row_features(0, rows)
    levels = [
        x.permute(1, 2, 0).unflatten(2, size) for x, size in zip(features, sizes, strict=True)
    ]
    inputs = None
    if points is not None:
        inputs = {"point_coords": points[0], "point_labels": points[1].to(torch.int32)}
    masks, _, iou, _, _, pointer, object_logits = meta._forward_sam_heads(
        backbone_features=levels[2] + meta.no_mem_embed.view(1, -1, 1, 1),
        point_inputs=inputs,
        mask_inputs=mask,
        high_res_features=levels[:2],
        multimask_output=multimask,
    )
    return masks, iou, pointer, object_logits


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", PROMPTS)
def test_point_prompts(pair, encoded, kind, multimask, rows):
    meta, ours = pair
    track, features = MetaTrack(meta, encoded[0]), encoded[1]
    images = torch.tensor([0, 1, 1, 0])[:rows]
    shift = torch.arange(rows)[:, None, None] * 3.0
    points = torch.tensor(PROMPTS[kind][0])[None] + shift
    labels = torch.tensor(PROMPTS[kind][1])[None].repeat(rows, 1)
    expected = meta_decode(meta, track, images, points=(points, labels), multimask=multimask)
    tracker = Tracker(ours)
    output = tracker.step(
        features.rows(images),
        0,
        tracker.new_memory(),
        prompt=Prompt(points=points, labels=labels),
        multimask=multimask,
        run_memory_encoder=False,
    )
    close(output.candidates.masks, expected[0])
    close(output.candidates.iou, expected[1])
    close(output.pointer, expected[2])
    close(output.object_logits, expected[3])
    assert (expected[3] > 0).all(), "blanked masks would agree whatever the decoder does"


@torch.no_grad()
def test_corrections_read_previous_logits(pair, encoded):
    meta, ours = pair
    track, features = MetaTrack(meta, encoded[0]), encoded[1]
    rows = torch.tensor([0, 1])
    points, labels = torch.tensor([[[40.0, 50.0], [60.0, 9.0]]] * 2), torch.tensor([[1, 0]] * 2)
    previous = torch.randn(2, 1, SIZE // 4, SIZE // 4, generator=torch.Generator().manual_seed(2))
    expected = meta_decode(meta, track, rows, points=(points, labels), mask=previous)
    features = features.rows(rows)
    features = features.with_embed(ours.add_no_memory(features.embed))
    prompt = Prompt(points=points, labels=labels, previous=previous)
    candidates = ours.decode_masks(features, prompt)
    close(candidates.masks, expected[0])
    without = ours.decode_masks(features, Prompt(points=points, labels=labels))
    assert (without.masks - candidates.masks).abs().max() > 1


@torch.no_grad()
def test_mask_prompts_with_an_empty_one(pair, encoded):
    meta, ours = pair
    track, features = MetaTrack(meta, encoded[0]), encoded[1]
    masks = boxes_of_mask()
    masks[1] = False
    expected = track.step(0, ROWS, mask=masks, initial=True)
    tracker = Tracker(ours)
    output = tracker.step(features.rows(ROWS), 0, tracker.new_memory(), prompt=Prompt(mask=masks))
    close(output.masks, expected["pred_masks"])
    close(output.pointer, expected["obj_ptr"])
    close(output.object_logits, expected["object_score_logits"])
    close(output.pointer[1:2], meta.no_obj_ptr)


@torch.no_grad()
def test_a_mask_prompt_that_the_decoder_calls_absent(encoded):
    """Meta gates the pointer by the decoder's score as well as by the mask."""
    meta, ours = make_pair(object_bias=-3.0)
    masks = boxes_of_mask()
    expected = MetaTrack(meta, encoded[0]).step(0, ROWS, mask=masks, initial=True)
    features = encoded[1].rows(ROWS)
    output = Tracker(ours).decode(features, Prompt(mask=masks))
    close(output.pointer, expected["obj_ptr"])
    close(output.pointer, meta.no_obj_ptr.expand(3, -1))
    assert (output.object_logits > 0).all()


@torch.no_grad()
def test_absent_objects_are_blanked(encoded):
    meta, ours = make_pair(object_bias=-3.0)
    points, labels = torch.full((3, 1, 2), 50.0), torch.ones(3, 1, dtype=torch.long)
    track = MetaTrack(meta, encoded[0])
    expected = track.step(0, ROWS, points=(points, labels), initial=True, conditioning=True)
    tracker = Tracker(ours)
    memory = tracker.new_memory()
    features = encoded[1].rows(ROWS)
    output = tracker.step(features, 0, memory, prompt=Prompt(points=points, labels=labels))
    assert (output.masks == -1024).all()
    close(output.masks, expected["pred_masks"])
    close(output.pointer, expected["obj_ptr"])
    close(memory.conditioning[0].memory, expected["maskmem_features"])


@torch.no_grad()
def test_unstable_single_masks_give_way(encoded):
    meta, ours = make_pair(
        sam_mask_decoder_extra_args=dict(
            dynamic_multimask_via_stability=True,
            dynamic_multimask_stability_delta=0.05,
            dynamic_multimask_stability_thresh=0.98,
        )
    )
    for decoder in (meta.sam_mask_decoder, ours.blocks.mask_decoder):
        for head in decoder.output_hypernetworks_mlps:  # logits near 0 are not stable
            last = head.layers[-1] if decoder is meta.sam_mask_decoder else head.proj_out
            last.weight.mul_(1e-2)
            last.bias.mul_(1e-2)
    points = torch.tensor([[[40.0, 50.0], [60.0, 9.0]]] * 3)
    labels = torch.tensor([[1, 0]] * 3)
    expected = meta_decode(meta, MetaTrack(meta, encoded[0]), ROWS, points=(points, labels))
    features = encoded[1].rows(ROWS)
    features = features.with_embed(ours.add_no_memory(features.embed))
    prompt = Prompt(points=points, labels=labels)
    fallback = ours.decode_masks(features, prompt, stability_fallback=True)
    close(fallback.masks, expected[0])
    close(fallback.iou, expected[1])
    plain = ours.decode_masks(features, prompt)
    assert ((plain.iou - fallback.iou).abs() > 1e-4).all(), "the fallback was not taken"


@torch.no_grad()
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("binarise", [True, False])
def test_memory_encoding(encoded, binarise, overlap):
    meta, ours = make_pair(
        binarize_mask_from_pts_for_mem_enc=binarise, non_overlap_masks_for_mem_enc=not overlap
    )
    rows = torch.tensor([0, 0, 0])
    features, _, sizes = MetaTrack(meta, encoded[0]).row_features(0, rows)
    logits = 3 * torch.randn(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    present = torch.tensor([[2.0], [-1.0], [0.0]])
    expected, _ = meta._encode_new_memory(features, sizes, logits, present, is_mask_from_pts=True)
    tracker = Tracker(
        ours, policy=TrackingPolicy(binarise_prompted=binarise, non_overlapping=not overlap)
    )
    tracker.model.full_size = lambda masks: logits  # the pasted masks come at full resolution
    memory = tracker.new_memory()
    raw = encoded[1].rows(rows)
    points = Prompt(points=torch.zeros(3, 1, 2), labels=torch.ones(3, 1, dtype=torch.long))
    output = tracker.decode(raw, points)
    output.object_logits = present
    tracker.remember(raw, 0, output, memory, prompt=points)
    close(memory.conditioning[0].memory, expected)


# ---- tracking -------------------------------------------------------------------------------

CLICK = (torch.tensor([[[40.0, 50.0]], [[80.0, 30.0]], [[64.0, 64.0]]]), torch.ones(3, 1).long())
BOX_CLICK = (
    torch.tensor([[[10.0, 20.0], [70.0, 80.0], [30.0, 40.0]]] * 3),
    torch.tensor([[2, 3, 1]] * 3),
)
LATER_CLICK = (torch.tensor([[[90.0, 20.0]]] * 3), torch.zeros(3, 1).long())
# frame -> (points or mask, first-prompt); the order is the order of visits
CASES = {
    "mask": [(0, "mask", True), (1,), (2,), (3,), (4,)],
    "click": [(0, CLICK, True), (1,), (2,), (3,), (4,)],
    "box, later click": [(0, BOX_CLICK, True), (1,), (2, LATER_CLICK, False), (3,), (4,)],
    "two first frames": [(0, CLICK, True), (3, "mask", True), (1,), (2,), (4,)],
    "reverse": [(4, "mask", True), (3,), (2,), (1,), (0,)],
}


def run_both(meta, ours, encoded, visits, policy=FORWARD, reverse=False):
    """Largest differences of masks, pointers and memories over the visits."""
    track = MetaTrack(meta, encoded[0])
    tracker = Tracker(ours, policy=policy)
    memory = tracker.new_memory(num_frames=len(encoded[0]))
    outputs = []
    for frame, *asked in visits:
        what, initial = asked or (None, False)
        mask = boxes_of_mask() if isinstance(what, str) else None
        points = what if isinstance(what, tuple) else None
        expected = track.step(
            frame,
            ROWS,
            points=points,
            mask=mask,
            initial=initial,
            conditioning=what is not None,
            reverse=reverse,
        )
        prompt = None
        if what is not None:
            prompt = (
                Prompt(mask=mask) if points is None else Prompt(points=points[0], labels=points[1])
            )
        output = tracker.step(
            encoded[1].rows(ROWS + VIDEOS * frame),
            frame,
            memory,
            prompt=prompt,
            use_memory=not initial,
            reverse=reverse,
        )
        store = memory.tracked if what is None else memory.conditioning
        close(output.masks, expected["pred_masks"])
        close(output.pointer, expected["obj_ptr"])
        close(store[frame].memory, expected["maskmem_features"])
        outputs.append(output)
    return outputs


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_propagation(pair, encoded, case):
    outputs = run_both(*pair, encoded, CASES[case], reverse=case == "reverse")
    last = torch.cat([output.masks for output in outputs[1:]])
    assert last.abs().max() > 5 and 0.05 < (last > 0).float().mean() < 0.95


@torch.no_grad()
def test_the_memory_shows(pair, encoded):
    """Without this, agreement over a clip would say nothing about the memory."""
    _, ours = pair
    tracker = Tracker(ours)
    features = encoded[1]
    answers = []
    for masks in (boxes_of_mask()[:1], ~boxes_of_mask()[:1]):
        memory = tracker.new_memory()
        tracker.step(features.rows(torch.tensor([0])), 0, memory, prompt=Prompt(mask=masks))
        answers.append(tracker.step(features.rows(torch.tensor([VIDEOS])), 1, memory).masks)
    assert (answers[0] - answers[1]).abs().max() > 0.1


@torch.no_grad()
def test_22_memory_slots(encoded):
    run_both(*make_pair(num_maskmem=22), encoded, CASES["box, later click"])


@torch.no_grad()
def test_sam_2_0(encoded):
    run_both(*make_pair(version="2.0"), encoded, CASES["click"])


@torch.no_grad()
def test_limited_conditioning_frames_and_slots(encoded):
    """Conditioning frames that are left out serve as tracked ones; slots run full."""
    switches = dict(max_cond_frames_in_attn=2, max_obj_ptrs_in_encoder=4)
    meta, ours = make_pair(num_maskmem=3, **switches)
    ours.max_object_pointers = 4
    order = torch.tensor([0, 1, 2, 3, 4, 3, 2, 1, 0])
    images = (VIDEOS * order[:, None] + torch.arange(VIDEOS)).flatten()
    clip = [encoded[0][frame] for frame in order.tolist()], encoded[1].rows(images)
    visits = [(0, "mask", True), (3, CLICK, True), (4, "mask", True), (6, CLICK, True)]
    visits += [(1,), (2,), (5,), (7,), (8,)]
    policy = TrackingPolicy(past_pointers_only=True, max_cond_frames=2)
    run_both(meta, ours, clip, visits, policy=policy)


def test_training_mode_with_dropout_and_all_gradients(frames):
    """A clip with a click and a correction: same masks and same gradient in every parameter."""
    meta, ours = make_pair()
    meta.train()
    ours.train()
    visits = CASES["box, later click"][:4]
    clip = frames[:4]

    def loss_of(masks, pointer):
        target = boxes_of_mask()[..., ::4, ::4].float()
        fit = torch.nn.functional.binary_cross_entropy_with_logits(masks / 10, target)
        return fit + 0.1 * pointer.square().mean()

    torch.manual_seed(5)
    track = MetaTrack(meta, encode_meta(meta, clip))
    total = 0.0
    for frame, *asked in visits:
        points, initial = asked or (None, False)
        out = track.step(
            frame, ROWS, points=points, initial=initial, conditioning=points is not None
        )
        total = total + loss_of(out["pred_masks"], out["obj_ptr"])
    total.backward()

    torch.manual_seed(5)
    tracker = Tracker(ours)
    memory = tracker.new_memory(num_frames=len(clip))
    encoded = ours.encode_frames(clip.flatten(0, 1))
    mine = 0.0
    for frame, *asked in visits:
        points, initial = asked or (None, False)
        prompt = None if points is None else Prompt(points=points[0], labels=points[1])
        out = tracker.step(
            encoded.rows(ROWS + VIDEOS * frame),
            frame,
            memory,
            prompt=prompt,
            use_memory=not initial,
        )
        mine = mine + loss_of(out.masks, out.pointer)
    mine.backward()

    close(mine, total, 1e-5)
    zeros = {k: torch.zeros_like(v) for k, v in meta.state_dict().items()}
    grads = {k: p.grad for k, p in meta.named_parameters() if p.grad is not None}
    expected = from_meta_names(zeros | grads)
    checked = 0
    for name, parameter in ours.blocks.named_parameters():
        if parameter.grad is None:
            assert not expected[name].any(), f"only Meta's {name} has a gradient"
            continue
        scale = expected[name].abs().max()
        # a ReLU that rounding flips moves the memory attention's own gradient a little
        bound = 1e-4 + (2e-2 if "linear" in name else 3e-3) * scale
        assert (parameter.grad - expected[name]).abs().max() <= bound, name
        checked += 1
    assert checked > 300
