"""Building blocks of the word-problem generator: numbers and their written-out arithmetic, people, things, and the Scene that a
problem template writes into.

Everything the model must produce (the analysis and the final sentence) is a deterministic function of the question: all random
choices are made while the question is worded, none while it is answered. That keeps greedy decoding free of ties.
"""
import dataclasses
import random
import re

# --- numbers -----------------------------------------------------------------------------------------------------------------------

_ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
         "eighteen nineteen").split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()


def words(n):
    """English words for 0 <= n < 1000: 42 -> forty-two."""
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10] + ("-" + _ONES[n % 10] if n % 10 else "")
    return _ONES[n // 100] + " hundred" + (" and " + words(n % 100) if n % 100 else "")


def money(cents):
    """1250 -> 12.50, 1200 -> 12"""
    return f"{cents // 100}.{cents % 100:02d}" if cents % 100 else str(cents // 100)


# --- arithmetic, written out -------------------------------------------------------------------------------------------------------
# Each function returns the working of one operation; it always ends in "a op b = c". Operations that a small model gets right at a
# glance stay one line, the rest go digit by digit (sums), by partial products, or by long division.

def _add(a, b):
    if min(a, b) < 100 and a + b < 1000 or a % 100 == 0 or b % 100 == 0:
        return f"{a} + {b} = {a + b}"
    parts, carry, x, y = [], 0, a, b
    while x or y:
        digits = [str(v % 10) for v in (x, y) if v] + (["1"] if carry else [])
        s = sum(map(int, digits))
        if len(digits) > 1:
            parts.append(f"{' + '.join(digits)} = {s}")
        carry, x, y = s // 10, x // 10, y // 10
    return f"{', '.join(parts)}, so {a} + {b} = {a + b}"


def _sub(a, b):
    if a < 200 and b < 100 or b % 100 == 0:
        return f"{a} - {b} = {a - b}"
    parts, borrow, x, y = [], 0, a, b
    while y or borrow:
        top, low = x % 10, y % 10
        need = low + borrow
        lend = 10 if top < need else 0
        parts.append(f"{top + lend} - {low}{' - 1' if borrow else ''} = {top + lend - need}")
        borrow, x, y = lend // 10, x // 10, y // 10
    return f"{', '.join(parts)}, so {a} - {b} = {a - b}"


def _parts(n):
    """347 -> [300, 40, 7]"""
    text = str(n)
    return [int(d) * 10 ** (len(text) - 1 - i) for i, d in enumerate(text) if d != "0"]


def _mul(a, b):
    if a <= 12 and b <= 12 or len(_parts(a)) == 1 and len(_parts(b)) == 1 or a in (10, 100, 1000) or b in (10, 100, 1000):
        return f"{a} * {b} = {a * b}"
    many, by = (b, a) if len(_parts(b)) > 1 and (b >= a or len(_parts(a)) == 1) else (a, b)
    if len(_parts(by)) > 1:                          # both have several parts: one partial product a part of the smaller one
        lines, total = [], 0
        for p in _parts(by):
            lines.append(_mul(many, p))
            total, old = total + many * p, total
            if old:
                lines.append(_add(old, many * p))
        return f"{'; '.join(lines)}; so {a} * {b} = {a * b}"
    lines, total = [], 0
    for p in _parts(many):
        lines.append(f"{p} * {by} = {p * by}")
        total, old = total + p * by, total
        if old:
            lines.append(_add(old, p * by))
    return f"{', '.join(lines)}, so {a} * {b} = {a * b}"


def _div(a, b):
    """Exact division or, if there is a remainder, quotient and remainder."""
    q, r = divmod(a, b)
    tail = f"{a} / {b} = {q}" + (f" remainder {r}" if r else "")
    if q <= 12 and b <= 12 or b in (10, 100, 1000) and r == 0:
        return f"{b} * {q} = {a - r}, {a} - {a - r} = {r}, so {tail}" if r else tail
    if b <= 12:                                      # long division
        parts, rest = [], 0
        for d in str(a):
            cur = rest * 10 + int(d)
            if cur >= b or parts:
                parts.append(f"{cur} / {b} = {cur // b} r {cur % b}")
            rest = cur % b
        return f"{', '.join(parts)}, so {tail}"
    parts, rest = [], a                              # chunks: the largest digit times a power of ten that fits
    for p in _parts(q):
        parts.append(f"{b} * {p} = {b * p}, {rest} - {b * p} = {rest - b * p}")
        rest -= b * p
    return f"{', '.join(parts)}, so {tail}"


_OPS = {"+": (_add, lambda a, b: a + b), "-": (_sub, lambda a, b: a - b), "*": (_mul, lambda a, b: a * b),
        "/": (_div, lambda a, b: a // b)}


def calc(a, op, b):
    """(working, result) of one operation."""
    work, value = _OPS[op]
    return work(a, b), value(a, b)


# --- people and things -------------------------------------------------------------------------------------------------------------

SHE = """Maya Anna Emma Olivia Sophia Mia Lily Chloe Zoe Ava Ella Grace Ruby Nora Lucy Alice Clara Eva Julia Laura Sara Sarah Hannah
Leah Rachel Maria Rosa Elena Sofia Isabella Camila Lucia Valentina Priya Aisha Fatima Layla Amina Zara Yuki Sakura Mei Ling Hana Ingrid
Freya Astrid Greta Heidi Elsa Amelia Charlotte Harper Evelyn Abigail Emily Elizabeth Mila Scarlett Victoria Madison Penelope Stella
Hazel Violet Aurora Natalie Naomi Ivy Jane Mary Linda Susan Karen Nancy Betty Lisa Sandra Ashley Kimberly Donna Carol Michelle Amanda
Melissa Deborah Stephanie Rebecca Sharon Cynthia Kathleen Amy Angela Nicole Janet Katie Jenny Tina Wendy Molly Daisy Bella Nina Vera
Ada Ines Marta Paula Carmen Gloria Diana Irene Tara Joy Fiona Megan Paige Kate""".split()
HE = """Tom Ben Sam Jack Liam Noah Oliver James Lucas Henry Leo Max Adam David Daniel Michael Peter Paul Mark John Luke Ethan Mason
Logan Jacob Aiden Owen Ryan Nathan Dylan Caleb Isaac Omar Ali Hassan Ahmed Karim Yusuf Ravi Arjun Rohan Vikram Kenji Hiro Takeshi Wei
Chen Jin Minh Carlos Diego Mateo Luis Juan Pedro Miguel Pablo Marco Luca Matteo Hans Lars Erik Sven Oskar Felix Emil Anton Ivan Dmitri
Boris Viktor George William Robert Richard Joseph Thomas Charles Matthew Anthony Steven Andrew Joshua Kevin Brian Edward Ronald Timothy
Jason Jeffrey Gary Eric Stephen Larry Scott Frank Greg Raymond Patrick Dennis Jerry Tyler Aaron Jose Nathaniel Kyle Walter Harold Carl
Roger Arthur Terry Sean Austin Albert Joe Bob Bill Jim Tim Dan Nick Alex Oscar Hugo Theo Finn Kai Elijah""".split()
ROLES_SHE = "teacher|baker|farmer|girl|grandmother|librarian|chef|coach|gardener|nurse|artist|woman".split("|")
ROLES_HE = "baker|farmer|boy|grandfather|shopkeeper|chef|coach|gardener|carpenter|driver|fisherman|painter|man".split("|")
_SYL = "ka ri mo ta le ni so ba du el an or ze vi lu ga pe shi na ro tu mi da jo ke sa no fa be li".split()

_HEADS = "b br c ch ch cl d dr f fr g gr h j k kr l m n p ph pr qu r s sh sl st t th tr v w wh y z tw sp dw".split()
_VOWELS = "a e i o u y ai ea ee ei ie oo ou au ay a e i o u".split()
_TAILS = "n nn ld l lle r rd rt s ss t th x y ie a o e en on an ton ley son ham bert mond wyn vin us ia ine elle shawn ck m d w".split()

RELATIVES = ["brother", "sister", "friend", "cousin", "mother", "father", "neighbor", "teacher", "best friend", "mom", "dad",
             "grandmother", "grandfather", "aunt", "uncle", "classmate", "son", "daughter"]

THINGS = {
    "food": "apple orange banana pear peach plum mango lemon strawberry/strawberries cherry/cherries cookie cupcake muffin candy/candies "
            "chocolate donut egg potato/potatoes tomato/tomatoes carrot cucumber sandwich/sandwiches biscuit bagel pancake nut grape "
            "lollipop sweet pie cake croissant melon fig walnut onion pepper olive waffle pretzel blueberry/blueberries raspberry/raspberries "
            "hot_dog hamburger burger taco slice/slices candy_bar gumdrop jelly_bean kiwi pineapple coconut watermelon pumpkin radish/radishes "
            "mushroom peanut almond brownie roll bun loaf/loaves scone snack piece_of_candy/pieces_of_candy chocolate_bar gummy_bear/gummy_bears",
    "toy": "marble sticker toy ball balloon doll puzzle block card bead button shell stamp coin badge kite crayon toy_car toy_train "
           "baseball_card comic_book yo-yo rock stone ribbon feather bracelet seashell trading_card action_figure postcard keychain "
           "golf_ball tennis_ball teddy_bear robot game video_game magnet dice/dice whistle drum skateboard bike leaf/leaves pebble gem crystal",
    "school": "pencil pen book notebook eraser marker ruler folder magazine paintbrush/paintbrushes worksheet storybook/storybooks "
              "sheet_of_paper/sheets_of_paper envelope paper_clip photo painting map flashcard glue_stick computer laptop backpack "
              "picture drawing poster letter card clip binder calculator desk dictionary/dictionaries pamphlet newspaper",
    "house": "flower rose tulip candle plate cup bottle spoon lamp chair towel sock shirt hat basket key battery/batteries pillow mug "
             "glass/glasses vase blanket scarf/scarves bulb plant seed jar nail screw brick tile bowl box/boxes coupon ticket "
             "fork knife/knives dress/dresses ring necklace earring watch/watches phone bucket shovel rug bag tool hammer rope log board "
             "pot pan DVD CD tray T-shirt sweater jacket glove mitten shoe boot curtain clock mirror soap brush/brushes comb coat belt tie",
    "animal": "dog cat sheep/sheep cow horse pig chicken duck goat rabbit fish/fish bird mouse/mice frog turtle monkey lion tiger elephant "
              "puppy/puppies kitten goldfish/goldfish hamster butterfly/butterflies bee ant spider pigeon parrot goose/geese snail crab lizard bug",
}
CONTAINERS = "bag box/boxes basket pack packet jar crate tray carton bucket case container drawer shelf/shelves bin tin sack package".split()
COLORS = "red blue green yellow white black purple orange pink brown silver gold".split()
PLACES = "store|shop|market|supermarket|school|library|park|bakery|farm|beach|fair|museum|garden|kitchen|playground|mall|zoo|party".split("|")


def _noun(entry):
    entry = entry.replace("_", " ")
    if "/" in entry:
        one, many = entry.split("/")
        return one, many
    if entry.endswith("x") or entry.endswith("ch") or entry.endswith("sh"):
        return entry, entry + "es"
    return entry, entry + "s"


_THINGS = {kind: [_noun(e) for e in text.split()] for kind, text in THINGS.items()}
_ALL_THINGS = [t for kind in _THINGS.values() for t in kind]
_CONTAINERS = [_noun(e) for e in CONTAINERS]


class Thing:
    """A countable noun; t(n) is 'apple' for one, 'apples' otherwise."""
    def __init__(self, one, many):
        self.one, self.many = one, many

    def __call__(self, n):
        return self.one if n == 1 else self.many


_VERBS = {}
for _line in """donate donates donated|hand hands handed|mail mails mailed|send sends sent|peel peels peeled|feel feels felt|give gives gave|buy buys bought|find finds found|get gets got|pick picks picked|eat eats ate|lose loses lost|sell sells sold
use uses used|have has had|make makes made|bake bakes baked|collect collects collected|receive receives received|spend spends spent
save saves saved|earn earns earned|need needs needed|want wants wanted|start starts started|put puts put|share shares shared|read reads read
walk walks walked|run runs ran|drive drives drove|ride rides rode|travel travels traveled|pay pays paid|throw throws threw|break breaks broke
donate donates donated|bring brings brought|take takes took|add adds added|work works worked|own owns owned|plant plants planted|cut cuts cut
do does did|go goes went|is is was|drop drops dropped|keep keeps kept|borrow borrows borrowed|return returns returned|trade trades traded
divide divides divided|split splits split|pack packs packed|place places placed|arrange arranges arranged|hand hands handed|order orders ordered
solve solves solved|practice practices practiced|swim swims swam|draw draws drew|paint paints painted|write writes wrote|raise raises raised
fill fills filled|score scores scored|win wins won|gather gathers gathered|purchase purchases purchased|leave leaves left|visit visits visited
deliver delivers delivered|catch catches caught|grow grows grew|build builds built|drink drinks drank|jog jogs jogged|cycle cycles cycled
type types typed|print prints printed|pour pours poured|double doubles doubled|hide hides hid|count counts counted|see sees saw
feed feeds fed|invite invites invited|knit knits knitted|prepare prepares prepared|cook cooks cooked|serve serves served|wash washes washed""".split("\n"):
    for _v in _line.split("|"):
        _base, _third, _past = _v.split()
        _VERBS[_base] = (_base, _third, _past)


class Person:
    """Who a problem is about. `name` opens a sentence after cap(); `lab` is how the answer names them."""
    def __init__(self, scene, name, he, his, him, third=True, lab=None):
        self.scene, self.name, self.he, self.his, self.him, self.third = scene, name, he, his, him, third
        self.lab = lab or name
        self.has = "has" if third else "have"
        self.mark = chr(0xE000 + len(scene.people))
        scene.people.append(self)

    def v(self, verb):
        """The verb in the scene's tense, agreeing with this person."""
        base, third, past = _VERBS[verb]
        return past if self.scene.past else third if self.third else base

    def now(self, verb):
        """Present tense whatever the scene's tense."""
        return _VERBS[verb][1 if self.third else 0]

    @property
    def s(self):
        """Subject: a mark that Scene.done turns into the name where it occurs first, later mostly into the pronoun. (Templates build
        several wordings and keep one, so which mention is the first is known only at the end.)"""
        return self.mark

    @property
    def does(self):
        return "did" if self.scene.past else "does" if self.third else "do"


def cap(text):
    return text[:1].upper() + text[1:]


# --- a problem ---------------------------------------------------------------------------------------------------------------------

@dataclasses.dataclass
class Problem:
    template: str            # id of the template (and of its composition, where it has one)
    names: tuple             # who appears; (template, names) decides the held-out split
    question: str
    steps: list              # (label, working), in order
    answer: str              # as the final sentence writes it, digits only: 33, 12.50, 4:05
    final: str
    check: str = ""          # inverse of the last operation, shown at high effort
    goal: str = ""


class Scene:
    """What a template writes into: random choices for the wording, the steps, the answer."""
    def __init__(self, rng):
        self.rng = rng
        self.past = rng.random() < 0.45
        self.spell = rng.choice((0.0, 0.0, 0.1, 0.8))   # how often small numbers are spelled out
        self.euro = rng.choice(("$", "$", "$", "$", " dollars", " dollars", "€", " euros", "£"))
        self.names, self.people, self.steps, self.last = [], [], [], None
        self._used = set()

    # wording
    def p(self, *options):
        return options[int(self.rng.random() * len(options))]

    def n(self, lo, hi):
        return lo + int(self.rng.random() * (hi - lo + 1))

    def maybe(self, chance=0.5):
        return self.rng.random() < chance

    def size(self, *ranges):
        """A number from one of several (lo, hi) ranges, so that small and large ones both occur."""
        return self.n(*self.p(*ranges))

    def num(self, n):
        if n <= (20 if self.rng.random() < 0.8 else 99) and self.rng.random() < self.spell:
            return words(n)
        return f"{n:,}" if n >= 1000 and self.rng.random() < 0.2 else str(n)

    def usd(self, n):
        """A whole amount of money in the scene's currency."""
        return f"{self.euro}{n}" if len(self.euro) == 1 else f"{n}{self.euro if n != 1 else self.euro[:-1]}"

    def cash(self, cents):
        return f"{self.euro if len(self.euro) == 1 else '$'}{cents // 100}.{cents % 100:02d}"

    def ans_money(self, text):
        return f"{self.euro}{text}" if len(self.euro) == 1 else f"{text}{self.euro if text != '1' else self.euro[:-1]}"

    def _name(self):
        r = self.rng.random()
        if r < 0.18:                                 # a made-up name, so that unknown names are copied, not guessed
            if self.maybe():
                name = cap("".join(self.rng.choice(_SYL) for _ in range(self.n(2, 3))) + self.p("", "", "n", "s", "r"))
            else:
                name = cap("".join(self.rng.choice(_HEADS) + self.rng.choice(_VOWELS) for _ in range(self.n(1, 2))) + self.rng.choice(_TAILS))
            girl = self.maybe()
        else:
            girl = self.maybe()
            name = self.rng.choice(SHE if girl else HE)
        return name, girl

    def person(self, roles=True, i=True):
        """Somebody new: a name, sometimes "I" or a role such as "the baker"."""
        r = self.rng.random()
        if i and r < 0.14 and not self.names:
            self.names.append("I")
            return Person(self, "I", "I", "my", "me", third=False, lab="you")
        if roles and r > 0.93:
            girl = self.maybe()
            role = self.rng.choice(ROLES_SHE if girl else ROLES_HE)
            name = self.p("the ", "the ", "a ") + role if not self.names else "the " + role
            if name.startswith("a ") and role[0] in "aeiou":
                name = "an " + role
            lab = "the " + role
        else:
            name, girl = self._name()
            lab = None
        if name in self._used or lab in self._used:
            return self.person(roles, i)
        self._used.update((name, lab or name))
        self.names.append(lab or name)
        he = ("she", "her", "her") if girl else ("he", "his", "him")
        return Person(self, name, *he, lab=lab)

    def other(self, a):
        """Somebody on the side: 'her brother' or a name."""
        if self.maybe(0.6):
            return f"{a.his} {self.rng.choice(RELATIVES)}"
        return self.person(roles=False, i=False).name

    def thing(self, *kinds):
        if not kinds and self.rng.random() < 0.04:   # a made-up noun, likewise to be copied
            one = "".join(self.rng.choice(_SYL) for _ in range(self.n(1, 3))) + self.p("b", "g", "m", "rd", "t", "n", "p", "ck")
            return Thing(one, one + "s")
        pool = _ALL_THINGS if not kinds else _THINGS[kinds[int(self.rng.random() * len(kinds))]]
        for _ in range(20):
            t = pool[int(self.rng.random() * len(pool))]
            if t[1] not in self._used:
                break
        self._used.add(t[1])
        if self.rng.random() < 0.08:
            color = self.rng.choice(COLORS)
            return Thing(f"{color} {t[0]}", f"{color} {t[1]}")
        return Thing(*t)

    def container(self):
        return Thing(*self.rng.choice(_CONTAINERS))

    # answering
    def do(self, label, a, op, b):
        """Add a step; returns its result."""
        working, c = calc(a, op, b)
        self.steps.append((label, working))
        self.last = (a, op, b, c)
        return c

    def note(self, label, text):
        self.steps.append((label, text))

    def _resolve(self, text):
        for who in self.people:
            first = True
            while who.mark in text:
                at = text.index(who.mark)
                word = who.name if first or self.rng.random() > 0.75 else who.he
                if at == 0 or re.search(r"[.?!:]\s$", text[:at]):
                    word = cap(word)
                text = text[:at] + word + text[at + 1:]
                first = False
            if who.name != who.lab and who.third:    # "a baker" first, "the baker" after that
                head, found, tail = text.partition(who.name[1:])
                text = head + found + re.sub(r"\ban?" + who.name[who.name.index(" "):], who.lab, re.sub(r"\bAn?" + who.name[who.name.index(" "):], cap(who.lab), tail))
        return re.sub(r"\b([Aa]) (?=[aeio])(?!one)", r"\1n ", text)

    def done(self, template, question, answer, final, goal=None):
        check = ""
        if self.last and not final.count(":"):
            a, op, b, c = self.last
            back = {"+": (c, "-", b, a), "-": (c, "+", b, a), "*": None, "/": (c, "*", b, a)}[op]
            if back and back[0] * 1 <= 999 and not (op == "/" and a % b):
                check = f"{back[0]} {back[1]} {back[2]} = {back[3]}"
        question = self._resolve(" ".join(question) if isinstance(question, (list, tuple)) else question)
        told = final + " ".join(label for label, _ in self.steps)
        for who in self.people:                      # nobody may turn up in the answer who is not in the question
            if who.third and who.lab in told and who.lab.split()[-1] not in question:
                return None
            if not who.third and not re.search(r"\b(I|my|me)\b", question):
                return None
        return Problem(template, tuple(self.names[:2]), question, self.steps, str(answer), cap(final), check, goal or "")


def rng_for(*key):
    return random.Random("|".join(map(str, key)))
