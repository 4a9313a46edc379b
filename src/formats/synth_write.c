#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/pieces.h"
#include "formats/synth.h"
#include "formats/synth_int.h"

#define SHARD_BYTES 5000000000u /* as transformers cuts them */

/* ---- tokenizer.json --------------------------------------------------------------------------------------------- */

static const struct {
	int id;
	const char *text;
} special[] = {
	{ 199998, "<|startoftext|>" },
	{ 199999, "<|endoftext|>" },
	{ 200002, "<|return|>" },
	{ 200003, "<|constrain|>" },
	{ 200005, "<|channel|>" },
	{ 200006, "<|start|>" },
	{ 200007, "<|end|>" },
	{ 200008, "<|message|>" },
	{ 200012, "<|call|>" },
	{ 200018, "<|endofprompt|>" },
};

#define N_SPECIAL (sizeof special / sizeof *special)

/* The pre-tokenizer pattern of o200k, JSON-escaped. */
static const char o200k[] =
	"[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
	"|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
	"|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+";

int synth_special_id(int n_vocab, int published)
{
	return n_vocab > special[N_SPECIAL - 1].id ? published : 256 + published - special[0].id;
}

/* GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves and come first, the rest are U+0100 and up. */
static bool is_plain(int byte)
{
	return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

static bool put_byte_token(struct buf *out, int byte, int other, int id)
{
	int c = is_plain(byte) ? byte : 256 + other;
	const char *comma = id ? "," : "";
	if (c == '"' || c == '\\')
		return buf_printf(out, "%s\"\\%c\":%d", comma, c, id);
	if (c < 0x80)
		return buf_printf(out, "%s\"%c\":%d", comma, c, id);
	return buf_printf(out, "%s\"%c%c\":%d", comma, 0xc0 | c >> 6, 0x80 | (c & 0x3f), id);
}

bool synth_tokenizer(struct buf *out, int n_vocab)
{
	bool ok = buf_puts(out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
	for (size_t i = 0; ok && i < N_SPECIAL; i++)
		ok = buf_printf(out,
				"%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
				"\"normalized\":false,\"special\":true}",
				i ? ",\n" : "\n", synth_special_id(n_vocab, special[i].id), special[i].text);
	ok = ok && buf_puts(out, "],\n\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
				 "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"") &&
	     buf_puts(out, o200k) &&
	     buf_puts(out, "\"},\"behavior\":\"Isolated\",\"invert\":false},"
			   "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]},\n"
			   "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
			   "\"use_regex\":true},\n\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
			   "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,"
			   "\"ignore_merges\":false,\"vocab\":{");
	int id = 0, other = 0;
	for (int b = 0; ok && b < 256; b++)
		if (is_plain(b))
			ok = put_byte_token(out, b, 0, id++);
	for (int b = 0; ok && b < 256; b++)
		if (!is_plain(b))
			ok = put_byte_token(out, b, other++, id++);
	return ok && buf_puts(out, "},\"merges\":[]}}\n");
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

struct writer {
	const char *dir;
	bool made_dir;
	struct buf begun; /* paths of files that this call made, each NUL-terminated */
	int (*progress)(void *ud, uint64_t done, uint64_t all);
	void *ud;
	uint64_t before, all; /* bytes of finished shards, of all */
};

/* Makes dir/name, which must not exist, and remembers it. */
static int create(struct writer *w, const char *name, int *fd, struct moxie_err *err)
{
	size_t at = w->begun.n;
	*fd = -1;
	if (!buf_printf(&w->begun, "%s/%s", w->dir, name) || !buf_append(&w->begun, "", 1)) {
		w->begun.n = at;
		return err_nomem(err, strlen(w->dir) + 64, "a path");
	}
	*fd = open(w->begun.p + at, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (*fd >= 0)
		return 0;
	int rc = err_set(err, errno == EEXIST ? MOXIE_E_ARG : MOXIE_E_IO, "%s: %s", w->begun.p + at, strerror(errno));
	w->begun.n = at; /* not ours: must not be removed */
	return rc;
}

static int write_at(int fd, uint64_t at, const void *p, size_t n, struct moxie_err *err)
{
	const char *q = p;
	while (n) {
		ssize_t got = pwrite(fd, q, n, (off_t)at);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return err_set(err, MOXIE_E_IO, "cannot write %zu bytes at %" PRIu64 ": %s", n, at, strerror(got ? errno : ENOSPC));
		q += got, at += (uint64_t)got, n -= (size_t)got;
	}
	return 0;
}

/* Closes fd; a full disk may show only here.  rc: what happened so far. */
static int finish(int fd, const char *dir, const char *name, int rc, struct moxie_err *err)
{
	if (fd >= 0 && close(fd) < 0 && !rc)
		rc = err_set(err, MOXIE_E_IO, "%s", strerror(errno));
	if (rc && fd >= 0)
		err_prefix(err, "%s/%s", dir, name);
	return rc;
}

static int write_text(struct writer *w, const char *name, const char *text, size_t n, struct moxie_err *err)
{
	int fd, rc = create(w, name, &fd, err);
	if (!rc)
		rc = write_at(fd, 0, text, n, err);
	return finish(fd, w->dir, name, rc, err);
}

struct shard {
	struct synth_span span;
	int fd;
	uint64_t n_header;
};

static int write_piece(void *ctx, uint64_t at, size_t n, struct moxie_err *err)
{
	struct shard *s = ctx;
	uint8_t *p = malloc(n);
	if (!p)
		return err_nomem(err, n, "a block of random weights");
	synth_fill_data(&s->span, at, p, n);
	int rc = write_at(s->fd, s->n_header + at, p, n, err);
	free(p);
	return rc;
}

static int shard_progress(void *ud, uint64_t done, uint64_t all)
{
	struct writer *w = ud;
	(void)all;
	return w->progress ? w->progress(w->ud, w->before + done, w->all) : 0;
}

static int write_shard(struct writer *w, const struct synth_span *span, const char *name, int n_thread, struct moxie_err *err)
{
	struct shard s = { .span = *span };
	struct buf head = { 0 };
	uint64_t n_data;
	int rc = create(w, name, &s.fd, err);
	if (rc < 0)
		return rc;
	if ((rc = synth_header(span, &head, &n_data, err)) == 0 && (rc = write_at(s.fd, 0, head.p, head.n, err)) == 0) {
		s.n_header = head.n;
		rc = pieces_run(n_data, SYNTH_STEP, n_thread, write_piece, &s, shard_progress, w, err);
		w->before += n_data;
	}
	buf_free(&head);
	return finish(s.fd, w->dir, name, rc, err);
}

/* Tensors from first on that fit a shard; at least one.  0: none left. */
static size_t shard_tensors(const struct model_config *c, size_t first)
{
	struct tensor_want t;
	uint64_t n_bytes = 0;
	size_t n = 0;
	while (config_tensor_at(c, first + n, &t)) {
		n_bytes += synth_tensor_bytes(&t);
		if (n && n_bytes > SHARD_BYTES)
			break;
		n++;
	}
	return n;
}

static void shard_name(char *name, size_t n, int i, int n_shard)
{
	if (n_shard == 1)
		snprintf(name, n, "model.safetensors");
	else
		snprintf(name, n, "model-%05d-of-%05d.safetensors", i + 1, n_shard);
}

static int write_weights(struct writer *w, const struct model_config *c, uint64_t seed, int n_thread, struct moxie_err *err)
{
	struct synth_span span = { .config = c, .seed = seed };
	struct tensor_want t;
	struct buf index = { 0 };
	char name[64];
	int n_shard = 0, rc = 0;
	for (size_t i = 0, n; (n = shard_tensors(c, i)) > 0; i += n)
		n_shard++;
	for (size_t i = 0; config_tensor_at(c, i, &t); i++)
		w->all += synth_tensor_bytes(&t);
	bool ok = buf_printf(&index, "{\n \"metadata\": {\"total_size\": %" PRIu64 "},\n \"weight_map\": {", w->all);
	for (int i = 0; i < n_shard && !rc; i++) {
		span.first += span.n;
		span.n = shard_tensors(c, span.first);
		shard_name(name, sizeof name, i, n_shard);
		for (size_t j = 0; ok && j < span.n && config_tensor_at(c, span.first + j, &t); j++)
			ok = buf_printf(&index, "%s\n  \"%s\": \"%s\"", span.first + j ? "," : "", t.name, name);
		rc = write_shard(w, &span, name, n_thread, err);
	}
	ok = ok && buf_puts(&index, "\n }\n}\n");
	if (!ok && !rc)
		rc = err_nomem(err, index.n, "the shard index");
	if (!rc && n_shard > 1)
		rc = write_text(w, "model.safetensors.index.json", index.p, index.n, err);
	buf_free(&index);
	return rc;
}

static int write_generation_config(struct writer *w, const struct model_config *c, struct moxie_err *err)
{
	struct buf b = { 0 };
	bool ok = buf_puts(&b, "{\n \"do_sample\": true");
	if (c->n_vocab >= SYNTH_VOCAB_MIN) {
		ok = ok && buf_printf(&b, ",\n \"bos_token_id\": %d,\n \"eos_token_id\": [%d, %d, %d],\n \"pad_token_id\": %d",
				      synth_special_id(c->n_vocab, 199998), synth_special_id(c->n_vocab, 200002),
				      synth_special_id(c->n_vocab, 199999), synth_special_id(c->n_vocab, 200012),
				      synth_special_id(c->n_vocab, 199999));
	} else if (c->n_eos) {
		ok = ok && buf_puts(&b, ",\n \"eos_token_id\": [");
		for (int i = 0; i < c->n_eos; i++)
			ok = ok && buf_printf(&b, i ? ", %d" : "%d", c->eos[i]);
		ok = ok && buf_puts(&b, "]");
	}
	ok = ok && buf_puts(&b, "\n}\n");
	int rc = ok ? write_text(w, "generation_config.json", b.p, b.n, err) : err_nomem(err, b.n, "generation_config.json");
	buf_free(&b);
	return rc;
}

static int write_tokenizer(struct writer *w, const struct model_config *c, struct moxie_err *err)
{
	struct buf b = { 0 };
	int rc = synth_tokenizer(&b, c->n_vocab) ? write_text(w, "tokenizer.json", b.p, b.n, err) : err_nomem(err, b.n, "tokenizer.json");
	buf_free(&b);
	return rc;
}

/* A folder that holds any of these is somebody's checkpoint. */
static int refuse_checkpoint(const char *dir, struct moxie_err *err)
{
	static const char *const file[] = { "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
					    "generation_config.json" };
	struct buf path = { 0 };
	struct stat sb;
	int rc = 0;
	for (size_t i = 0; i < sizeof file / sizeof *file && !rc; i++) {
		path.n = 0;
		if (!buf_printf(&path, "%s/%s", dir, file[i]))
			rc = err_nomem(err, strlen(dir) + 64, "a path");
		else if (lstat(path.p, &sb) == 0)
			rc = err_set(err, MOXIE_E_ARG, "%s is there already; wanted a folder without a checkpoint", path.p);
	}
	buf_free(&path);
	return rc;
}

int synth_write(const char *config_json, const char *dir, uint64_t seed, int n_thread,
                int (*progress)(void *ud, uint64_t done, uint64_t all), void *ud, struct moxie_err *err)
{
	struct writer w = { .dir = dir, .progress = progress, .ud = ud };
	struct model_config *c = malloc(sizeof *c);
	int rc;
	if (!c)
		return err_nomem(err, sizeof *c, "a config");
	if ((rc = config_parse(c, config_json, strlen(config_json), "config.json", err)) < 0 || (rc = refuse_checkpoint(dir, err)) < 0)
		goto out;
	w.made_dir = mkdir(dir, 0777) == 0;
	if (!w.made_dir && errno != EEXIST) {
		rc = err_set(err, MOXIE_E_IO, "%s: %s", dir, strerror(errno));
		goto out;
	}
	if ((rc = write_text(&w, "config.json", config_json, strlen(config_json), err)) < 0 ||
	    (rc = write_generation_config(&w, c, err)) < 0 ||
	    (c->n_vocab >= SYNTH_VOCAB_MIN && (rc = write_tokenizer(&w, c, err)) < 0) ||
	    (rc = write_weights(&w, c, seed, n_thread, err)) < 0) {
		for (size_t i = 0; i < w.begun.n; i += strlen(w.begun.p + i) + 1)
			unlink(w.begun.p + i);
		if (w.made_dir)
			rmdir(dir);
	}
out:
	buf_free(&w.begun);
	free(c);
	return rc;
}
