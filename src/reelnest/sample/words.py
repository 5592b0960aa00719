"""The wordings of the sample's queries.

Each text names all four attributes of a combination (colour, shape, background, movement), so no text fits two combinations.
Each word names one value only. The templates for the test split use only words that training uses.
"""

import operator
import random
from collections.abc import Callable
from typing import Any

COLOURS = {
    "red": ("red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "lime": ("lime",),
    "green": ("green", "emerald"),
    "turquoise": ("turquoise", "cyan"),
    "blue": ("blue", "cobalt"),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
}

SHAPES = {
    "circle": ("circle", "disc"),
    "square": ("square",),
    "triangle": ("triangle",),
    "ring": ("ring", "hoop"),
    "bar": ("bar", "stick"),
}

# Each follows "over", "on", "against" or "in front of".
BACKGROUNDS = {
    "black": ("a black background", "plain black"),
    "white": ("a white background", "plain white"),
    "stripes": ("a striped background", "diagonal stripes"),
    "checks": ("a chequered background", "a checkerboard"),
    "dots": ("a dotted background", "polka dots"),
    "bricks": ("a brick wall", "bricks"),
}

# (present tense, participle)
MOVEMENTS = {
    "right": (
        ("moves to the right", "moving to the right"),
        ("glides rightward", "gliding rightward"),
    ),
    "left": (
        ("moves to the left", "moving to the left"),
        ("glides leftward", "gliding leftward"),
    ),
    "up": (("moves upward", "moving upward"), ("rises", "rising")),
    "down": (("moves downward", "moving downward"), ("falls", "falling")),
    "bottom right": (
        ("moves to the bottom right", "moving to the bottom right"),
        ("glides to the lower right", "gliding to the lower right"),
    ),
    "top left": (
        ("moves to the top left", "moving to the top left"),
        ("glides to the upper left", "gliding to the upper left"),
    ),
    "top right": (
        ("moves to the top right", "moving to the top right"),
        ("glides to the upper right", "gliding to the upper right"),
    ),
    "bottom left": (
        ("moves to the bottom left", "moving to the bottom left"),
        ("glides to the lower left", "gliding to the lower left"),
    ),
    "grow": (("grows", "growing"), ("gets bigger", "getting bigger")),
    "shrink": (("shrinks", "shrinking"), ("gets smaller", "getting smaller")),
}

SEARCHES = (
    "{a} {colour} {shape} {doing} over {background}",
    "{colour} {shape} {doing}, {background}",
    "{a} {colour} {shape} that {does} in front of {background}",
    "{background} behind {a} {colour} {shape} {doing}",
    "{colour} {shape} on {background}, {doing}",
)
TEST_SEARCHES = (*SEARCHES, "in front of {background}, {a} {colour} {shape} {doing}", "{doing} over {background}: {a} {colour} {shape}")
CAPTIONS = (
    "In this clip {a} {colour} {shape} {does} over {background}.",
    "{A} {colour} {shape} {does} in front of {background}.",
    "Against {background}, {a} {colour} {shape} {does}.",
)

TITLES = ("{Colour} {shape}", "The {colour} {shape}", "{A} {colour} {shape}")
# They do not describe the clip, like many real fields.
NOTES = ("Sample reel, take {take}", "Take {take}", "From the sample reel")


PLAIN_SEARCH = SEARCHES[0]


def searches(combination: tuple[str, str, str, str], count: int, templates: tuple[str, ...], rng: random.Random) -> list[str]:
    """Returns `count` texts for one combination, each from a different template."""
    return [_worded(template, combination, rng.choice) for template in rng.sample(templates, count)]


def plain_search(combination: tuple[str, str, str, str]) -> str:
    """Returns the search with the first word for each attribute."""
    return _worded(PLAIN_SEARCH, combination, operator.itemgetter(0))


def synonymous_search(combination: tuple[str, str, str, str]) -> str:
    """Returns the plain search with the last word for each attribute. Attributes with a single word keep it."""
    return _worded(PLAIN_SEARCH, combination, operator.itemgetter(-1))


def caption(combination: tuple[str, str, str, str], rng: random.Random) -> str:
    """Returns a sentence that describes the clip."""
    return _worded(rng.choice(CAPTIONS), combination, rng.choice)


def title(colour: str, shape: str, rng: random.Random) -> str:
    """Returns a title that names colour and shape only. The movement has to come from the frames."""
    return _worded(rng.choice(TITLES), (colour, shape, "", ""), rng.choice)


def note(rng: random.Random) -> str:
    """Returns a caption that does not describe the clip."""
    return rng.choice(NOTES).format(take=rng.randint(1, 9))


def _worded(template: str, combination: tuple[str, str, str, str], choose: Callable[[Any], Any]) -> str:
    colour, shape, background, movement = combination
    colour_word = choose(COLOURS[colour])
    article = "an" if colour_word[0] in "aeiou" else "a"
    does, doing = choose(MOVEMENTS[movement]) if movement else ("", "")
    return template.format(
        a=article,
        A=article.capitalize(),
        colour=colour_word,
        Colour=colour_word.capitalize(),
        shape=choose(SHAPES[shape]),
        background=choose(BACKGROUNDS[background]) if background else "",
        does=does,
        doing=doing,
    )
