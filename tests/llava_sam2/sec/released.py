"""SeC's released inference, on PyPI's ``sam2`` and plain torch, as the reference of our tests.

Written from what ``OpenIXCLab/SeC`` does, frame by frame and object by object, not from the code
under test: everything is kept, every list is made anew on each frame, the language model sees all
pictures again each time. A folder in the layout of ``SeC-4B`` is all that both sides share.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sam2.modeling.sam2_utils import get_1d_sine_pe
from sam2.sam2_video_predictor import SAM2VideoPredictor
from scipy import ndimage
from torch import Tensor
from transformers import AutoTokenizer

from projects.common.conversation import GROUNDING_TOKENS
from tests.llava_sam2.hf import original
from tests.sam2_video.meta_predictor import POSTPROCESSING
from tests.sam2_video.meta_reference import build_meta, encode_meta, randomise

SIDE = 128  # of SAM 2's input; 1024 in the release
WORDS = (
    "Please segment the object in the last frame based on the object labeled in the first several "
    "images."
)


class Released:
    """A small random SeC: Meta's modules for the masks, plain torch for the words."""

    def __init__(self, *, slots: int = 22, score: float = 0.9) -> None:
        """``score``: about what the head of presence says of a frame within a scene."""
        settings = POSTPROCESSING | dict(model_class=SAM2VideoPredictor, num_maskmem=slots)
        self.sam2 = build_meta(image_size=SIDE, **settings).eval()
        randomise(self.sam2)
        decoder = self.sam2.sam_mask_decoder  # frames differ in how well they are tracked
        sharpen(decoder.pred_obj_score_head.layers[-1], gain=150.0, around=3.23, to=score)
        sharpen(decoder.iou_prediction_head.layers[-1], gain=12.0, around=0.43, to=-0.75)
        other = randomise(copy.deepcopy(self.sam2), seed=5)
        self.token_attn = other.memory_attention.eval()
        self.config = original.numbers("qwen2", "300m", template="qwen_chat")
        self.config["llm_config"]["max_position_embeddings"] = 4096
        self.asked: list[int] = []  # what the tests look at: frames on which it was asked,
        self.shown: list[list[int]] = []  # the frames that it was shown,
        self.reliable: list[bool] = []  # and how tracked frames were judged

    def write(self, folder: Path) -> Path:
        """A folder as published, in float32."""
        config, sam2 = self.config, "grounding_encoder."
        config["llm_config"]["vocab_size"] = original.write_qwen2_tokenizer(
            folder, GROUNDING_TOKENS
        )
        self.words = original.random_state(config)
        draw = torch.Generator().manual_seed(2)
        for name, shape in (("0", (32, 32)), ("2", (256, 32))):
            self.words |= {
                f"text_hidden_fcs.{name}.weight": 0.4 * torch.randn(shape, generator=draw),
                f"text_hidden_fcs.{name}.bias": torch.randn(shape[0], generator=draw),
            }
        state = dict(self.words)
        for level, module in ((sam2, self.sam2), (f"{sam2}token_attn.", self.token_attn)):
            for name, tensor in module.state_dict().items():
                state[level + name.replace(".gamma", ".g_weight")] = tensor
        names = dict(architectures=["SeCModel"], model_type="sec", torch_dtype="float32")
        names |= dict(grounding_maskmem_num=self.sam2.num_maskmem)
        original.write_folder(folder, config | names, state)
        self.ids = json.loads((folder / "added_tokens.json").read_text())
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        return folder

    # ---- the loop --------------------------------------------------------------------------

    @torch.inference_mode()
    def track(
        self, video: Path, mask: np.ndarray, start: int, *, gate: bool = True
    ) -> dict[int, Tensor]:
        """Frame to logits [1, 1, H, W] from ``start`` on, of the object with this first mask."""
        sam2 = self.sam2
        images = [np.array(Image.open(file)) for file in sorted(video.glob("*.jpg"))]
        state = sam2.init_state(str(video))
        sam2.add_new_mask(state, start, 1, mask)
        sam2.propagate_in_video_preflight(state)
        given = state["output_dict_per_obj"][0]["cond_frame_outputs"][start]
        found = {start: sam2._get_orig_video_res_output(state, given["pred_masks"])[1]}
        past: dict[int, dict] = {}
        references = [(start, mask)]
        for frame in range(start + 1, len(images)):
            _, _, features, positions, sizes = sam2._get_image_feature(state, frame, 1)
            embed = self._remembered(frame, start, given, past, features, positions, len(images))
            ask = gate and scene_changes(images[frame], images[frame - 1])
            if ask:
                shown = references[:1] + references[max(1, len(references) - 6) :]
                pictures = [outlined(images[at], there) for at, there in shown]
                concept = self._concept([*pictures, images[frame]])
                embed = (embed + self._attend(concept, features, positions)) / 2
                self.asked.append(frame)
                self.shown.append([at for at, _ in shown])
            past[frame] = self._decode(embed, features, sizes)
            logits = fill_holes(past[frame]["mask"], 8)
            found[frame] = sam2._get_orig_video_res_output(state, logits)[1]
            if ask and (found[frame] > 0).any() and past[frame]["score"].item() > 1:
                references.append((frame, (found[frame][0, 0] > 0).numpy()))
        return found

    def _remembered(
        self, frame: int, start: int, given: dict, past: dict, features, positions, length: int
    ) -> Tensor:
        """The frame [1, C, h, w], conditioned on the frames that were tracked well."""
        sam2 = self.sam2
        slots, pointers = sam2.num_maskmem, min(length, sam2.max_obj_ptrs_in_encoder)
        most = min(length, max(sam2.max_obj_ptrs_in_encoder, slots)) - 1
        good = [at for at in past if past[at]["iou"].max() > 0.3 and past[at]["score"].item() > 0]
        good = sorted(good)[-most:]
        if frame > start + 1:
            self.reliable.append(frame - 1 in good)
            if frame - 1 not in good:
                good.append(frame - 1)
        place = given["maskmem_pos_enc"][-1].flatten(2).permute(2, 0, 1)
        memories = [(slots - 1, given["maskmem_features"])]
        memories += [
            (slots - number - 1, past[good[number - slots]]["memory"])
            for number in range(1, slots)
            if slots - number <= len(good)
        ]
        keys = [memory.flatten(2).permute(2, 0, 1) for _, memory in memories]
        codes = [place + sam2.maskmem_tpos_enc[row] for row, _ in memories]
        spoken = [(frame - start, given["obj_ptr"])]
        spoken += [
            (back, past[good[-back]]["pointer"]) for back in range(1, min(pointers, len(good)))
        ]
        apart = torch.tensor([back for back, _ in spoken]) / (pointers - 1)
        apart = sam2.obj_ptr_tpos_proj(get_1d_sine_pe(apart, dim=256))[:, None]
        for (_, pointer), code in zip(spoken, apart, strict=True):
            keys.append(pointer.view(4, 1, 64))
            codes.append(code.expand(4, 1, 64))
        return image_of(
            sam2.memory_attention(
                curr=features[-1:],
                curr_pos=positions[-1:],
                memory=torch.cat(keys).float(),
                memory_pos=torch.cat(codes),
                num_obj_ptr_tokens=4 * len(spoken),
            )
        )

    def _attend(self, concept: Tensor, features, positions) -> Tensor:
        """The raw frame [1, C, h, w], conditioned on a concept [C]."""
        tokens = concept.view(4, 1, 64)
        return image_of(
            self.token_attn(
                curr=features[-1:],
                curr_pos=positions[-1:],
                memory=tokens,
                memory_pos=torch.zeros_like(tokens),
                num_obj_ptr_tokens=4,
            )
        )

    def _decode(self, embed: Tensor, features, sizes) -> dict:
        _, _, iou, mask, full, pointer, score = self._heads(embed, features, sizes)
        memory, _ = self.sam2._encode_new_memory(
            features, sizes, full, score, is_mask_from_pts=False
        )
        memory = memory.to(torch.bfloat16)
        return dict(mask=mask, iou=iou, score=score, pointer=pointer, memory=memory)

    def _heads(self, embed: Tensor, features, sizes) -> tuple[Tensor, ...]:
        fine = [
            x.permute(1, 2, 0).unflatten(2, size)
            for x, size in zip(features[:-1], sizes[:-1], strict=True)
        ]
        return self.sam2._forward_sam_heads(
            backbone_features=embed, high_res_features=fine, multimask_output=True
        )

    def candidates(self, frame: Tensor, hidden: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        """What stage 2 trains on: three masks [1, 3, S, S], their IoU [1, 3], the score [1, 1].

        Args:
            frame: uint8 [1, 3, S, S].
            hidden, ids: of the whole conversation, [L, D] and [L].
        """
        (encoded,) = encode_meta(self.sam2, frame[None])
        _, features, positions, sizes = self.sam2._prepare_backbone_features(encoded)
        concept = self._projected(hidden, ids)
        heads = self._heads(self._attend(concept, features, positions), features, sizes)
        _, masks, iou, _, _, _, score = heads
        return masks, iou, score

    # ---- the words -------------------------------------------------------------------------

    def _concept(self, pictures: list[np.ndarray]) -> Tensor:
        side = self.config["force_image_size"]
        small = [Image.fromarray(p).resize((side, side), Image.BICUBIC) for p in pictures]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)
        seen = original.visual_tokens(self.words, self.config, pixels)
        image = "<img>" + "<IMG_CONTEXT>" * seen.shape[1] + "</img>"
        asked = "\n".join([image] * len(pictures)) + WORDS + "It is [SEG]."
        text = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
        ids = torch.tensor(self.tokenizer.encode(text))
        embeddings = original.embedding_table(self.words)[ids]
        embeddings[ids == self.ids["<IMG_CONTEXT>"]] = seen.flatten(0, 1)
        hidden, _ = original.language(self.words, self.config, embeddings)
        return self._projected(hidden, ids)

    def _projected(self, hidden: Tensor, ids: Tensor) -> Tensor:
        (said,) = hidden[ids == self.ids["[SEG]"]]
        inner = F.relu(original.linear(self.words, "text_hidden_fcs.0", said))
        return original.linear(self.words, "text_hidden_fcs.2", inner)


