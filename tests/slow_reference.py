"""K-Net's matching, targets, losses and results as slow, obvious loops.

Written from the description of the method alone, in Python numbers (float64) unless a comparison
must fall exactly as in float32; nothing of ``knet`` is imported. A "pair" is (kernel, object).
Arrays are numpy; masks are indexed [y, x], batches are lists of images.
"""

import itertools
import math

import numpy as np
import torch
from detectron2.structures import BitMasks
from torch.nn import functional as F

NONE = -1  # no kernel, no class


def sigmoid(logit):
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))


def log_sigmoid(logit):
    return min(logit, 0.0) - math.log1p(math.exp(-abs(logit)))


def pixels_of(array):
    """Every (y, x) of an (h, w) map, row by row."""
    height, width = array.shape
    return itertools.product(range(height), range(width))


# --- matching ------------------------------------------------------------------------------------


def class_cost(logit, eps=1e-12):
    """Of one kernel's logit for the class of one object."""
    p = sigmoid(logit)
    return 0.25 * (1 - p) ** 2 * -math.log(p + eps) - 0.75 * p**2 * -math.log(1 - p + eps)


def mask_cost(mask_logits, target):
    """Of one kernel's mask (h, w) for one object's soft mask (h, w)."""
    agree = 0.0
    for y, x in pixels_of(target):
        p, t = sigmoid(float(mask_logits[y, x])), float(target[y, x])
        agree += p * t + (1 - p) * (1 - t)
    return -agree / target.size


def dice_cost(mask_logits, target, eps=1e-3):
    overlap = squares_p = squares_t = 0.0
    for y, x in pixels_of(target):
        p, t = sigmoid(float(mask_logits[y, x])), float(target[y, x])
        overlap += p * t
        squares_p += p * p
        squares_t += t * t
    return -2 * overlap / (squares_p + eps + squares_t + eps)


def matching_cost(mask_logits, class_logits, target, target_class, weights=(2.0, 1.0, 4.0)):
    """Of one pair; ``class_logits`` (K,), or None for the first masks."""
    of_class, of_mask, of_dice = weights
    cost = of_mask * mask_cost(mask_logits, target) + of_dice * dice_cost(mask_logits, target)
    if class_logits is not None:
        cost += of_class * class_cost(float(class_logits[target_class]))
    return cost


def assignment_value(cost, pairs):
    """What is minimised: first how many costs are NaN or infinite, then the sum of the others."""
    chosen = [float(cost[kernel, target]) for kernel, target in pairs]
    finite = [c for c in chosen if math.isfinite(c)]
    return len(chosen) - len(finite), math.fsum(finite)


def best_assignment_value(cost):
    """The smallest ``assignment_value`` of all assignments, the smaller side wholly assigned."""
    num_kernels, num_objects = cost.shape
    if num_objects <= num_kernels:
        choices = (
            list(zip(kernels, range(num_objects)))
            for kernels in itertools.permutations(range(num_kernels), num_objects)
        )
    else:
        choices = (
            list(zip(range(num_kernels), objects))
            for objects in itertools.permutations(range(num_objects), num_kernels)
        )
    return min(assignment_value(cost, pairs) for pairs in choices)


# --- targets -------------------------------------------------------------------------------------


