"""The small world of the pocket tasks: one line per topic, and how to say something about it.

Each line is `topic: adjectives | places | what they do`. All topics are plural nouns, so that one
set of sentence frames fits all of them and the topic word appears in a text exactly as it does in
the prompt. Words are shared between lines on purpose: they become single tokens of a small
vocabulary.
"""

from dataclasses import dataclass

_TABLE = """
cats: small soft quiet clever | in warm houses; on the sofa | sleep all day; chase mice
dogs: loyal loud happy strong | in the yard; in warm houses | run very fast; guard the door
horses: big strong fast proud | on the farm; in green fields | run very fast; eat fresh grass
cows: big calm heavy slow | on the farm; in green fields | eat fresh grass; give us milk
sheep: soft white calm shy | on the hill; in green fields | eat fresh grass; give us wool
goats: clever loud strong brave | on the hill; on the farm | climb steep rocks; eat almost anything
pigs: round pink clever happy | on the farm; in the mud | roll in mud; eat almost anything
hens: round loud busy small | on the farm; in the yard | lay fresh eggs; sleep at night
ducks: small loud round happy | on the lake; near the river | swim very well; fly far away
birds: small light fast colorful | in tall trees; in the garden | sing at dawn; build warm nests
owls: quiet wise brown gray | in tall trees; in old barns | hunt at night; see very well
eagles: proud strong fast brave | on high rocks; in the sky | fly very high; see very well
bees: small busy loud yellow | in the garden; near the flowers | make sweet honey; fly all day
ants: small busy strong black | under the ground; in the garden | carry heavy food; work all day
spiders: small quiet black clever | in old barns; in dark corners | spin fine webs; hunt at night
frogs: green small loud wet | near the pond; in tall grass | jump very far; catch small flies
snakes: long thin quiet smooth | under warm rocks; in tall grass | hunt at night; sleep all winter
turtles: slow calm old hard | near the pond; in the sea | live very long; carry their home
fish: wet fast cold smooth | in the sea; in the river | swim very well; live in groups
sharks: big fast strong gray | in the sea; in deep water | hunt at night; swim very well
whales: big calm heavy gray | in the sea; in deep water | sing slow songs; swim very far
dolphins: clever fast happy smooth | in the sea; near the beach | jump very high; live in groups
wolves: gray wild brave fast | in the forest; in cold lands | hunt in groups; run very far
foxes: red clever fast shy | in the forest; near the farm | hunt at night; hide very well
bears: big heavy brown strong | in the forest; in cold lands | sleep all winter; eat sweet honey
rabbits: small soft fast shy | in green fields; under the ground | jump very far; eat fresh grass
mice: small gray quiet shy | in old barns; in dark corners | eat old cheese; hide very well
lions: proud strong brave loud | in dry lands; in tall grass | hunt in groups; sleep all day
tigers: strong wild fast orange | in the jungle; in tall grass | hunt at night; swim very well
monkeys: clever loud happy fast | in the jungle; in tall trees | climb tall trees; eat sweet fruit
elephants: big gray heavy wise | in dry lands; near the river | drink much water; live in groups
camels: tall slow brown strong | in dry lands; in hot sand | carry heavy bags; walk very far
apples: red sweet round fresh | in the kitchen; in the market | taste very good; grow on trees
pears: green sweet soft fresh | in the kitchen; in the market | taste very good; grow on trees
lemons: yellow sour small fresh | in the kitchen; in warm lands | taste very sour; grow on trees
oranges: round sweet fresh orange | in the market; in warm lands | taste very good; grow on trees
grapes: small sweet round green | in the market; on the hill | grow in groups; make good juice
berries: small red sweet soft | in the forest; in the garden | grow in summer; stain your hands
carrots: long orange hard fresh | in the garden; in the kitchen | grow very fast; taste very sweet
onions: round white sharp strong | in the garden; in the kitchen | grow under ground; make us cry
potatoes: brown round hard cheap | in the garden; in the market | grow under ground; fill you up
beans: small green cheap dry | in the garden; in the market | grow very fast; fill you up
eggs: white round fresh cheap | in the kitchen; on the farm | break very easily; cook very fast
cakes: sweet soft rich fresh | in the kitchen; in the shop | taste very sweet; smell so good
cookies: sweet round small crisp | in the kitchen; in the shop | taste very sweet; break very easily
pies: warm sweet round rich | in the kitchen; in the shop | smell so good; taste very good
soups: hot thin rich cheap | in the kitchen; on the table | warm you up; cook very slowly
salads: fresh green cold light | on the table; in the kitchen | keep you healthy; taste very good
trees: tall green old strong | in the forest; in the park | give cool shade; grow very slowly
flowers: colorful fresh small soft | in the garden; in the park | bloom in spring; smell so good
roses: red soft sharp fresh | in the garden; in the shop | bloom in summer; smell so good
leaves: green thin light dry | in the forest; in the park | fall in autumn; grow in spring
forests: dark green quiet old | in cold lands; near the hill | give cool shade; hide wild animals
gardens: green quiet colorful small | near the house; in the city | bloom in spring; need much water
rivers: long wide cold deep | near the city; in the valley | flow very far; bring fresh water
lakes: deep calm cold wide | in the valley; near the forest | shine at night; freeze in winter
oceans: deep blue wide wild | around the world; near the beach | hide old secrets; move all day
beaches: warm wide white sunny | near the sea; in warm lands | shine in summer; draw big crowds
islands: small warm quiet sunny | in the sea; in warm lands | draw big crowds; hide old secrets
mountains: high cold steep old | far away; around the world | touch the clouds; freeze in winter
hills: green low round calm | near the city; in the valley | slope very gently; shine at dawn
deserts: dry hot wide empty | in warm lands; around the world | freeze at night; need much water
caves: dark cold deep empty | under the hill; near the sea | hide old secrets; stay very cool
clouds: white soft gray light | in the sky; over the hill | bring fresh rain; move very slowly
storms: loud wild dark strong | over the sea; in the sky | bring fresh rain; break tall trees
stars: bright far small old | in the sky; far away | shine at night; guide lost ships
planets: round far big cold | in the sky; far away | circle the sun; move all day
winters: cold dark long white | in cold lands; around the world | bring deep snow; pass very slowly
summers: hot sunny long bright | in warm lands; around the world | bring long days; pass very fast
houses: warm big old solid | in the city; near the park | keep us warm; stand very long
castles: old big proud solid | on the hill; in old lands | stand very long; hide old secrets
bridges: long high solid wide | over the river; in the city | carry heavy cars; stand very long
towers: tall old proud solid | in the city; on the hill | stand very long; touch the clouds
schools: big loud busy bright | in the city; near the park | teach young children; open very early
shops: small busy bright cheap | in the city; near the market | sell fresh food; open very early
markets: busy loud colorful cheap | in the city; near the river | sell fresh food; draw big crowds
libraries: quiet big calm old | in the city; near the school | lend good books; open very early
museums: quiet big old rich | in the city; near the park | show old things; draw big crowds
parks: green quiet sunny wide | in the city; near the school | give cool shade; draw big crowds
farms: busy big green quiet | in the valley; near the forest | sell fresh food; need much water
roads: long wide gray hard | in the city; around the world | carry heavy cars; go very far
cars: fast loud shiny heavy | on the road; in the city | go very far; burn much fuel
trains: long fast loud heavy | in the city; near the market | go very far; carry big crowds
buses: big slow loud heavy | on the road; near the school | carry big crowds; stop very often
bikes: light fast cheap thin | on the road; in the park | keep you healthy; need no fuel
boats: small light slow wet | on the lake; near the beach | move with wind; catch much fish
ships: big heavy slow solid | on the sea; near the city | carry heavy bags; go very far
planes: fast loud big shiny | in the sky; near the city | fly very high; burn much fuel
books: old wise thin heavy | in the school; on the shelf | teach young children; tell good stories
pens: thin light cheap small | in the school; on the table | write very well; stain your hands
lamps: bright warm small hot | on the table; in dark corners | shine at night; use much power
clocks: round loud old solid | on the wall; on the shelf | tell the time; move all day
chairs: hard solid small cheap | in the kitchen; near the table | stand very long; break very easily
drums: loud round big hollow | in the school; on the stage | make much noise; keep the time
guitars: loud smooth light hollow | on the stage; on the wall | sound very good; need young hands
songs: loud happy slow sweet | on the stage; around the world | sound very good; tell good stories
games: fun fast loud happy | in the school; in the park | teach young children; pass the time
toys: small colorful fun cheap | in the shop; on the shelf | break very easily; pass the time
coats: warm long heavy soft | in the shop; on the wall | keep us warm; last very long
shoes: hard shiny black small | in the shop; near the door | protect your feet; last very long
"""


@dataclass(frozen=True, slots=True)
class Topic:
    """What the pocket world knows about one topic."""

    name: str
    """A plural noun in lower case."""
    adjectives: tuple[str, ...]
    places: tuple[str, ...]
    """Where to find them, with the preposition."""
    actions: tuple[str, ...]
    """Verb phrases that follow the plural noun."""


def _parse(line: str) -> Topic:
    name, facts = line.split(": ")
    adjectives, places, actions = facts.split(" | ")
    return Topic(
        name, tuple(adjectives.split()), tuple(places.split("; ")), tuple(actions.split("; "))
    )


TOPICS: dict[str, Topic] = {topic.name: topic for topic in map(_parse, _TABLE.strip().splitlines())}
"""All topics by name, in a fixed order."""
