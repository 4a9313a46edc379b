#!/usr/bin/env python3
"""Accuracy of models/wordmath with transformers: greedy answers on the held-out problems, and golden token ids for the engine's tests.

    check_wordmath.py                       accuracy in bfloat16 and float32
    check_wordmath.py --golden FILE -n 64   also writes {"prompt_ids", "output_ids", "margin"} of the first n in float32
    check_wordmath.py --ask "..."           one question, printed in full

An answer is right if the numbers in its final channel are exactly those of the reference sentence.
"""
import argparse
import collections
import json
import os
import re
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))
import wordmath  # noqa: E402


def load(path, dtype):
    from transformers import Mxfp4Config
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, quantization_config=Mxfp4Config(dequantize=True), attn_implementation="eager")
    return model.to(dtype).eval().to("cuda" if torch.cuda.is_available() else "cpu")


def generate(model, tok, prompts, batch, scores=False):
    """Greedy token ids after each prompt, stop token included; with scores also the smallest gap between first and second logit."""
    out, stop = [], {2036, 2033, 2046}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for at in range(0, len(order), batch):
        part = order[at:at + batch]
        enc = tok([prompts[i] for i in part], return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        with torch.no_grad():
            g = model.generate(**enc, max_new_tokens=512, do_sample=False, output_logits=scores, return_dict_in_generate=True)
        new = g.sequences[:, enc.input_ids.shape[1]:].tolist()
        gaps = torch.stack([(t := l.float().topk(2, -1).values)[:, 0] - t[:, 1] for l in g.logits], 1).tolist() if scores else None
        for j, i in enumerate(part):
            end = next((k + 1 for k, t in enumerate(new[j]) if t in stop), len(new[j]))
            out.append((i, new[j][:end], min(gaps[j][:end]) if scores else None))
    return [(ids, gap) for _, ids, gap in sorted(out)]


def final_of(text):
    m = re.search(r"<\|channel\|>final<\|message\|>(.*?)<\|return\|>", text, re.S)
    return m.group(1) if m else ""


def evaluate(model, tok, rows, effort, batch, scores=False):
    prompts = [wordmath.prompt(r["question"], effort) for r in rows]
    got = generate(model, tok, prompts, batch, scores)
    texts = [tok.decode(ids) for ids, _ in got]
    if "final" in rows[0]:
        right = [bool(final_of(t)) and wordmath.numbers(final_of(t)) == wordmath.numbers(r["final"]) for t, r in zip(texts, rows)]
    else:                                            # hand-written problems give the number alone
        right = [r["answer"] in wordmath.numbers(final_of(t)) for t, r in zip(texts, rows)]
    return prompts, got, texts, right


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default=os.path.join(ROOT, "models/wordmath"))
    ap.add_argument("--heldout", default=os.path.join(ROOT, "tests/vectors/wordmath_heldout.jsonl"))
    ap.add_argument("--golden", help="file for golden greedy answers")
    ap.add_argument("-n", type=int, default=64, help="how many golden answers")
    ap.add_argument("--limit", type=int, default=0, help="only the first so many problems")
    ap.add_argument("--batch", type=int, default=100)
    ap.add_argument("--dtypes", default="bfloat16,float32")
    ap.add_argument("--effort", default="medium", help="comma-separated reasoning efforts")
    ap.add_argument("--ask", action="append", help="answer this question instead")
    ap.add_argument("--failures", help="file for the wrong answers")
    args = ap.parse_args()
    tok = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    if args.ask:
        model = load(args.model, torch.float32)
        prompts = [wordmath.prompt(q, args.effort) for q in args.ask]
        for q, (ids, gap) in zip(args.ask, generate(model, tok, prompts, args.batch, True)):
            print(f"> {q}\n{tok.decode(ids)}\n[{len(ids)} tokens, smallest margin {gap:.3f}]\n")
        return
    with open(args.heldout) as f:
        rows = [json.loads(line) for line in f][:args.limit or None]
    for dtype in args.dtypes.split(","):
        model = load(args.model, getattr(torch, dtype))
        for effort in args.effort.split(","):
            begin = time.time()
            prompts, got, texts, right = evaluate(model, tok, rows, effort, args.batch, scores=dtype == "float32")
            same = sum(final_of(t) == r.get("final") for t, r in zip(texts, rows))
            print(f"{dtype} {effort}: {sum(right)} of {len(rows)} right ({100 * sum(right) / len(rows):.1f} %), {same} word for word, "
                  f"{sum(len(g) for g, _ in got) / len(got):.0f} tokens each, {time.time() - begin:.0f} s", flush=True)
            if effort == "medium" and "steps" in rows[0]:
                by_steps = collections.Counter(), collections.Counter()
                for r, ok in zip(rows, right):
                    by_steps[0][r["steps"]] += 1
                    by_steps[1][r["steps"]] += ok
                print("  by steps: " + "  ".join(f"{k}: {by_steps[1][k]}/{by_steps[0][k]}" for k in sorted(by_steps[0])), flush=True)
            if args.failures:
                with open(args.failures, "a") as f:
                    for r, t, ok in zip(rows, texts, right):
                        if not ok:
                            f.write(json.dumps({"dtype": dtype, "effort": effort, "question": r["question"], "want": r.get("final", r.get("answer")), "template": r.get("template"), "got": t}, ensure_ascii=False) + "\n")
            if dtype == "float32":
                gaps = sorted(g for _, g in got)
                print(f"  smallest logit margin of an answer: min {gaps[0]:.4f}, 1 % {gaps[len(gaps) // 100]:.4f}, median {gaps[len(gaps) // 2]:.3f}")
            if args.golden and dtype == "float32" and effort == "medium":
                with open(args.golden, "w") as f:
                    for p, (ids, gap) in list(zip(prompts, got))[:args.n]:
                        row = {"prompt_ids": tok(p, add_special_tokens=False).input_ids, "output_ids": ids, "margin": round(gap, 5)}
                        f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
