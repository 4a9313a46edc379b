#include "formats/json_read.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
