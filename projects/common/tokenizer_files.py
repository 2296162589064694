"""Tokenizer folders as they are published, read without running code from them.

Three kinds: files of transformers (``tokenizer.json``), Qwen2's ``vocab.json`` with ``merges.txt``,
and InternLM2's sentencepiece ``tokenizer.model``, for which the folders bring a program of their
own. That program does what is done here: pieces become a BPE table with the scores as ranks, and
tokens that were added later take the place of unused pieces or follow after the last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2 as protobuf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

FAST, PIECES, CONFIG = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"
QWEN2 = ("vocab.json", "merges.txt")
NAMED = {  # tokens with a role, and what they are where no file says it
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "</s>",
}
_SPACE = "\u2581"  # how sentencepiece spells a space
_BPE = 2
_CONTROL, _USER_DEFINED = 3, 4


def read_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer folder; no code from it is run.

    Raises:
        FileNotFoundError: no such folder, or none of the known files in it.
        ValueError: files that contradict each other on the id of a token, or a sentencepiece model
            that is broken or no BPE.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no tokenizer folder at {folder}")
    if not has_tokenizer(folder):
        raise FileNotFoundError(
            f"{folder} holds no tokenizer: wanted is {FAST}, {PIECES} (sentencepiece) or "
            f"{' with '.join(QWEN2)}"
        )
    added = added_tokens(folder)
    sentencepiece = (folder / PIECES).is_file() and not (folder / FAST).is_file()
    tokenizer = from_sentencepiece(folder) if sentencepiece else _read_by_transformers(folder)
    _check_ids(tokenizer, added, folder)
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of one of the three kinds."""
    kinds = ((FAST,), (PIECES,), QWEN2)
    return any(all((folder / name).is_file() for name in kind) for kind in kinds)


def _read_by_transformers(folder: Path) -> PreTrainedTokenizerBase:
    try:
        if (folder / FAST).is_file():
            return _read_fast(folder)
        return Qwen2Tokenizer.from_pretrained(str(folder))
    except Exception as error:  # of the tokenizers library, which has no class for its errors
        raise ValueError(f"{folder}: the tokenizer's files cannot be read: {error}") from error


def _read_fast(folder: Path) -> PreTrainedTokenizerBase:
    if "auto_map" in _json(folder / CONFIG):  # its class is a program in the folder
        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


def from_sentencepiece(folder: str | Path) -> PreTrainedTokenizerFast:
    """A fast tokenizer from ``tokenizer.model`` and the json files beside it.

    Raises:
        ValueError: a broken file, another algorithm than BPE, or added tokens with gaps in their
            ids.
    """
    folder = Path(folder)
    model = _parse(folder / PIECES)
    added = added_tokens(folder)
    pieces = [
        added[number].content if number in added else piece.piece
        for number, piece in enumerate(model.pieces)
    ]
    _check_places(pieces, added, folder)
    fast = Tokenizer(_bpe(model, pieces))
    fast.normalizer = _normalizer(model.normalizer_spec)
    fast.decoder = _decoder(model.normalizer_spec.add_dummy_prefix)
    own = {
        number: AddedToken(piece.piece, special=piece.type == _CONTROL, normalized=False)
        for number, piece in enumerate(model.pieces)
        if piece.type in (_CONTROL, _USER_DEFINED)
    }
    for _, token in sorted((own | added).items()):  # in the order of their ids
        (fast.add_special_tokens if token.special else fast.add_tokens)([token])
    roles = _roles(folder)
    special = [token.content for _, token in sorted(added.items()) if token.special]
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        extra_special_tokens=[token for token in special if token not in roles.values()],
        clean_up_tokenization_spaces=False,
        **roles,
    )


