/* What controllers share: maps, conditions of pods, ownership, expectations. */
#pragma once

#include "manager.h"
#include "pkg/api/core.h"
#include "pkg/api/meta.h"
#include "pkg/base/ktime.h"

/* ---- maps of strings in an arena ---- the entries are copied on write, so shallow copies stay intact */
void map_set(struct arena *a, struct str_map *m, const char *key, const char *value);
void map_unset(struct arena *a, struct str_map *m, const char *key);
/* "apps/v1" */
const char *api_version_of(struct arena *a, const struct client_resource *r);
struct ktime ktime_now_s(void); /* without a fraction, as metav1.Time keeps it */

/* ---- pods ---- */
bool pod_is_terminal(const struct core_pod *p); /* Succeeded or Failed */
bool pod_is_active(const struct core_pod *p);   /* not terminal, not being deleted */
const struct core_pod_condition *pod_condition(const struct core_pod *p, const char *type);
bool pod_is_ready(const struct core_pod *p);
/* Ready for at least min_ready_seconds. When it is not for want of time, *wait_ns (may be NULL) is lowered to
 * how long that takes. */
bool pod_is_available(const struct core_pod *p, int32_t min_ready_seconds, struct ktime now, int64_t *wait_ns);
/* Name-safe hash of a pod template and a collision count (pod-template-hash). */
char *template_hash(struct arena *a, const struct core_pod_template_spec *t, const int32_t *collisions);

/* ---- ownership ---- */
/* Takes a finalizer off an object; 0 also when it has none, or is gone. */
int finalizer_drop(struct manager *mgr, struct arena *a, const struct client_resource *r,
                   const struct meta_object_meta *m, const char *name, struct err *e);
struct owner {
    const struct client_resource *resource;
    const struct meta_object_meta *meta;
};
struct meta_owner_reference *owner_ref_new(struct arena *a, const struct owner *o, bool controller);
bool owned_by(const struct meta_object_meta *m, const char *uid); /* controller reference */
/* Index of objects without a controller, by namespace: candidates for adoption. */
informer_index_fn index_orphans;

struct claimed {
    struct object **items; /* references are held by `list` */
    size_t n;
    struct object_list list;
    bool (*only)(void *arg, const struct object *o); /* may be NULL: what else an object needs to be the owner's */
    void *arg;
};
void claimed_done(struct claimed *c);
#define _cleanup_claimed_ _cleanup_(claimed_done)
/* Objects that the owner controls and that match the selector. Matching orphans are adopted, own ones that no
 * longer match are released (the answer then still lacks or has them, as the server accepted). */
int claim_objects(struct manager *m, struct arena *a, const struct client_resource *r, const struct owner *o,
                  const struct meta_label_selector *selector, struct claimed *out, struct err *e);

/* Adds those of kind `r` in an orphan's namespace that select it: they may adopt it. Nothing when it has a controller, or
 * is being deleted. */
void queue_add_adopters(struct workqueue *q, struct manager *m, const struct client_resource *r,
                        const struct meta_label_selector *(*selector_of)(const struct object *o),
                        const struct object *orphan);

/* ---- making and removing pods ---- */
struct pod_control {
    struct manager *m;
    struct event_recorder *events;
    struct owner owner;
    const char *cause;
};
/* A pod from a template: labels, annotations, finalizers and spec shared with it, generateName "OWNER-", the
 * owner as its controller. */
void pod_from_template(struct arena *a, const struct core_pod_template_spec *t, const struct owner *o,
                       struct core_pod *out);
/* Creates one, with the events SuccessfulCreate and FailedCreate. */
int pod_control_create(const struct pod_control *p, struct arena *a, const struct core_pod *pod, struct err *e);
/* Creates n equal pods in growing batches (1, 2, 4, ...), each batch at once, and stops after a batch with
 * failures. The number made. */
size_t pod_control_create_many(const struct pod_control *p, struct arena *a, const struct core_pod *pod, size_t n,
                               struct err *e);
/* 0 also when it is gone already. */
int pod_control_delete(const struct pod_control *p, const struct core_pod *pod, struct err *e);
/* Deletes all at once. The number of failures; `failed` (may be NULL) is told each. */
size_t pod_control_delete_many(const struct pod_control *p, struct arena *a, struct object **pods, size_t n,
                               void (*failed)(void *arg, const struct object *pod), void *arg, struct err *e);

/* ---- expectations ---- what a controller has asked for and not yet seen in its cache: while any is open,
 * the counts in the cache are stale and must not be acted on. They lapse after five minutes. */
struct expectations;
struct expectations *expectations_new(struct manager *m);
bool expectations_met(struct expectations *x, const char *key);
void expect_creations(struct expectations *x, const char *key, int n);
void creation_observed(struct expectations *x, const char *key); /* or failed */
void expect_deletion(struct expectations *x, const char *key, const char *uid);
void deletion_observed(struct expectations *x, const char *key, const char *uid);
void expectations_forget(struct expectations *x, const char *key);
/* What a PersistentVolume's claimRef says of a claim; in `a`. */
struct core_object_reference *claim_reference(struct arena *a, const struct core_persistent_volume_claim *k);
