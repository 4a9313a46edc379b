/* chat.h - messages to token ids and back, for the templates this program knows.  Today: harmony (GPT-OSS). */
#ifndef MOXIE_FORMATS_CHAT_H
#define MOXIE_FORMATS_CHAT_H

#include "formats/tokenizer.h"
#include "moxie.h"

/* Renders the conversation as models.md's section on harmony says and, with generate, the opening of the assistant's turn.
 * The first system message may replace parts of the default one (see struct moxie_chat_params); user and developer text never
 * becomes special tokens.  Analysis before the first final answer of earlier turns is dropped.
 *   MOXIE_E_ARG          a role, channel, name or JSON that cannot be rendered; err says which message
 *   MOXIE_E_UNSUPPORTED  the tokenizer lacks a harmony token; err names it */
int harmony_render(const struct tokenizer *t, const struct moxie_chat_params *p, const struct moxie_message *msg, size_t n_msg,
                   bool generate, struct ids *out, struct moxie_err *err);

/* Reads generated ids one by one.  Never fails on odd headers: what cannot be understood becomes text of the final channel. */
struct harmony_parser;
int harmony_parser_create(struct harmony_parser **out, const struct tokenizer *t, struct moxie_err *err);
void harmony_parser_free(struct harmony_parser *p);
void harmony_parser_reset(struct harmony_parser *p); /* as after a prompt that ended in "<|start|>assistant" */

/* Takes one id; fills ev, whose text is borrowed until the next call.  MOXIE_E_NOMEM is the only error. */
int harmony_parser_push(struct harmony_parser *p, int32_t id, struct moxie_event *ev);
/* The stream ended: held bytes and unfinished headers come out as text. */
int harmony_parser_finish(struct harmony_parser *p, struct moxie_event *ev);

#endif
