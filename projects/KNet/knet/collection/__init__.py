"""Predictions over more images than one process, or one machine, should do: Ray Data's workers.

<output>/collection.json        what the results depend on
<output>/images.parquet         every image, its id; row group i is shard i
<output>/shards/00000.parquet   the results of a shard, whole or not there
<output>/failures/              the images of a shard without result, and why
"""

from importlib.util import find_spec

from ..errors import UsageError

if find_spec("ray") is None or find_spec("pyarrow") is None:
    raise UsageError(
        "predictions over a collection need Ray Data: pip install 'knet-detectron2[ray]'"
    )

from .join import join_shards
from .ray_engine import Engine
from .run import Summary, predict_collection
from .settings import ModelSource

__all__ = ["Engine", "ModelSource", "Summary", "join_shards", "predict_collection"]
