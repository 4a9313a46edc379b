/* chat.h - messages to token ids and back, for the templates this program knows.  Today: harmony (GPT-OSS). */
#ifndef MOXIE_FORMATS_CHAT_H
#define MOXIE_FORMATS_CHAT_H

#include "formats/tokenizer.h"
#include "moxie.h"

/* Renders the conversation as openai-harmony does and, with generate, the opening of the assistant's turn.  p may be NULL.
 *
 *   system      written from p alone: identity ("" leaves it out), knowledge cutoff, date, effort, channels
 *   developer   the texts of the system and developer messages that msg begins with, as "# Instructions", then p's tools;
 *               left out when there is neither.  One that comes later is a developer message of its own
 *   assistant   channel NULL is "final", with a recipient "commentary".  Analysis before the first final message is dropped when
 *               the assistant's last message is a final one
 *   tool        name is the author; recipient NULL is "assistant", channel NULL is "commentary"
 *
 * Texts never become special tokens.  Names, recipients and content types are one word of at most 256 bytes without '<'.
 * A content NULL is empty.  On error out is as before.
 *   MOXIE_E_ARG          a role, channel, name or JSON that cannot be rendered; err says which message
 *   MOXIE_E_UNSUPPORTED  the tokenizer lacks a harmony token that is needed; err names it */
int harmony_render(const struct tokenizer *t, const struct moxie_chat_params *p, const struct moxie_message *msg, size_t n_msg,
                   bool generate, struct ids *out, struct moxie_err *err);

/* Reads generated ids one by one.  Never fails on odd headers:
 *   - a message that never gets its <|message|> comes out as text: of its channel if it names a known one, else of final.
 *     A header that is too long for one (more words than a header has, a line end, 256 bytes) is given up at once
 *   - an unknown channel is final; no channel is commentary with a recipient, else final
 *   - <|start|> or <|channel|> inside a message end it; a missing <|start|> is understood
 *   - other special tokens are written out in a message and skipped in a header
 * The recipient may stand in the role part or after the channel.  A lone word is the recipient, but on the final channel, or
 * when it is "json", "code", "text" or marked <|constrain|>, the content type.  Recipients "all" and "user" are none. */
struct harmony_parser;
int harmony_parser_create(struct harmony_parser **out, const struct tokenizer *t, struct moxie_err *err);
void harmony_parser_free(struct harmony_parser *p);
void harmony_parser_reset(struct harmony_parser *p); /* as after a prompt that ended in "<|start|>assistant"; ev stays valid */

/* Takes one id; fills ev, whose strings are borrowed until the next call.  MOXIE_E_NOMEM is the only error.
 * A message that ends with a recipient is MOXIE_EV_CALL, whichever token ended it; else <|end|> is MOXIE_EV_END and <|return|>,
 * <|call|> and <|endoftext|> are MOXIE_EV_RETURN.  These too may bring text: what was held back when the end came. */
int harmony_parser_push(struct harmony_parser *p, int32_t id, struct moxie_event *ev);
/* The stream ended: held bytes and unfinished headers come out as text.  The next push begins a new answer. */
int harmony_parser_finish(struct harmony_parser *p, struct moxie_event *ev);

#endif
