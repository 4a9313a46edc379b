#include "formats/json_read.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int json_read_text(json_t **out, const char *p, size_t n, const char *file_name, struct moxie_err *err)
{
	*out = NULL;
	json_error_t je;
	/* jansson 2.14 drops characters when its token buffer cannot grow, and then may even succeed: errno is what tells. */
	errno = 0;
	json_t *j = json_loadb(p, n, JSON_REJECT_DUPLICATES, &je);
	if (errno == ENOMEM || (!j && json_error_code(&je) == json_error_out_of_memory)) {
		json_decref(j);
		return err_set(err, MOXIE_E_NOMEM, "%s: out of memory while reading %zu bytes of JSON", file_name, n);
	}
	if (!j)
		return err_set(err, MOXIE_E_FORMAT, "%s: line %d, column %d: %s", file_name, je.line, je.column, je.text);
	if (!json_is_object(j)) {
		json_decref(j);
		return err_set(err, MOXIE_E_FORMAT, "%s: the JSON is not an object", file_name);
	}
	*out = j;
	return 0;
}

int json_read_file(json_t **out, const char *path, bool may_lack, struct moxie_err *err)
{
	int rc = 0;
	char *text = NULL;
	*out = NULL;
	FILE *f = fopen(path, "re");
	if (!f && may_lack && errno == ENOENT)
		return 0;
	if (!f) {
		rc = errno == ENOMEM ? MOXIE_E_NOMEM : MOXIE_E_IO;
		return err_set(err, rc, "%s: %s", path, strerror(errno));
	}
	if (fseek(f, 0, SEEK_END) != 0) {
		rc = err_set(err, MOXIE_E_IO, "%s: %s", path, strerror(errno));
		goto out;
	}
	long end = ftell(f);
	if (end < 0 || (unsigned long)end > JSON_FILE_MAX) {
		rc = err_set(err, MOXIE_E_FORMAT, "%s: %ld bytes, at most %u are read", path, end, JSON_FILE_MAX);
		goto out;
	}
	rewind(f);
	text = malloc((size_t)end + 1);
	if (!text) {
		rc = err_nomem(err, (size_t)end + 1, path);
		goto out;
	}
	size_t n = fread(text, 1, (size_t)end, f);
	if (n < (size_t)end) { /* a directory opens but does not read */
		rc = err_set(err, MOXIE_E_IO, "%s: read %zu of %ld bytes: %s", path, n, end, ferror(f) ? strerror(errno) : "end of file");
		goto out;
	}
	rc = json_read_text(out, text, n, path, err);
out:
	free(text);
	fclose(f);
	return rc;
}
