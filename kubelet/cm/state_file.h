/* The files in which the CPU manager and the memory manager keep what they have given away, in upstream's format, so that a
 * node can change from one kubelet to the other. Their checksum is FNV-1a over the text that upstream's dump of its struct
 * makes; the managers write that text. Upstream: pkg/kubelet/checkpointmanager, pkg/util/hash. */
#pragma once

#include "pkg/base/err.h"
#include "pkg/json/json.h"

/* -ENOENT: there is none yet. -EBADMSG: it is no JSON object, with the parser's words. */
int state_file_read(struct arena *a, const char *path, struct json **out, struct err *e);
/* With the checksum of the dump added to the object. */
int state_file_write(struct arena *a, const char *path, struct json *o, const char *dump, struct err *e);
/* Whether the object's checksum is the dump's; 0 counts as right, as files of old kubelets have it. */
bool state_file_intact(const struct json *o, const char *dump);
/* "what: why, please drain ..." : the advice for an operator whose settings no longer fit the file. Returns -EINVAL. */
int state_file_advise(struct err *e, const char *manager, const char *path, const char *fmt, ...) _printf_(4, 5);
