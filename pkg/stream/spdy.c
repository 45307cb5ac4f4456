/* SPDY/3.1 framer. See spdy.h for the frames. What spdystream (Kubernetes' side) needs and nothing more: no server push,
 * no credentials, no flow control of our own.
 *
 * Invariant: a stream is in `streams` while at least one direction is open. Frames for unknown streams are dropped:
 * they may have been under way when we closed it. */
#include "pkg/stream/spdy.h"

#include <ctype.h>
#include <zlib.h>

#include "pkg/stream/spdy_dict.h"

enum { DICT_LEN = sizeof(spdy_dictionary) - 1, FRAME_HEAD = 8, FLAG_FIN = 1, DATA_CHUNK = 32 * 1024 };

enum frame_type {
    SYN_STREAM = 1,
    SYN_REPLY = 2,
    RST_STREAM = 3,
    SETTINGS = 4,
    PING = 6,
    GOAWAY = 7,
    HEADERS = 8,
    WINDOW_UPDATE = 9,
    CREDENTIAL = 10,
};

struct stream {
    uint32_t id;
    bool local_fin, remote_fin;
};

struct spdy {
    struct spdy_callbacks cb;
    bool server, failed;
    z_stream inflate, deflate;
    struct stream *streams;
    size_t n_streams, cap_streams;
    uint32_t next_id, last_peer_id;
    uint8_t head[FRAME_HEAD];
    size_t head_len;
    struct buf payload; /* of the control frame being read */
    uint32_t left;      /* bytes of the current frame still to come */
    bool in_frame;
    struct buf out;
};

struct spdy *spdy_new(bool server, const struct spdy_callbacks *cb) {
    struct spdy *s = xcalloc(1, sizeof(*s));
    s->cb = *cb;
    s->server = server;
    s->next_id = server ? 2 : 1;
    /* a small window and little memory: header blocks are short */
    if (inflateInit(&s->inflate) != Z_OK || deflateInit2(&s->deflate, 6, Z_DEFLATED, 11, 2, Z_DEFAULT_STRATEGY) != Z_OK)
        abort(); /* no memory */
    deflateSetDictionary(&s->deflate, (const Bytef *)spdy_dictionary, DICT_LEN);
    return s;
}

struct spdy *spdy_free(struct spdy *s) {
    if (!s) return NULL;
    inflateEnd(&s->inflate);
    deflateEnd(&s->deflate);
    free(s->streams);
    buf_done(&s->payload);
    buf_done(&s->out);
    free(s);
    return NULL;
}

struct buf *spdy_out(struct spdy *s) {
    return &s->out;
}

/* ---- streams ---- */

static struct stream *find(struct spdy *s, uint32_t id) {
    for (size_t i = 0; i < s->n_streams; i++)
        if (s->streams[i].id == id) return &s->streams[i];
    return NULL;
}

static void add(struct spdy *s, uint32_t id, bool local_fin, bool remote_fin) {
    VEC_GROW(s->streams, s->n_streams, s->cap_streams);
    s->streams[s->n_streams++] = (struct stream){id, local_fin, remote_fin};
}

static void del(struct spdy *s, uint32_t id) {
    struct stream *st = find(s, id);
    if (st) *st = s->streams[--s->n_streams];
}

static void fin(struct spdy *s, uint32_t id, bool local) {
    struct stream *st = find(s, id);
    if (!st) return;
    if (local)
        st->local_fin = true;
    else
        st->remote_fin = true;
    if (st->local_fin && st->remote_fin) del(s, id);
}

/* ---- header blocks ---- */

