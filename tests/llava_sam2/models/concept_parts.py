"""A toy model with a concept head, and a step of it in one process or two; run as a module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoTokenizer

from projects.llava_sam2.models.heads import ConceptHead, seg_projector
from projects.llava_sam2.models.sa2va import Sa2VA
from projects.llava_sam2.models.toy import toy_internvl
from projects.llava_sam2.structures import collate_grounding
from tests.llava_sam2.models.toy_parts import segment_head, toy_sam2

ROOT = Path(__file__).parents[3]
STAGE2 = ["mllm", "heads.concept.text_hidden_fcs"]  # SAM 2 and token_attn frozen


def concept_model(tokenizer, *, trainable=("*",), **options):
    torch.manual_seed(7)
    options = {"hide_absent": False} | options
    head = ConceptHead(projector=seg_projector(hidden=96, out=64), **options)
    return Sa2VA(
        mllm=toy_internvl(tokenizer=tokenizer, seed=1),
        grounding=toy_sam2(),
        heads={"segment": segment_head(), "concept": head},
        trainable=list(trainable),
        touch_all=True,
    )


def step(tokenizer, samples, chunk=None):
    """Gradients of a step by name and the loss, averaged over ranks as engines do."""
    model = concept_model(tokenizer, rows_per_chunk=chunk).train()
    loss = sum(model.loss(collate_grounding(samples)).values())
    loss.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    found["loss"] = loss.detach()
    if dist.is_initialized():
        for value in found.values():
            dist.all_reduce(value)
            value /= dist.get_world_size()
    return found


def run(tokenizer, parts, folder):
    """The same from two gloo processes, one part of the batch each, in chunks of one row."""
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.save(parts, folder / "parts.pt")
    env = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.llava_sam2.models.concept_parts", str(folder)]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env=env | {"RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=900)[1].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    return torch.load(folder / "found.pt", weights_only=True)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    parts = torch.load(folder / "parts.pt", weights_only=False)  # written by run() above
    found = step(tokenizer, parts[rank], chunk=1)
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
