/* Any text as config.json and as generation_config.json; what passes must give a binding table of sane sizes. */
#include <stdlib.h>

#include "formats/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct model_config c;
	struct gen_config g;
	struct moxie_err err = { 0 };
	if (config_parse(&c, (const char *)p, n, "fuzz", &err) < 0) {
		if (!err.text[0] || c.arch)
			abort();
	} else {
		struct tensor_want w;
		for (size_t i = 0; config_tensor_at(&c, i, &w); i++) {
			int64_t bytes = dtype_bytes(w.dtype);
			for (int d = 0; d < w.n_dim; d++)
				if (w.shape[d] < 1 || __builtin_mul_overflow(bytes, w.shape[d], &bytes))
					abort();
		}
	}
	err.text[0] = 0;
	if (gen_config_parse(&g, (const char *)p, n, "fuzz", &err) < 0 && !err.text[0])
		abort();
	return 0;
}
