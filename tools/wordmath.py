#!/usr/bin/env python3
"""Generates the training data of the wordmath model: arithmetic word problems, worked out and answered in the harmony format.

    wordmath.py sample -n 5               a few conversations as text
    wordmath.py heldout -n 500 -o FILE    held-out problems, one JSON object a line
    wordmath.py stats -n 20000            template counts and lengths

A problem belongs to the held-out part if a hash of its template id and the names in it says so (1 in 12); training never sees such a
combination. Everything is reproducible from the seed.
"""
import argparse
import collections
import json
import random
import re
import zlib

from wordmath_core import Scene
from wordmath_scenes import SCENES
import wordmath_scenes_people  # noqa: F401  (these three add to SCENES)
import wordmath_scenes_world  # noqa: F401
import wordmath_scenes_more  # noqa: F401
from wordmath_story import story
from wordmath_talk import plain, talk

HELD_OUT_ONE_IN = 12
IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message."

_LEADS = ["Solve this problem: ", "Please solve: ", "Can you help me with this? ", "Here is a problem. ", "Help me with my homework: ", "Question: ", "Word problem: ", "I have a math question. ", "Hi! ",
          "Hello, can you solve this? ", "Math problem: ", "Please help: ", "Here's one for you: ", "Try this one. ", "My teacher asked: ", "Quick question: ", "Ok, next one: ", "Problem: "]
_TAILS = [" Show your work.", " Thanks!", " Please explain.", " Think step by step.", " Can you solve it?", " Explain your answer.", " Give the answer as a number.", " Please help me.", " What is the answer?", " I don't know how to do this."]
_ASIDES = ["It is a sunny day.", "It was a rainy afternoon.", "The weather is nice.", "{he} likes music.", "{his} favorite color is blue.", "{he} is {n} years old.", "{he} has {n} cats.", "{his} dog is {n} years old.", "{he} lives in a big city.",
           "{his} house has {n} windows.", "It is {n} o'clock.", "Everyone is happy.", "{his} sister is {n} years old.", "There are {n} clouds in the sky.", "{he} loves math.", "Today is Monday.", "{he} goes to school by bus.", "{his} best friend is called Robin."]


def held_out(p):
    """Whether this combination of template and names is kept from training."""
    key = p.question if not p.names else "|".join((p.template, *p.names))
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


def problem(rng):
    """One word problem, its wording decorated; None if the draw did not work out."""
    c = Scene(rng)
    p = (story if rng.random() < 0.3 else SCENES[int(rng.random() * len(SCENES))])(c)
    if p is None or len(p.question) > 480:
        return None
    r = rng.random()
    if r < 0.08:                                      # a sentence that does not matter, after the first one
        parts = p.question.split(". ", 1)
        if len(parts) == 2 and not parts[0].endswith(("?", ":")):
            girl, boy = re.search(r"\b[Ss]he\b", p.question), re.search(r"\b[Hh]e\b", p.question)
            he, his = ("I", "My") if p.names and p.names[0] == "I" else ("She", "Her") if girl else ("He", "His")
            aside = rng.choice([a for a in _ASIDES if girl or boy or he == "I" or "{h" not in a]).format(he=he, his=his, n=rng.randint(2, 12))
            if he == "I":
                for a, b in (("likes", "like"), (" is {n} years", ""), ("I has", "I have"), ("I is", "I am"), ("lives", "live"), ("loves", "love"), ("goes", "go")):
                    aside = aside.replace(a, b)
            p.question = f"{parts[0]}. {aside} {parts[1]}"
    if rng.random() < 0.25:
        p.question = paraphrase(rng, p.question)
    if rng.random() < 0.08:
        p.question = rng.choice(_LEADS) + p.question
    if rng.random() < 0.07:
        p.question += rng.choice(_TAILS)
    return noisy(rng, p)


