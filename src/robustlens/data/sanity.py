"""Warnings about a data set that is in order: classes without test images, test images that training saw."""

import hashlib
from collections.abc import Iterator

from robustlens.data.shards import PackedImages
from robustlens.data.splits import Split, Splits


def sanity_warnings(splits: Splits) -> tuple[str, ...]:
    """Reasons to doubt numbers on the test images, as sentences with counts; none for a sound data set."""
    present = set(splits.test.labels.tolist())
    absent = [name for label, name in enumerate(splits.classes) if label not in present]
    seen = {digest for split in (splits.train, splits.validation) for digest in _digests(split)}
    copies = sum(digest in seen for digest in _digests(splits.test))
    shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    reasons = {
        f"the test images show none of {len(absent)} of {len(splits.classes)} classes: {shown}": absent,
        f"{copies} of {len(splits.test)} test images stand among the training images, too": copies,
    }
    return tuple(reason for reason, count in reasons.items() if count)


def _digests(split: Split) -> Iterator[bytes]:
    """A short hash of the pixels of each image; that of a packed one is known."""
    if isinstance(split.images, PackedImages):
        yield from (digest.tobytes() for digest in split.images.digests)
        return
    for image in split.images.contiguous().numpy():
        yield hashlib.blake2b(image.data, digest_size=16).digest()
