/* moxie_status.h - the one success convention of every Moxie library: 0 is success, negative is an error.
 *
 * A call that can fail for a reason worth telling takes a `struct moxie_err *` (which may be NULL) and writes
 * one sentence with the values that were wrong.  The text is for people; programs look at the code.
 */
#ifndef MOXIE_STATUS_H
#define MOXIE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MOXIE_API __attribute__((visibility("default")))
#else
#define MOXIE_API
#endif

enum moxie_status {
	MOXIE_OK = 0,
	MOXIE_E_ARG = -1,         /* an argument is out of its documented range */
	MOXIE_E_NOMEM = -2,       /* memory could not be had; nothing was kept */
	MOXIE_E_IO = -3,          /* a file could not be opened, mapped or read */
	MOXIE_E_FORMAT = -4,      /* a file's contents are damaged or contradict themselves */
	MOXIE_E_UNSUPPORTED = -5, /* well-formed, but nothing here can run it */
	MOXIE_E_SHAPE = -6,       /* a tensor's dtype or shape is not the wanted one */
	MOXIE_E_DEVICE = -7,      /* the device failed; the engine on it is failed for good */
	MOXIE_E_KV_FULL = -8,     /* the KV cache has no room; no token was consumed */
	MOXIE_E_CANCELLED = -9,   /* moxie_session_cancel was called; the session is still usable */
	MOXIE_E_TOO_SMALL = -10   /* the caller's buffer is too small; the needed size was written back */
};

struct moxie_err {
	int code;       /* enum moxie_status */
	char text[508]; /* NUL-terminated UTF-8, names the file, the tensor and both values where there are any */
};

/* The status as a short constant phrase, e.g. "out of memory".  Never NULL. */
MOXIE_API const char *moxie_strerror(int status);

#ifdef __cplusplus
}
#endif
#endif
