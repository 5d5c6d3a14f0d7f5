"""Read a release's new objects back on executors: the driver carries no byte of a shard."""

from collections.abc import Callable, Iterator

import pyarrow as pa

from samestyle.release.publish import damage_of
from samestyle.release.store import ObjectRef, Store


def object_verifier(store: Store) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """For mapInArrow over rows of schemas.OBJECT: every byte is compared with its row.

    Yields schemas.DAMAGE, a sentence for each object that is missing or not what its row says.
    """

    def verify(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            found = [damage_of(store, ObjectRef(**row), deep=True) for row in batch.to_pylist()]
            yield pa.RecordBatch.from_pydict({"damage": pa.array([one for one in found if one], pa.string())})

    return verify
