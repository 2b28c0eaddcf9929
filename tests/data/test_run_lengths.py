"""Masks as COCO's RLE: what pycocotools writes."""

import numpy as np
from pycocotools import mask as mask_util

from knet.data.run_lengths import decode_rle, encode_labels, encode_mask


def test_equal_to_pycocotools():
    rng = np.random.default_rng(0)
    masks = [np.zeros((5, 7)), np.ones((5, 7)), np.ones((1, 9)), np.ones((9, 1)), np.eye(8)]
    for mask in [*masks, *(rng.random((20, 31)) < share for share in (0.02, 0.5, 0.98))]:
        mask = mask.astype(np.uint8)
        expected = mask_util.encode(np.asfortranarray(mask))
        rle = encode_mask(mask.astype(bool))
        assert rle == {**expected, "counts": expected["counts"].decode()}
        assert np.array_equal(decode_rle(rle), mask)


def test_labels_are_encoded_as_their_masks():
    rng = np.random.default_rng(0)
    for labels in (rng.integers(0, 4, (9, 7)), np.kron([[300, 2], [2, 7]], np.ones((4, 3), int))):
        assert encode_labels(labels) == {i: encode_mask(labels == i) for i in np.unique(labels)}
