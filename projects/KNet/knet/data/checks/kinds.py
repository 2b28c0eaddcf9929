"""The kinds of fault that data may have: how grave each is, and what to do.

An error makes training or evaluation stop, learn or measure something wrong; a warning is worth a
look; a note is read rightly as it is.
"""

from typing import Dict, NamedTuple

__all__ = ["ERROR", "KINDS", "NOTE", "SEVERITIES", "WARNING", "Kind"]

ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")


class Kind(NamedTuple):
    severity: str
    title: str
    remedy: str


_MEND_JSON = "mend the json"
_EXPORT_MASKS = "export the masks anew, or remove the object"
_RESAVE = "fetch or save the file anew, or take its image out of the data set"

# in the order of a report, within their severity
KINDS: Dict[str, Kind] = {
    # files of the data set as a whole
    "data set": Kind(ERROR, "data set that cannot be read", "mend DATASETS.CUSTOM or the files"),
    "json": Kind(ERROR, "json that cannot be read", "export it anew"),
    "duplicate key": Kind(
        ERROR, "key twice in one mapping of a json", "join the values: only the last is read"
    ),
    "nan": Kind(WARNING, "NaN or Infinity in a json", "replace it: it is no json for other tools"),
    "bom": Kind(NOTE, "json with a byte order mark", "nothing: it is passed over"),
    "id notation": Kind(NOTE, "ids written as text or 7.0", "nothing: they are read as numbers"),
    "ids from 0": Kind(NOTE, "ids that count from 0", "nothing: they are read as they are"),
    # entries of a json
    "entry": Kind(ERROR, "entry of a json that cannot be used", _MEND_JSON),
    "same id": Kind(ERROR, "one id twice", "number the entries anew"),
    "category": Kind(ERROR, "category that cannot be used", "mend the json's categories"),
    "unknown category": Kind(ERROR, "category that is not listed", "add it to the categories"),
    "unknown image": Kind(ERROR, "annotation of an image that is not listed", _MEND_JSON),
    "one file": Kind(
        ERROR, "one file under two ids", "join the annotations under one id: each lacks the other's"
    ),
    "isthing": Kind(
        ERROR, "isthing contradicts itself", "tell each class to be a thing or stuff everywhere"
    ),
    "classes differ": Kind(
        ERROR, "data sets of different classes", "give all jsons the same categories, in one order"
    ),
    "class counts": Kind(ERROR, "config and data name other classes", "change the key named"),
    # images
    "missing": Kind(ERROR, "file that does not exist", "mend the path, or take the image out"),
    "empty file": Kind(ERROR, "file of zero bytes", _RESAVE),
    "unreadable": Kind(ERROR, "image that cannot be read", _RESAVE),
    "image size": Kind(
        ERROR, "image of another size than its json says", "mend the json, or take the right image"
    ),
    "exif size": Kind(
        ERROR,
        "annotations of the picture before its EXIF turn",
        "annotate the picture as it is read (INPUT.EXIF_ORIENTATION True: upright, False: as "
        "stored), or change that key",
    ),
    "exif flip": Kind(
        WARNING,
        "EXIF orientation that keeps the size",
        "look with --samples whether the masks are of the upright picture",
    ),
    "exif": Kind(NOTE, "EXIF orientation", "nothing, if no other line is about this image"),
    "16 bit": Kind(NOTE, "image of 16 bits a channel", "look with --samples at what is left of it"),
    "shared image": Kind(
        ERROR,
        "image in training and in test data, by its pixels",
        "take it out of one: what is learned by heart measures nothing",
    ),
    "same picture": Kind(NOTE, "two files of the same pixels", "take one out, or nothing"),
    "small image": Kind(NOTE, "image that training leaves out", "lower DATALOADER.MIN_IMAGE_SIDE"),
    # masks of instances
    "polygon": Kind(ERROR, "polygon that cannot be drawn", _EXPORT_MASKS),
    "rle": Kind(ERROR, "RLE that does not fit its image", _EXPORT_MASKS),
    "no mask": Kind(
        ERROR, "object without a mask", f"{_EXPORT_MASKS}: it is learned as background"
    ),
    "outside": Kind(
        ERROR, "object outside of its image", f"{_EXPORT_MASKS}: it is learned as background"
    ),
    "over border": Kind(
        WARNING, "mask that reaches far out of its image", "look whether it is scaled rightly"
    ),
    "tiny": Kind(WARNING, "mask of a pixel or less", "remove the object, or mend its mask"),
    "doubled": Kind(WARNING, "object annotated twice", "remove one: a double is never found"),
    "box notation": Kind(
        WARNING, "box as x, y, x, y", "write x, y, width, height; here the mask counts alone"
    ),
    "box elsewhere": Kind(
        WARNING, "box elsewhere than the mask", "find out which is right; here the mask counts"
    ),
    "box zero": Kind(WARNING, "box of no size", "compute it anew; here the mask counts alone"),
    "area": Kind(
        WARNING, "area that is zero or not the mask's", "compute it anew: AP by size goes by it"
    ),
    "image without object": Kind(
        NOTE,
        "image without an object",
        "nothing, if there is none: DATALOADER.FILTER_EMPTY_ANNOTATIONS decides on it",
    ),
    # panoptic PNGs
    "png size": Kind(ERROR, "PNG or label map of another size than its image", "export it anew"),
    "unknown segment": Kind(
        ERROR, "id in a PNG that the json does not have", "add it to segments_info"
    ),
    "segment area": Kind(
        ERROR, "segment whose area is not that of the PNG", "compute it anew: PQ goes by it"
    ),
    "lost segment": Kind(
        WARNING, "segment of the json without a pixel", "remove it: PQ counts it as missed"
    ),
    "image without annotation": Kind(
        WARNING, "image of a panoptic json without annotation", "annotate it; it is left out"
    ),
    "palette": Kind(NOTE, "panoptic PNG that is not RGB", "nothing: its colours are read"),
    # label maps
    "image without label": Kind(ERROR, "image without a label map", "add its PNG"),
    "label without image": Kind(
        WARNING, "label map without an image", "add the image, or correct the name"
    ),
    "label format": Kind(
        ERROR, "label map as a JPEG or in another lossy format", "export it as PNG: its ids change"
    ),
    "label channels": Kind(
        ERROR, "label map in colours", "write one channel, the class id of each pixel"
    ),
    "labels from 1": Kind(ERROR, "labels that count from 1", "subtract 1, or add a first class"),
    "label": Kind(ERROR, "label that is no class", "add the class, or map it to the ignore label"),
    "ignored": Kind(WARNING, "label map whose pixels are all ignored", "label it, or take it out"),
    # what is learned, over all
    "nothing": Kind(ERROR, "data set with nothing to learn", "look at iscrowd, masks and labels"),
    "kernels": Kind(
        WARNING, "more objects than kernels", "raise MODEL.KNET.NUM_KERNELS to the most objects"
    ),
    "absent class": Kind(
        WARNING, "class that never occurs", "annotate it, or take it out of the class list"
    ),
    "one class": Kind(WARNING, "one class for every pixel", "add a class for the background"),
    "unchecked": Kind(ERROR, "image whose check broke off", "look at this image's files"),
}