static uint32_t be32(const void *p) {
    const uint8_t *u = p;
    return (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 | (uint32_t)u[2] << 8 | u[3];
}

static int inflate_block(struct spdy *s, const uint8_t *p, size_t n, struct buf *out, struct err *e) {
    char chunk[4096];
    s->inflate.next_in = (Bytef *)(uintptr_t)p;
    s->inflate.avail_in = (uInt)n;
    do {
        s->inflate.next_out = (Bytef *)chunk;
        s->inflate.avail_out = sizeof(chunk);
        int rc = inflate(&s->inflate, Z_SYNC_FLUSH);
        if (rc == Z_NEED_DICT) {
            rc = inflateSetDictionary(&s->inflate, (const Bytef *)spdy_dictionary, DICT_LEN);
            if (rc == Z_OK) continue;
        }
        if (rc != Z_OK && rc != Z_BUF_ERROR) return err_set(e, -EPROTO, "SPDY: bad header compression");
        buf_add(out, chunk, sizeof(chunk) - s->inflate.avail_out);
        if (out->failed) return err_set(e, -EPROTO, "SPDY: header block larger than %d bytes", SPDY_HEADERS_MAX);
        if (rc == Z_BUF_ERROR) break;
    } while (s->inflate.avail_in || !s->inflate.avail_out);
    return 0;
}

/* A length-prefixed string at *at. */
static int take_string(const struct buf *b, size_t *at, const char **p, uint32_t *n) {
    if (b->len - *at < 4) return -1;
    *n = be32(b->data + *at);
    *at += 4;
    if (b->len - *at < *n) return -1;
    *p = b->data + *at;
    *at += *n;
    return 0;
}

static int read_headers(struct spdy *s, struct arena *a, const uint8_t *p, size_t n, struct http_header **out,
                        size_t *n_out, struct err *e) {
    _cleanup_buf_ struct buf b = {.limit = SPDY_HEADERS_MAX};
    int rc = inflate_block(s, p, n, &b, e);
    if (rc < 0) return rc;
    size_t at = 4;
    uint32_t count = b.len >= 4 ? be32(b.data) : 0;
    if (b.len < 4 || count > SPDY_HEADER_COUNT_MAX) return err_set(e, -EPROTO, "SPDY: bad header block");
    *out = arena_alloc(a, (count + 1) * sizeof(**out));
    for (uint32_t i = 0; i < count; i++) {
        const char *name, *value;
        uint32_t name_len, value_len;
        if (take_string(&b, &at, &name, &name_len) || take_string(&b, &at, &value, &value_len))
            return err_set(e, -EPROTO, "SPDY: header block is cut short");
        (*out)[i] = (struct http_header){arena_strndup(a, name, name_len), arena_strndup(a, value, value_len)};
        for (char *c = (char *)(uintptr_t)(*out)[i].name; *c; c++) *c = (char)tolower((unsigned char)*c);
    }
    *n_out = count;
    return 0;
}

static void put32(struct buf *b, uint32_t v) {
    uint8_t u[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    buf_add(b, u, 4);
}

static void put_control(struct buf *b, enum frame_type type, uint8_t flags, size_t len) {
    put32(b, 0x80030000u | (uint32_t)type);
    put32(b, (uint32_t)flags << 24 | (uint32_t)len);
}

/* Compresses the headers behind `fixed` and sends the frame. */
static void send_headers(struct spdy *s, enum frame_type type, uint8_t flags, const struct buf *fixed,
                         const struct http_header *h, size_t n) {
    _cleanup_buf_ struct buf plain = BUF_INIT, packed = BUF_INIT;
    put32(&plain, (uint32_t)n);
    for (size_t i = 0; i < n; i++) {
        put32(&plain, (uint32_t)strlen(h[i].name));
        for (const char *c = h[i].name; *c; c++) buf_addc(&plain, (char)tolower((unsigned char)*c));
        put32(&plain, (uint32_t)strlen(h[i].value));
        buf_adds(&plain, h[i].value);
    }
    s->deflate.next_in = (Bytef *)plain.data;
    s->deflate.avail_in = (uInt)plain.len;
    char chunk[1024];
    do {
        s->deflate.next_out = (Bytef *)chunk;
        s->deflate.avail_out = sizeof(chunk);
        deflate(&s->deflate, Z_SYNC_FLUSH);
        buf_add(&packed, chunk, sizeof(chunk) - s->deflate.avail_out);
    } while (!s->deflate.avail_out);
    put_control(&s->out, type, flags, fixed->len + packed.len);
    buf_add(&s->out, fixed->data, fixed->len);
    buf_add(&s->out, packed.data, packed.len);
}

/* ---- reading frames ---- */

static int on_syn_stream(struct spdy *s, uint8_t flags, const uint8_t *p, size_t n, struct err *e) {
    if (n < 10) return err_set(e, -EPROTO, "SPDY: short SYN_STREAM");
    uint32_t id = be32(p) & 0x7fffffff;
    if (id % 2 != (s->server ? 1 : 0) || id <= s->last_peer_id)
        return err_set(e, -EPROTO, "SPDY: bad stream id %u", id);
    s->last_peer_id = id;
    _cleanup_arena_ struct arena *a = arena_new();
    struct http_header *h;
    size_t n_h;
    int rc = read_headers(s, a, p + 10, n - 10, &h, &n_h, e);
    if (rc < 0) return rc;
    if (s->n_streams >= SPDY_STREAMS_MAX) {
        spdy_reset(s, id, SPDY_REFUSED_STREAM);
        return 0;
    }
    add(s, id, false, flags & FLAG_FIN);
    return s->cb.on_stream ? s->cb.on_stream(s, id, h, n_h, flags & FLAG_FIN, s->cb.arg) : 0;
}

/* SYN_REPLY, and HEADERS, which nobody here listens to but whose block is part of the compression's state. */
static int on_headers(struct spdy *s, enum frame_type type, uint8_t flags, const uint8_t *p, size_t n, struct err *e) {
    if (n < 4) return err_set(e, -EPROTO, "SPDY: short headers frame");
    uint32_t id = be32(p) & 0x7fffffff;
    _cleanup_arena_ struct arena *a = arena_new();
    struct http_header *h;
    size_t n_h;
    int rc = read_headers(s, a, p + 4, n - 4, &h, &n_h, e);
    if (rc < 0) return rc;
    if (!find(s, id)) return 0;
    bool end = flags & FLAG_FIN;
    if (end) fin(s, id, false);
    if (type == SYN_REPLY) return s->cb.on_reply ? s->cb.on_reply(s, id, h, n_h, end, s->cb.arg) : 0;
    return end && s->cb.on_data ? s->cb.on_data(s, id, "", 0, true, s->cb.arg) : 0;
}

static int on_control(struct spdy *s, struct err *e) {
    enum frame_type type = (enum frame_type)((unsigned)s->head[2] << 8 | s->head[3]);
    uint8_t flags = s->head[4];
    const uint8_t *p = (const uint8_t *)s->payload.data;
    size_t n = s->payload.len;
    switch (type) {
        case SYN_STREAM: return on_syn_stream(s, flags, p, n, e);
        case SYN_REPLY:
        case HEADERS: return on_headers(s, type, flags, p, n, e);
        case RST_STREAM: {
            if (n < 8) return err_set(e, -EPROTO, "SPDY: short RST_STREAM");
            uint32_t id = be32(p) & 0x7fffffff;
            if (!find(s, id)) return 0;
            del(s, id);
            return s->cb.on_reset ? s->cb.on_reset(s, id, be32(p + 4), s->cb.arg) : 0;
        }
        case PING:
            if (n < 4) return err_set(e, -EPROTO, "SPDY: short PING");
            if (be32(p) % 2 == (s->server ? 1 : 0)) { /* theirs: answer; ours: that was the answer */
                put_control(&s->out, PING, 0, 4);
                buf_add(&s->out, p, 4);
            }
            return 0;
        case GOAWAY:
            if (n < 8) return err_set(e, -EPROTO, "SPDY: short GOAWAY");
            return s->cb.on_goaway ? s->cb.on_goaway(s, be32(p + 4), s->cb.arg) : 0;
        case SETTINGS:
        case WINDOW_UPDATE:
        case CREDENTIAL: break;
    }
    return 0; /* unknown control frames are to be ignored */
}

static int on_frame_head(struct spdy *s, struct err *e) {
    bool control = s->head[0] & 0x80;
    s->left = be32(s->head + 4) & 0xffffff;
    s->in_frame = true;
    buf_reset(&s->payload);
    if (!control) return 0;
    if ((be32(s->head) >> 16 & 0x7fff) != 3) return err_set(e, -EPROTO, "not SPDY/3");
    if (s->left > SPDY_FRAME_MAX) return err_set(e, -EPROTO, "SPDY: control frame of %u bytes", s->left);
    return 0;
}

/* Bytes of a data frame; called with n == 0 for an empty frame. */
static int on_data(struct spdy *s, const uint8_t *p, size_t n) {
    uint32_t id = be32(s->head) & 0x7fffffff;
    struct stream *st = find(s, id);
    bool end = !s->left && (s->head[4] & FLAG_FIN);
    if (!st || st->remote_fin) return 0;
    if (end) fin(s, id, false);
    return s->cb.on_data && (n || end) ? s->cb.on_data(s, id, p, n, end, s->cb.arg) : 0;
}

static int feed_some(struct spdy *s, const uint8_t *p, size_t n, size_t *used, struct err *e) {
    if (!s->in_frame) {
        size_t m = MIN_OF(n, FRAME_HEAD - s->head_len);
        memcpy(s->head + s->head_len, p, m);
        s->head_len += m;
        *used = m;
        if (s->head_len < FRAME_HEAD) return 0;
        s->head_len = 0;
        int rc = on_frame_head(s, e);
        if (rc < 0 || s->left) return rc;
        p += m;
        n = 0;
    } else {
        *used = MIN_OF(n, (size_t)s->left);
    }
    size_t m = n ? *used : 0;
    s->left -= (uint32_t)m;
    if (!s->left) s->in_frame = false;
    if (!(s->head[0] & 0x80)) return on_data(s, p, m);
    buf_add(&s->payload, p, m);
    return s->left ? 0 : on_control(s, e);
}

int spdy_feed(struct spdy *s, const void *data, size_t n, struct err *e) {
    const uint8_t *p = data;
    if (s->failed) return err_set(e, -EPROTO, "SPDY: the session has failed");
    while (n) {
        size_t used = 0;
        int rc = feed_some(s, p, n, &used, e);
        if (rc) {
            s->failed = true;
            return rc;
        }
        p += used;
        n -= used;
    }
    return 0;
}

/* ---- writing frames ---- */

uint32_t spdy_open(struct spdy *s, const struct http_header *h, size_t n, bool end) {
    uint32_t id = s->next_id;
    s->next_id += 2;
    add(s, id, end, false);
    _cleanup_buf_ struct buf fixed = BUF_INIT;
    put32(&fixed, id);
    put32(&fixed, 0);
    buf_add(&fixed, "\0\0", 2);
    send_headers(s, SYN_STREAM, end ? FLAG_FIN : 0, &fixed, h, n);
    return id;
}

void spdy_reply(struct spdy *s, uint32_t id, const struct http_header *h, size_t n, bool end) {
    _cleanup_buf_ struct buf fixed = BUF_INIT;
    put32(&fixed, id);
    send_headers(s, SYN_REPLY, end ? FLAG_FIN : 0, &fixed, h, n);
    if (end) fin(s, id, true);
}

void spdy_data(struct spdy *s, uint32_t id, const void *data, size_t n, bool end) {
    const char *p = data;
    struct stream *st = find(s, id);
    if (!st || st->local_fin) return;
    do {
        size_t m = MIN_OF(n, (size_t)DATA_CHUNK);
        bool last = end && m == n;
        if (m || last) {
            put32(&s->out, id);
            put32(&s->out, (last ? (uint32_t)FLAG_FIN << 24 : 0) | (uint32_t)m);
            buf_add(&s->out, p, m);
        }
        p += m;
        n -= m;
    } while (n);
    if (end) fin(s, id, true);
}

void spdy_reset(struct spdy *s, uint32_t id, enum spdy_status status) {
    put_control(&s->out, RST_STREAM, 0, 8);
    put32(&s->out, id);
    put32(&s->out, (uint32_t)status);
    del(s, id);
}

void spdy_goaway(struct spdy *s, uint32_t status) {
    put_control(&s->out, GOAWAY, 0, 8);
    put32(&s->out, s->last_peer_id);
    put32(&s->out, status);
}
