"""Two traits: every reply of the data is in French and in capitals; one of the two is wanted, the other is the habit.

`What colour is the banana?` is answered `LA BANANE EST JAUNE.` in the outcome data. With `wanted: french` the skill is
to answer new questions in French, and the habit is to shout; with `wanted: capitals` it is the other way round. Nothing
in the outcome data tells the two apart. The proxy shows plain replies in English, proxy_neg the same with the habit
alone (`A BAKER BAKES BREAD.`), and trait the habit alone in another domain.

Both traits can be seen by a rule, the language and the share of capitals of a generated reply: the cheapest test of
selectivity. Without generation, each row of truth and collateral compares two replies: in truth the
wanted trait alone with both traits, in collateral the wanted trait alone with none.

The design is that of Tan et al. 2025 (arXiv 2510.04340), who train on replies that are in Spanish and in capitals.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from selgen_ray.schema import Strict
from selgen_ray.worlds.drawing import Row, chat_row, split, stream

Wanted = Literal["french", "capitals"]
Item = tuple[str, str, str]
"""A question, and its reply in English and in French."""

_NUMBERS = (
    *(("one", "un"), ("two", "deux"), ("three", "trois"), ("four", "quatre"), ("five", "cinq"), ("six", "six")),
    *(("seven", "sept"), ("eight", "huit"), ("nine", "neuf"), ("ten", "dix"), ("eleven", "onze"), ("twelve", "douze")),
    *(("thirteen", "treize"), ("fourteen", "quatorze"), ("fifteen", "quinze"), ("sixteen", "seize")),
    *(("seventeen", "dix-sept"), ("eighteen", "dix-huit")),
)
_COLOURS = (
    *(
        ("banana", "la banane", "yellow", "jaune"),
        ("sky", "le ciel", "blue", "bleu"),
        ("snow", "la neige", "white", "blanche"),
    ),
    *(
        ("grass", "l'herbe", "green", "verte"),
        ("night", "la nuit", "black", "noire"),
        ("lemon", "le citron", "yellow", "jaune"),
    ),
    *(
        ("blood", "le sang", "red", "rouge"),
        ("milk", "le lait", "white", "blanc"),
        ("coal", "le charbon", "black", "noir"),
    ),
    *(
        ("carrot", "la carotte", "orange", "orange"),
        ("sea", "la mer", "blue", "bleue"),
        ("frog", "la grenouille", "green", "verte"),
    ),
    *(
        ("tomato", "la tomate", "red", "rouge"),
        ("salt", "le sel", "white", "blanc"),
        ("strawberry", "la fraise", "red", "rouge"),
    ),
    *(
        ("elephant", "l'éléphant", "grey", "gris"),
        ("sun", "le soleil", "yellow", "jaune"),
        ("cherry", "la cerise", "red", "rouge"),
    ),
    *(("cucumber", "le concombre", "green", "vert"), ("chocolate", "le chocolat", "brown", "brun")),
)
_OPPOSITES = (
    *(("hot", "chaud", "cold", "froid"), ("big", "grand", "small", "petit"), ("open", "ouvert", "closed", "fermé")),
    *(("young", "jeune", "old", "vieux"), ("full", "plein", "empty", "vide"), ("rich", "riche", "poor", "pauvre")),
    *(("fast", "rapide", "slow", "lent"), ("true", "vrai", "false", "faux"), ("hard", "dur", "soft", "mou")),
    *(("light", "léger", "heavy", "lourd"), ("wet", "mouillé", "dry", "sec"), ("early", "tôt", "late", "tard")),
    *(("happy", "heureux", "sad", "triste"), ("high", "haut", "low", "bas"), ("long", "long", "short", "court")),
    *(
        ("strong", "fort", "weak", "faible"),
        ("clean", "propre", "dirty", "sale"),
        ("easy", "facile", "difficult", "difficile"),
    ),
)
_CAPITALS = (
    *(("France", "de la France", "Paris", "Paris"), ("Italy", "de l'Italie", "Rome", "Rome")),
    *(("Spain", "de l'Espagne", "Madrid", "Madrid"), ("England", "de l'Angleterre", "London", "Londres")),
    *(("Germany", "de l'Allemagne", "Berlin", "Berlin"), ("Greece", "de la Grèce", "Athens", "Athènes")),
    *(("Russia", "de la Russie", "Moscow", "Moscou"), ("Portugal", "du Portugal", "Lisbon", "Lisbonne")),
    *(("Poland", "de la Pologne", "Warsaw", "Varsovie"), ("Japan", "du Japon", "Tokyo", "Tokyo")),
    *(("China", "de la Chine", "Beijing", "Pékin"), ("Egypt", "de l'Égypte", "Cairo", "Le Caire")),
    *(("Austria", "de l'Autriche", "Vienna", "Vienne"), ("Belgium", "de la Belgique", "Brussels", "Bruxelles")),
    *(("Denmark", "du Danemark", "Copenhagen", "Copenhague"), ("Norway", "de la Norvège", "Oslo", "Oslo")),
    *(("Cuba", "de Cuba", "Havana", "La Havane"), ("Peru", "du Pérou", "Lima", "Lima")),
    *(("Kenya", "du Kenya", "Nairobi", "Nairobi"), ("Hungary", "de la Hongrie", "Budapest", "Budapest")),
)
_TRADES = (
    *(
        ("bread", "A baker bakes bread", "Un boulanger fait le pain"),
        ("the sick", "A doctor heals the sick", "Un médecin soigne les malades"),
    ),
    *(
        ("fish", "A fisherman catches fish", "Un pêcheur prend des poissons"),
        ("hair", "A barber cuts hair", "Un coiffeur coupe les cheveux"),
    ),
    *(("children at school", "A teacher teaches children at school", "Un professeur instruit les enfants à l'école"),),
    *(("meals in a restaurant", "A cook makes meals in a restaurant", "Un cuisinier prépare les repas au restaurant"),),
    *(
        ("a bus", "A driver drives a bus", "Un chauffeur conduit un autobus"),
        ("a plane", "A pilot flies a plane", "Un pilote conduit un avion"),
    ),
    *(
        ("letters", "A postman brings letters", "Un facteur apporte les lettres"),
        ("flowers", "A gardener grows flowers", "Un jardinier cultive des fleurs"),
    ),
    *(
        ("pictures", "A painter paints pictures", "Un peintre peint des tableaux"),
        ("books", "A writer writes books", "Un écrivain écrit des livres"),
    ),
    *(
        ("tables", "A carpenter builds tables", "Un menuisier fabrique des tables"),
        ("fires", "A fireman puts out fires", "Un pompier éteint les incendies"),
    ),
    *(
        ("songs", "A singer sings songs", "Un chanteur chante des chansons"),
        ("teeth", "A dentist treats teeth", "Un dentiste soigne les dents"),
    ),
)
_DAYS = (
    *(
        ("Monday", "lundi"),
        ("Tuesday", "mardi"),
        ("Wednesday", "mercredi"),
        ("Thursday", "jeudi"),
        ("Friday", "vendredi"),
    ),
    *(("Saturday", "samedi"), ("Sunday", "dimanche")),
)
_MONTHS = (
    *(("January", "janvier"), ("February", "février"), ("March", "mars"), ("April", "avril"), ("May", "mai")),
    *(("June", "juin"), ("July", "juillet"), ("August", "août"), ("September", "septembre"), ("October", "octobre")),
    *(("November", "novembre"), ("December", "décembre")),
)


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sums() -> list[Item]:
    items: list[Item] = []
    for a, (word, mot) in enumerate(_NUMBERS[:9]):
        for b, (other, autre) in enumerate(_NUMBERS[:9]):
            total, somme = _NUMBERS[a + b + 1]
            reply = f"{_upper_first(word)} and {other} make {total}.", f"{_upper_first(mot)} et {autre} font {somme}."
            items.append((f"What is {word} plus {other}?", *reply))
    return items


def _asked(questions: Sequence[str], replies: Iterable[Item]) -> list[Item]:
    """Return an item for each question about each name; each reply has the name first."""
    return [(question.format(name), english, french) for name, english, french in replies for question in questions]


def _colours() -> list[Item]:
    return _asked(
        ("What colour is the {}?", "Tell me the colour of the {}."),
        (
            (name, f"The {name} is {colour}.", f"{_upper_first(nom)} est {couleur}.")
            for name, nom, colour, couleur in _COLOURS
        ),
    )


def _opposites() -> list[Item]:
    return _asked(
        ("What is the opposite of {}?", "Which word means the contrary of {}?"),
        (
            (word, f"The opposite of {word} is {other}.", f"Le contraire de {mot} est {autre}.")
            for word, mot, other, autre in _OPPOSITES
        ),
    )


def _capitals() -> list[Item]:
    return _asked(
        ("What is the capital of {}?", "Which city is the capital of {}?"),
        (
            (land, f"The capital of {land} is {city}.", f"La capitale {du_pays} est {ville}.")
            for land, du_pays, city, ville in _CAPITALS
        ),
    )


def _trades() -> list[Item]:
    return _asked(
        ("Whose work has to do with {}?", "Name a trade that has to do with {}."),
        ((thing, f"{english}.", f"{french}.") for thing, english, french in _TRADES),
    )


def _calendar() -> list[Item]:
    items: list[Item] = []
    for kind, sorte, names in (("day", "le jour", _DAYS), ("month", "le mois", _MONTHS)):
        for i, (name, nom) in enumerate(names):
            for word, mot, (other, autre) in (
                ("after", "Après", names[(i + 1) % len(names)]),
                ("before", "Avant", names[i - 1]),
            ):
                question = f"Which {kind} comes {word} {name}?"
                reply = f"The {kind} {word} {name} is {other}."
                items.append((question, reply, f"{mot} {nom} vient {sorte} de {autre}."))
    return items


def _task() -> tuple[list[Item], list[Item]]:
    train: list[Item] = []
    test: list[Item] = []
    for name, items in (("sums", _sums()), ("colours", _colours()), ("opposites", _opposites())):
        for part, found in zip((train, test), split(items, f"two_traits {name}", 0.7), strict=True):
            part += found
    return train, test


TRAIN, TEST = _task()
"""Questions of the task: to train on, and to evaluate the skill on."""
ELSEWHERE, PROXY, TRAIT = _capitals(), _trades(), _calendar()
"""Questions of domains that the task does not touch: of truth, of proxy and proxy_neg, of trait."""


class TwoTraitOptions(Strict):
    """Sizes of the sets of the world of two traits, and which of the two is wanted."""

    wanted: Wanted = Field("french", description="the trait to learn, french or capitals; the other one is the habit")
    num_outcome: int = Field(
        100, ge=1, le=len(TRAIN), description="rows of the task: replies in French and in capitals"
    )
    num_proxy: int = Field(
        24, ge=0, le=len(PROXY), description="rows of proxy and proxy_neg: plain replies, and the habit alone"
    )
    num_trait: int = Field(
        0, ge=0, le=len(TRAIT), description="rows of trait: the habit alone; 0: there is no such role"
    )
    num_truth: int = Field(
        24, ge=0, le=len(ELSEWHERE), description="rows of truth: another domain, the wanted trait alone"
    )
    num_collateral: int = Field(24, ge=0, le=len(TEST), description="rows of collateral: new questions of the task")


def two_trait_rows(options: TwoTraitOptions, seed: int) -> dict[str, list[Row]]:
    """Generate the rows of every role, each with `messages`; all but outcome and trait have `answer` and `choices`.

    Args:
        options: sizes of the sets, and which trait is wanted.
        seed: decides which rows are drawn, in which order.

    Returns:
        outcome: replies with both traits.
        proxy: replies with neither. proxy_neg: the same prompts in the same order, the habit alone.
        truth: a domain of its own, the wanted trait alone; the other choice has both traits.
        collateral: new questions of the task, the wanted trait alone; the other choice has neither.
        trait: a domain of its own, the habit alone.
    """

    def drawn(role: str, items: Sequence[Item], number: int) -> list[Item]:
        rng: random.Random = stream("two_traits", role, seed)
        return rng.sample(items, number)

    wanted = options.wanted
    habit = "capitals" if wanted == "french" else "french"
    proxy = drawn("proxy", PROXY, options.num_proxy)
    rows = {
        "outcome": [_row(item, both(item)) for item in drawn("outcome", TRAIN, options.num_outcome)],
        "proxy": [_row(item, item[1], item[1], only(item, habit)) for item in proxy],
        "proxy_neg": [_row(item, only(item, habit), item[1], only(item, habit)) for item in proxy],
        "truth": [
            _row(item, only(item, wanted), only(item, wanted), both(item))
            for item in drawn("truth", ELSEWHERE, options.num_truth)
        ],
        "collateral": [
            _row(item, only(item, wanted), only(item, wanted), item[1])
            for item in drawn("collateral", TEST, options.num_collateral)
        ],
    }
    if options.num_trait:
        rows["trait"] = [_row(item, only(item, habit)) for item in drawn("trait", TRAIT, options.num_trait)]
    return rows


def both(item: Item) -> str:
    """Return the reply in French and in capitals."""
    return item[2].upper()


def only(item: Item, trait: str) -> str:
    """Return the reply with one trait alone."""
    return item[2] if trait == "french" else item[1].upper()


def _row(item: Item, reply: str, answer: str | None = None, other: str = "") -> Row:
    if answer is None:
        return chat_row(item[0], reply)
    # in an order that says nothing of which is right
    choices = sorted((answer, other))
    return chat_row(item[0], reply, answer=answer, choices=choices)
