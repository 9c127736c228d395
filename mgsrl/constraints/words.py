"""Ordinary English words for the arguments of constraints, and draws from them.

All are four to nine letters long and none is a part of another one, because occurrences are counted
inside longer words too. Function words are left out: a text cannot do without them.
"""

import random

_WORDS = """
acorn adult album amber angle apple apron attic autumn avenue bacon badge bakery balance balloon
bamboo banana banner barrel basket battery beach beacon bench bicycle biscuit blanket blossom
border bottle branch brave breakfast breeze brick bridge bright bronze brush bubble bucket budget
button cabin cactus camera canal candle canvas canyon captain carbon carpet carrot castle ceiling
cellar ceremony chance chapter cheerful cheese chicken chimney chocolate choice circle citizen
clever climate clinic clock cloth cloudy coast coffee collar comedy comfort compass concert copper
corner cottage cotton cousin cradle cricket crystal culture curious curtain cushion damage dancer
danger daring debate decade degree desert detail diamond dinner distance doctor dolphin donkey
double dragon drawer eagle earth effort elbow elegant elephant emerald energy engine entrance
envelope evening exhibit fabric factory famous feather festival fiction flavor flower flute forest
fortune fossil fountain freedom fresh friend frozen funnel future galaxy garage garden garlic
gentle ginger glacier glove golden grammar granite grape gravity guitar habit hammer harbor
harvest helmet heritage hidden history hobby honest honey horizon hospital humble hunger husband
immense insect island jacket jewel journal journey jungle kettle kingdom kitchen ladder lantern
laptop lavender leather lecture legend lemon lesson letter liberty library limit liquid lively
lobster lonely lucky luggage lumber machine magnet mango marble market marvel meadow measure medal
melody memory merchant message metal method mineral minute mirror mission modern moment monkey
morning mosaic mother mountain muscle museum mystery napkin narrow nation nature needle nephew
noble notice number oasis object ocean office olive onion option orange orchard organ origin
oxygen oyster packet palace panther parade parcel parent passage patient pattern peaceful peanut
pebble pencil penguin pepper perfume picnic pillow pilot pioneer planet plastic platform pocket
polite portrait potato pottery powder precious pretty printer prize proud puddle puppet purple
puzzle pyramid quarter rabbit radio railway rainbow random rapid recipe reward rhythm ribbon river
rocket rotten rough saddle salad salmon sample sandwich saturn scarf science scissors season
secret senior shadow shallow shelter shiny shoulder signal silent silver simple sister sketch
smooth soccer soldier sparkle spice spider spirit sponge spring square stable station statue
steady storm strange student sugar summer sunset supper surface swamp sweater symbol system tailor
talent teacher temple tender texture theater thunder ticket tiger timber tissue toast tomato
tourist tower tractor tradition traffic treasure trophy tulip tunnel turtle uncle uniform union
useful valley vanilla velvet vessel village violin virus vivid volcano voyage wagon walnut wealth
weather wedding whisper widow window winter wisdom witness wizard wonder wooden yellow zebra
"""
WORDS: tuple[str, ...] = tuple(_WORDS.split())

OPENERS = ("we", "they", "today", "every", "many", "some", "people", "nobody", "sometimes")
"""Words with which every sentence of a text can begin."""


def draw_word(rng: random.Random) -> str:
    """One ordinary word."""
    return rng.choice(WORDS)


def draw_words(rng: random.Random, low: int, high: int) -> list[str]:
    """`low` to `high` different ordinary words."""
    return rng.sample(WORDS, rng.randint(low, high))
