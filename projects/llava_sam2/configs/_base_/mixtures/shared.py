"""Masks, concepts, boxes and times: the data of the shared models, one list a task.

Repeats as in the reference run; videos show 6 frames. Entries lack their ``inputs``.
"""

from mmengine.config import read_base

with read_base():
    from ..datasets.benchmarks import _time_benchmarks, _video_benchmarks
    from ..datasets.boxes import _boxes
    from ..datasets.concept import _concept as _concept_table
    from ..datasets.times import _times as _time_table
    from ..datasets.videos import _videos

for _video in _videos.values():
    _video["frames"].update(num=6)

_segment = [
    dict(dataset=_videos["revos"], repeat=8.0),
    dict(dataset=_videos["mevis"], repeat=8.0),
    dict(dataset=_videos["ref_ytvos"], repeat=4.0),
]
_box = [
    dict(dataset=_boxes["revos_boxes"], repeat=8.0),
    dict(dataset=_boxes["mevis_boxes"], repeat=8.0),
    dict(dataset=_boxes["ref_ytvos_boxes"], repeat=4.0),
]
_times = [
    dict(dataset=_time_table["charades"], repeat=4.0),
    dict(dataset=_time_table["didemo"], repeat=4.0),
]
_concept = [dict(dataset=_concept_table["sav_concept"], repeat=1.0)]
_asked_videos = dict(mevis_valid_u=_video_benchmarks["mevis_valid_u"])
_asked_times = dict(charades_test=_time_benchmarks["charades_test"])
