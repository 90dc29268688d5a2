"""Made-up class names with the lengths of real ones: one to four words, a few sharing their first."""

from __future__ import annotations

import random

FIRST = """african alpine american ancient arctic asian atlantic baby banded barn bearded black blue bronze brown canyon
carved ceramic climbing common copper cotton crested crimson curly desert double eastern electric emerald european
evening fishing flat floating folding forest freshwater garden giant glass golden grand green grey hairy hand harbour
highland horned indian indoor ivory jungle kitchen lake leather lesser little long lowland marble marsh metal miniature
mountain northern ocean olive outdoor pacific painted paper persian pine plastic polar portable prairie purple racing
railway red ringed river rocking rough royal ruby rubber sand scarlet sea short siberian silver slender smooth snow
southern spotted square standing steel stone striped tabby tall tiger tropical turkish upright velvet walking water
western white wild winter wooden woodland yellow"""
SECOND = """arched crowned eared faced feathered footed headed legged necked nosed sided tailed throated winged"""
LAST = """accordion acorn albatross anchor antelope apron armadillo backpack badger bagel balcony bandage barometer
barrel basin basket basketball bassoon bathtub beacon beagle beaver bee beetle bench bicycle binoculars bison boathouse
bonnet bookcase bottle bowl bridge broccoli broom bucket buckle bullfrog bus butterfly cabbage cabin cactus cannon canoe
cardigan carousel castle catamaran cauldron cello chain chair chameleon cheetah chest chimney church clock cloak cobra
coffee collie conch corn cottage coyote crab cradle crane crocodile crow cucumber cup curtain daisy dam dial dish dock
dome dove dragonfly drum duck dumbbell eagle earring eel elephant envelope espresso falcon fan feather ferret fiddle
finch flamingo flute fountain fox frog fungus gazelle gibbon goblet goldfinch goose gorilla grasshopper guitar hammer
hammock hamster hare harp harvester hat hawk hedgehog helmet heron hippopotamus hornbill horse hourglass hound hyena
iguana jacket jaguar jay jellyfish jersey kettle kimono kite knot koala ladle lampshade lantern lemon leopard library
lighthouse limousine lion lizard llama lobster locket lorikeet lynx macaw mailbox mantis marimba mask mitten monastery
monkey mosque mouse mug mushroom nail necklace newt oboe orange organ ostrich otter owl ox oyster paddle palace panda
parachute parrot peacock pelican pencil penguin perfume piano pier pillow pineapple pipe pirate pitcher pizza plate
plough pomegranate porcupine pretzel projector puffin pumpkin puzzle python quail quilt rabbit raccoon radiator
radio recliner reel refrigerator retriever robin rocket rooster rugby ruler saddle salamander salmon sandal saxophone
scabbard scale schooner scorpion screen screw seal seashore setter shark sheep shield ship shoe skunk sled sloth
snail snake snorkel sock sofa spaniel sparrow spatula spider sponge spoon squirrel stage starfish steamer stingray stork
stove strawberry submarine suit sundial sunglasses swan sweater swing syringe table tank tapir tarantula teapot
terrier theatre thimble thrush toaster torch tortoise toucan tower tractor tram tray trombone trout truck turtle
typewriter umbrella unicycle vase vault viaduct violin vulture waffle wallaby wallet wardrobe warthog weasel whale
whistle wig windmill wolf wombat woodpecker worm yacht yurt zebra zucchini"""
# Of names of one to four words; ImageNet's 1,000 have .47, .44, .07 and .02. Longer names cost our side more.
SHARES = (0.20, 0.45, 0.27, 0.08)


def class_names(count: int) -> list[str]:
    """The first `count` of a list of distinct names that is always the same.

    Up to about 1,000 they are as long, and share as few first words, as ImageNet's.
    """
    first, second, last = FIRST.split(), SECOND.split(), LAST.split()
    draw, names, deck = random.Random(0), dict[str, None](), list[str]()
    while len(names) < count:
        words = draw.choices((1, 2, 3, 4), SHARES)[0]
        if not deck:  # every word comes first once before any does again
            deck = draw.sample(first + last, len(first + last))
        parts = [draw.choice(first), draw.choice(second), draw.choice(last)][4 - words :] if words > 1 else []
        names[" ".join([deck.pop(), *parts])] = None
    return list(names)