def added_tokens(folder: Path) -> dict[int, AddedToken]:
    """Tokens added to a vocabulary, by id, as the json files of a folder tell.

    Raises:
        ValueError: two files give one id to two tokens, or one token two ids.
    """
    found: dict[int, AddedToken] = {}
    listed = _json(folder / CONFIG).get("added_tokens_decoder", {})
    for number, entry in listed.items():
        if not number.isdecimal() or not isinstance(entry, dict) or "content" not in entry:
            raise ValueError(
                f"{folder / CONFIG}: added_tokens_decoder has {number!r}: {entry!r}; wanted is an "
                "id with a dictionary that has 'content'"
            )
        found[int(number)] = AddedToken(
            entry["content"],
            special=entry.get("special", True),
            normalized=entry.get("normalized", False),
            lstrip=entry.get("lstrip", False),
            rstrip=entry.get("rstrip", False),
            single_word=entry.get("single_word", False),
        )
    for content, number in _json(folder / "added_tokens.json").items():
        known = found.setdefault(number, AddedToken(content, special=True, normalized=False))
        if known.content != content:
            raise ValueError(
                f"{folder}: added_tokens.json calls the token {number} {content!r}, "
                f"{CONFIG} calls it {known.content!r}"
            )
    return found


def _check_ids(
    tokenizer: PreTrainedTokenizerBase, added: dict[int, AddedToken], folder: Path
) -> None:
    vocabulary = tokenizer.get_vocab()
    wrong = [
        f"{token.content} is {vocabulary.get(token.content)}, not {number}"
        for number, token in sorted(added.items())
        if vocabulary.get(token.content) != number
    ]
    if wrong:
        raise ValueError(
            f"{folder}: {len(wrong)} of {len(added)} added tokens have another id in the "
            f"vocabulary ({'; '.join(wrong[:4])}): files of two tokenizers are mixed"
        )


def _check_places(pieces: list[str], added: dict[int, AddedToken], folder: Path) -> None:
    after = sorted(number for number in added if number >= len(pieces))
    if after != list(range(len(pieces), len(pieces) + len(after))):
        raise ValueError(
            f"{folder}: {PIECES} has {len(pieces)} pieces, so added tokens go on from there; the "
            f"json files give {after[:8]}"
        )
    if len(set(pieces)) != len(pieces):
        twice = sorted({piece for piece in pieces if pieces.count(piece) > 1})
        raise ValueError(f"{folder}: two ids for {', '.join(twice[:4])}")


def _parse(path: Path) -> Any:
    model = protobuf.ModelProto()  # type: ignore[attr-defined]  # made at import
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path} is not a whole sentencepiece model: {error}") from error
    if not model.pieces:
        raise ValueError(f"{path} is no sentencepiece model: it holds no pieces")
    if model.trainer_spec.model_type != _BPE:
        raise ValueError(f"{path} is no BPE model of sentencepiece, which InternLM2 uses")
    return model


def _bpe(model: Any, pieces: list[str]) -> models.BPE:
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    scores = [piece.score for piece in model.pieces]
    ranked = sorted(range(len(pieces)), key=lambda number: (-scores[number], number))
    merges = [pair for number in ranked for pair in _splits(pieces[number], vocabulary)]
    return models.BPE(
        vocabulary,
        merges,
        unk_token=model.trainer_spec.unk_piece,
        fuse_unk=True,
        byte_fallback=model.trainer_spec.byte_fallback,
    )


def _splits(piece: str, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs of pieces that merge into this one: sentencepiece takes any of them."""
    halves = ((piece[:place], piece[place:]) for place in range(1, len(piece)))
    known = [pair for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
    return sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))


def _normalizer(spec: Any) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _decoder(prefixed: bool) -> decoders.Decoder:
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)


def _roles(folder: Path) -> dict[str, str]:
    said = _json(folder / "special_tokens_map.json") | _json(folder / CONFIG)
    roles = {}
    for role, default in NAMED.items():
        value = said.get(role, default)
        roles[role] = value["content"] if isinstance(value, dict) else value
    return {role: token for role, token in roles.items() if token is not None}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a json file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary")
    return content
