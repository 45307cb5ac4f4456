/* The handlers of resource requests. Each answers and so ends the request. Unless said otherwise they may block: they
 * run on a worker. */
#pragma once

#include "apiserver/request.h"

/* read.c */
void handle_get(struct request *q);
void handle_list(struct request *q);
/* Waits until a read with ?resourceVersion=rv may be answered from the cache: "" consistent, "0" at once, else not older.
 * Also checks the parameter. */
int read_wait(struct request *q, const char *rv, struct err *e);
/* Of objects whose conversion webhook may change what selectors look at: all are converted, those that fit stay, `limit`
 * (0: none) at most. Blocks. */
int select_converted(struct request *q, const struct selector *sel, size_t limit, struct wc_list *l, struct err *e);
/* The token with which a list that has more is continued; NULL: it is whole. */
const char *list_token(struct request *q, const struct wc_list *l);

/* watch.c: answered over time on the loop thread */
struct watch_hub *watch_hub_new(struct apiserver *s, uv_loop_t *loop);
void watch_hub_free(struct watch_hub *h); /* on the loop, when no requests are left */
/* Ends all watches (for a shutdown). On the loop. */
void watch_hub_close_watches(struct watch_hub *h);
size_t watch_hub_count(struct watch_hub *h);
/* Must be called on the loop thread before the request goes to a worker, which then calls handle_watch. */
void watch_prepare(struct request *q);
void handle_watch(struct request *q);
/* Answers a prepared watch with an error. */
void watch_refuse(struct request *q, struct err *e);

/* write.c */
void handle_create(struct request *q);
void handle_update(struct request *q);
void handle_patch(struct request *q);
/* The name and namespace in a body against those of the URL: 400 when they differ. Where there are no namespaces none is
 * left. */
int request_check_names(struct request *q, struct json *obj, struct err *e);
/* The uid in the body of a PUT is a precondition: 409. */
int request_check_uid(struct request *q, const struct json *obj, const struct json *old, struct err *e);
/* A patch that makes another kind of the object (422): its decoder would not know it. Strategic merges do not ask. */
int patch_check_kind(struct request *q, const struct json *patched, const char *version, const char *kind,
                     struct err *e);
/* Makes of an error about the patched object one about the patch (422). */
int patch_unfit(struct request *q, struct err *e);
/* What is known of a PATCH before its body is read: content type, Accept, options. */
int patch_check(struct request *q, bool *dry_run, struct err *e);
/* delete.c */
void handle_delete(struct request *q);
void handle_delete_collection(struct request *q);

/* subresources.c: everything with q->sub that is no plain status-like object */
void handle_subresource(struct request *q);
/* reviews.c: TokenReview, SubjectAccessReview, ...; componentstatuses */
void handle_virtual(struct request *q);
/* Records the client as the owner of what it sent, in an object that is answered but never stored (reviews, tokens). */
void own_fields(struct request *q, const struct api_type *type, struct json *v);
/* kubelet.c: log, exec, attach, portforward, proxy. Runs on a worker or a thread of its own. */
void handle_kubelet(struct request *q);
/* On the loop thread, before the request leaves it. */
void kubelet_prepare(struct request *q);

/* discovery.c */
void handle_discovery(struct request *q); /* /api, /apis, /apis/G, /api/v1, /apis/G/V */
bool discovery_path(const struct request *q);
bool discovery_of_groups(const struct request *q); /* /apis or /apis/G */
/* openapi.c */
void handle_openapi(struct request *q);
/* plain.c: /healthz /livez /readyz /metrics /version / ... ; false when the path is unknown */
bool handle_plain(struct request *q);
