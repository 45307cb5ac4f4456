/* Seats and queues.
 *
 * A level may always fill its nominal seats. Beyond those it borrows what other levels lend and do not use:
 * the seats in use, with every other level counted for at least what it does not lend, must leave room. So a
 * level that lent its seats gets them back one by one as the borrowers' requests end, and until then a few
 * more threads run than there are seats.
 *
 * Queues: start-time fair queuing. Each queue knows the virtual time at which its next request would start;
 * the level's virtual time is that of the queue last served. A queue that was empty begins at the level's
 * time, so nobody saves up a claim. A request advances its queue by seats times a guess of its duration,
 * corrected when it ends. A flow's hand of queues is dealt from its hash; of those the one with the least in
 * it is taken, so that a flow that floods some queues hardly ever shares all of another flow's hand. */
#include "apiserver/flow/internal.h"
#include "pkg/base/ktime.h"

#define GUESS_NS (5 * NS_PER_MS)

enum { RETRY_MAX_S = 32, BATCH_MAX = 64 };

/* ---- configuration ---- */

void flow_share_out(struct flow *f) {
    int64_t sum = 0;
    for (size_t i = 0; i < f->n_levels; i++)
        if (f->levels[i]->present) sum += f->levels[i]->shares;
    for (size_t i = 0; i < f->n_levels; i++) {
        struct flow_level *l = f->levels[i];
        l->nominal = l->present && sum ? (f->o.seats * l->shares + sum - 1) / sum : 0;
        l->guaranteed = l->nominal - l->nominal * l->lendable_percent / 100;
        l->ceiling = l->borrow_percent < 0 ? INT32_MAX : l->nominal + l->nominal * l->borrow_percent / 100;
        if (l->exempt)
            l->nominal = MAX_OF(l->nominal, FLOW_EXEMPT_SEATS);
        else if (l->nominal < 1)
            l->nominal = 1;
    }
}

static struct flow_level *level_named(struct flow *f, const char *name) {
    for (size_t i = 0; i < f->n_levels; i++)
        if (str_eq(f->levels[i]->name, name)) return f->levels[i];
    if (f->n_levels == FLOW_LEVELS_MAX) return NULL;
    struct flow_level *l = xcalloc(1, sizeof(*l));
    snprintf(l->name, sizeof(l->name), "%s", name);
    l->n_queues = 1;
    f->levels[f->n_levels++] = l;
    return l;
}

static struct flow_stat *stat_of(struct flow *f, const char *schema, const char *level) {
    for (struct flow_stat *s = f->stats; s; s = s->next)
        if (str_eq(s->schema, schema) && str_eq(s->level, level)) return s;
    struct flow_stat *s = xcalloc(1, sizeof(*s));
    snprintf(s->schema, sizeof(s->schema), "%s", schema);
    snprintf(s->level, sizeof(s->level), "%s", level);
    s->next = f->stats;
    f->stats = s;
    return s;
}

static void bind_schema(struct flow *f, struct flow_schema *s) {
    s->to = f->catch_all;
    for (size_t i = 0; i < f->n_levels; i++)
        if (f->levels[i]->present && str_eq(f->levels[i]->name, s->level)) s->to = f->levels[i];
    s->stat = stat_of(f, s->name, s->to->name);
}

/* The number of queues stays what it was when somebody first waited; a changed one counts from the next
 * start. */
static void read_limited(struct flow_level *l, const struct json *limited) {
    const struct json *queuing = json_at(limited, "limitResponse", "queuing", NULL);
    l->exempt = false;
    l->shares = json_get_int(limited, "nominalConcurrencyShares", 30);
    l->lendable_percent = json_get_int(limited, "lendablePercent", 0);
    l->borrow_percent = json_get_int(limited, "borrowingLimitPercent", -1);
    l->reject = !str_eq(json_as_str(json_at(limited, "limitResponse", "type", NULL)), "Queue");
    int64_t n = json_get_int(queuing, "queues", 64), hand = json_get_int(queuing, "handSize", 8);
    l->n_queues = (uint32_t)MIN_OF(MAX_OF(n, 1), FLOW_QUEUES_MAX);
    l->hand = (uint32_t)MIN_OF(MAX_OF(hand, 1), MIN_OF((int64_t)l->n_queues, FLOW_HAND_MAX));
    l->queue_limit = (uint32_t)MIN_OF(MAX_OF(json_get_int(queuing, "queueLengthLimit", 50), 1), 100000);
}

