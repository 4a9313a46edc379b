/* text.c - moxie.h's calls on text: thin doors to formats/. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "formats/chat.h"

static int need_tokenizer(const moxie_model *m, struct moxie_err *err)
{
	return m->tokenizer ? 0 : err_set(err, MOXIE_E_UNSUPPORTED, "this model has no tokenizer.json: it takes token ids only");
}

/* The two-step protocol of the ids and text calls. */
static int give(void *to, size_t cap, size_t *n, const void *from, size_t n_from, size_t size, struct moxie_err *err)
{
	*n = n_from;
	if (n_from > cap)
		return err_set(err, MOXIE_E_TOO_SMALL, "room for %zu, %zu wanted", cap, n_from);
	if (n_from)
		memcpy(to, from, n_from * size);
	return 0;
}

MOXIE_API int moxie_tokenize(const moxie_model *m, const char *text, size_t n_text, int specials, int32_t *ids, size_t cap, size_t *n,
                             struct moxie_err *err)
{
	struct ids out = { 0 };
	*n = 0;
	int rc = need_tokenizer(m, err);
	if (rc == 0)
		rc = tokenizer_encode(m->tokenizer, text, n_text, specials != 0, &out, err);
	if (rc == 0)
		rc = give(ids, cap, n, out.v, out.n, sizeof *ids, err);
	ids_free(&out);
	return rc;
}

MOXIE_API int moxie_detokenize(const moxie_model *m, const int32_t *ids, size_t n_ids, int specials, char *text, size_t cap, size_t *n,
                               struct moxie_err *err)
{
	struct buf out = { 0 };
	struct detok d = { 0 };
	*n = 0;
	int rc = need_tokenizer(m, err);
	for (size_t i = 0; rc == 0 && i < n_ids; i++)
		rc = detok_push(&d, m->tokenizer, ids[i], specials != 0, &out);
	if (rc == 0)
		rc = detok_finish(&d, &out);
	if (rc == MOXIE_E_NOMEM)
		err_nomem(err, out.cap, "text");
	if (rc == 0)
		rc = give(text, cap, n, out.p, out.n, 1, err);
	buf_free(&out);
	return rc;
}

MOXIE_API const char *moxie_token_bytes(const moxie_model *m, int32_t id, size_t *n, int *special)
{
	*n = 0;
	if (special)
		*special = 0;
	if (!m->tokenizer || id < 0 || id >= tokenizer_n_vocab(m->tokenizer))
		return "";
	if (special)
		*special = tokenizer_is_special(m->tokenizer, id);
	const char *p = tokenizer_bytes(m->tokenizer, id, n);
	return *n ? p : "";
}

MOXIE_API int moxie_chat_render(const moxie_model *m, const struct moxie_chat_params *p, const struct moxie_message *msg, size_t n_msg,
                                int32_t *ids, size_t cap, size_t *n, struct moxie_err *err)
{
	static const struct moxie_chat_params none = { .struct_size = sizeof none };
	struct ids out = { 0 };
	*n = 0;
	int rc = need_tokenizer(m, err);
	if (rc == 0)
		rc = harmony_render(m->tokenizer, p ? p : &none, msg, n_msg, true, &out, err);
	if (rc == 0)
		rc = give(ids, cap, n, out.v, out.n, sizeof *ids, err);
	ids_free(&out);
	return rc;
}

struct moxie_parser {
	struct harmony_parser *p;
};

MOXIE_API int moxie_parser_create(moxie_parser **out, const moxie_model *m, struct moxie_err *err)
{
	*out = NULL;
	int rc = need_tokenizer(m, err);
	if (rc < 0)
		return rc;
	moxie_parser *p = calloc(1, sizeof *p);
	if (!p)
		return err_nomem(err, sizeof *p, "a parser");
	if ((rc = harmony_parser_create(&p->p, m->tokenizer, err)) < 0) {
		free(p);
		return rc;
	}
	*out = p;
	return 0;
}

MOXIE_API int moxie_parser_push(moxie_parser *p, int32_t id, struct moxie_event *ev)
{
	return harmony_parser_push(p->p, id, ev);
}

MOXIE_API int moxie_parser_finish(moxie_parser *p, struct moxie_event *ev)
{
	int rc = harmony_parser_finish(p->p, ev);
	harmony_parser_reset(p->p); /* keeps the text ev points to until the next push */
	return rc;
}

MOXIE_API void moxie_parser_free(moxie_parser *p)
{
	if (p)
		harmony_parser_free(p->p);
	free(p);
}