def soft_mask(mask, padded_size, stride):
    """(H, W) bool -> (h, w): padded with zeros, resized bilinearly without antialias."""
    padded = np.zeros(padded_size, dtype=np.float32)
    for y, x in pixels_of(mask):
        padded[y, x] = float(mask[y, x])
    size = (padded_size[0] // stride, padded_size[1] // stride)
    resized = F.interpolate(
        torch.from_numpy(padded)[None, None],
        size=size,
        mode="bilinear",
        align_corners=False,
        antialias=False,
    )
    return resized[0, 0].numpy()


def rank_target(thing_masks, pairs, stuff_masks, stuff_present, num_kernels):
    """Of one image: the highest-index positive kernel with a share in each cell.

    Args:
        thing_masks: soft masks of the objects; pairs: the matched ones.
        stuff_masks, stuff_present: of each stuff class; empty where the logits have no stuff.
        num_kernels: instance kernels, in front of the stuff kernels.
    """
    shape = (thing_masks or stuff_masks)[0].shape
    target = np.full(shape, NONE)
    for y, x in pixels_of(target):
        for kernel, thing in sorted(pairs):
            if thing_masks[thing][y, x] > 0:
                target[y, x] = kernel
        for stuff, present in enumerate(stuff_present):
            if present and stuff_masks[stuff][y, x] > 0:
                target[y, x] = num_kernels + stuff
    return target


def semantic_target(thing_masks, thing_classes, pairs, stuff_masks, num_thing_classes):
    """Of one image: stuff is painted first, then matched things by rising kernel index."""
    shape = (thing_masks or stuff_masks)[0].shape
    target = np.full(shape, NONE)
    for y, x in pixels_of(target):
        for stuff, mask in enumerate(stuff_masks):
            if mask[y, x] > 0:
                target[y, x] = num_thing_classes + stuff
        for _, thing in sorted(pairs):
            if thing_masks[thing][y, x] > 0:
                target[y, x] = thing_classes[thing]
    return target


# --- losses, without their weights ---------------------------------------------------------------


def focal_loss(logit, wanted, alpha=0.25, gamma=2.0):
    """Of one number; ``wanted`` is 0 or 1."""
    logit = float(logit)
    if wanted:
        return -alpha * sigmoid(-logit) ** gamma * log_sigmoid(logit)
    return -(1 - alpha) * sigmoid(logit) ** gamma * log_sigmoid(-logit)


def class_loss(class_logits, pairs, thing_classes, stuff_present, num_kernels, num_thing_classes):
    """Sum over images, kernels and columns by the number of positive kernels of the batch.

    Args:
        class_logits: per image (N, K); pairs, thing_classes, stuff_present: per image.
    """
    total, num_positive = 0.0, 0
    for logits, matched, classes, present in zip(class_logits, pairs, thing_classes, stuff_present):
        num_positive += len(matched) + sum(bool(p) for p in present)
        object_of_kernel = dict(matched)
        for kernel in range(len(logits)):
            if kernel < num_kernels:
                for column in range(num_thing_classes):
                    thing = object_of_kernel.get(kernel)
                    wanted = thing is not None and classes[thing] == column
                    total += focal_loss(logits[kernel, column], wanted)
            else:
                stuff = kernel - num_kernels
                column = num_thing_classes + stuff
                total += focal_loss(logits[kernel, column], bool(present[stuff]))
    return total / max(num_positive, 1)


def positives(mask_logits, pairs, thing_masks, stuff_masks, stuff_present, num_kernels):
    """(logits, soft target) of every positive kernel of the batch; all arguments per image."""
    found = []
    for image, matched in enumerate(pairs):
        for kernel, thing in matched:
            found.append((mask_logits[image][kernel], thing_masks[image][thing]))
        for stuff, present in enumerate(stuff_present[image]):
            if present:
                found.append((mask_logits[image][num_kernels + stuff], stuff_masks[image][stuff]))
    return found


def mask_loss(positive):
    """Binary cross entropy, mean over positive kernels and pixels; 0 without positives."""
    total, count = 0.0, 0
    for logits, target in positive:
        for y, x in pixels_of(target):
            logit, t = float(logits[y, x]), float(target[y, x])
            total -= t * log_sigmoid(logit) + (1 - t) * log_sigmoid(-logit)
            count += 1
    return total / max(count, 1)


def dice_loss(positive):
    """Mean over positive kernels; 0 without positives."""
    total = 0.0
    for logits, target in positive:
        total += 1 + dice_cost(logits, target)  # the cost is minus the same quotient
    return total / max(len(positive), 1)


def rank_loss(mask_logits, rank_targets):
    """Softmax cross entropy over kernels, mean over all pixels; both arguments per image."""
    total, count = 0.0, 0
    for logits, target in zip(mask_logits, rank_targets):
        for y, x in pixels_of(target):
            count += 1
            if target[y, x] == NONE:
                continue
            column = [float(logit) for logit in logits[:, y, x]]
            highest = max(column)
            log_sum = highest + math.log(sum(math.exp(c - highest) for c in column))
            total += log_sum - column[target[y, x]]
    return total / count


def semantic_loss(semantic_logits, targets):
    """Focal loss over classes and pixels by the labelled pixels; both arguments per image."""
    total, labelled = 0.0, 0
    for logits, target in zip(semantic_logits, targets):
        for y, x in pixels_of(target):
            labelled += target[y, x] != NONE
            for column in range(len(logits)):
                total += focal_loss(logits[column, y, x], target[y, x] == column)
    return total / max(labelled, 1)


# --- results -------------------------------------------------------------------------------------


def bilinear(image, size):
    """(h, w) -> (H, W), align_corners=False."""
    result = np.zeros(size)
    for y, x in pixels_of(result):
        position = []
        for target, length, new_length in (
            (y, image.shape[0], size[0]),
            (x, image.shape[1], size[1]),
        ):
            source = max((target + 0.5) * length / new_length - 0.5, 0.0)
            low = min(int(source), length - 1)
            position.append((low, min(low + 1, length - 1), source - low))
        (top, bottom, down), (left, right, across) = position
        upper = image[top, left] * (1 - across) + image[top, right] * across
        lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
        result[y, x] = upper * (1 - down) + lower * down
    return result


def result_mask(mask_logits, padded_size, image_size, output_size):
    """(h, w) logits of one kernel -> (H, W) probabilities at the size of the result."""
    mask = np.zeros(mask_logits.shape)
    for y, x in pixels_of(mask):
        mask[y, x] = sigmoid(float(mask_logits[y, x]))
    return bilinear(bilinear(mask, padded_size)[: image_size[0], : image_size[1]], output_size)


def kernel_labels(class_scores, num_kernels, num_thing_classes):
    """[(score, model class)] of every kernel, from (N, K) scores."""
    labels = []
    for kernel, row in enumerate(class_scores):
        if kernel < num_kernels:
            best = 0
            for column in range(num_thing_classes):
                if row[column] > row[best]:
                    best = column
        else:
            best = num_thing_classes + kernel - num_kernels
        labels.append((row[best], best))
    return labels


def merge_panoptic(
    masks, scores, is_thing, score_threshold=0.3, overlap_threshold=0.6, mask_threshold=0.5
):
    """Of one image: who wins each pixel, which kernels are kept, painted by falling score.

    Args:
        masks: (N, H, W) float32; scores: (N,) float32; is_thing: (N,).

    Returns:
        (H, W) segment ids, 0 for void, and the kernel and area of segments 1, 2, ...
    """
    num_kernels, height, width = masks.shape
    winner = np.zeros((height, width), dtype=int)
    for y, x in pixels_of(winner):
        best = None
        for kernel in range(num_kernels):
            product = scores[kernel] * masks[kernel, y, x]  # in float32: ties must be ties
            if best is None or product > best:
                best, winner[y, x] = product, kernel

    segment_map = np.zeros((height, width), dtype=int)
    segments = []
    by_falling_score = sorted(range(num_kernels), key=lambda k: (-float(scores[k]), k))
    for kernel in by_falling_score:
        if is_thing[kernel] and scores[kernel] < np.float32(score_threshold):
            continue
        won = own = 0
        for y, x in pixels_of(winner):
            won += winner[y, x] == kernel
            own += masks[kernel, y, x] >= np.float32(mask_threshold)
        if won == 0 or own == 0 or won / own < overlap_threshold:
            continue
        segments.append((kernel, int(won)))
        for y, x in pixels_of(winner):
            if winner[y, x] == kernel:
                segment_map[y, x] = len(segments)
    return segment_map, segments


def select_instances(class_scores, num_kernels, num_thing_classes, max_instances):
    """The best [(score, kernel, model class)] by falling score; ties in any order."""
    candidates = [
        (float(class_scores[kernel, column]), kernel, column)
        for kernel in range(num_kernels)
        for column in range(num_thing_classes)
    ]
    return sorted(candidates, reverse=True)[:max_instances]


def boxes_of(masks):
    """(N, H, W) bool tensor -> (N, 4), Detectron2's own."""
    return BitMasks(masks).get_bounding_boxes().tensor


def semantic_scores(masks, labels, id_of_class):
    """(number of ids, H, W): the highest score x mask of the kernels of each contiguous id."""
    result = np.zeros((max(id_of_class) + 1, *masks.shape[1:]), dtype=np.float32)
    for mask, (score, label) in zip(masks, labels):
        row = result[id_of_class[label]]
        for y, x in pixels_of(mask):
            row[y, x] = max(row[y, x], score * mask[y, x])
    return result
