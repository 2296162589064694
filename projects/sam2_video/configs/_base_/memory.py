"""What is recomputed in backward so that the recipe fits a smaller GPU: GPU_MEMORY, in GB.

None of it changes what is learnt, only time and memory. Held for backward with base+ (8 frames, 3
objects, 1024 pixels, bf16): 34 GiB by default, 2.1 with everything recomputed, 1.6 object by
object. What a block needs while it is recomputed comes on top; ``encode_split`` bounds that.
"""

import os

_gigabytes = float(os.environ.get("GPU_MEMORY", 80))
_rows = {  # from so many GB on: (arguments of the model, arguments of the unroll)
    80: (dict(checkpointing=False), dict()),
    24: (dict(checkpointing=True), dict(checkpoint_clicks=True)),
    16: (dict(checkpointing=True), dict(checkpoint_clicks=True, encode_split=4)),
    0: (dict(checkpointing=True), dict(checkpoint_clicks=True, encode_split=1, object_chunk=1)),
}
_recompute, _unroll = _rows[max(row for row in _rows if row <= _gigabytes)]
