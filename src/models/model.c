#include "models/model.h"

#include <stdarg.h>
#include <stdio.h>

const struct model_ops *model_ops_of(const struct model_config *c)
{
	return c->arch == ARCH_GPT_OSS ? &model_gpt_oss : NULL;
}

/* "BF16 [32, 2880]" */
static void describe(char *s, size_t cap, enum dtype dtype, int n_dim, const int64_t *shape)
{
	size_t n = (size_t)snprintf(s, cap, "%s [", dtype_name(dtype));
	for (int i = 0; i < n_dim && n < cap; i++)
		n += (size_t)snprintf(s + n, cap - n, "%s%lld", i ? ", " : "", (long long)shape[i]);
	if (n < cap)
		snprintf(s + n, cap - n, "]");
}

int model_check_tensors(const struct model_config *c, const struct safetensors *st, struct moxie_err *err)
{
	struct tensor_want want;
	for (size_t i = 0; config_tensor_at(c, i, &want); i++) {
		char wanted[128], found[128];
		describe(wanted, sizeof wanted, want.dtype, want.n_dim, want.shape);
		const struct st_tensor *t = safetensors_find(st, want.name);
		if (!t)
			return err_set(err, MOXIE_E_FORMAT, "tensor %s is missing: wanted %s, the checkpoint's %zu tensors do not hold it",
			               want.name, wanted, safetensors_n(st));
		bool same = t->n_dim == want.n_dim && (t->dtype == want.dtype || (want.dtype_also && t->dtype == want.dtype_also));
		for (int d = 0; same && d < t->n_dim; d++)
			same = t->shape[d] == want.shape[d];
		if (!same) {
			describe(found, sizeof found, t->dtype, t->n_dim, t->shape);
			return err_set(err, MOXIE_E_SHAPE, "%s: tensor %s: wanted %s, found %s", safetensors_file_name(st, t->file), want.name,
			               wanted, found);
		}
		if ((uintptr_t)t->data % (uintptr_t)dtype_bytes(t->dtype))
			return err_set(err, MOXIE_E_UNSUPPORTED, "%s: tensor %s: its data begins at an odd address, wanted a multiple of %d bytes",
			               safetensors_file_name(st, t->file), want.name, dtype_bytes(t->dtype));
	}
	return 0;
}

struct weight model_weight(const struct safetensors *st, const char *fmt, ...)
{
	char name[200], part[220];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(name, sizeof name, fmt, ap);
	va_end(ap);

	const struct st_tensor *t = safetensors_find(st, name);
	if (t) {
		struct weight w = { .dtype = t->dtype, .n_dim = t->n_dim, .data = t->data };
		for (int d = 0; d < t->n_dim && d < 3; d++)
			w.shape[d] = t->shape[d];
		return w;
	}
	snprintf(part, sizeof part, "%s_blocks", name);
	const struct st_tensor *blocks = safetensors_find(st, part);
	snprintf(part, sizeof part, "%s_scales", name);
	const struct st_tensor *scales = safetensors_find(st, part);
	if (!blocks || !scales)
		return (struct weight){ 0 };
	return (struct weight){ .dtype = DT_U8, .n_dim = 3, .data = blocks->data, .scl = scales->data,
		.shape = { blocks->shape[0], blocks->shape[1], blocks->shape[2] * MX_GROUP } };
}