static void read_level(struct flow_level *l, const struct json *obj) {
    const struct json *spec = json_get(obj, "spec");
    snprintf(l->uid, sizeof(l->uid), "%s", str_or_empty(json_as_str(json_at(obj, "metadata", "uid", NULL))));
    l->present = true;
    if (!str_eq(json_get_str(spec, "type"), "Exempt")) {
        read_limited(l, json_get(spec, "limited"));
        return;
    }
    l->exempt = true;
    l->reject = false;
    l->n_queues = l->hand = 1;
    l->queue_limit = UINT32_MAX;
    l->shares = json_as_int(json_at(spec, "exempt", "nominalConcurrencyShares", NULL), 0);
    l->lendable_percent = json_as_int(json_at(spec, "exempt", "lendablePercent", NULL), 0);
}

static void feed_level(struct flow *f, const char *name, const struct json *obj) {
    struct flow_level *l = level_named(f, name);
    bool mandatory = l == f->catch_all || l == f->exempt;
    if (!l) return;
    if (obj)
        read_level(l, obj);
    else
        l->present = mandatory;
}

static int by_precedence(const void *x, const void *y) {
    const struct flow_schema *a = *(struct flow_schema *const *)x, *b = *(struct flow_schema *const *)y;
    if (a->precedence != b->precedence) return a->precedence < b->precedence ? -1 : 1;
    return strcmp(a->name, b->name);
}

static void feed_schema(struct flow *f, const char *name, const struct json *obj) {
    size_t i = 0;
    while (i < f->n_schemas && !str_eq(f->schemas[i]->name, name)) i++;
    if (i < f->n_schemas) {
        flow_schema_free(f->schemas[i]);
        f->schemas[i] = f->schemas[--f->n_schemas];
    }
    if (obj && f->n_schemas < FLOW_SCHEMAS_MAX) f->schemas[f->n_schemas++] = flow_schema_read(name, obj);
    qsort(f->schemas, f->n_schemas, sizeof(*f->schemas), by_precedence);
}

void flow_feed(struct flow *f, bool level, const char *name, const struct json *obj) {
    pthread_rwlock_wrlock(&f->config);
    pthread_mutex_lock(&f->lock);
    if (level)
        feed_level(f, name, obj);
    else
        feed_schema(f, name, obj);
    flow_share_out(f);
    for (size_t i = 0; i < f->n_schemas; i++) bind_schema(f, f->schemas[i]);
    pthread_mutex_unlock(&f->lock);
    pthread_rwlock_unlock(&f->config);
}

struct flow *flow_new(const struct flow_options *o) {
    struct flow *f = xcalloc(1, sizeof(*f));
    f->o = *o;
    pthread_rwlock_init(&f->config, NULL);
    pthread_mutex_init(&f->lock, NULL);
    atomic_init(&f->retry_after, 1);
    f->exempt = level_named(f, "exempt");
    f->exempt->exempt = f->exempt->present = true;
    f->exempt->queue_limit = UINT32_MAX;
    f->exempt->hand = 1;
    f->catch_all = level_named(f, "catch-all");
    *f->catch_all = (struct flow_level){.name = "catch-all",
                                        .present = true,
                                        .reject = true,
                                        .shares = 5,
                                        .borrow_percent = -1,
                                        .n_queues = 1,
                                        .hand = 1};
    f->stat_catch_all = stat_of(f, "catch-all", "catch-all");
    flow_share_out(f);
    return f;
}

void flow_free(struct flow *f) {
    if (!f) return;
    for (size_t i = 0; i < f->n_schemas; i++) flow_schema_free(f->schemas[i]);
    for (size_t i = 0; i < f->n_levels; i++) {
        free(f->levels[i]->queues);
        free(f->levels[i]);
    }
    for (struct flow_stat *s = f->stats, *next; s; s = next) {
        next = s->next;
        free(s);
    }
    pthread_mutex_destroy(&f->lock);
    pthread_rwlock_destroy(&f->config);
    free(f);
}

/* ---- seats; all with the lock held ---- */

static bool room(const struct flow *f, const struct flow_level *l, int64_t seats) {
    if (l->in_use == 0 || l->in_use + seats <= l->nominal) return true;
    if (l->exempt || l->in_use + seats > l->ceiling) return false;
    int64_t taken = l->in_use + seats;
    for (size_t i = 0; i < f->n_levels; i++) {
        const struct flow_level *o = f->levels[i];
        if (o != l && o->present && !o->exempt) taken += MAX_OF(o->in_use, o->guaranteed);
    }
    return taken <= f->o.seats;
}