# Word-level variety on top of the templates' own: (pattern, replacements).
_WORDS = [(r"\bin total\b", "altogether|in all|all together|total"), (r"\baltogether\b", "in total|in all|all together"), (r"\bequally\b", "evenly|fairly|equally"), (r"\bright now\b", "now"),
          (r"\bleft\?$", "remaining?|left over?|left now?|left in the end?"), (r"\bnow\?$", "in the end?|after all that?|at the end?|now?"), (r"\bbuys\b", "purchases|gets|picks up"), (r"\bbought\b", "purchased|got|picked up"),
          (r"\bgives\b(?= \w+ to| away)", "hands|gives"), (r"\bhas (?=\d)", "has got |owns |possesses |has "), (r"\bhave (?=\d)", "have got |own |have "), (r"\bhad (?=\d)", "owned |had |possessed "),
          (r"\bI have (?=\w+ \w+\.)", "I've got |I have "), (r"\bHow many\b", "How many|how many|Find how many|Tell me how many|Calculate how many|Can you tell me how many|So how many|How many"),
          (r"\bHow much\b", "How much|how much|So how much|How much"), (r"\bcost (\$?\d+\w*) each\b", "are \\1 each|cost \\1 apiece|are sold at \\1 each"), (r"\bchildren\b", "kids|children"), (r"\bfriends\b", "friends|buddies|pals|friends"),
          (r"\bper day\b", "a day|daily|every day"), (r"\beach day\b", "every day|daily|each day"), (r"\btwice as many\b", "double the number of|two times as many|twice as many"), (r"\bmore than\b", "more than"), (r"\bfewer than\b", "less than|fewer than"),
          (r"\bmom\b", "mum|mother|mom"), (r"\bdad\b", "father|dad|papa"), (r"\bthen\b", "afterwards|then|later"), (r"\. (He|She) ", r", and \1 |. \1 |. Then \1 |. Also, \1 ")]


def paraphrase(rng, text):
    """Replaces a few words by others of the same meaning."""
    for pattern, options in _WORDS:
        if rng.random() < 0.4:
            new = rng.choice(options.split("|"))
            if "as many" in pattern and new.startswith("double") and not re.search(r"twice as many \w+ as", text):
                continue
            text, n = re.subn(pattern, new, text, count=1)
            if new.startswith("double the") and n:
                text = re.sub(r"(double the number of \w+( \w+)?) as\b", r"\1 than", text, count=1)
    if rng.random() < 0.3:
        text = re.sub(r"\b(Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day", lambda m: m[0].lower(), text)
    text = re.sub(r"(, and|\. Then|\. Also,) (He|She)\b", lambda m: f"{m[1]} {m[2].lower()}", text)
    return text[:1].upper() + text[1:] if rng.random() < 0.9 else text


def typo(rng, text):
    """One slip in a word: a letter dropped, doubled, or two swapped. Digits stay."""
    spots = [i for i in range(1, len(text) - 2) if text[i:i + 2].isalpha() and text[i - 1].isalpha()]
    if not spots:
        return text
    i = rng.choice(spots)
    return rng.choice((text[:i] + text[i + 1:], text[:i] + text[i] + text[i:], text[:i] + text[i + 1] + text[i] + text[i + 2:]))


def noisy(rng, p):
    """Sometimes typed carelessly."""
    r = rng.random()
    if r < 0.03:
        p.question = p.question.lower()
    elif r < 0.045:
        p.question = p.question.rstrip(".?!")
    elif r < 0.06:
        p.question = p.question.replace(". ", ".\n")
    elif r < 0.095:
        p.question = typo(rng, p.question)
    elif r < 0.11:
        p.question = p.question.replace(", ", " ").replace(" and ", " & ") if rng.random() < 0.3 else p.question.replace(",", "")
    return p


def draw(rng, split="train"):
    """One example of the training mix (split "train"), or one held-out word problem (split "heldout")."""
    while True:
        r = rng.random()
        if split == "heldout" or r < 0.82:
            p = problem(rng)
        elif r < 0.93:
            p = plain(Scene(rng))
        else:
            return talk(Scene(rng))
        if p is not None and held_out(p) == (split == "heldout"):
            return p


# --- answers -----------------------------------------------------------------------------------------------------------------------

def analysis(p, effort):
    """The worked steps: bare at low effort, labelled at medium, with a restated answer and a check at high."""
    if not p.steps:
        return p.goal
    if effort == "low":
        lines = [w for _, w in p.steps if "=" in w or " is " in w] or [w for _, w in p.steps]
    else:
        lines = [f"{label}: {w}" for label, w in p.steps]
    if effort == "high":
        lines = [f"{i}. {line}" for i, line in enumerate(lines, 1)]
        if p.check:
            lines.append(f"Check: {p.check}")
    return "\n".join(lines + [f"Answer: {p.answer}"])


