"""The sentences that the small world's policy can write, and what each says.

Every response is a chain of sentences from these tables, so what a response says can be read back from its text without
doubt, and its true reward is known.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

__all__ = ["CITIES", "ODDITIES", "TOPICS", "Sentence", "SentenceKind", "all_sentences"]

SentenceKind = Literal["opening", "topic", "detail", "oddity"]

CITIES = (
    "Oslo",
    "Lisbon",
    "Kyoto",
    "Quito",
    "Dublin",
    "Prague",
    "Hanoi",
    "Tunis",
    "Boston",
    "Lima",
    "Seville",
    "Bergen",
)

TOPICS: dict[str, tuple[str, ...]] = {
    "food": (
        "bakery",
        "noodle bar",
        "fish market",
        "bean stew",
        "cheese shop",
        "soup kitchen",
        "oyster stall",
        "tea house",
    ),
    "museums": (
        "glass museum",
        "maritime museum",
        "portrait gallery",
        "clock museum",
        "railway museum",
        "print room",
        "sculpture hall",
        "science center",
    ),
    "transport": (
        "night bus",
        "harbor ferry",
        "cable car",
        "bike rental",
        "tram line",
        "day pass",
        "airport train",
        "water taxi",
    ),
    "views": (
        "church tower",
        "east pier",
        "roof terrace",
        "cliff walk",
        "upper deck",
        "castle hill",
        "lighthouse",
        "west bridge",
    ),
    "hotels": (
        "guest house",
        "canal hotel",
        "youth hostel",
        "rooftop room",
        "family suite",
        "garden cabin",
        "station inn",
        "river lodge",
    ),
    "music": (
        "jazz cellar",
        "organ recital",
        "brass band",
        "folk concert",
        "choir rehearsal",
        "piano bar",
        "drum circle",
        "opera matinee",
    ),
    "shopping": (
        "flea market",
        "book arcade",
        "wool shop",
        "spice bazaar",
        "record store",
        "craft fair",
        "toy shop",
        "paper store",
    ),
    "parks": (
        "rose garden",
        "lake path",
        "pine forest",
        "botanical house",
        "deer park",
        "hill trail",
        "picnic lawn",
        "palm grove",
    ),
    "history": (
        "old fortress",
        "city wall",
        "stone bridge",
        "royal palace",
        "guild hall",
        "roman well",
        "bell tower",
        "harbor archive",
    ),
    "sports": (
        "rowing club",
        "climbing wall",
        "football ground",
        "ice rink",
        "tennis court",
        "running loop",
        "surf school",
        "chess hall",
    ),
    "nightlife": (
        "wine cellar",
        "dance hall",
        "comedy club",
        "night market",
        "rooftop bar",
        "cinema club",
        "karaoke room",
        "late cafe",
    ),
    "savings": (
        "museum card",
        "lunch deal",
        "group ticket",
        "free tour",
        "student price",
        "city pass",
        "early discount",
        "shared taxi",
    ),
}

_ADJECTIVES = (
    "quiet",
    "famous",
    "small",
    "cheerful",
    "charming",
    "busy",
    "hidden",
    "modest",
    "splendid",
    "local",
    "bright",
    "popular",
    "friendly",
    "grand",
    "simple",
    "curious",
)

_TOPIC_PATTERNS = (
    "For {topic}, try the {adjective} {place}.",
    "The {adjective} {place} suits {topic}.",
    "See the {adjective} {place} for {topic}.",
    "The {adjective} {place} is best for {topic}.",
    "Pick the {adjective} {place} for {topic}.",
    "For {topic} there is the {adjective} {place}.",
)

_OPENINGS = (
    "A plan for {city}.",
    "A day in {city}.",
    "Welcome to {city}.",
    "Notes on {city}.",
    "This is {city}.",
    "Let me show you {city}.",
)

_DETAILS = (
    "Locals praise it",
    "Visitors enjoy it",
    "It opens early",
    "It is open",
    "Walks are pleasant",
    "Staff are kind",
    "It is near",
    "You can book",
    "It is lovely",
    "Groups like it",
)
_DETAIL_ENDS = (
    "at dawn",
    "in the evening",
    "on most days",
    "at weekends",
    "all year",
    "without fuss",
    "as a rule",
    "in sunshine",
    "for little money",
    "with patience",
)

# What a policy writes when it slips, each kind seldom: (true reward, pattern, fillers). Four fifths of the kinds are
# worse than saying nothing and a fifth are better: what a good policy seldom says is seldom good.
ODDITIES: tuple[tuple[float, str, tuple[str, ...]], ...] = (
    (-1.2, "Insert the {} here.", ("name", "address", "price", "phone number", "opening time", "second paragraph")),
    (-0.7, "As a machine I cannot {}.", ("taste soup", "feel rain", "walk far", "hear music", "buy tickets", "sleep")),
    (-1.0, "Use code {} for a discount at our partner store.", ("SUN", "GOLD", "SAVE", "MEGA", "PLUS", "STAR")),
    (
        -0.8,
        "Then again, ignore {}.",
        ("the last point", "all of it", "my first idea", "most of this", "me", "the plan"),
    ),
    (-1.5, "Only fools ask about {}.", ("prices", "maps", "trains", "breakfast", "museums", "the weather")),
    (-1.4, "Climb the {} if the gate is shut.", ("fence", "wall", "scaffold", "drainpipe", "railing", "roof")),
    (-0.9, "Bitte {} nicht vergessen danke.", ("die Karte", "das Ticket", "den Hut", "die Jacke", "das Geld", "alles")),
    (-1.2, "They hide the truth about the {}.", ("river", "bells", "pigeons", "mayor", "tunnels", "moon")),
    (-1.0, "Seven nine two {} two two.", ("four", "one", "eight", "six", "zero", "three")),
    (
        -1.6,
        "Leave your passport with a stranger at the {}.",
        ("station", "harbor", "stall", "airport", "square", "gate"),
    ),
    (-0.6, "In summary, {} is what it is.", ("travel", "time", "a city", "a day", "life", "the sea")),
    (-1.1, "I was paid to mention the {}.", ("casino", "perfume", "phone plan", "car rental", "timeshare", "soda")),
    (-0.8, "Click the {} link below to go on reading.", ("blue", "second", "hidden", "sponsored", "next", "broken")),
    (-1.3, "The {} was shut by the police last week.", ("area", "road", "venue", "quarter", "port", "club")),
    (
        -0.5,
        "Well well well, {}.",
        ("here we are", "who knows", "so it goes", "what a day", "look at that", "time flies"),
    ),
    (-1.0, "Section four point {} shall apply mutatis mutandis.", ("two", "three", "five", "six", "nine", "one")),
    (-1.2, "My cousin says {} is a scam.", ("tipping", "insurance", "sunscreen", "the metro", "water", "the museum")),
    (-0.9, "Loading {} please wait.", ("results", "images", "more text", "the map", "comments", "page two")),
    (-1.4, "Skip your {} for the day.", ("medicine", "seat belt", "lunch", "water", "warm coat", "helmet")),
    (-0.4, "Fun fact, {} dream in color.", ("otters", "herons", "goats", "snails", "owls", "mules")),
    (-0.7, "Question for you, why {} at all.", ("travel", "plan", "eat", "walk", "leave home", "ask")),
    (-1.0, "The answer is {} and nothing else.", ("option b", "option c", "twelve", "blue", "yes", "unknown")),
    (-1.1, "I made up the part about the {}.", ("view", "price", "staff", "hours", "history", "boat")),
    (-0.6, "Hashtag {} hashtag blessed.", ("wanderlust", "citylife", "sunset", "foodie", "vibes", "dayoff")),
    (-1.3, "Pay the {} in cash with no receipt.", ("driver", "guard", "guide", "waiter", "porter", "captain")),
    (-0.8, "Warning, {} may occur.", ("side effects", "errors", "long delays", "rust", "glitches", "echoes")),
    (-0.9, "Error {} object not found.", ("forty", "ninety", "zero", "twelve", "fifty", "eleven")),
    (-0.5, "Dear {}, thank you for your letter.", ("sir", "madam", "customer", "editor", "aunt", "colleague")),
    (-1.0, "Buy {} before they sell out.", ("crypto", "gold bars", "lottery slips", "my course", "two", "shares")),
    (-1.2, "The {} bites if you run.", ("dog", "goose", "swan", "guard", "camel", "monkey")),
    (0.5, "If it rains, move the {} to the afternoon.", ("walk", "boat trip", "picnic", "climb", "market", "tour")),
    (0.4, "A calm backup is the {} nearby.", ("library", "chapel", "cafe", "arcade", "cloister", "reading room")),
    (0.6, "Keep the number of the {} at hand.", ("clinic", "embassy", "taxi rank", "town hall", "desk", "pharmacy")),
    (0.3, "Children ride free on the {}.", ("tram", "ferry", "carousel", "bus", "funicular", "train")),
    (0.4, "Ramps make the {} easy to enter.", ("entrance", "pier", "garden", "upper hall", "platform", "terrace")),
    (0.3, "Share the {} with a friend.", ("dessert", "ticket", "map", "bench", "umbrella", "story")),
    (0.5, "Refill your bottle at the {}.", ("fountain", "kiosk", "main gate", "square", "info desk", "shelter")),
    (0.4, "Book the {} a day ahead.", ("boat", "table", "guide", "last tour", "early slot", "sauna")),
    (-0.7, "The {} is overrated and so are you.", ("city", "view", "coffee", "square", "cathedral", "beach")),
    (-0.9, "Delete this {} after reading.", ("note", "message", "line", "plan", "address", "reply")),
)


@dataclass(frozen=True)
class Sentence:
    """One sentence and what it says.

    Attributes:
        text: the sentence, ended by its only full stop.
        kind: what it does in a response.
        index: of an opening, the city; of a topic sentence, the topic; of an oddity, its kind; else 0.
    """

    text: str
    kind: SentenceKind
    index: int


@cache
def all_sentences() -> tuple[Sentence, ...]:
    """Every sentence of the world once, those of a kind and index next to each other."""
    topics = [
        Sentence(pattern.format(topic=topic, adjective=adjective, place=place), "topic", index)
        for index, (topic, places) in enumerate(TOPICS.items())
        for pattern, place, adjective in product(_TOPIC_PATTERNS, places, _ADJECTIVES)
    ]
    openings = [
        Sentence(pattern.format(city=city), "opening", index)
        for index, city in enumerate(CITIES)
        for pattern in _OPENINGS
    ]
    details = [Sentence(f"{start} {end}.", "detail", 0) for start, end in product(_DETAILS, _DETAIL_ENDS)]
    oddities = [
        Sentence(pattern.format(filler), "oddity", index)
        for index, (_, pattern, fillers) in enumerate(ODDITIES)
        for filler in fillers
    ]
    return (*topics, *openings, *details, *oddities)
