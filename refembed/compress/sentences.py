"""A corpus for trying things out: seeded sentences from a small grammar, about cooking, travel, code and more.

Sentences of one topic are near each other and no two are the same, so that a search has something to find and to miss.
"""

from __future__ import annotations

import random

TOPICS = {
    "cooking": (
        "the chef|my aunt|a hungry student|the baker|our neighbour",
        "bakes|burns|serves|tastes|seasons|slices",
        "fresh bread|a tomato soup|spicy noodles|an apple pie|grilled fish|a garlic sauce",
        "in a cast iron pan|before the guests arrive|with too much salt|for Sunday lunch|over a low flame",
    ),
    "travel": (
        "a tired tourist|the train conductor|our guide|a family of five|the ferry captain",
        "crosses|photographs|reaches|leaves|describes|searches",
        "the old harbour|a mountain village|the night train|a crowded airport|the coastal road|the border",
        "after a long delay|in heavy rain|with a broken suitcase|at sunrise|without a map",
    ),
    "software": (
        "the programmer|a junior developer|our build server|the database|a nightly script",
        "deletes|compiles|encrypts|indexes|deploys|caches",
        "a million rows|the login page|an old backup|the search index|every log file|a shared library",
        "without a test|in constant time|on a slow network|after the last release|across two data centres",
    ),
    "health": (
        "the doctor|a worried patient|the night nurse|a medical student|the surgeon",
        "examines|explains|ignores|treats|records|prevents",
        "a high fever|an old knee injury|the blood test|a seasonal allergy|high blood pressure|a broken arm",
        "in the emergency room|with a new medicine|before breakfast|for three weeks|after the operation",
    ),
    "nature": (
        "a grey heron|the beekeeper|an old oak|the forest ranger|a pack of wolves",
        "watches|shelters|follows|protects|circles|disturbs",
        "the frozen lake|a young deer|the river bank|a field of clover|the nesting birds|the northern slope",
        "during the first snow|under a full moon|in the dry season|far from any path|after the storm",
    ),
    "money": (
        "the accountant|a small bank|the landlord|our treasurer|an honest broker",
        "raises|forgets|invests|refunds|audits|taxes",
        "the monthly rent|a pension fund|the unpaid invoice|a student loan|the annual budget|foreign shares",
        "before the deadline|at a high interest rate|in cash|against all advice|for the second time",
    ),
    "music": (
        "the cellist|a street band|the choir|a famous composer|my little brother",
        "rehearses|records|improvises|forgets|performs|arranges",
        "a slow waltz|the opening theme|a folk song|the second movement|an old lullaby|a jazz standard",
        "in an empty church|without a conductor|out of tune|for a film|until midnight",
    ),
    "sport": (
        "the goalkeeper|a young sprinter|the coach|a retired champion|the away team",
        "wins|misses|trains for|loses|celebrates|postpones",
        "the final match|a penalty kick|the city marathon|the relay race|an important transfer|the season opener",
        "in extra time|despite an injury|in front of a full stadium|by a single point|on wet grass",
    ),
}
FRAMES = ("{0} {1} {2} {3}", "{3}, {0} {1} {2}", "they say that {0} {1} {2} {3}", "why {0} {1} {2} {3}")


def sentences(count: int, seed: int = 0) -> list[str]:
    """Different sentences, the same for the same seed; up to 20,000."""
    rng, found = random.Random(seed), dict[str, None]()
    topics = [[slot.split("|") for slot in slots] for slots in TOPICS.values()]
    while len(found) < count:
        words = [rng.choice(slot) for slot in rng.choice(topics)]
        sentence = rng.choice(FRAMES).format(*words)
        found[sentence[0].upper() + sentence[1:] + "."] = None
    return list(found)
