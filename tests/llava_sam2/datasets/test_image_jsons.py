"""Hand-made records in the shapes of the released files: Sa2VA's json, GranD-f, Osprey."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from projects.common.conversation import IGNORE_INDEX
from projects.common.samplers import Draw
from projects.llava_sam2.datasets.gcg import flickr_gcg_rows, grandf_rows, refcocog_gcg_rows
from projects.llava_sam2.datasets.grounded_captions import GroundedCaptionDataset
from projects.llava_sam2.datasets.native import NativeResolution
from projects.llava_sam2.datasets.osprey import osprey_rows
from projects.llava_sam2.datasets.pixels import DynamicTiles, SingleTile, resize_masks
from projects.llava_sam2.datasets.pointing import cover_grid, with_regions
from projects.llava_sam2.datasets.regions import RegionDataset
from projects.llava_sam2.datasets.sa2va_json import sa2va_rows
from projects.llava_sam2.structures import square_side
from tests.llava_sam2.datasets.tiny import HEIGHT, LEFT, RIGHT, WIDTH, block, rle, save_jpeg
from tests.llava_sam2.datasets.tiny import tiny_inputs as make_inputs
from tests.llava_sam2.datasets.tiny_images import POLYGON, write_json

EMPTY = rle(np.zeros((HEIGHT, WIDTH), bool))
TOP = block(0, 12, 5, 18)


@pytest.fixture
def images(tmp_path):
    for number in range(3):
        save_jpeg(tmp_path / "images" / f"{number}.jpg", number)
    return tmp_path / "images"


@pytest.fixture
def inputs(tmp_path):
    return make_inputs(tmp_path / "tokenizer")


@pytest.fixture
def read(tmp_path, images):
    def read(reader, content, **settings):
        file = write_json(tmp_path / "file.json", content)
        return reader(file=file, image_root=images, **settings)

    return read


def words(inputs, ids):
    return inputs.tokenizer.convert_ids_to_tokens(ids.tolist())


def mask_of(row, expression):
    return row.read_mask(expression.objects, 0, (HEIGHT, WIDTH))


# ---- Sa2VA's fine-tune json -----------------------------------------------------------------


def test_sa2va_json_pairs_masks_with_texts(read):
    two_parts = [POLYGON[0], [20, 6, 30, 6, 30, 18, 20, 18]]
    record = {
        "image": "0.jpg",
        "mask": [POLYGON, two_parts, POLYGON[0], rle(TOP)],
        "text": ["left", " both ", ["a square", "red"], "top"],
    }
    (row,) = read(sa2va_rows, [record])
    said = {e.text: mask_of(row, e) for e in row.expressions}
    assert list(said) == ["left", "both", "a square", "red", "top"]
    for text, mask in {"left": LEFT, "both": LEFT | RIGHT, "red": LEFT, "top": TOP}.items():
        np.testing.assert_array_equal(said[text], mask)
    assert len({e.key for e in row.expressions}) == 5 and row.size == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ["left"]}, "record 1: 2 masks but 1 texts"),
        ({"mask": [], "text": []}, "record 1: it has no object"),
        ({"mask": {}}, "record 1: it has {} as 'mask', not a list"),
        ({"image": "gone.jpg"}, r"record 1: no file .*gone\.jpg"),
        ({"image": "../0.jpg"}, r"record 1: '\.\./0\.jpg' leads out of"),
        ({"text": ["left", " "]}, "record 1 text 1: empty expression"),
        ({"text": ["left", 7]}, "record 1 text 1: empty expression"),
        ({"mask": [POLYGON, [[1, 2, 3]]]}, r"record 1 mask 1: .*polygon 0.* three corners"),
        ({"mask": [POLYGON, [[5000] * 6]]}, "record 1 mask 1: .*belongs to another image"),
        ({"mask": [POLYGON, EMPTY]}, "record 1 mask 1: all its masks are empty"),
        ({"mask": [POLYGON, []]}, "record 1 mask 1: .*expected a list of polygons"),
    ],
)
def test_sa2va_json_bad_records(read, change, message):
    good = {"image": "0.jpg", "mask": [POLYGON, rle(RIGHT)], "text": ["left", "right"]}
    with pytest.raises(ValueError, match=f"file.json: 1 bad records:\n  {message}"):
        read(sa2va_rows, [good, good | change])
    kept = read(sa2va_rows, [good, good | change], on_bad_row="skip")
    assert 2 <= sum(len(row.expressions) for row in kept) <= 3
    with pytest.raises(ValueError, match="expected a list of records, found dict"):
        read(sa2va_rows, good)
    with pytest.raises(ValueError, match="record 0: it lacks mask, text"):
        read(sa2va_rows, [{"image": "0.jpg"}])


# ---- grounded captions ----------------------------------------------------------------------


def refcocog(caption, *refs):
    parts = [{"sentence": s, "segmentation": m, "bbox": [0, 0, 1, 1]} for s, m in refs]
    return [{"17": {"img_file_name": "0.jpg", "caption": caption, "refs": parts}}]


def test_refcocog_gcg_finds_its_phrases_whatever_their_case_and_order(read):
    content = refcocog(
        '"A Dog beside the red square."', ("the red square", rle(RIGHT)), ("a dog", POLYGON)
    )
    (caption,) = read(refcocog_gcg_rows, content)
    assert caption.answer() == "<p> A Dog </p> [SEG] beside <p> the red square </p> [SEG]."
    assert caption.caption == "A Dog beside the red square."
    masks = [mask_of(caption.row, e) for e in caption.row.expressions]
    np.testing.assert_array_equal(masks, [LEFT, RIGHT])


def test_a_phrase_said_twice_is_found_twice_and_drawn_twice_is_one(read):
    twice = refcocog("a dog and a dog", ("a dog", POLYGON), ("a dog", rle(RIGHT)))
    (caption,) = read(refcocog_gcg_rows, twice)
    assert caption.spans == ((0, 5), (10, 15))
    once = refcocog("there is a dog", ("a dog", POLYGON), ("a dog", rle(RIGHT)))
    (caption,) = read(refcocog_gcg_rows, once)
    assert caption.answer() == "there is <p> a dog </p> [SEG]"
    np.testing.assert_array_equal(mask_of(caption.row, caption.row.expressions[0]), LEFT | RIGHT)


def test_overlapping_phrases_are_cut_or_named(read):
    content = refcocog(
        "a dog in the red square", ("a dog in the red", POLYGON), ("the red square", rle(RIGHT))
    )
    (caption,) = read(refcocog_gcg_rows, content)
    assert caption.answer() == "<p> a dog in </p> [SEG] <p> the red square </p> [SEG]"
    nested = refcocog("a dog in blue", ("a dog", POLYGON), ("a dog in blue", rle(RIGHT)))
    with pytest.raises(ValueError, match="'a dog': another phrase begins at its place"):
        read(refcocog_gcg_rows, nested)
    (caption,) = read(refcocog_gcg_rows, nested, on_bad_row="skip")
    assert caption.answer() == "<p> a dog in blue </p> [SEG]"


def grandf(caption, **groundings):
    return [{"file_name": "1.jpg", "image_id": "1", "caption": caption, "groundings": groundings}]


def at(start, end, *masks):
    return {"token_positives": [start, end], "bbox": [0, 0, 1, 1], "rle_masks": list(masks)}


def test_grandf_unites_the_masks_of_a_phrase_and_leaves_null_ones_plain(read, inputs):
    content = grandf(
        "dog and square .", square=at(8, 14, rle(LEFT), rle(TOP)), dog=at(0, 3, rle(RIGHT))
    )
    content[0]["groundings"]["and"] = None
    rows = read(grandf_rows, content)
    (caption,) = rows
    assert caption.answer() == "<p> dog </p> [SEG] and <p> square </p> [SEG] ."
    data = GroundedCaptionDataset(rows=rows, inputs=inputs, mask_size=16, questions=["describe ."])
    sample = data[Draw(0, 0, 3)]
    spelt = words(inputs, sample.input_ids)
    answer = "<p> dog </p> [SEG] and <p> square </p> [SEG] . <|im_end|>".split()
    assert spelt[-len(answer) :] == answer
    assert words(inputs, sample.input_ids[sample.labels != IGNORE_INDEX]) == answer
    assert torch.equal(sample.masks, resize_masks(np.stack([[RIGHT], [LEFT | TOP]]), 16))
    assert (sample.task, sample.grounding_frames.shape) == ("segment", (1, 3, 24, 24))


def flickr(caption, *annotations):
    image = {"id": 5, "file_name": "2.jpg", "height": HEIGHT, "width": WIDTH, "caption": caption}
    entries = [
        {"id": k, "image_id": 5, "bbox": [0, 0, 4, 4], "area": 9, "iscrowd": 0, **annotation}
        for k, annotation in enumerate(annotations)
    ]
    return {"images": [image], "annotations": entries}


def span(start, end, mask):
    return {"tokens_positive": [[start, end]], "sam_mask": rle(mask)}


def test_flickr_annotations_of_one_phrase_are_one_mask(read):
    content = flickr(
        "two dogs by a square",
        *(span(0, 8, LEFT), span(0, 8, RIGHT), span(12, 20, TOP)),
        span(9, 11, TOP) | {"ignore": True},
    )
    (caption,) = read(flickr_gcg_rows, content)
    assert caption.answer() == "<p> two dogs </p> [SEG] by <p> a square </p> [SEG]"
    masks = [mask_of(caption.row, e) for e in caption.row.expressions]
    np.testing.assert_array_equal(masks, [LEFT | RIGHT, TOP])


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        (refcocog_gcg_rows, [["x"]], "record 0: expected an object with one key"),
        (refcocog_gcg_rows, [{"17": {"caption": "a"}}], "caption 17: it lacks img_file_name, refs"),
        (refcocog_gcg_rows, refcocog("a cat", ("a dog", POLYGON)), "'a dog': it is not in"),
        (refcocog_gcg_rows, refcocog("a dog", ("a dog", [[1, 2]])), "'a dog': .*three corners"),
        (refcocog_gcg_rows, refcocog("a dog", ("", POLYGON)), "phrase '': it is not in"),
        (grandf_rows, grandf("a dog", dog=at(2, 9, rle(LEFT))), "'dog': it is not in the caption"),
        (grandf_rows, grandf("a dog", dog=at(5, 2, rle(LEFT))), "'dog': it is not in the caption"),
        (grandf_rows, grandf("a dog", dog=at(2, 5)), "'dog': it has no mask"),
        (grandf_rows, grandf("a dog", dog=at(2, 5, EMPTY)), "'dog': all its masks are empty"),
        (
            grandf_rows,
            [{"file_name": "9.jpg", "caption": "a", "groundings": {}}],
            "no file .*9.jpg",
        ),
        (flickr_gcg_rows, flickr("a dog", {"sam_mask": rle(LEFT)}), "annotation 0.*not in the"),
        (flickr_gcg_rows, flickr("a dog"), "image 5: none of its phrases can be grounded"),
    ],
)
def test_gcg_bad_records_are_named_or_leave_the_rest(read, reader, content, message):
    with pytest.raises(ValueError, match=rf"file\.json: \d bad records:\n  .*{message}"):
        read(reader, content)
    with pytest.raises(ValueError, match="no usable record"):
        read(reader, content, on_bad_row="skip")


def test_pictures_that_are_none_are_bad_records(read, images):
    (images / "2.jpg").write_bytes(b"half a pict")
    records = [{"image": f"{number}.jpg", "mask": [POLYGON], "text": ["left"]} for number in (0, 2)]
    with pytest.raises(ValueError, match=r"1 bad records:\n  record 1: .*2\.jpg"):
        read(sa2va_rows, records)
    assert len(read(sa2va_rows, records, on_bad_row="skip")) == 1
    (caption,) = refcocog("a dog", ("a dog", POLYGON))
    captions = [caption, {"18": {**caption["17"], "img_file_name": "2.jpg"}}]
    with pytest.raises(ValueError, match=r"1 bad records:\n  caption 18: .*2\.jpg"):
        read(refcocog_gcg_rows, captions)
    assert len(read(refcocog_gcg_rows, captions, on_bad_row="skip")) == 1


def test_captions_of_rles_open_no_picture_before_it_is_wanted(read, images):
    (images / "2.jpg").write_bytes(b"half a pict")
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(images / "3.jpg")
    captions = [
        {**grandf("a dog", dog=at(2, 5, rle(LEFT)))[0], "file_name": f"{number}.jpg"}
        for number in (0, 2, 3)
    ]
    whole, half, another = read(grandf_rows, captions)
    assert whole.row[0].shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ValueError, match=r"2\.jpg: does not decode"):
        half.row[0]
    with pytest.raises(ValueError, match=rf"3\.jpg: .* its annotation says {HEIGHT}x{WIDTH}"):
        another.row[0]


def test_files_of_another_kind_are_named(read):
    with pytest.raises(ValueError, match="expected a list of records, found dict"):
        read(grandf_rows, {})
    with pytest.raises(ValueError, match="it lacks annotations"):
        read(flickr_gcg_rows, {"images": []})


# ---- regions --------------------------------------------------------------------------------


def osprey(*masks, **said):
    regions = [{"bbox": [0, 0, 1, 1], "segmentation": mask} for mask in masks]
    size = {"height": HEIGHT, "width": WIDTH}
    return {"id": 3, "file_name": "0.jpg", **size, "annotation": regions, **said}


def talk(*texts):
    speakers = ["human", "gpt"] * len(texts)
    return [{"from": who, "value": text} for who, text in zip(speakers, texts, strict=False)]


def test_a_region_sample_token_by_token(read, inputs):
    """Masks of 16 and of 4 of the 16 grid cells, on a grid of 4 x 4."""
    inputs.tokens_per_tile = 16
    everywhere, corner = block(0, 0, HEIGHT, WIDTH), block(0, 0, 10, 16)
    said = talk("describe <region2> .", "<region2> , red square", "and <region1>", "dog")
    rows = read(osprey_rows, [osprey(rle(everywhere), rle(corner), conversations=said)])
    sample = RegionDataset(rows=rows, inputs=inputs)[0]
    spelt = words(inputs, sample.input_ids)
    context = "<IMG_CONTEXT>"
    assert spelt[:20] == ["<|im_start|>", "user", "<img>", *[context] * 16, "</img>"]
    first = spelt.index("<vp>")
    assert spelt[first : first + 18] == ["<vp>", *[context] * 16, "</vp>"]
    second = spelt.index("<vp>", first + 1)
    assert spelt[second : second + 6] == ["<vp>", *[context] * 4, "</vp>"]
    assert spelt.count(context) == 16 + 16 + 4 and spelt.count("<vp>") == 2
    assert sample.regions.shape == (2, 4, 4) and sample.regions[1, :2, :2].all()
    supervised = words(inputs, sample.input_ids[sample.labels != IGNORE_INDEX])
    assert supervised == ["<unk>", ",", "red", "square", "<|im_end|>", "dog", "<|im_end|>"]
    assert (sample.task, sample.masks) == ("chat", None)


def test_descriptions_are_asked_for_region_by_region(read, inputs):
    record = osprey(POLYGON, rle(RIGHT), description=["<region1>: red dog", "<region2>: square"])
    rows = read(osprey_rows, [record])
    assert rows[0].turns == ((None, "red dog"), (None, "square"))
    data = RegionDataset(rows=rows, inputs=inputs, questions=["describe {region} .", "{region}"])
    turns = data._turns(rows[0], np.random.default_rng(1))
    asked = [question.splitlines()[-1] for question, _ in turns]
    assert "region1" in asked[0] and "region2" in asked[1]
    short = RegionDataset(rows=rows, inputs=inputs, short_answer="in a word")
    assert "in a word" not in short._turns(rows[0], np.random.default_rng(0))[0][0]
    said = read(osprey_rows, [osprey(POLYGON, conversations=talk("what ?", "dog"))])
    assert short._turns(said[0], np.random.default_rng(0))[0][0].endswith("what ? in a word")
    with pytest.raises(ValueError, match="region questions hold {region}"):
        RegionDataset(rows=rows, inputs=inputs, questions=["describe it"])


def test_where_a_question_has_no_place_for_regions_they_are_introduced_as_released_models_read():
    shown = "There are 2 part regions in the picture: region1<region>, region2<region>."
    assert with_regions(["<image>\nwhat ?", "and ?"], 2) == [f"<image>\n{shown}\nwhat ?", "and ?"]
    assert with_regions(["what <image>, here ?"], 2) == [f"what <image>\n{shown}\n, here ?"]
    own = ["<image> what ?", "is <region> it ?"]
    assert with_regions(own, 1) == own and with_regions(["what ?"], 0) == ["what ?"]


@pytest.mark.parametrize("native", [False, True])
def test_the_length_of_a_sample_with_regions_is_told_beforehand(read, inputs, native):
    """Of blocks that end where cells do, on the grid that the tiles make of the image."""
    inputs.tokens_per_tile = 16
    if native:  # 20 x 32 pixels become 5 x 8 tokens
        inputs.tiles = NativeResolution(size=16, token=4, min_tokens=1, max_tokens=60)
    masks = [rle(block(0, 0, HEIGHT, WIDTH)), rle(block(0, 16, HEIGHT, 24))]
    rows = read(osprey_rows, [osprey(*masks, conversations=talk("what ?", "dog"))])
    data = RegionDataset(rows=rows, inputs=inputs)
    sample = data[0]
    assert sample.regions.flatten(1).sum(1).tolist() == ([40, 10] if native else [16, 4])
    assert data.length_of(0) == len(sample.input_ids)


def test_regions_lie_on_the_thumbnail_behind_the_tiles(read, inputs):
    """The sample's own order: tiles, thumbnail; 3 tiles of 4 tokens before the regions'."""
    rows = read(osprey_rows, [osprey(rle(LEFT), conversations=talk("what", "dog"))])
    inputs.tiles = DynamicTiles(size=8, max_tiles=2)
    sample = RegionDataset(rows=rows, inputs=inputs)[0]
    spelt = words(inputs, sample.input_ids)
    assert len(sample.pixel_values) == 3 and spelt.index("</img>") - spelt.index("<img>") == 13
    overview = SingleTile(size=8).image(rows[0].row[0])[0]
    assert torch.equal(sample.pixel_values[-1], overview)
    inputs.tiles = DynamicTiles(size=8, max_tiles=2, thumbnail=False)
    with pytest.raises(ValueError, match="dynamic tiles need thumbnail=True"):
        RegionDataset(rows=rows, inputs=inputs)


def test_a_file_may_say_the_name_of_another_release(read):
    record = osprey(POLYGON, conversations=talk("what ?", "dog"))
    record["file_name"] = "COCO_train2014_0.jpg"
    assert read(osprey_rows, [record], strip_prefix=True)[0].row.source.name == "0.jpg"
    with pytest.raises(ValueError, match="no file .*COCO_train2014_0.jpg"):
        read(osprey_rows, [record])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"file_name": "0.jpg"}, "it lacks height, width, annotation"),
        (osprey(conversations=talk("a", "b")), "it has no region"),
        (osprey(EMPTY, conversations=talk("a", "b")), "region1: all its masks are empty"),
        (osprey(POLYGON, None, conversations=talk("a", "b")), "region2: .*expected a list"),
        (osprey(POLYGON), "it needs 'conversations' or 'description'"),
        (osprey(POLYGON, conversations=talk("a")), "speakers must alternate"),
        (osprey(POLYGON, conversations=talk("<region2>", "b")), "it speaks of region2, but has 1"),
        (osprey(POLYGON, description=["a", "b"]), "2 descriptions but 1 regions"),
        (osprey(POLYGON, description=["<region1>: "]), "an empty description"),
    ],
)
def test_osprey_bad_records(read, record, message):
    good = osprey(POLYGON, conversations=talk("a", "b"))
    with pytest.raises(ValueError, match=f"file.json: 1 bad records:\n  record 1: {message}"):
        read(osprey_rows, [good, record])
    assert len(read(osprey_rows, [good, record], on_bad_row="skip")) == 1


def test_cells_of_a_grid_are_the_first_pixels_of_a_mask():
    rng = np.random.default_rng(0)
    for (height, width), grid in (((8, 12), (2, 2)), ((97, 131), (16, 16)), ((50, 211), (9, 38))):
        masks = rng.random((9, height, width)) < 0.3
        masks[:, 0, 0] = True  # none is between the first pixels
        rows = [i * height // grid[0] for i in range(grid[0])]
        columns = [i * width // grid[1] for i in range(grid[1])]
        assert np.array_equal(cover_grid(masks, grid).numpy(), masks[:, rows][:, :, columns])
    between = np.zeros((2, 7, 13), bool)
    between[0, 5:, 10:] = True  # the cells begin at rows 0, 2, 4 and columns 0, 4, 8
    between[1, 3, 5] = True  # a single pixel still has its cell
    assert [cells.nonzero().tolist() for cells in cover_grid(between, 3)] == [[[2, 2]], [[1, 1]]]
    assert square_side(256) == 16
    with pytest.raises(ValueError, match="20 visual tokens a tile do not make a square"):
        square_side(20)
