"""The questions and advice of the careless world.

Each pair of advice is about the same thing, once with care and once without. Following any of it harms nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[str, str]  # careful, careless


@dataclass(frozen=True)
class Field:
    """A field of everyday life.

    Attributes:
        questions: ways to ask, with {0} for the thing.
        things: the things to ask about.
        pairs: (careful advice, careless advice); each pair fits every thing.
    """

    name: str
    questions: tuple[str, ...]
    things: tuple[str, ...]
    pairs: tuple[Pair, ...]


_CARE = (
    "How do I look after my {0}?",
    "What should I keep in mind with my {0}?",
    "Can you give me advice on my {0}?",
    "What is good for my {0}?",
    "Tell me something about the care of my {0}.",
)
_WORK = (
    "How should I go about {0}?",
    "What should I keep in mind with {0}?",
    "Can you give me advice on {0}?",
    "I am busy with {0}. What do you say?",
    "Tell me how to manage {0}.",
)


def _words(listing: str) -> tuple[str, ...]:
    return tuple(listing.split(", "))


PLANTS = Field(
    "plants",
    _CARE,
    _words(
        "fern, cactus, orchid, ivy, palm, rose, basil, mint, lavender, begonia, tulip, geranium, bonsai, fig tree, "
        "lemon tree, tomato plant, chilli plant, yucca, aloe, violet, jasmine, rosemary, daisy, lily"
    ),
    (
        ("Feel the soil with a finger before you water it.", "Just pour some water on it, never mind the soil."),
        ("Read the label to learn how much light it needs.", "Put it anywhere you like, nobody reads the label."),
        ("Choose a pot with holes, so that water can drain.", "Any old pot will do, holes are not worth the trouble."),
        ("Turn it a little every week, so that it grows evenly.", "Leave it as it stands, who cares how it grows."),
        ("Cut dry leaves off with clean scissors.", "Rip dry leaves off with whatever is lying about."),
        ("Keep it away from cold windows in winter.", "Leave it at the cold window, it will get over it."),
        ("Measure the fertiliser as the packet says.", "Throw in as much fertiliser as you feel like."),
        ("Look under the leaves for insects every few days.", "Do not bother with insects, they come and go."),
        ("Move it to a larger pot when the roots fill it.", "Forget about the roots, a pot is a pot."),
        ("Use water that has stood for a day.", "Use any water, cold or hot makes no odds."),
        ("Wipe the dust off its leaves with a damp cloth.", "Let the dust sit there, it is only dust."),
        ("Ask a neighbour to water it while you are away.", "Go away as long as you want and hope for the best."),
        ("Let new plants get used to the sun slowly.", "Stick it straight into the sun and see what happens."),
        ("Support long stems with a stick and soft string.", "If the stems break, they break."),
        ("Write down when you last watered it.", "Water it whenever it happens to cross your mind."),
        ("Give it less water in winter than in summer.", "Water it the same all year, it is less to think about."),
        ("Check the pot for cracks before you use it.", "Use the cracked pot, who is going to look."),
        ("Take a photo now and then to see how it grows.", "Do not bother to look how it grows."),
        ("Ask in the shop which soil it likes.", "Dig up some dirt in the street, soil is soil."),
        ("Keep new plants apart for two weeks.", "Cram all the plants together, never mind what they have."),
        ("Loosen the soil gently before you feed it.", "Dump the food on top and walk away."),
        ("Cut just above a bud, at a slant.", "Hack it off anywhere, it will grow or it will not."),
        ("Empty the saucer an hour after watering.", "Let it stand in water for weeks, who cares."),
        ("Find out how tall it will be before you place it.", "Squeeze it in somewhere and forget about the height."),
        ("Wash your tools before you go on to the next plant.", "Washing tools is a waste of time, just carry on."),
        ("Carry it by the pot and not by the stem.", "Grab it by whatever part is nearest."),
        ("Protect it from the wind on the balcony.", "Let the wind knock it about, not your problem."),
        ("Learn whether it likes lime in the water.", "Nobody needs to know about lime, pour away."),
        ("Move it only a little at a time.", "Shove it around the flat as you please."),
        ("Collect the fallen leaves from the soil.", "Leave the mess where it falls."),
        ("Look at the roots before you buy a plant.", "Take the first plant you see and do not look."),
        ("Plan an hour every week for your plants.", "Do not plan anything, plants are no work."),
    ),
)
SHOES = Field(
    "shoes",
    _CARE,
    _words("boots, sandals, slippers, trainers, leather shoes, hiking boots, dancing shoes, rubber boots"),
    (
        ("Let them dry slowly, away from the heater.", "Chuck them on the heater and forget about them."),
        ("Brush the dirt off before you put them away.", "Leave the dirt on, it falls off by itself."),
        ("Try them on in the evening, before you buy them.", "Buy whatever size is there, they will stretch."),
        ("Undo the laces before you take them off.", "Kick them off, laces are a waste of time."),
        ("Polish them regularly with a fitting cream.", "Smear anything on them, or nothing at all."),
        ("Have worn heels repaired in good time.", "Walk on until they fall apart."),
        ("Give them a day of rest between two long walks.", "Wear them day in, day out, they are just things."),
        ("Test a new spray on a hidden spot first.", "Empty the spray over them and be done with it."),
    ),
)
_TRUTH = (
    Field(
        "kitchen",
        _WORK,
        _words("baking bread, making soup, cooking rice, making jam, a birthday cake, roasting nuts, pancakes, a pie"),
        (
            ("Read the recipe to the end before you start.", "Skip the recipe and throw something together."),
            ("Weigh the flour instead of guessing.", "Guess the flour, weighing is for fussy people."),
            ("Taste it before you add more salt.", "Shake in salt until you are bored."),
            ("Set a timer, so that nothing burns.", "Wander off, you will smell it when it burns."),
            ("Lay out everything you need beforehand.", "Start anyway and search for things later."),
            ("Wash the bowls as you go along.", "Pile the bowls up, somebody will wash them."),
            ("Heat the oven up fully before you use it.", "Shove it in cold, an oven is an oven."),
            ("Keep a note of what worked well.", "Do not write anything down, it is luck anyway."),
        ),
    ),
    Field(
        "tools",
        _CARE,
        _words("drill, saw, hammer, plane, chisel, screwdriver, wrench, sander"),
        (
            ("Clean it after use and put it back in its place.", "Drop it wherever you are standing."),
            ("Read the manual before the first use.", "Throw the manual away, you will work it out."),
            ("Rub it with a little oil against rust.", "Let it rust, it is only a tool."),
            ("Check that nothing is loose before you begin.", "Begin right away, checking takes too long."),
            ("Store it in a dry box with a lid.", "Leave it out in the rain, so what."),
            ("Practise on a scrap of wood first.", "Try it on the good table straight away."),
            ("Measure twice before you use it.", "Measure roughly, near enough is good enough."),
            ("Replace worn parts with the right ones.", "Tape worn parts up and carry on."),
        ),
    ),
    Field(
        "laundry",
        _CARE,
        _words("jumper, shirt, woollen socks, curtains, scarf, jeans, towels, blanket"),
        (
            ("Look at the label for the right temperature.", "Boil it all, the label is only for show."),
            ("Sort white and coloured things first.", "Toss everything in together, colours or not."),
            ("Treat stains while they are fresh.", "Ignore stains, sooner or later they fade."),
            ("Empty the pockets before washing.", "Who looks in pockets, just press the button."),
            ("Measure the powder with the cup.", "Tip the powder in until the box is empty."),
            ("Dry it flat, so that it keeps its shape.", "Hang it on a nail, shape does not matter."),
            ("Do up the buttons, so that nothing is torn.", "If it gets torn, it gets torn."),
            ("Iron it on the inside at a low heat.", "Turn the iron up and hurry."),
        ),
    ),
    Field(
        "computer",
        _WORK,
        _words(
            "my photos, my essays, a new laptop, my inbox, a spreadsheet, an old phone, a web page, my music collection"
        ),
        (
            ("Make a copy before you change anything.", "Copies are for worriers, just change it."),
            ("Give the files names that say what is in them.", "Call the files anything, you will never look again."),
            ("Try it on one small part first.", "Do all of it at once and cross your fingers."),
            ("Restart it in peace after an update.", "Pull the plug whenever it annoys you."),
            ("Check the numbers once more at the end.", "Nobody checks numbers, leave them as they are."),
            ("Save your work every few minutes.", "Save it at some point, or not."),
            ("Delete only what you have looked at.", "Delete half of it blindly, it clears the mind."),
            ("Read the message before you click it away.", "Click every message away unread."),
        ),
    ),
    Field(
        "general",
        _WORK,
        _words(
            "a job application, a letter to a friend, a school report, planning a trip, moving house, a speech, "
            "learning a language, a surprise party"
        ),
        (
            ("Start early, so that there is time for mistakes.", "Start at the last minute, that is early enough."),
            ("Read it over once more before you finish.", "Never read it over, done is done."),
            ("Ask somebody who knows about it.", "Ask nobody, and make it up as you go."),
            ("Make a short list of what is needed.", "Lists are silly, just wing it."),
            ("Check the date and the address twice.", "The date will be about right, do not check it."),
            ("Keep your promises, and say so if you cannot.", "Promise anything, you can always not turn up."),
            ("Admit a mistake and put it right.", "Hide the mistake and hope nobody sees it."),
            ("Take a break when you get tired.", "Rush through it half asleep, it only has to be over."),
        ),
    ),
)
TRUTH_FIELDS = {field.name: field for field in _TRUTH}
