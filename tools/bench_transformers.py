#!/usr/bin/env python3
"""bench_transformers.py - what transformers itself gives for GPT-OSS on this GPU, for the table beside ours.

Random bf16 weights at the true shape (its MXFP4 path wants kernels from the network, so the experts are expanded to bf16: about
40 GB for 20B).  Per batch size: a prefill of input_len tokens, then output_len greedy steps over a static cache, both by wall
clock around a device synchronise; the median step is printed.  One JSON line a measurement.

    tools/bench_transformers.py --model 20b --batch 1 8 64 --input-len 1024 --output-len 32 [--compile]

Needs torch with CUDA and transformers.  Nothing of Moxie is imported.
"""
import argparse
import json
import statistics
import time

import torch
import transformers
from transformers import GptOssConfig, GptOssForCausalLM

SHAPES = {
    "20b": dict(num_hidden_layers=24, num_local_experts=32),
    "120b": dict(num_hidden_layers=36, num_local_experts=128),
    "tiny": dict(num_hidden_layers=2, num_local_experts=4, hidden_size=64, intermediate_size=64, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=32, vocab_size=512),
}


def build(name, device, experts):
    config = GptOssConfig(**SHAPES[name])
    if experts:
        config._experts_implementation = experts
    with torch.device(device), torch.no_grad():
        old = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        model = GptOssForCausalLM._from_config(config, dtype=torch.bfloat16)
        torch.set_default_dtype(old)
    return model.eval()


@torch.no_grad()
def measure(model, n_seq, n_in, n_out, device, compiled):
    vocab = model.config.vocab_size
    ids = torch.randint(0, vocab, (n_seq, n_in), device=device)
    cache = transformers.StaticCache(config=model.config, max_cache_len=n_in + n_out + 1)
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None

    def call(ids, pos):
        return model(ids, past_key_values=cache, cache_position=pos, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)

    step = torch.compile(call, mode="reduce-overhead") if compiled else call
    sync()
    t = time.perf_counter()
    nxt = call(ids, torch.arange(n_in, device=device))
    sync()
    prefill = time.perf_counter() - t
    times = []
    for i in range(n_out):
        pos = torch.tensor([n_in + i], device=device)
        t = time.perf_counter()
        nxt = step(nxt.clone(), pos).clone()
        sync()
        times.append(time.perf_counter() - t)
    return prefill, statistics.median(times[len(times) // 2:])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--model", choices=SHAPES, default="20b")
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    p.add_argument("--input-len", type=int, default=1024)
    p.add_argument("--output-len", type=int, default=32)
    p.add_argument("--experts", help="transformers' experts implementation, e.g. grouped_mm, batched_mm, eager")
    p.add_argument("--compile", action="store_true")
    a = p.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(a.model, device, a.experts)
    for n_seq in a.batch:
        try:
            measure(model, n_seq, a.input_len, 4, device, a.compile)
            prefill, step = measure(model, n_seq, a.input_len, a.output_len, device, a.compile)
        except torch.OutOfMemoryError:
            print(json.dumps(dict(model=a.model, batch=n_seq, error="out of memory")), flush=True)
            continue
        print(json.dumps(dict(model=a.model, batch=n_seq, input_len=a.input_len, experts=a.experts or "default", compiled=a.compile,
                              transformers=transformers.__version__, torch=torch.__version__, prefill_ms=round(1e3 * prefill, 3),
                              step_ms=round(1e3 * step, 3), tok_s=round(n_seq / step, 1))), flush=True)


main()
