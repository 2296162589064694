"""What Sa2VA trains on: referring images and videos, conversations, grounded captions, regions.

Entries lack their ``inputs``, and benchmarks their ``respond``, which the leaf adds.
"""

from mmengine.config import read_base

with read_base():
    from ..datasets.benchmarks import _image_benchmarks, _video_benchmarks
    from ..datasets.chat import _captions, _chat, _regions
    from ..datasets.images import _images
    from ..datasets.videos import _videos

_mixture = [
    dict(dataset=_images["refcoco"], repeat=4.0),
    dict(dataset=_images["refcoco_plus"], repeat=4.0),
    dict(dataset=_images["refcocog"], repeat=4.0),
    dict(dataset=_videos["mevis"], repeat=4.0),
    dict(dataset=_videos["ref_ytvos"], repeat=4.0),
    dict(dataset=_videos["revos"], repeat=10.0),
    dict(dataset=_videos["ref_sav"], repeat=1.0),
    dict(dataset=_chat["llava"], repeat=1.0),
    dict(dataset=_chat["video_chat"], repeat=1.0),
    dict(dataset=_captions["gcg_refcocog"], repeat=1.0),
    dict(dataset=_captions["gcg_flickr"], repeat=1.0),
    dict(dataset=_captions["gcg_psg"], repeat=1.0),
    dict(dataset=_captions["gcg_grandf"], repeat=10.0),
    dict(dataset=_regions["osprey_conversation"], repeat=1.0),
    dict(dataset=_regions["osprey_short_form"], repeat=1.0),
    dict(dataset=_regions["osprey_detail_description"], repeat=1.0),
]
# those whose files the mixture needs anyway; further ones are in the table
_asked_images = {name: _image_benchmarks[name] for name in ("refcoco_val", "refcocog_val")}
_asked_videos = dict(mevis_valid_u=_video_benchmarks["mevis_valid_u"])