@torch.no_grad()
def sharpen(layer: torch.nn.Linear, *, gain: float, around: float, to: float) -> None:
    """Spread what a layer says ``around`` a value, and move that value."""
    layer.weight.mul_(gain)
    layer.bias.copy_(gain * (layer.bias - around) + to)


def image_of(tokens: Tensor) -> Tensor:
    """[h * w, 1, C] to [1, C, h, w]."""
    side = int(len(tokens) ** 0.5)
    return tokens.permute(1, 2, 0).unflatten(2, (side, side))


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    drawn = image.copy()
    contours, _ = cv2.findContours(np.uint8(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        cv2.drawContours(drawn, [contour], -1, (0, 255, 0), 2)
    return drawn


def scene_changes(image: np.ndarray, before: np.ndarray) -> bool:
    """RGB is handed to a conversion from BGR, as released."""
    counts = []
    for one in (image, before):
        hsv = cv2.cvtColor(cv2.resize(one, (1024, 1024)), cv2.COLOR_BGR2HSV)
        count = cv2.calcHist([hsv], [0, 1], None, [60, 80], [0, 180, 0, 256])
        counts.append(cv2.normalize(count, count))
    return cv2.compareHist(*counts, cv2.HISTCMP_BHATTACHARYYA) > 0.35


def fill_holes(logits: Tensor, area: int) -> Tensor:
    labels, count = ndimage.label((logits[0, 0] <= 0).numpy(), structure=np.ones((3, 3)))
    filled = logits.clone()
    for number in range(1, count + 1):
        hole = labels == number
        if hole.sum() <= area:
            filled[0, 0][torch.from_numpy(hole)] = 0.1
    return filled
