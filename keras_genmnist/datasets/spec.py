"""What a data set is: the shape and the values of its images, and their classes."""

from typing import NamedTuple


class DatasetSpec(NamedTuple):
    """What models, figures and exports need to know of a data set.

    name: as given to `load`.
    image_shape: (H, W, C).
    num_classes: of the labels, which are 0 to num_classes - 1; None where there are no labels.
    values: "binary" or "grey", what the pixels of the images are.
    judge: which classifiers score samples, by the name that judges.py knows them by: "mnist" for those that ship with
      the package; None where none is at hand.
    class_names: of the classes, in order; None where they are only numbered.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int | None = None
    values: str = "grey"
    judge: str | None = None
    class_names: tuple[str, ...] | None = None