static void take(struct flow_level *l, struct request *q) {
    l->in_use += q->flow.seats;
    l->executing++;
    l->dispatched++;
    q->flow.since_ns = mono_ns();
    atomic_fetch_add_explicit(&q->flow.stat->dispatched, 1, memory_order_relaxed);
}

/* ---- queues ---- */

/* The queue with the least in it, of the hand that the hash deals: cards are drawn without putting back. */
static uint32_t choose(const struct flow_level *l, uint32_t hash) {
    uint32_t cards[FLOW_HAND_MAX], best = 0, hand = MIN_OF(l->hand, l->made);
    uint64_t h = hash * UINT64_C(0x9E3779B97F4A7C15);
    for (uint32_t i = 0; i < hand; i++) {
        uint32_t left = l->made - i, card = (uint32_t)((h >> 20) % left);
        h = h * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        uint32_t k = i; /* kept in order, so that drawn cards are stepped over */
        for (uint32_t j = 0; j < i; j++) {
            if (card < cards[j]) {
                k = j;
                break;
            }
            card++;
        }
        memmove(&cards[k + 1], &cards[k], (i - k) * sizeof(*cards));
        cards[k] = card;
        const struct flow_queue *a = &l->queues[card], *b = &l->queues[best];
        if (i == 0 || a->n + a->executing < b->n + b->executing) best = card;
    }
    return best;
}

static bool enqueue(struct flow *f, struct flow_level *l, struct request *q) {
    if (!l->queues) {
        l->made = l->n_queues;
        l->queues = xcalloc(l->made, sizeof(*l->queues));
    }
    uint32_t i = choose(l, q->flow.hash);
    struct flow_queue *u = &l->queues[i];
    if (u->n >= l->queue_limit) return false;
    if (!u->n && !u->executing) u->start_ns = MAX_OF(u->start_ns, l->now_ns);
    q->flow.queue = i + 1;
    q->flow.next = NULL;
    q->flow.since_ns = mono_ns();
    if (u->tail)
        u->tail->flow.next = q;
    else
        u->head = q;
    u->tail = q;
    u->n++;
    l->waiting++;
    atomic_fetch_add_explicit(&f->waiting, 1, memory_order_relaxed);
    return true;
}

static struct request *pop(struct flow *f, struct flow_level *l, struct flow_queue *u) {
    struct request *q = u->head;
    u->head = q->flow.next;
    if (!u->head) u->tail = NULL;
    u->n--;
    l->waiting--;
    atomic_fetch_sub_explicit(&f->waiting, 1, memory_order_relaxed);
    return q;
}

static struct flow_queue *next_queue(struct flow_level *l) {
    struct flow_queue *best = NULL;
    for (uint32_t i = 0; i < l->made; i++) {
        struct flow_queue *u = &l->queues[i];
        if (u->n && (!best || u->start_ns < best->start_ns)) best = u;
    }
    return best;
}

/* The next request that may run, or NULL. */
static struct request *dispatchable(struct flow *f, struct flow_level *l) {
    struct flow_queue *u = l->waiting ? next_queue(l) : NULL;
    if (!u || !room(f, l, u->head->flow.seats)) return NULL;
    struct request *q = pop(f, l, u);
    l->now_ns = MAX_OF(l->now_ns, u->start_ns);
    u->start_ns += q->flow.seats * GUESS_NS;
    u->executing += q->flow.seats;
    take(l, q);
    return q;
}

/* ---- entering and leaving ---- */

static void count_refused(struct flow *f, struct request *q, enum flow_reason r) {
    int64_t now = mono_ns(), before = atomic_exchange(&f->refused_ns, now);
    int after = atomic_load(&f->retry_after);
    /* as long as refusing goes on clients are asked to stay away longer; a quiet second takes it back */
    if (now - before > NS_PER_SEC * after * 2)
        atomic_store(&f->retry_after, 1);
    else if (now - before > NS_PER_SEC && after < RETRY_MAX_S)
        atomic_store(&f->retry_after, after + 1);
    atomic_fetch_add_explicit(&q->flow.stat->rejected[r], 1, memory_order_relaxed);
}

