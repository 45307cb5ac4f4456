/* Workqueues: the keys that await reconciliation (client-go's util/workqueue).
 *
 * A key waits at most once however often it is added; it is never worked on by two workers at a time; added
 * while being worked on, it comes back afterwards. Failures come back after 5 ms, 10 ms, ... up to 1000 s per
 * key, all of them together at most 10 a second (burst 100).
 *
 * The workers belong to a `struct workpool` that any number of queues share: a program with thirty
 * controllers needs a handful of threads, not a hundred and fifty. The pool takes the queues in turn. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/err.h"

struct workpool;
struct workqueue;

/* A pool of `n_workers` threads (0: started by workpool_run_one only, for tests). */
struct workpool *workpool_new(unsigned n_workers);
/* Ends the workers after the item each has in hand. Keys can still be added; nobody takes them. */
void workpool_stop(struct workpool *p);
/* Ends the workers after the item each has in hand, frees the pool and its queues. NULL-safe. */
void workpool_free(struct workpool *p);

/* Called with a key by a worker; `a` is an arena for this run. 0: done, retries forgotten. Else the key comes
 * back with back-off, and the error is logged once. */
typedef int workqueue_fn(void *arg, struct arena *a, const char *key, struct err *e);

/* At most `concurrency` keys at a time. The name appears in logs and metrics. Lives as long as the pool. */
struct workqueue *workqueue_new(struct workpool *p, const char *name, unsigned concurrency, workqueue_fn *fn,
                                void *arg);
/* Holds back (false) or starts (true, the default) the workers on this queue: after informers have synced. */
void workqueue_enable(struct workqueue *q, bool on);
void workqueue_add(struct workqueue *q, const char *key);
/* Not before `ns` from now; the earliest wish for a key counts. */
void workqueue_add_after(struct workqueue *q, const char *key, int64_t ns);
void workqueue_add_rate_limited(struct workqueue *q, const char *key);
void workqueue_forget(struct workqueue *q, const char *key);
unsigned workqueue_requeues(struct workqueue *q, const char *key);
/* Keys waiting (not counting delayed ones and those in work). */
size_t workqueue_len(struct workqueue *q);
/* Blocks until nothing is ready or in work (delayed keys do not count). For tests. */
void workqueue_drain(struct workqueue *q);
/* Runs one ready item of any queue on the calling thread; false when there is none. For tests. */
bool workpool_run_one(struct workpool *p);
