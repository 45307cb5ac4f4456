#include "shim.h"
struct streaming { int unused; };
struct streaming *streaming_new(struct shim *s, struct err *e) { return xcalloc(1, sizeof(struct streaming)); }
struct streaming *streaming_free(struct streaming *st) { free(st); return NULL; }
int streaming_exec(struct streaming *st, struct arena *a, const struct cri_exec_request *r, const char **url, struct err *e) { return err_set(e, -ENOSYS, "streaming is not built in"); }
int streaming_attach(struct streaming *st, struct arena *a, const struct cri_attach_request *r, const char **url, struct err *e) { return err_set(e, -ENOSYS, "streaming is not built in"); }
int streaming_port_forward(struct streaming *st, struct arena *a, const struct cri_port_forward_request *r, const char **url, struct err *e) { return err_set(e, -ENOSYS, "streaming is not built in"); }