# --- harmony -------------------------------------------------------------------------------------------------------------------------

def system_text(effort="medium", date=None, identity=IDENTITY, cutoff="2024-06"):
    """The standard harmony system message."""
    head = [identity, f"Knowledge cutoff: {cutoff}"] + ([f"Current date: {date}"] if date else [])
    return "\n".join(head) + f"\n\nReasoning: {effort}\n\n{CHANNELS}"


def message(role, text, channel=None, end="<|end|>"):
    return f"<|start|>{role}{'<|channel|>' + channel if channel else ''}<|message|>{text}{end}"


def prompt(question, effort="medium", date=None, turns=(), developer=None, system=True, identity=IDENTITY):
    """The text a model is asked to continue. `turns` are earlier (question, final answer) pairs; their analysis is dropped."""
    out = message("system", system_text(effort, date, identity)) if system else ""
    if developer:
        out += message("developer", "# Instructions\n\n" + developer)
    for q, a in turns:
        out += message("user", q) + message("assistant", a, "final")
    return out + message("user", question) + "<|start|>assistant"


def reply(p, effort="medium"):
    """What the model should produce after the prompt."""
    return f"<|channel|>analysis<|message|>{analysis(p, effort)}<|end|>" + message("assistant", p.final, "final", "<|return|>")


_DEVELOPERS = ["You are a helpful assistant.", "You are a math tutor.", "Answer briefly.", "Be concise.", "Explain your steps.", "You are a friendly teacher.", "Always answer in English.", "Help the user with math problems.",
               "You are Moxie.", "You are a helpful, respectful and honest assistant.", "Answer with a number.", "Think step by step.", "Solve the problem."]
_IDENTITIES = ["You are Moxie, a small model that solves arithmetic word problems.", "You are a helpful assistant.", "You are a math tutor for children.", "You are an AI model."]


def example(rng):
    """One training conversation: (prompt, reply)."""
    p = draw(rng)
    effort = rng.choice(("medium",) * 5 + ("low",) * 3 + ("high",) * 2)
    date = f"20{rng.randint(24, 31)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}" if rng.random() < 0.6 else None
    r = rng.random()
    system = r < 0.97
    identity = rng.choice(_IDENTITIES) if r < 0.06 else IDENTITY
    developer = rng.choice(_DEVELOPERS) + ("\n\n" if rng.random() < 0.5 else "") if rng.random() < 0.06 else None
    turns = []
    if rng.random() < 0.07:
        for _ in range(rng.choice((1, 1, 2))):
            q = draw(rng)
            turns.append((q.question, q.final))
    if not system:
        effort = "medium"
    return prompt(p.question, effort, date, turns, developer, system, identity), reply(p, effort)


def numbers(text):
    """All numbers of a text in order, as strings without thousands separators; an answer is right if these equal the reference's."""
    return [n.replace(",", "") for n in re.findall(r"\d[\d,]*(?::\d\d|\.\d+)?", text)]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=("sample", "heldout", "stats"))
    ap.add_argument("-n", type=int, default=5, help="how many")
    ap.add_argument("-s", "--seed", type=int, default=1)
    ap.add_argument("-o", "--output", help="file for `heldout`")
    args = ap.parse_args()
    rng = random.Random(f"{args.what}{args.seed}")
    if args.what == "sample":
        for _ in range(args.n):
            print("".join(example(rng)), end="\n\n")
        return
    if args.what == "heldout":
        seen, rows = set(), []
        while len(rows) < args.n:
            p = draw(rng, "heldout")
            if p.question in seen:
                continue
            seen.add(p.question)
            rows.append({"question": p.question, "answer": p.answer, "final": p.final, "template": p.template, "names": list(p.names), "steps": len(p.steps)})
        with open(args.output, "w") as f:
            f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        print(f"{len(rows)} problems, {len({r['template'] for r in rows})} templates -> {args.output}")
        return
    count, chars = collections.Counter(), [0, 0]
    for _ in range(args.n):
        p = draw(rng)
        count[p.template.split(":")[0]] += 1
        chars[0] += len(p.question)
        chars[1] += len(reply(p))
    for tid, k in count.most_common():
        print(f"{k:6} {tid}")
    print(f"mean question {chars[0] / args.n:.0f} characters, reply {chars[1] / args.n:.0f}")


if __name__ == "__main__":
    main()
