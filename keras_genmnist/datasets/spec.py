"""What a data set is: the shape and the values of its images, and their classes."""

from typing import Any, NamedTuple

DIGITS = "mnist"  # the judge of images that show digits as MNIST has them


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

    @property
    def classes(self) -> tuple[str, ...]:
        """What the classes are called, in order: by their numbers where they have no names; empty without labels."""
        return self.class_names or tuple(str(number) for number in range(self.num_classes or 0))

    @property
    def noun(self) -> str:
        """What to call one of the images."""
        return "digit" if self.judge == DIGITS else "image"

    def label_of(self, label: str | int) -> int:
        """The label of the class with this name, or else with this number.

        >>> DatasetSpec("shapes", (12, 20, 3), num_classes=3, class_names=("disc", "bar", "ring")).label_of("bar")
        1

        Raises:
          ValueError: naming what is accepted, if there is no such class.
        """
        text = str(label)
        if text in self.classes:
            return self.classes.index(text)
        if text.isdecimal() and text.isascii() and len(text) < 10 and int(text) < len(self.classes):
            return int(text)
        accepted = f"0 to {len(self.classes) - 1}" if self.classes else "none, for it has no labels"
        if self.class_names:
            accepted = f"{', '.join(self.class_names[:NAMED])}{', ...' * (len(self.classes) > NAMED)}, or {accepted}"
        raise ValueError(f"{label!r} is no class of {self.name}; accepted: {accepted}")


NAMED = 60  # classes in a message


def spec_of(fields: dict) -> DatasetSpec:
    """The DatasetSpec of these fields, which were written as JSON."""
    own: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return DatasetSpec(**own)
