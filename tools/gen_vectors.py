#!/usr/bin/env python3
"""Tiny random GPT-OSS checkpoints in Hugging Face layout and the logits transformers gives for them, for tests/vectors.

    python3 -m venv venv && venv/bin/pip install torch transformers==5.17.0 safetensors numpy
    venv/bin/python tools/gen_vectors.py tests/vectors

Each folder holds config.json, generation_config.json, the packed checkpoint (MXFP4 experts as *_blocks and *_scales, the rest
bf16) and goldens.safetensors: prompt0 [n] i32, logits0 [n, n_vocab] f32 (the logits after every position), prompt1, logits1.

The goldens are float32: transformers' eager attention, experts dequantised to float32, every stored bf16 widened exactly.
The metadata of goldens.safetensors says how far float64 is from them (that much a test must allow) and how close the routers
came to picking another expert (seeds are tried until that gap is far above rounding).
"""
import json
import math
import os
import sys

import numpy as np
import torch
import transformers
from transformers import GptOssConfig, GptOssForCausalLM

YARN = dict(factor=32.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=4096, truncate=False)

# Each case stands for something that went wrong in some engine once.
CASES = {
    # window far shorter than the prompts, 4.x spelling of the config
    "gptoss_h64": dict(
        seed=1, prompts=(40, 150), style=4,
        cfg=dict(num_hidden_layers=4, hidden_size=64, intermediate_size=96, head_dim=16, num_attention_heads=4,
                 num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=4, vocab_size=384, sliding_window=8,
                 max_position_embeddings=131072, eos_token_id=2, pad_token_id=0),
        rope=dict(rope_type="yarn", rope_theta=150000.0, **YARN)),
    # odd multiples of 64 (2880 = 45 * 64), one KV head for eight, another YaRN with truncation, 5.x spelling
    "gptoss_h320": dict(
        seed=2, prompts=(30, 80), style=5,
        cfg=dict(num_hidden_layers=2, hidden_size=320, intermediate_size=192, head_dim=64, num_attention_heads=8,
                 num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2, vocab_size=256, sliding_window=16,
                 max_position_embeddings=2048, eos_token_id=[2, 3], pad_token_id=0),
        rope=dict(rope_type="yarn", rope_theta=10000.0, factor=8.0, beta_fast=16.0, beta_slow=2.0,
                  original_max_position_embeddings=256, truncate=True)),
    # heads * head_dim != hidden, many experts, plain rope, tied embeddings, float32 norms, two shards, unusual order of layer types
    "gptoss_e32": dict(
        seed=3, prompts=(20, 70), style=5, shards=2, f32_norms=True,
        cfg=dict(num_hidden_layers=3, hidden_size=64, intermediate_size=160, head_dim=32, num_attention_heads=6,
                 num_key_value_heads=3, num_local_experts=32, num_experts_per_tok=2, vocab_size=512, sliding_window=12,
                 max_position_embeddings=4096, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True,
                 layer_types=["full_attention", "sliding_attention", "full_attention"]),
        rope=dict(rope_type="default", rope_theta=50000.0)),
    # clamps at work, the real head size, window and YaRN, a prompt of more than two windows, every expert used
    "gptoss_clamp": dict(
        seed=4, prompts=(140, 300), style=4, expert_gain=8.0,
        cfg=dict(num_hidden_layers=2, hidden_size=96, intermediate_size=160, head_dim=64, num_attention_heads=2,
                 num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=4, vocab_size=128, sliding_window=128,
                 max_position_embeddings=131072, eos_token_id=2, pad_token_id=0),
        rope=dict(rope_type="yarn", rope_theta=150000.0, **YARN)),
}

