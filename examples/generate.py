#!/usr/bin/env python3
"""Asks a model one question through libmoxie with ctypes; nothing to compile, nothing to install.

    MOXIE_LIB=build/libmoxie.so python3 examples/generate.py models/wordmath "Ann has 3 apples and buys 4. How many?"
"""
import ctypes as c
import os
import sys


class Err(c.Structure):
    _fields_ = [("code", c.c_int), ("text", c.c_char * 508)]


class ModelParams(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("path", c.c_char_p), ("device", c.c_char_p), ("n_thread", c.c_int), ("dummy", c.c_int),
                ("dummy_seed", c.c_uint64), ("n_chunk", c.c_int), ("n_seq", c.c_int), ("kv_f32", c.c_int),
                ("progress", c.c_void_p), ("progress_ud", c.c_void_p)]


class Message(c.Structure):
    _fields_ = [("role", c.c_int), ("content", c.c_char_p), ("name", c.c_char_p), ("channel", c.c_char_p), ("recipient", c.c_char_p),
                ("content_type", c.c_char_p)]


class Event(c.Structure):
    _fields_ = [("kind", c.c_int), ("text", c.POINTER(c.c_char)), ("n_text", c.c_size_t), ("channel", c.c_char_p),
                ("recipient", c.c_char_p), ("content_type", c.c_char_p)]


class Sampling(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("temperature", c.c_float), ("top_p", c.c_float), ("min_p", c.c_float), ("top_k", c.c_int),
                ("repetition_penalty", c.c_float), ("presence_penalty", c.c_float), ("frequency_penalty", c.c_float), ("seed", c.c_uint64)]


ON_EVENT = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(Event), c.c_int32)


class GenerateParams(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("sampling", Sampling), ("max_tokens", c.c_int), ("raw", c.c_int), ("ignore_eos", c.c_int),
                ("stop", c.POINTER(c.c_char_p)), ("n_stop", c.c_size_t), ("on_event", ON_EVENT), ("ud", c.c_void_p)]


MOXIE_ROLE_USER = 2
moxie = c.CDLL(os.environ.get("MOXIE_LIB", "libmoxie.so.0"))


def check(rc, err):
    if rc:
        sys.exit(err.text.decode())


def main(path, question):
    err, model, session = Err(), c.c_void_p(), c.c_void_p()
    params = ModelParams(struct_size=c.sizeof(ModelParams), path=path.encode())
    check(moxie.moxie_model_open(c.byref(model), c.byref(params), c.byref(err)), err)
    check(moxie.moxie_session_create(c.byref(session), model, None, c.byref(err)), err)

    ids, n = (c.c_int32 * 4096)(), c.c_size_t()
    ask = Message(role=MOXIE_ROLE_USER, content=question.encode())
    check(moxie.moxie_chat_render(model, None, c.byref(ask), c.c_size_t(1), ids, c.c_size_t(len(ids)), c.byref(n), c.byref(err)), err)

    @ON_EVENT
    def on_event(_ud, event, _id):
        ev = event.contents
        if ev.channel == b"final" and ev.n_text:
            sys.stdout.write(c.string_at(ev.text, ev.n_text).decode())
            sys.stdout.flush()
        return 0

    gen = GenerateParams(struct_size=c.sizeof(GenerateParams), max_tokens=1024, on_event=on_event)
    check(moxie.moxie_generate(session, ids, n, c.byref(gen), None, c.byref(err)), err)
    print()
    moxie.moxie_session_free(session)
    moxie.moxie_model_free(model)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