enum flow_verdict flow_enter(struct flow *f, struct request *q, uint32_t width) {
    struct flow_level *l = q->flow.level;
    enum flow_verdict v = FLOW_RUN;
    q->flow.seats = MIN_OF(MAX_OF(width, 1u), (uint32_t)FLOW_WIDTH_MAX);
    q->flow.queue = 0;
    pthread_mutex_lock(&f->lock);
    if (!l->waiting && room(f, l, q->flow.seats))
        take(l, q);
    else if (l->reject)
        v = FLOW_REFUSED;
    else
        v = enqueue(f, l, q) ? FLOW_WAITS : FLOW_REFUSED;
    bool reject = l->reject;
    if (v == FLOW_REFUSED) l->rejected++;
    pthread_mutex_unlock(&f->lock);
    if (v == FLOW_REFUSED) count_refused(f, q, reject ? REASON_CONCURRENCY : REASON_QUEUE_FULL);
    return v;
}

static void give_back(struct flow_level *l, const struct flow_ticket *t) {
    l->in_use -= t->seats;
    l->executing--;
    if (!t->queue || t->queue > l->made) return;
    struct flow_queue *u = &l->queues[t->queue - 1];
    u->executing -= t->seats;
    u->start_ns += t->seats * (mono_ns() - t->since_ns - GUESS_NS);
}

/* Gives a seat back and takes out those that may run now. */
static size_t next_batch(struct flow *f, const struct flow_ticket *t, struct request **batch) {
    size_t n = 0;
    pthread_mutex_lock(&f->lock);
    give_back(t->level, t);
    if (atomic_load_explicit(&f->waiting, memory_order_relaxed))
        for (size_t i = 0; i < f->n_levels; i++)
            for (struct request *q; n < BATCH_MAX && (q = dispatchable(f, f->levels[i])); n++) batch[n] = q;
    pthread_mutex_unlock(&f->lock);
    return n;
}

void flow_leave(struct flow *f, const struct flow_ticket *ticket) {
    struct request *batch[BATCH_MAX];
    struct flow_ticket lost[BATCH_MAX], t = *ticket;
    size_t n_lost = 0;
    for (;;) {
        size_t n = next_batch(f, &t, batch);
        for (size_t i = 0; i < n; i++) {
            t = batch[i]->flow;
            if (f->o.dispatch(f->o.arg, batch[i])) continue;
            f->o.refuse(f->o.arg, batch[i], "no thread");
            if (n_lost < BATCH_MAX) lost[n_lost++] = t;
        }
        if (!n_lost) return;
        t = lost[--n_lost];
    }
}

/* ---- waiting too long ---- */

bool flow_waiting(const struct flow *f) { return atomic_load(&f->waiting) > 0; }

/* From the front of a queue those that have waited too long, or whose client is gone; they arrived in this
 * order. */
static size_t overdue(struct flow *f, struct flow_level *l, struct flow_queue *u, int64_t now, struct request **out,
                      size_t max) {
    size_t n = 0;
    while (n < max && u->head) {
        bool late = now - u->head->flow.since_ns > FLOW_WAIT_MAX_S * NS_PER_SEC, gone = http_req_closed(u->head->http);
        if (!late && !gone) break;
        if (late)
            l->timed_out++;
        else
            l->cancelled++;
        out[n] = pop(f, l, u);
        out[n++]->flow.seats = late ? REASON_TIME_OUT : REASON_CANCELLED; /* it has no seat any more */
    }
    return n;
}

void flow_expire(struct flow *f) {
    static const char *const reasons[] = {[REASON_TIME_OUT] = "time-out", [REASON_CANCELLED] = "cancelled"};
    struct request *out[BATCH_MAX];
    size_t n;
    do {
        int64_t now = mono_ns();
        n = 0;
        pthread_mutex_lock(&f->lock);
        for (size_t i = 0; i < f->n_levels; i++)
            for (uint32_t k = 0; k < f->levels[i]->made && f->levels[i]->waiting && n < BATCH_MAX; k++)
                n += overdue(f, f->levels[i], &f->levels[i]->queues[k], now, out + n, BATCH_MAX - n);
        pthread_mutex_unlock(&f->lock);
        for (size_t i = 0; i < n; i++) {
            enum flow_reason r = (enum flow_reason)out[i]->flow.seats;
            count_refused(f, out[i], r);
            f->o.refuse(f->o.arg, out[i], reasons[r]);
        }
    } while (n == BATCH_MAX);
}

int flow_retry_after(struct flow *f) { return atomic_load(&f->retry_after); }