E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def mxfp4_pack(w):
    """w [..., K] float32 -> codes [..., K/32, 16] u8 (low nibble = even k), scales [..., K/32] u8, and the values they hold."""
    g = w.reshape(*w.shape[:-1], w.shape[-1] // 32, 32)
    top = np.maximum(np.abs(g).max(-1, keepdims=True), 1e-30)
    e = np.clip(np.floor(np.log2(top)) - 2, -127, 127)  # the largest lands in [4, 8), clipped to 6
    x = np.clip(g / 2.0 ** e, -6, 6)
    code = np.abs(np.abs(x)[..., None] - E2M1[:8]).argmin(-1).astype(np.uint8)
    code |= (x < 0).astype(np.uint8) << 3
    value = (E2M1[code] * 2.0 ** e).astype(np.float32).reshape(w.shape)
    return code[..., 0::2] | code[..., 1::2] << 4, (e[..., 0] + 127).astype(np.uint8), value


def bf16_round(a):
    return torch.from_numpy(np.ascontiguousarray(a, np.float32)).bfloat16()


def make_weights(case, seed):
    """-> (tensors as the checkpoint stores them, the same as float32 under transformers' names)."""
    c, r = case["cfg"], np.random.default_rng(seed)
    H, I, E, d = c["hidden_size"], c["intermediate_size"], c["num_local_experts"], c["head_dim"]
    nq, nkv, V = c["num_attention_heads"] * d, c["num_key_value_heads"] * d, c["vocab_size"]
    gain = case.get("expert_gain", 2.0)
    disk, dense = {}, {}

    def put(name, a, f32=False):
        t = torch.from_numpy(np.ascontiguousarray(a, np.float32)) if f32 else bf16_round(a)
        disk[name], dense[name] = t, t.float()

    def normal(std, *shape):
        return r.standard_normal(shape) * std

    put("model.embed_tokens.weight", normal(1.0, V, H))
    for il in range(c["num_hidden_layers"]):
        p = f"model.layers.{il}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            put(p + norm + ".weight", 1 + normal(.2, H), case.get("f32_norms", False))
        for name, n, k in (("q", nq, H), ("k", nkv, H), ("v", nkv, H), ("o", H, nq)):
            put(f"{p}self_attn.{name}_proj.weight", normal((1.6 if name in "qk" else 1.0) / math.sqrt(k), n, k))
            put(f"{p}self_attn.{name}_proj.bias", normal(.3, n))
        put(p + "self_attn.sinks", normal(1.0, c["num_attention_heads"]))
        put(p + "mlp.router.weight", normal(2 / math.sqrt(H), E, H))
        put(p + "mlp.router.bias", normal(.5, E))
        for name, n, k, g in (("gate_up_proj", 2 * I, H, gain), ("down_proj", H, I, .5)):
            blocks, scales, value = mxfp4_pack(normal(g / math.sqrt(k), E, n, k))
            disk[f"{p}mlp.experts.{name}_blocks"] = torch.from_numpy(blocks)
            disk[f"{p}mlp.experts.{name}_scales"] = torch.from_numpy(scales)
            dense[f"{p}mlp.experts.{name}"] = torch.from_numpy(value).transpose(1, 2).contiguous()  # transformers has [E, K, N]
            put(f"{p}mlp.experts.{name}_bias", normal(.5, E, n))
    put("model.norm.weight", 1 + normal(.2, H), case.get("f32_norms", False))
    if not c.get("tie_word_embeddings"):
        put("lm_head.weight", normal(2 / math.sqrt(H), V, H))
    return disk, dense


def config_json(case):
    c, rope = case["cfg"], dict(case["rope"])
    j = dict(architectures=["GptOssForCausalLM"], model_type="gpt_oss", attention_bias=True, attention_dropout=0.0, hidden_act="silu",
             rms_norm_eps=1e-5, swiglu_limit=7.0, use_cache=True, **c)
    j.setdefault("tie_word_embeddings", False)
    j.setdefault("layer_types", ["full_attention" if i % 2 else "sliding_attention" for i in range(c["num_hidden_layers"])])
    if case["style"] == 4:
        j["experts_per_token"] = c["num_experts_per_tok"]
        j["initial_context_length"] = rope.get("original_max_position_embeddings", 4096)
        j["rope_theta"] = rope.pop("rope_theta")
        j["rope_scaling"] = rope
        j["torch_dtype"] = "bfloat16"
    else:
        j["rope_parameters"] = rope
        j["dtype"] = "bfloat16"
    j["quantization_config"] = dict(quant_method="mxfp4", modules_to_not_convert=[
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"])
    return j


def run(case, dense, prompts, dtype):
    """-> logits [n, V] per prompt, smallest gap between the last picked and the first left-out expert, largest |gate or up|."""
    c = dict(case["cfg"])
    cfg = GptOssConfig(**c, rope_parameters=dict(case["rope"]))
    cfg._attn_implementation = cfg._experts_implementation = "eager"
    model = GptOssForCausalLM(cfg).to(dtype).eval()
    if c.get("tie_word_embeddings"):
        dense = dict(dense, **{"lm_head.weight": dense["model.embed_tokens.weight"]})
    model.load_state_dict({k: v.to(dtype) for k, v in dense.items()}, strict=True)
    gap, top = [math.inf], [0.0]

    def see_router(m, args, out):
        if m.top_k < m.num_experts:
            s = out[0].double().sort(-1, descending=True).values
            gap[0] = min(gap[0], float((s[..., m.top_k - 1] - s[..., m.top_k]).min()))

    def see_gate(f):
        def g(x):
            top[0] = max(top[0], float(x.abs().max()))
            return f(x)
        return g

    for layer in model.model.layers:
        layer.mlp.router.register_forward_hook(see_router)
        layer.mlp.experts._apply_gate = see_gate(layer.mlp.experts._apply_gate)
    with torch.no_grad():
        logits = [model(input_ids=torch.from_numpy(p.astype(np.int64))[None], use_cache=False).logits[0] for p in prompts]
    return logits, gap[0], top[0]


def save(tensors, path, meta):
    from safetensors.torch import save_file as save_torch
    save_torch({k: v.contiguous() for k, v in tensors.items()}, path, metadata=meta)
    os.chmod(path, 0o644)


def write_checkpoint(case, disk, folder):
    n = case.get("shards", 1)
    if n == 1:
        save(disk, f"{folder}/model.safetensors", {"format": "pt"})
        return
    names = sorted(disk)
    parts = [names[i * len(names) // n:(i + 1) * len(names) // n] for i in range(n)]
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for t in disk.values())}, "weight_map": {}}
    for i, part in enumerate(parts):
        shard = f"model-{i + 1:05d}-of-{n:05d}.safetensors"
        save({k: disk[k] for k in part}, f"{folder}/{shard}", {"format": "pt"})
        index["weight_map"].update({k: shard for k in part})
    with open(f"{folder}/model.safetensors.index.json", "w") as f:
        json.dump(index, f, indent=1)


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else "tests/vectors"
    assert transformers.__version__ == "5.17.0", f"made with transformers 5.17.0, this is {transformers.__version__}"
    torch.set_num_threads(1)  # one order of sums
    for name, case in CASES.items():
        for seed in range(case["seed"] * 1000, case["seed"] * 1000 + 200):
            disk, dense = make_weights(case, seed)
            r = np.random.default_rng(seed + 77)
            prompts = [r.integers(0, case["cfg"]["vocab_size"], n, dtype=np.int32) for n in case["prompts"]]
            logits, gap, top = run(case, dense, prompts, torch.float32)
            if gap > 2e-3:
                break
        else:
            raise SystemExit(f"{name}: no seed keeps the routers away from ties")
        exact, _, _ = run(case, dense, prompts, torch.float64)
        worst = max(float((a.double() - b).abs().max()) for a, b in zip(logits, exact))
        folder = f"{root}/{name}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/config.json", "w") as f:
            json.dump(config_json(case), f, indent=1)
        with open(f"{folder}/generation_config.json", "w") as f:
            json.dump(dict(do_sample=True, bos_token_id=1, eos_token_id=case["cfg"]["eos_token_id"], pad_token_id=0,
                           transformers_version=transformers.__version__), f, indent=1)
        write_checkpoint(case, disk, folder)
        big = max(float(l.abs().max()) for l in logits)
        meta = dict(transformers=transformers.__version__, torch=torch.__version__.split("+")[0], seed=str(seed),
                    max_diff_float64=f"{worst:.3g}", max_logit=f"{big:.4g}", min_router_gap=f"{gap:.3g}", max_gate_up=f"{top:.4g}")
        save({f"{k}{i}": v for i, (p, l) in enumerate(zip(prompts, logits))
              for k, v in (("prompt", torch.from_numpy(p)), ("logits", l.float()))}, f"{folder}/goldens.safetensors", meta)
        print(name, meta, flush=True)


if __name__ == "__main__":
    main()
